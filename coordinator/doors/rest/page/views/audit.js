// Who changed something, took a model, or sent and fetched files, refused calls included: for operators.

import { ask } from "../api.js";
import { h, show } from "../dom.js";
import { size, when } from "../format.js";
import { card, empty, rowHead, table, wide } from "../parts.js";

const PAGE = 100;
const WHOSE = { people: "People", agents: "Agents", strangers: "Without a known key" };

export class AuditPage {
  constructor(root, app) {
    Object.assign(this, { root, app, entries: null, next: null, of: "people", refusal: "" });
  }

  open() {
    this.app.title("Audit");
    this.#look();
  }

  close() { this.closed = true; }

  async #look(after = null) {
    try {
      const page = await ask(`audit?limit=${PAGE}&of=${this.of}${after ? `&after=${after}` : ""}`);
      this.entries = after ? [...this.entries, ...page.entries] : page.entries;
      this.next = page.next;
      this.refusal = "";
      this.app.connected();
    } catch (error) {
      this.refusal = error.message;
      if (error.code !== "not_allowed") this.app.failed(error);
    }
    this.#draw();
  }

  #draw() {
    if (this.closed) return;
    const { entries } = this, choose = (of) => { this.of = of; this.#look(); };
    show(this.root, h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Audit")), card("Requests, newest first",
      this.refusal ? empty(this.refusal) : [
        h("div", { class: "choices" }, h("button", { class: "small", onclick: () => this.#look() }, "Look again"),
          ...Object.entries(WHOSE).map(([of, words]) =>
            h("button", { class: "small", "aria-pressed": String(this.of === of), onclick: () => choose(of) }, words))),
        !entries ? empty("Asking the coordinator …") : !entries.length ? empty("There is nothing here yet.")
          : table("Audit", ["time", "who", "from", "request", "outcome", "sent", "received"], entries.map((entry) => ({ key: entry.id, cells: [
            rowHead(when(entry.at)), h("td", {}, entry.name || entry.key || "nobody", entry.role && h("span", { class: "dim" }, ` ${entry.role}`)), entry.address,
            wide(h("b", {}, entry.method), " ", entry.path), entry.outcome, size(entry.sent_bytes), size(entry.received_bytes)] }))),
        this.next && h("p", {}, h("button", { onclick: () => this.#look(this.next) }, "Load older ones"))]));
  }
}
