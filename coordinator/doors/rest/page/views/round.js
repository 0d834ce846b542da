// One round: who took part, what became of whom and why, and how long each of them took.

import { ask, path } from "../api.js";
import { h } from "../dom.js";
import { read } from "../events.js";
import { NONE, clock, count, number, seconds, size } from "../format.js";
import { OUTCOMES, card, empty, facts, outcome, outcomeMark, pill, reasonOf, roundLink, rowHead, table, wide } from "../parts.js";
import { PHASES, current, phaseBar, phaseLegend } from "./rounds.js";

const CLOSED = ["COMMITTED", "ABANDONED"];
const SLACK_MS = 2000;

export class RoundTab {
  constructor(page, number) {
    Object.assign(this, { page, number, times: {}, stopped: new AbortController() });
    this.#look();
  }

  close() {
    this.stopped.abort();
    clearTimeout(this.timer);
  }

  async #look() {
    try {
      this.one = await ask(`jobs/${path(this.page.id)}/rounds/${this.number}`);
      await this.#times();
    } catch (error) {
      if (this.stopped.signal.aborted) return;
      this.error = error;
    }
    if (!this.stopped.signal.aborted) this.page.redraw();
  }

  // When clients began and ended stands in the job's events, whose ids are times.
  async #times() {
    const starts = Object.values(this.one.phase_at).map((text) => +new Date(text)), over = CLOSED.includes(this.one.phase);
    const end = over ? Math.max(...starts) + SLACK_MS : Infinity;
    await read(this.page.id, String(Math.min(...starts) - SLACK_MS), ({ at, type, data }) => {
      if (data.round === this.number && data.client) {
        (this.times[data.client] ??= {})[type.slice(7)] ??= at;
        this.drawing ??= setTimeout(() => { this.drawing = null; this.page.redraw(); }, 200);
      }
      return at < end && !(data.round > this.number);
    }, { signal: this.stopped.signal });
  }

  // The newest that is known: of a round in flight, what the job tells.
  get #round() {
    const flying = current(this.page.data);
    if (flying?.number === this.number) return { ...this.one, ...flying };
    const listed = this.page.data.rounds.find((one) => one.number === this.number);
    if (listed && this.one && listed.phase !== this.one.phase && !this.again) this.again = setTimeout(() => this.#look(), 0);
    return listed ?? this.one;
  }

  view() {
    const one = this.#round, { id, data } = this.page;
    if (!one) return card(`Round ${this.number}`, empty(this.error?.message ?? "Asking the coordinator …"));
    const last = Math.max(data.job.rounds_opened, this.number);
    return [
      h("div", { class: "head" }, h("h2", { class: "big" }, `Round ${this.number}`, one.kind === "evaluate" ? ", an evaluation" : ""), pill(one.phase), h("span", { class: "space" }),
        this.number > 1 && roundLink(id, this.number - 1, "← earlier"), this.number < last && roundLink(id, this.number + 1, "later →")),
      h("p", { class: "reason" }, reasonOf(one)),
      card("Phases", phaseBar(one) ? [phaseBar(one), phaseLegend()] : empty("No phase has ended yet."), facts([
        ...PHASES.filter((phase) => one.phase_at?.[phase]).map((phase) => [phase.toLowerCase(), `${clock(one.phase_at[phase])}, ${one.phase_s[phase] == null ? "still" : seconds(one.phase_s[phase])}`]),
        ["starts from", `version ${one.model_version}`], one.result_version != null && ["made", `version ${one.result_version}`],
        ["up", size(one.up_bytes)], ["down", size(one.down_bytes)],
        ...Object.entries(one.timings ?? {}).map(([name, value]) => [`aggregator, ${name.replace(/_s$/, "")}`, seconds(value)]),
        ...Object.entries(one.statistics ?? {}).map(([name, value]) => [name.replaceAll("_", " "), number(value)]),
      ])),
      this.#clients(one)];
  }

  #clients(one) {
    const names = Object.keys(one.participants).sort();
    if (!names.length) return card("Clients", empty("No client has been selected yet."));
    const found = names.map((name) => [name, outcome(one, name, this.page.data.agents)]).sort((a, b) => OUTCOMES.indexOf(a[1].is) - OUTCOMES.indexOf(b[1].is));
    const began = +new Date(Object.values(one.phase_at)[0] ?? 0);
    const between = (from, to) => (from != null && to != null ? seconds((to - from) / 1000) : NONE);
    return card("Clients",
      h("p", { class: "note" }, "What went wrong comes first. Seconds: until a client took its task, until it had evaluated the model that it received, and until its update was in."),
      table("Clients of this round", ["client", "outcome", "took task", "evaluated", "trained and sent", "examples", "train loss", "up", "down", "why"], found.map(([name, what]) => {
        const part = one.participants[name], { task, evaluation, report } = this.times[name] ?? {};
        return { key: name, cells: [rowHead(name), outcomeMark(what), between(began, task), between(task, evaluation), between(evaluation ?? task, report),
          count(part.num_examples), number(part.metrics.train_loss ?? part.train_loss), size(part.up_bytes), size(part.down_bytes), wide(what.why)] };
      })));
  }
}
