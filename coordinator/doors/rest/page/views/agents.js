// The sites' agents: who is there, what each does and for which job.

import { ask, path } from "../api.js";
import { h, show } from "../dom.js";
import { NONE, ago, count, when } from "../format.js";
import { empty, jobLink, outcomeMark, plainCard, roundLink, rowHead, table } from "../parts.js";

const LOOK_MS = 5000;
const MOST_JOBS = 4; // whose progress is looked at

export class AgentsPage {
  constructor(root, app) {
    Object.assign(this, { root, app, agents: null, jobs: {}, text: "", silent: false });
  }

  open() {
    this.app.title("Agents");
    this.#look();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  async #look() {
    try {
      if (!document.hidden) {
        this.agents = (await ask("agents")).agents;
        const busy = [...new Set(this.agents.filter((agent) => agent.task).map((agent) => agent.task.job))].slice(0, MOST_JOBS);
        const jobs = await Promise.all(busy.map((id) => ask(`jobs/${path(id)}`).catch(() => null)));
        this.jobs = Object.fromEntries(jobs.filter(Boolean).map((job) => [job.id, job]));
        this.app.connected();
      }
      this.#draw();
    } catch (error) {
      this.app.failed(error);
    }
    if (!this.closed) this.timer = setTimeout(() => this.#look(), LOOK_MS);
  }

  // A killed agent still has its task; it is silent all the same.
  #does(agent) {
    const { task } = agent, job = task && this.jobs[task.job], part = job?.round?.number === task?.round ? job?.round?.participants[agent.name] : null;
    const where = task && [" ", jobLink(task.job, job?.name ?? task.job), ", ", roundLink(task.job, task.round)];
    if (!agent.last_seen) return ["expected, has not come yet"];
    if (!agent.present) return task ? ["nothing; it left the task of", where] : ["nothing"];
    if (!task) return ["waits for a task"];
    const stage = part?.stage ? `${part.stage}${part.step ? `, step ${part.step}` : ""}, for` : "has a task of";
    return [stage, where];
  }

  #draw() {
    if (this.closed) return;
    const { agents } = this, wanted = this.text.trim().toLowerCase();
    const typed = (event) => { this.text = event.target.value; this.#draw(); };
    const toggle = () => { this.silent = !this.silent; this.#draw(); };
    const found = (agents ?? []).filter((agent) => (!this.silent || !agent.present) && [agent.name, agent.software_version, ...Object.keys(agent.datasets)].some((each) => each.toLowerCase().includes(wanted)));
    const gone = (agents ?? []).filter((agent) => !agent.present).length;
    show(this.root, h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Agents")),
      plainCard("Sites", agents?.length > 0 && h("div", { class: "filters" },
        h("input", { type: "search", placeholder: "Name, data set or version", "aria-label": "Filter by name, data set or version", oninput: typed }),
        h("button", { class: "small", "aria-pressed": String(this.silent), onclick: toggle }, `silent ${gone}`), h("span", { class: "dim" }, `${agents.length - gone} of ${agents.length} present`)),
      !agents ? empty("Asking the coordinator …") : !agents.length ? empty("No agents yet. At a site: ", h("code", {}, "fedgalore agent --config agent.yaml"))
        : found.length ? table("Agents", ["agent", "is", "does", "last contact", "data sets", "version", "registered"], found.map((agent) => this.#row(agent))) : empty("No agent matches the filters.")));
  }

  #row(agent) {
    const is = agent.present ? { is: "reported", label: "present" } : { is: "silent", label: "silent" };
    const mark = agent.present ? h("span", { class: "outcome reported" }, h("span", { "aria-hidden": "true" }, "● "), is.label) : outcomeMark(is);
    return { key: agent.name, cells: [rowHead(agent.name), mark, h("td", { class: "wide" }, this.#does(agent)),
      h("td", { title: agent.last_seen ? when(agent.last_seen) : null }, agent.last_seen ? ago(agent.last_seen) : "never"),
      Object.entries(agent.datasets).map(([name, examples]) => `${name}: ${count(examples)}`).join(", ") || NONE, agent.software_version || NONE, when(agent.registered)] };
  }
}
