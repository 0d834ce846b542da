// Two to eight jobs: their curves over each other, their documents side by side.

import { ask, path } from "../api.js";
import { chart, look, swatch } from "../chart.js";
import { component, h, show } from "../dom.js";
import { NONE, mainMetric, measured, seconds, size, words } from "../format.js";
import { roundsAfter } from "../job_data.js";
import { card, choice, empty, isFinal, jobLink, pill, rowHead, table } from "../parts.js";
import { AXES, axisFormat, choices, compared, epsilonSpent, formatOf, whole } from "../series.js";

const LOOK_MS = 15_000;
const CLOSED = ["COMMITTED", "ABANDONED"];

export class ComparePage {
  constructor(root, app, ids) {
    Object.assign(this, { root, app, sides: ids.split(",").map((id) => ({ id: decodeURIComponent(id), job: null, rounds: [], error: null })), axis: "round", all: false });
  }

  open() {
    this.app.title("Compare");
    this.#draw();
    this.#look();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  async #look() {
    if (!document.hidden) await Promise.all(this.sides.map((side) => this.#lookAt(side)));
    if (this.closed) return;
    this.#draw();
    if (this.sides.some((side) => !side.error && !(side.job && isFinal(side.job)))) this.timer = setTimeout(() => this.#look(), LOOK_MS);
  }

  async #lookAt(side) {
    if (side.error || (side.job && isFinal(side.job))) return;
    try {
      const last = side.rounds.findLast((one) => CLOSED.includes(one.phase))?.number ?? 0;
      const [job, fresh] = await Promise.all([ask(`jobs/${path(side.id)}`), roundsAfter(side.id, last)]);
      Object.assign(side, { job, rounds: [...side.rounds.filter((one) => one.number <= last), ...fresh] });
      this.app.connected();
    } catch (error) {
      if (error.status) side.error = error.message;
      this.app.failed(error);
    }
  }

  #name(side) {
    const twice = this.sides.filter((each) => each.job?.spec.name === side.job.spec.name).length > 1;
    return twice ? `${side.job.name} (${side.id.split("-").at(-1)})` : side.job.name;
  }

  #draw() {
    if (this.closed) return;
    const there = this.sides.filter((side) => side.job), missing = this.sides.filter((side) => side.error);
    show(this.root, h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Compare"), h("span", { class: "space" }), h("a", { class: "button", href: "#/jobs" }, "Choose others")),
      missing.map((side) => h("p", { class: "warning" }, side.error)),
      there.length ? [this.#summary(there), this.#curves(there), this.#documents(there)] : card("Jobs", empty(missing.length ? "None of these jobs is there." : "Asking the coordinator …")));
  }

  #summary(sides) {
    const metric = mainMetric(sides[0].job);
    return card("Where they stand", table("Jobs", ["job", "status", "rounds", `last ${words(metric)}`, `best ${words(metric)}`, "up", "down", "took", "ε"], sides.map((side, i) => {
      const { job, rounds } = side, held = job.held_out?.metrics[metric], values = whole(job, rounds, `evaluation/${metric}`, "round").map((point) => point[1]);
      const least = ["loss", "perplexity", "mse", "mae"].includes(metric) ? Math.min : Math.max, epsilon = epsilonSpent(rounds);
      const last = rounds.at(-1) && Object.values(rounds.at(-1).phase_at).at(-1), took = last ? (new Date(last) - new Date(job.created)) / 1000 : null;
      return { key: side.id, cells: [rowHead(swatch(look(i)), " ", jobLink(side.id, this.#name(side))), pill(job.status), `${job.rounds_done ?? NONE} of ${job.rounds_total}`,
        measured(metric, job.evaluation?.metrics[metric] ?? held), measured(metric, values.length ? least(...values) : null), size(job.up_bytes), size(job.down_bytes), seconds(took), epsilon == null ? NONE : epsilon.toFixed(2)] };
    })));
  }

  #curves(sides) {
    const groups = choices(sides.flatMap((side) => side.rounds)).filter(({ group }) => !["While training", "Bytes"].includes(group));
    const keys = groups.flatMap((each) => each.options.map((one) => one.key)), wanted = `evaluation/${mainMetric(sides[0].job)}`;
    const key = keys.includes(this.metric) ? this.metric : keys.includes(wanted) ? wanted : keys[0];
    if (!key) return card("Curves", empty("No round of these jobs has told a number yet."));
    const found = sides.map((side) => ({ name: this.#name(side), points: whole(side.job, side.rounds, key, this.axis) }));
    const set = (name) => (value) => { this[name] = value; this.#draw(); };
    return card("Curves", h("div", { class: "choices" }, choice("Show", groups, key, set("metric")), choice("over", Object.entries(AXES), this.axis, set("axis"))),
      component("chart", chart, { label: words(key.split("/")[1]), lines: found, format: formatOf(key), axis: { label: this.axis, format: axisFormat[this.axis] } }));
  }

  #documents(sides) {
    const rows = compared(sides.map((side) => side.job.spec)), shown = this.all ? rows : rows.filter((row) => row.differs);
    const toggle = () => { this.all = !this.all; this.#draw(); };
    return card("Documents", h("div", { class: "choices" }, h("button", { class: "small", "aria-pressed": String(this.all), onclick: toggle }, "Show what is equal, too"), h("span", { class: "dim" }, `${rows.filter((row) => row.differs).length} of ${rows.length} fields differ`)),
      shown.length ? table("Documents", ["field", ...sides.map((side) => this.#name(side))], shown.map((row) => ({ key: row.field, class: row.differs ? "differs" : null, cells: [
        rowHead(row.differs ? h("span", { "aria-hidden": "true" }, "≠ ") : "", row.field), ...row.values.map((value) => h("td", { class: "code" }, value ?? NONE))] })))
        : empty("The documents are the same."));
  }
}
