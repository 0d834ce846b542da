// Tags and description of a job: for people, at any time. They are no part of its document.

import { ask, path } from "../api.js";
import { h } from "../dom.js";
import { tagList } from "../parts.js";

export function labels(page) {
  const { job } = page.data, { state } = page;
  if (!state.labelling) return h("div", { key: "labels", class: "labels" }, tagList(job.tags), job.description && h("p", { class: "note" }, job.description));
  return h("form", { key: "labelling", class: "labels", onsubmit: (event) => save(page, event) },
    h("label", { class: "choice" }, h("span", {}, "Tags, with spaces between"), h("input", { name: "tags", value: job.tags.join(" "), autocomplete: "off", spellcheck: "false" })),
    h("label", { class: "choice" }, h("span", {}, "Description"), h("input", { name: "description", value: job.description, autocomplete: "off" })),
    h("div", { class: "actions" }, h("button", { class: "main" }, "Save"), h("button", { type: "button", onclick: () => label(page, false) }, "Leave it")));
}

// Begins, or ends, the change of them.
export function label(page, on) {
  page.state.labelling = on;
  page.redraw();
}

async function save(page, event) {
  event.preventDefault();
  const { tags, description } = event.target.elements;
  const wanted = { tags: tags.value.split(/[\s,]+/).filter(Boolean), description: description.value.trim() };
  try {
    await ask(`jobs/${path(page.id)}`, { method: "PATCH", body: JSON.stringify(wanted), headers: { "Content-Type": "application/json" } });
    page.state.labelling = false;
  } catch (error) {
    page.app.complain(error.message);
  }
  page.data.look("job");
}
