// What happened in a job, as its events tell it, newest first.

import { h } from "../dom.js";
import { read } from "../events.js";
import { coded, clock, size, when } from "../format.js";
import { card, choice, empty, roundLink, rowHead, table, wide } from "../parts.js";

const KEPT = 2000; // lines
const SHOWN = 200;
const BACK_MS = 15 * 60_000;
const KINDS = { "": "how the job goes", trouble: "what went wrong", client: "what clients did", all: "everything" };

const SENTENCES = {
  "job.status": (data) => `The job is ${data.status}: ${data.reason}`,
  "job.rollback": (data) => `Version ${data.model_version} has the weights of version ${data.of} again`,
  "site.check": (data) => (data.fits ? `The data of ${data.client} fit` : `The data of ${data.client} do not fit: ${coded(data.problem ?? "", data.code)}`),
  "round.phase": (data) => `${data.phase}${data.reason ? `: ${data.reason}` : ""}`,
  "client.task": (data) => `${data.client} took its task`,
  "client.report": (data) => `${data.client} reported ${size(data.size_bytes)} of ${data.num_examples} examples`,
  "client.evaluation": (data) => `${data.client} evaluated version ${data.model_version} on ${data.examples} examples`,
  "client.failure": (data) => `${data.client} failed: ${coded(data.reason, data.code)}`,
  "client.dropped": (data) => `${data.client} was left out: ${data.reason}`,
  "client.lost": (data) => `The update of ${data.client} is asked for again: ${data.reason}`,
};
const isTrouble = ({ type, data }) => ["client.failure", "client.dropped", "client.lost"].includes(type) || data.phase === "ABANDONED"
  || (type === "site.check" && !data.fits) || ["FAILED", "PAUSED"].includes(data.status);

const MATCHES = {
  "": (line) => line.type.startsWith("job.") || ["COMMITTED", "ABANDONED"].includes(line.data.phase) || isTrouble(line),
  trouble: isTrouble,
  client: (line) => line.type.startsWith("client.") || line.type === "site.check",
  all: () => true,
};

export class LogTab {
  constructor(page) {
    Object.assign(this, { page, lines: [], kind: "", from: null });
    this.begin = () => this.#read(+new Date(page.data.job?.updated ?? Date.now()) - BACK_MS);
    if (page.data.job) this.begin();
  }

  close() { this.stop?.abort(); }

  async #read(from) {
    this.close();
    Object.assign(this, { lines: [], from, stop: new AbortController(), reading: true });
    const mine = this.stop;
    try {
      await read(this.page.id, String(Math.max(1, from)), (event) => {
        this.lines.push(event);
        if (this.lines.length > KEPT) this.lines.shift();
        this.drawing ??= setTimeout(() => { this.drawing = null; this.page.redraw(); }, 300);
      }, { signal: mine.signal });
    } catch (error) {
      if (!mine.signal.aborted) this.page.app.failed(error);
    }
  }

  view() {
    if (!this.stop && this.page.data.job) this.begin();
    const matches = MATCHES[this.kind];
    const found = this.lines.filter(matches), shown = found.slice(-SHOWN).reverse();
    const choose = (kind) => { this.kind = kind; this.page.redraw(); };
    return card("Log",
      h("div", { class: "choices" }, choice("Show", Object.entries(KINDS), this.kind, choose),
        this.from > 1 && h("button", { class: "small", onclick: () => this.#read(1) }, "From the beginning"),
        h("span", { class: "dim" }, this.from > 1 ? `since ${when(this.from)}` : "since the beginning", found.length > SHOWN ? `, the last ${SHOWN} of ${found.length}` : "")),
      shown.length ? table("Log of the job", ["time", "round", "what happened"], shown.map((line) => this.#row(line)))
        : empty("Nothing of this kind in this time."));
  }

  #row(line) {
    const { data } = line, told = SENTENCES[line.type];
    return { key: `${line.id} ${line.type} ${data.client ?? ""}`, class: isTrouble(line) ? "trouble" : null, cells: [
      rowHead(clock(line.at)), data.round ? roundLink(this.page.id, data.round, String(data.round)) : "", wide(told ? told(data) : line.type)] };
  }
}
