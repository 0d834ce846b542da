// The list of jobs: filters, and which of them to compare.

import { ask } from "../api.js";
import { h, show } from "../dom.js";
import { NONE, STATUSES, ago, when } from "../format.js";
import { empty, jobLink, pill, plainCard, rowHead, table, wide } from "../parts.js";

const LOOK_MS = 5000;
const PAGE = 50;
const MOST_COMPARED = 8;

export class JobsPage {
  constructor(root, app) {
    Object.assign(this, { root, app, jobs: [], next: null, wanted: PAGE, chosen: new Set(), statuses: new Set(), text: "" });
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
    try {
      if (!document.hidden) {
        const found = [];
        let after = null;
        do {
          const page = await ask(`jobs?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`);
          found.push(...page.jobs);
          after = page.next;
        } while (after && found.length < this.wanted);
        Object.assign(this, { jobs: found, next: after, known: true });
        this.app.connected();
      }
      this.#draw();
    } catch (error) {
      this.app.failed(error);
    }
    if (!this.closed) this.timer = setTimeout(() => this.#look(), LOOK_MS);
  }

  #matches(job) {
    const text = this.text.trim().toLowerCase();
    return (!this.statuses.size || this.statuses.has(job.status))
      && [job.name, job.id, job.method, job.posted_by].some((each) => each.toLowerCase().includes(text));
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
      this.#draw();
    };
    const typed = (event) => {
      this.text = event.target.value;
      this.#draw();
    };
    const counted = (status) => this.jobs.filter((job) => job.status === status).length;
    return h("div", { class: "filters" },
      h("input", { type: "search", placeholder: "Name, id, method or poster", "aria-label": "Filter by name, id, method or poster", oninput: typed }),
      STATUSES.map((status) => h("button", { class: "small", "aria-pressed": String(this.statuses.has(status)), onclick: toggle(status) }, `${status.toLowerCase()} ${counted(status)}`)));
  }

  #table() {
    const found = this.jobs.filter((job) => this.#matches(job));
    if (!this.known) return empty("Asking the coordinator …");
    if (!this.jobs.length) return empty("No jobs yet. ", h("a", { href: "#/launch" }, "Launch one"), ", or post it: ", h("code", {}, "fedgalore jobs submit job.yaml"));
    const more = () => {
      this.wanted += 4 * PAGE;
      clearTimeout(this.timer);
      this.#look();
    };
    return [found.length ? table("Jobs", ["compare", "name", "status", "rounds", "method", "posted", "how it stands"], found.map((job) => this.#row(job))) : empty("No job matches the filters."),
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
      rowHead(jobLink(job.id, job.name), h("div", { class: "dim small-text" }, job.id)),
      pill(job.status),
      h("td", {}, `${job.rounds_done ?? NONE} of ${job.rounds_total}`, h("div", { class: "bar", "aria-hidden": "true" }, h("div", { style: { width: `${100 * Math.min(1, share)}%` } }))),
      job.method,
      h("td", { title: when(job.created) }, ago(job.created), job.posted_by && h("div", { class: "dim small-text" }, `by ${job.posted_by}`)),
      wide(job.reason)] };
  }
}
