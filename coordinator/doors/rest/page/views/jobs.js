// The list of jobs: filters, and which of them to compare.

import { ask } from "../api.js";
import { h, show } from "../dom.js";
import { NONE, STATUSES, ago, when } from "../format.js";
import { choice, empty, jobLink, pill, plainCard, rowHead, table, tagList, wide } from "../parts.js";

const LOOK_MS = 5000;
const TYPING_MS = 300;
const PAGE = 50;
const MOST_COMPARED = 8;

export class JobsPage {
  constructor(root, app) {
    Object.assign(this, { root, app, jobs: [], next: null, wanted: PAGE, chosen: new Set(), statuses: new Set(), methods: new Set(), name: "", tag: "", method: "" });
    this.known = false;
  }

  open() {
    this.app.title("Jobs");
    this.#look();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  async #look() {
    const asked = this.#query();
    try {
      if (!document.hidden) {
        const found = [];
        let after = null;
        do {
          const page = await ask(`jobs?${this.#query(after)}`);
          found.push(...page.jobs);
          after = page.next;
        } while (after && found.length < this.wanted);
        if (asked !== this.#query()) return; // a filter has changed meanwhile, and asks for itself
        Object.assign(this, { jobs: found, next: after, known: true });
        found.forEach((job) => this.methods.add(job.method));
        this.app.connected();
      }
      this.#draw();
    } catch (error) {
      this.app.failed(error);
    }
    clearTimeout(this.timer);
    if (!this.closed) this.timer = setTimeout(() => this.#look(), LOOK_MS);
  }

  #query(after = null) {
    const query = new URLSearchParams({ limit: PAGE });
    this.statuses.forEach((status) => query.append("status", status));
    for (const [name, value] of Object.entries({ name: this.name.trim(), tag: this.tag.trim(), method: this.method, after })) if (value) query.set(name, value);
    return query.toString();
  }

  get #filtered() { return this.statuses.size > 0 || Boolean(this.name.trim() || this.tag.trim() || this.method); }

  // Asks for what fits the filters now, a moment after the last letter.
  #narrow(pause = 0) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#look(), pause);
    this.#draw();
  }

  #draw() {
    if (this.closed) return;
    show(this.root, h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Jobs"), h("span", { class: "space" }),
      this.chosen.size > 0 && h("span", { class: "dim", role: "status" }, this.chosen.size === 1 ? "Choose a second job to compare." : `${this.chosen.size} chosen`),
      h("a", { class: "button", href: this.chosen.size > 1 ? `#/compare/${[...this.chosen].map(encodeURIComponent).join(",")}` : null, "aria-disabled": String(this.chosen.size < 2), role: "link" }, "Compare"),
      h("a", { class: "button main", href: "#/launch" }, "New job")),
    plainCard("All jobs", this.#filters(), this.#table()));
  }

  #filters() {
    const toggle = (status) => () => {
      if (!this.statuses.delete(status)) this.statuses.add(status);
      this.#narrow();
    };
    const typed = (field) => (event) => {
      this[field] = event.target.value;
      this.#narrow(TYPING_MS);
    };
    const choose = (method) => {
      this.method = method;
      this.#narrow();
    };
    const search = (field, words) => h("input", { key: field, type: "search", placeholder: words, "aria-label": words, oninput: typed(field) });
    return h("div", { class: "filters" }, search("name", "Part of the name"), search("tag", "Tag"),
      this.methods.size > 1 && choice("Method", [["", "any"], ...[...this.methods].sort().map((each) => [each, each])], this.method, choose),
      STATUSES.map((status) => h("button", { key: status, class: "small", "aria-pressed": String(this.statuses.has(status)), onclick: toggle(status) }, status.toLowerCase())));
  }

  #table() {
    if (!this.known) return empty("Asking the coordinator …");
    if (!this.jobs.length && this.#filtered) return empty("No job fits the filters.");
    if (!this.jobs.length) return empty("No jobs yet. ", h("a", { href: "#/launch" }, "Launch one"), ", or post it: ", h("code", {}, "fedgalore jobs submit job.yaml"));
    const more = () => {
      this.wanted += 4 * PAGE;
      this.#narrow();
    };
    return [table("Jobs", ["compare", "name", "status", "rounds", "method", "posted", "how it stands"], this.jobs.map((job) => this.#row(job))),
      this.next && h("p", {}, h("button", { onclick: more }, "Load older jobs"))];
  }

  #row(job) {
    const choose = (event) => {
      if (event.target.checked) this.chosen.add(job.id);
      else this.chosen.delete(job.id);
      this.#draw();
    };
    const full = this.chosen.size >= MOST_COMPARED && !this.chosen.has(job.id);
    const share = job.rounds_total ? (job.rounds_done ?? 0) / job.rounds_total : 0;
    return { key: job.id, cells: [
      h("input", { type: "checkbox", "aria-label": `Compare ${job.name} ${job.id}`, disabled: full, onchange: choose }),
      rowHead(jobLink(job.id, job.name), h("div", { class: "dim small-text" }, job.id), tagList(job.tags)),
      pill(job.status),
      h("td", {}, `${job.rounds_done ?? NONE} of ${job.rounds_total}`, h("div", { class: "bar", "aria-hidden": "true" }, h("div", { style: { width: `${100 * Math.min(1, share)}%` } }))),
      job.method,
      h("td", { title: when(job.created) }, ago(job.created), job.posted_by && h("div", { class: "dim small-text" }, `by ${job.posted_by}`)),
      wide(job.reason)] };
  }
}
