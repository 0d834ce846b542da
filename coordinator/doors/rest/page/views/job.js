// One job: its head with what may be done to it, and the tabs below.

import { ask, path, post } from "../api.js";
import { confirmed, h, show } from "../dom.js";
import { words } from "../format.js";
import { JobData } from "../job_data.js";
import { empty, isFinal, pill } from "../parts.js";
import { alignmentTab } from "./alignment.js";
import { documentTab } from "./document.js";
import { label, labels } from "./labels.js";
import { LogTab } from "./log.js";
import { modelsTab } from "./models.js";
import { overviewTab } from "./overview.js";
import { RoundTab } from "./round.js";
import { roundsTab } from "./rounds.js";
import { sitesTab } from "./sites.js";

const TABS = { "": "Overview", rounds: "Rounds", sites: "Sites", alignment: "Alignment", models: "Models", document: "Document", log: "Log" };
const TELL_MS = 6000;

export class JobPage {
  constructor(root, app, id) {
    Object.assign(this, { root, app, id, tab: "", state: {} }); // `state`: what a person chose in the tabs
    this.redraw = () => this.#draw();
    this.data = new JobData(id, {
      changed: this.redraw, connected: () => app.connected(), lost: (error) => app.failed(error),
      heard: () => this.part?.heard?.(), failed: (error) => { this.error = error; app.failed(error); this.#draw(); },
    });
  }

  open([tab = "", number]) {
    const opened = tab === this.tab && this.number === number && this.data.job;
    Object.assign(this, { tab: tab in TABS ? tab : "", number });
    this.part?.close();
    this.part = null;
    if (number) this.part = new RoundTab(this, Number(number));
    else if (tab === "log") this.part = new LogTab(this);
    if (!this.started) this.data.start();
    else if (!opened) this.#draw();
    this.started = true;
    this.#draw();
  }

  close() {
    this.part?.close();
    this.data.stop();
  }

  // Says how something goes, below the head.
  tell(text, isError = false) {
    if (isError) return this.app.complain(text);
    this.told = text;
    clearTimeout(this.telling);
    this.telling = setTimeout(() => { this.told = ""; this.#draw(); }, TELL_MS);
    return this.#draw();
  }

  #draw() {
    if (this.data.stopped.signal.aborted) return;
    const { job } = this.data;
    if (!job) return show(this.root, h("h1", { tabindex: -1 }, "Job"), this.error ? empty(this.error.message, " ", h("a", { href: "#/jobs" }, "All jobs")) : empty("Asking the coordinator …"));
    this.app.title(`${job.name} · ${job.status}`);
    const tabs = { "": overviewTab, rounds: roundsTab, sites: sitesTab, alignment: alignmentTab, models: modelsTab, document: documentTab };
    const shown = this.part ? this.part.view() : tabs[this.tab](this);
    return show(this.root, this.#head(job), this.#tabs(job), h("div", { key: `tab ${this.tab} ${this.number ?? ""}` }, shown));
  }

  #head(job) {
    const act = (verb, enabled, danger) => h("button", { disabled: !enabled, class: danger ? "danger" : null, onclick: () => this.#steer(verb) }, verb[0].toUpperCase() + verb.slice(1));
    const unmeasured = Object.entries(job.evaluation?.undefined ?? {});
    const fresh = job.warnings.filter((row) => !job.reason.includes(row.problem));
    return h("div", { class: "jobhead" },
      h("div", { class: "head" }, h("h1", { tabindex: -1 }, job.name), pill(job.status), h("span", { class: "dim id" }, job.id), h("span", { class: "space" }),
        h("div", { class: "actions" }, !isFinal(job) && [act("pause", job.status === "RUNNING"), act("resume", job.status === "PAUSED"), act("cancel", true, true)],
          isFinal(job) && act("delete", true, true),
          h("button", { onclick: () => label(this, !this.state.labelling) }, "Label"), h("a", { class: "button", href: `#/launch/${path(job.id)}` }, "Clone"))),
      h("p", { class: "reason", role: "status" }, job.reason),
      labels(this),
      unmeasured.map(([name, why]) => h("p", { class: "note" }, `No ${words(name)}: ${why}`)),
      job.notes.map((note) => h("p", { class: "note" }, note)),
      fresh.map((row) => h("p", { class: "warning" }, `${row.field}: ${row.problem}`)),
      h("p", { class: "note", role: "status" }, this.told ?? ""));
  }

  #tabs(job) {
    const link = ([tab, name]) => h("a", { href: `#/jobs/${path(job.id)}${tab && `/${tab}`}`, "aria-current": tab === this.tab ? "page" : null }, name);
    return h("nav", { class: "tabs", "aria-label": "Of this job" }, Object.entries(TABS).map(link));
  }

  async #steer(verb) {
    const questions = {
      cancel: ["Cancel this job? Its round in flight is abandoned. What it has made so far can still be downloaded.", "Cancel the job"],
      delete: ["Delete this job? Its rounds, its log and its models are gone for good.", "Delete the job"],
    };
    if (questions[verb] && !(await confirmed(...questions[verb]))) return;
    try {
      if (verb === "delete") {
        await ask(`jobs/${path(this.id)}`, { method: "DELETE" });
        location.hash = "#/jobs";
        return;
      }
      await post(`jobs/${path(this.id)}/${verb}`);
    } catch (error) {
      this.app.complain(error.message);
    }
    this.data.look("job", "rounds");
  }
}
