// What happened in a job, in the coordinator's words, newest first.

import { ask, path } from "../api.js";
import { clock, when } from "../format.js";
import { card, choice, empty, roundLink, table, wide } from "../parts.js";
import { h } from "../dom.js";

const PAGE = 500; // events that are looked at in one request
const KEPT = 3000; // lines
const STEP = 200; // of them that are shown at once
const GATHER_MS = 1500;
const LEVELS = { info: "how the job goes", warning: "what went wrong", debug: "everything" };

export class LogTab {
  constructor(page) {
    Object.assign(this, { page, lines: [], level: "info", shown: STEP, whole: false, generation: 0 });
    this.#begin();
  }

  close() {
    this.generation++;
    clearTimeout(this.timer);
  }

  // Something has happened: what it came to is asked for, once for all that comes within a moment.
  heard() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.#read(this.generation);
    }, GATHER_MS);
  }

  #begin(whole = this.whole) {
    clearTimeout(this.timer);
    Object.assign(this, { lines: [], whole, known: false, timer: null });
    this.#read(++this.generation);
  }

  async #read(mine) {
    try {
      for (let after = this.lines.at(-1)?.id ?? null, tail = !after && !this.whole; ; tail = false) {
        const query = `level=${this.level}&limit=${PAGE}${tail ? "&tail=true" : ""}${after ? `&after=${after}` : ""}`;
        const told = await ask(`jobs/${path(this.page.id)}/logs?${query}`);
        if (mine !== this.generation) return;
        this.lines = [...this.lines, ...told.lines].slice(-KEPT);
        this.known = true;
        after = told.next;
        if (!after) break;
      }
    } catch (error) {
      if (mine === this.generation) this.page.app.failed(error);
    }
    this.page.redraw();
  }

  view() {
    const choose = (level) => {
      this.level = level;
      this.#begin();
      this.page.redraw();
    };
    const more = () => {
      this.shown += 4 * STEP;
      this.page.redraw();
    };
    const all = () => {
      this.#begin(true);
      this.page.redraw();
    };
    const shown = this.lines.slice(-this.shown).reverse();
    return card("Log",
      h("div", { class: "choices" }, choice("Show", Object.entries(LEVELS), this.level, choose), !this.whole && h("button", { class: "small", onclick: all }, "From the beginning")),
      shown.length ? table("Log of the job", ["time", "round", "site", "what happened"], shown.map((line) => this.#row(line))) : empty(this.known ? "Nothing of this kind." : "Asking the coordinator …"),
      this.lines.length > this.shown && h("p", {}, h("button", { onclick: more }, "Show older lines")));
  }

  #row({ id, at, level, round, client, text }) {
    return { key: id + text, class: level === "warning" || level === "error" ? "trouble" : null, cells: [
      h("th", { scope: "row", title: when(at) }, clock(at)), round ? roundLink(this.page.id, round, String(round)) : "", client ?? "", wide(text)] };
  }
}
