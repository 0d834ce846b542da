// One job with its rounds, kept up to date: by its events, and by looking again at what an event says has changed.
// Closed rounds are asked for once. A job that has ended asks for nothing.

import { ask, path } from "./api.js";
import { follow } from "./events.js";
import { FINAL } from "./format.js";

const GATHER_MS = 1000; // between two looks
const PROGRESS_MS = 10_000; // steps and signs of life are in no event
const IDLE_MS = 30_000;
const SLACK_MS = 5000; // between the clocks of coordinator and Redis
const PAGE = 200;
const CLOSED = ["COMMITTED", "ABANDONED"];

// All rounds with a greater number, page by page.
export async function roundsAfter(jobId, after) {
  const found = [];
  while (after !== null) {
    const page = await ask(`jobs/${path(jobId)}/rounds?limit=${PAGE}&after=${after}`);
    found.push(...page.rounds);
    after = page.next;
  }
  return found;
}

export class JobData {
  constructor(id, { changed, failed, lost, connected, heard }) {
    Object.assign(this, { id, changed, failed, lost, connected, heard });
    this.job = null;
    this.rounds = []; // in the order of their numbers, the one in flight last
    this.agents = {};
    this.due = new Set();
    this.stopped = new AbortController();
  }

  get ended() { return this.job !== null && FINAL.includes(this.job.status); }

  async start() {
    document.addEventListener("visibilitychange", this.seen = () => !document.hidden && this.look("job", "rounds"));
    await this.#look(new Set(["job", "rounds", "agents"]));
    if (!this.job || this.ended || this.stopped.signal.aborted) return;
    const opened = () => {
      if (this.away) this.look("job", "rounds", "agents");
      this.away = false;
    };
    const lost = (error) => {
      this.away = true;
      this.lost(error);
    };
    const since = new Date(this.job.updated) - SLACK_MS;
    follow(this.id, since, { event: (one) => this.#take(one), opened, lost }, this.stopped.signal).then(() => this.look("job", "rounds"));
    this.#progress();
  }

  stop() {
    this.stopped.abort();
    clearTimeout(this.timer);
    clearTimeout(this.progressTimer);
    document.removeEventListener("visibilitychange", this.seen);
  }

  // Looks again soon, once for all that was named until then.
  look(...parts) {
    parts.forEach((part) => this.due.add(part));
    if (this.timer || this.stopped.signal.aborted) return;
    this.timer = setTimeout(() => {
      const due = this.due;
      this.due = new Set();
      this.#look(due).finally(() => {
        this.timer = null;
        if (this.due.size) this.look();
      });
    }, this.job ? GATHER_MS : 0);
  }

  #progress() {
    this.progressTimer = setTimeout(() => {
      if (this.ended || this.stopped.signal.aborted) return;
      if (!document.hidden && !this.away) this.look("job", "agents");
      this.#progress();
    }, this.job.status === "RUNNING" ? PROGRESS_MS : IDLE_MS);
  }

  async #look(due) {
    try {
      const last = this.rounds.findLast((one) => CLOSED.includes(one.phase))?.number ?? 0;
      const [job, fresh, agents] = await Promise.all([
        ask(`jobs/${path(this.id)}`),
        due.has("rounds") ? roundsAfter(this.id, last) : [],
        due.has("agents") && !this.ended ? ask("agents") : null,
      ]);
      this.job = job;
      if (due.has("rounds")) this.rounds = [...this.rounds.filter((one) => one.number <= last), ...fresh];
      if (agents) this.agents = Object.fromEntries(agents.agents.map((agent) => [agent.name, agent]));
      this.connected();
      if (!this.stopped.signal.aborted) this.changed();
    } catch (error) {
      if (this.stopped.signal.aborted) return;
      if (error.status) this.failed(error);
      else this.lost(error);
      if (!error.status) this.#retry(due);
    }
  }

  #retry(due) {
    setTimeout(() => (this.job ? this.look(...due) : this.start()), 3000);
    if (!this.job) document.removeEventListener("visibilitychange", this.seen);
  }

  // What an event tells is taken from it; what it only hints at is looked at.
  #take({ type, data }) {
    this.heard();
    if (type === "round.phase" && CLOSED.includes(data.phase)) return this.look("job", "rounds");
    const round = this.job.round, part = round && round.number === data.round ? round.participants[data.client] : null;
    if (!part || !type.startsWith("client.")) return this.look("job");
    if (type === "client.task") part.stage ??= "preparing";
    else if (type === "client.report" && round.kind === "train") part.reported = true;
    else if (type === "client.failure") Object.assign(part, { failure: data.reason, failure_code: data.code });
    else if (type === "client.evaluation") part.reported ||= round.kind === "evaluate";
    else return this.look("job");
    return this.#redraw();
  }

  #redraw() {
    this.drawing ??= setTimeout(() => {
      this.drawing = null;
      if (!this.stopped.signal.aborted) this.changed();
    }, 200);
  }
}
