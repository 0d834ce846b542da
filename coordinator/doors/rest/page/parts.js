// Pieces that several pages are made of.

import { download } from "./api.js";
import { h } from "./dom.js";
import { FINAL, size } from "./format.js";

const MARKS = {
  RUNNING: "▶", COMPLETED: "✓", COMMITTED: "✓", FAILED: "✕", CANCELLED: "■", ABANDONED: "✕", PAUSED: "‖", PENDING: "…",
  SELECTION: "…", CONFIGURATION: "…", REPORTING: "▶", AGGREGATION: "▶",
};
const NEVER = "no reason was given";

export const pill = (status) => h("span", { class: `pill ${status}` }, h("span", { "aria-hidden": "true" }, `${MARKS[status] ?? ""} `), status);

export const card = (title, ...children) => h("section", { class: "card", key: `card ${title}`, "aria-label": title }, h("h2", {}, title), children);

// A card below a heading that says already what is in it.
export const plainCard = (title, ...children) => h("section", { class: "card", key: `card ${title}`, "aria-label": title }, children);

export const empty = (...text) => h("p", { class: "empty" }, text);

export const tile = (value, label, hint) => h("div", { class: "tile", title: hint }, h("b", {}, value), h("span", {}, label));

export const facts = (rows) => h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// heads: names of columns; rows: arrays of cells, or { key, cells, class }.
export function table(label, heads, rows) {
  const body = rows.map((row) => (Array.isArray(row) ? { cells: row } : row));
  const cell = (content) => (content?.nodeName === "TD" || content?.nodeName === "TH" ? content : h("td", {}, content));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, body.map(({ key, cells, class: name }) => h("tr", { key, class: name }, cells.map(cell))))));
}

export const rowHead = (...content) => h("th", { scope: "row" }, content);
export const wide = (...content) => h("td", { class: "wide" }, content);

// A value among others, such as a metric: groups as `series.choices` returns them, or [[value, label], ...].
export function choice(label, options, chosen, change) {
  const option = ([value, text]) => h("option", { value, selected: value === chosen }, text);
  const shown = options.map((each) => (Array.isArray(each) ? option(each)
    : h("optgroup", { label: each.group }, each.options.map((one) => option([one.key, one.label])))));
  return h("label", { class: "choice" }, h("span", {}, label), h("select", { value: chosen, onchange: (event) => change(event.target.value) }, shown));
}

export const tagList = (tags) => tags.length > 0 && h("ul", { class: "tags", "aria-label": "Tags" }, tags.map((tag) => h("li", {}, tag)));

export const jobLink = (id, text) => h("a", { href: `#/jobs/${encodeURIComponent(id)}` }, text ?? id);
export const roundLink = (id, number, text) => h("a", { href: `#/jobs/${encodeURIComponent(id)}/rounds/${number}` }, text ?? `round ${number}`);

// Worst first, as people look for it.
export const OUTCOMES = ["failed", "lost", "dropped", "silent", "late", "working", "waiting", "reported"];

// What became of a client in a round: { is, why }. Words that go with colours, in one place.
export function outcome(one, client, agents) {
  const part = one.participants[client], over = ["COMMITTED", "ABANDONED"].includes(one.phase);
  if (part.dropped) return { is: "dropped", why: part.dropped };
  if (part.failure) return { is: "failed", why: part.failure_code ? `${part.failure} [${part.failure_code}]` : part.failure };
  if (part.reported) return { is: "reported", why: part.lost ? `sent again: ${part.lost}` : "" };
  if (part.lost) return { is: "lost", why: part.lost };
  const began = part.evaluation || part.down_bytes > 0 || part.stage;
  if (over || one.phase === "AGGREGATION") {
    return began ? { is: "late", why: "had no update in when the round ended" } : { is: "silent", why: "never took its task" };
  }
  if (agents && agents[client] && !agents[client].present) return { is: "silent", why: "gives no sign of life" };
  if (!began) return { is: "waiting", why: "has not taken its task yet" };
  return { is: "working", why: part.stage ? `${part.stage}${part.step ? `, step ${part.step}` : ""}` : "" };
}
const SIGNS = { reported: "✓", working: "▶", waiting: "…", dropped: "⊘", failed: "✕", lost: "!", late: "◷", silent: "○" };
export const outcomeMark = (found) => h("span", { class: `outcome ${found.is}` }, h("span", { "aria-hidden": "true" }, `${SIGNS[found.is]} `), found.is);

// A link to a file, which says how far it has come.
export function downloadLink(where, label, report) {
  const begin = async (event) => {
    event.preventDefault();
    const link = event.currentTarget;
    try {
      await download(where, (got, whole) => report(whole ? `${label}: ${size(got)} of ${size(whole)}` : `${label}: ${size(got)}`));
      report(`${label}: handed to the browser.`);
    } catch (error) {
      report(error.message, true);
    }
    link.focus();
  };
  return h("a", { class: "button", href: `/api/v1/${where}`, onclick: begin }, label);
}

export const isFinal = (job) => FINAL.includes(job.status);
export const reasonOf = (thing) => thing.reason || NEVER;
