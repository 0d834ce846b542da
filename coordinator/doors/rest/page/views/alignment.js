// What the clients' optimizer states share: by layer and round, by site, and how alike the sites are.

import { component, h } from "../dom.js";
import { percent } from "../format.js";
import { heatmap } from "../heatmap.js";
import { card, choice, empty } from "../parts.js";
import { alignment } from "../series.js";

const VIEWS = {
  rank: { title: "joint rank of each layer, by round", across: "round", format: (value) => value.toFixed(1), most: null },
  share: { title: "share that the joint directions explain of each layer, by round", across: "round", format: percent, most: 1 },
  sites: { title: "share that they explain of each site, by round", across: "round", format: percent, most: 1 },
  now: { title: "share that they explain of each site and layer, newest round", across: "layer", format: percent, most: 1 },
};

export function alignmentTab(page) {
  const { job, rounds } = page.data, what = page.state.alignment ?? "rank", { title, ...view } = VIEWS[what];
  const found = alignment(rounds, what);
  const none = job.spec.method.state_sync === "ajive" ? "No round has been aggregated yet."
    : "This job aligns no optimizer states: its method is without them, or method.state_sync is not ajive.";
  if (!found) return card("What the sites' optimizer states share", empty(none));
  const choose = (value) => {
    page.state.alignment = value;
    page.redraw();
  };
  return card("What the sites' optimizer states share",
    h("div", { class: "choices" }, choice("Show the", Object.entries(VIEWS).map(([key, each]) => [key, each.title]), what, choose)),
    component(`heatmap ${what}`, heatmap, { label: title[0].toUpperCase() + title.slice(1), ...view, ...found }),
    h("p", { class: "note" }, "Joint rank: directions of the second moments that all sites share. A site whose share is low beside the others' has data that pull elsewhere: it is the least alike."));
}
