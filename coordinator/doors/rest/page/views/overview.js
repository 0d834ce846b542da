// How a job goes: its numbers, any of them over rounds, bytes or time, and what its clients send.

import { chart } from "../chart.js";
import { component, h } from "../dom.js";
import { NONE, listed, mainMetric, measured, percent, size, words } from "../format.js";
import { card, choice, empty, tile } from "../parts.js";
import { AXES, axisFormat, choices, epsilonSpent, formatOf, lines, perClient } from "../series.js";

export function overviewTab(page) {
  const { job, rounds } = page.data;
  return [tiles(job, rounds), metricCard(page), bytesCard(rounds)];
}

function tiles(job, rounds) {
  const told = job.evaluation?.metrics ?? {}, held = job.held_out, epsilon = epsilonSpent(rounds), mean = perClient(rounds);
  const of = (kind, found) => [...listed(found.metrics), "loss"].filter((name) => found.metrics[name] != null)
    .map((name) => tile(measured(name, found.metrics[name]), `${words(name)} of version ${found.model_version}${kind}`));
  return h("div", { class: "tiles" },
    tile(`${job.rounds_done ?? NONE} of ${job.rounds_total}`, "rounds committed"),
    job.best && tile(measured(job.best.metric, job.best.value), `best ${words(job.best.metric)}, version ${job.best.model_version}, ${job.best.by === "central" ? "held out" : "at the sites"}`),
    Object.keys(told).length > 0 && of("", job.evaluation), held && of(", held out", held),
    tile(size(job.up_bytes), "received from clients"), tile(size(job.down_bytes), "sent to clients"),
    mean?.share != null && tile(percent(mean.share), "of a dense upload"),
    epsilon != null && tile(`ε ${epsilon.toFixed(2)}`, `spent, at δ ${job.spec.privacy.delta}`, "What all versions so far tell of one client together"),
    job.trains && trained(job.trains));
}

function trained(census) {
  const sum = (kinds) => Object.values(kinds).reduce((all, each) => all + each, 0), all = sum(census.parameters);
  if (!all) return null;
  const kinds = Object.entries(census.trained).map(([kind, each]) => `${each.toLocaleString()} ${kind}`).join(", ");
  return tile(percent(sum(census.trained) / all), `of ${all.toLocaleString()} parameters are trained`, kinds);
}

export function metricCard(page) {
  const { job, rounds } = page.data, { state } = page, groups = choices(rounds);
  const keys = groups.flatMap((each) => each.options.map((one) => one.key));
  if (!keys.length) return card("Progress", empty("No round has told a number yet."));
  const main = mainMetric(job);
  const key = keys.includes(state.metric) ? state.metric : [`evaluation/${main}`, `held_out/${main}`, "train/train_loss"].find((each) => keys.includes(each)) ?? keys[0];
  const axis = state.axis ?? "round", set = (name) => (value) => { state[name] = value; page.redraw(); };
  const found = lines(job, rounds, key, axis), label = words(key.split("/")[1]);
  return card("Progress",
    h("div", { class: "choices" }, choice("Show", groups, key, set("metric")), choice("over", Object.entries(AXES), axis, set("axis"))),
    found.length ? component("chart", chart, { label, lines: found, format: formatOf(key), axis: { label: axis, format: axisFormat[axis] } }) : empty("No value yet."));
}

function bytesCard(rounds) {
  const mean = perClient(rounds);
  if (!mean) return card("Bytes of a client in a round", empty("No update has come yet."));
  const rows = [["up", mean.up, "c0"], ["down", mean.down, "c2"], ["dense, one way", mean.dense, "dim"]];
  const most = Math.max(...rows.map((row) => row[1]), 1);
  return card("Bytes of a client in a round",
    h("div", { class: "bytes" }, rows.map(([name, value, colour]) => [h("span", {}, name),
      h("div", { class: "bar big", "aria-hidden": "true" }, h("div", { style: { width: `${100 * value / most}%`, background: `var(--${colour})` } })), h("span", {}, size(Math.round(value)))])),
    h("p", { class: "note" }, mean.share == null ? "" : `An update is ${percent(mean.share)} of the trained weights sent whole. `, "The first round's download holds the base model where an agent had none."));
}
