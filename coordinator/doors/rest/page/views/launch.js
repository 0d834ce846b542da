// A new job: a form and its document side by side, looked at by the coordinator as one types.

import { ask, path, post } from "../api.js";
import { h, show } from "../dom.js";
import { FIELDS, applies, changed, described, fresh, get, trimmed, typed } from "../launch_form.js";

const PAUSE_MS = 500; // after the last letter
const isJson = (text) => text.trimStart().startsWith("{");
const kindOf = (text) => (isJson(text) ? "application/json" : "application/yaml");

export class LaunchPage {
  constructor(root, app) {
    Object.assign(this, { root, app, text: "", team: "", told: { state: "asking" }, agents: [], about: { help: () => "", tasks: [], methods: [] } });
  }

  async open([from]) {
    this.app.title("New job");
    this.#draw();
    try {
      const [agents, openapi, job] = await Promise.all([ask("agents"), ask("/openapi.json"), from ? ask(`jobs/${path(from)}`) : null]);
      this.agents = agents.agents;
      this.about = described(openapi);
      this.team = job?.team ?? ""; // a copy asks the same team's sites
      this.#set(job ? await this.#clone(job.spec) : fresh(this.agents));
      this.app.connected();
    } catch (error) {
      this.told = { state: "refused", message: error.message, errors: [] };
      this.app.failed(error);
      this.#draw();
    }
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  // Only what differs from the defaults, which the coordinator tells of the least that a job needs.
  async #clone(spec) {
    const { name, model, data, method, local } = spec;
    const least = { name, model, data: { name: data.name }, method: { kind: method.kind }, ...(local.learning_rate == null ? {} : { local: { learning_rate: local.learning_rate } }) };
    const trial = await this.#try(JSON.stringify(least)).catch(() => null);
    const own = trial?.spec ? trimmed(spec, { ...trial.spec, name: null, model: null, data: { ...trial.spec.data, name: null }, method: { ...trial.spec.method, kind: null }, local: { ...trial.spec.local, learning_rate: null } }) : spec;
    const set = Object.entries(model).filter(([, value]) => value !== null);
    return { ...own, name: `${name.slice(0, 58)}-2`, model: Object.fromEntries(set) };
  }

  get #query() { return this.team ? `?team=${path(this.team)}` : ""; }

  #try(text) { return post(`jobs:validate${this.#query}`, text, kindOf(text)); }

  #set(document) {
    this.text = JSON.stringify(document, null, 2);
    this.#changed(0);
  }

  get #document() {
    try {
      const document = JSON.parse(this.text);
      return document && typeof document === "object" && !Array.isArray(document) ? document : null;
    } catch {
      return null;
    }
  }

  #changed(pause = PAUSE_MS) {
    this.told = { ...this.told, state: "asking" };
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#check(), pause);
    this.#draw();
  }

  async #check() {
    const { text, team } = this;
    let told;
    try {
      const { valid, errors, warnings, spec } = await this.#try(text);
      told = { state: valid ? "fits" : "refused", warnings, errors, spec: spec ?? this.told.spec };
      this.app.connected();
    } catch (error) {
      told = { state: "refused", message: error.message, errors: error.errors ?? [] };
      if (!error.status) this.app.failed(error);
    }
    if (text !== this.text || team !== this.team || this.closed) return;
    this.told = told;
    this.#draw();
  }

  async #launch(event) {
    event.preventDefault();
    if (this.sending) return;
    if (this.told.state === "refused") {
      (this.root.querySelector("[aria-invalid]") ?? this.root.querySelector("textarea")).focus();
      return;
    }
    this.sending = true;
    const whole = this.#query + this.text;
    if (this.sent !== whole) Object.assign(this, { sent: whole, idempotency: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` });
    this.#draw();
    try {
      const job = await post(`jobs${this.#query}`, this.text, kindOf(this.text), { "Idempotency-Key": this.idempotency });
      location.hash = `#/jobs/${path(job.id)}`;
    } catch (error) {
      this.told = { state: "refused", message: error.message, errors: error.errors ?? [] };
      this.app.complain(error.message);
    }
    this.sending = false;
    if (!this.closed) this.#draw();
  }

  #draw() {
    if (this.closed) return;
    const unready = this.told.state === "refused" || this.sending;
    show(this.root, h("form", { onsubmit: (event) => this.#launch(event), novalidate: true },
      h("div", { class: "head" }, h("h1", { tabindex: -1 }, "New job"), h("span", { class: "space" }), this.#state(),
        h("button", { class: "main", "aria-disabled": String(Boolean(unready)), type: "submit" }, this.sending ? "Launching …" : "Launch")),
      h("div", { class: "two" }, this.#form(), this.#paper())));
  }

  #state() {
    const words = { asking: ["dim", "looking at it …"], fits: ["outcome reported", "✓ can be launched"], refused: ["outcome failed", "✕ would be refused"] };
    const [name, text] = words[this.told.state];
    return h("span", { class: name, role: "status" }, text);
  }

  #form() {
    const document = this.#document;
    const toJson = () => this.#set(this.told.spec);
    if (!document) {
      return h("section", { class: "card", key: "form" }, h("h2", {}, "Form"),
        h("p", {}, "The form works on a document in JSON; this one is YAML, or is not complete yet. Go on in the document, or turn it into JSON once it fits."),
        h("button", { type: "button", disabled: this.told.state !== "fits", onclick: toJson }, "Turn into JSON"), this.#whose());
    }
    return h("section", { class: "card", key: "form" }, FIELDS.map(({ section, fields }) => h("fieldset", { key: section }, h("legend", {}, section),
      fields.filter((field) => applies(field, document)).map((field) => this.#field(field, document)))), this.#whose());
  }

  // Whose job it is to be; where nothing is of a team, nobody is asked.
  #whose() {
    const teams = [...new Set(this.agents.flatMap((agent) => agent.teams ?? []))].sort();
    if (!teams.length && !this.team) return null;
    const write = (event) => {
      this.team = event.target.value.trim();
      this.#changed();
    };
    return h("div", { class: "field", key: "team" }, h("label", { for: "team" }, "Team"),
      h("input", { id: "team", value: this.team, list: "teams", autocomplete: "off", spellcheck: "false", "aria-describedby": "team-told", oninput: write }),
      h("datalist", { id: "teams" }, teams.map((name) => h("option", { value: name }))),
      h("div", { id: "team-told", class: "hint" }, "Whose people see the job, and whose sites it asks. Empty: of your one team; of nobody where you are of all"));
  }

  #field(field, document) {
    const value = get(document, field.path), id = `field-${field.path}`, write = (event) => {
      this.text = JSON.stringify(changed(this.#document ?? document, field.path, typed(field, event.target.value)), null, 2);
      this.#changed();
    };
    const problems = (this.told.errors ?? []).filter((row) => row.field === field.path), hint = this.about.help(field.path, get(document, "method.kind"));
    const shared = { id, "aria-invalid": problems.length ? "true" : null, "aria-describedby": `${id}-told` };
    const options = field.options && [...new Set([...this.about[field.options], value].filter(Boolean))];
    const names = Object.keys(Object.assign({}, ...this.agents.map((agent) => agent.datasets)));
    const usual = get(this.told.spec, field.path);
    return h("div", { class: "field", key: field.path }, h("label", { for: id }, field.label),
      options ? h("select", { ...shared, value, onchange: write }, options.map((each) => h("option", { value: each, selected: each === value }, each)))
        : h("input", { ...shared, value: value ?? "", placeholder: field.placeholder ?? (usual == null ? "" : String(usual)), inputmode: field.type === "number" ? "decimal" : null, list: field.list ? "datasets" : null, autocomplete: "off", spellcheck: "false", oninput: write }),
      field.list && h("datalist", { id: "datasets" }, names.map((name) => h("option", { value: name }))),
      h("div", { id: `${id}-told`, class: problems.length ? "problem" : "hint" }, problems.length ? problems.map((row) => row.problem).join("; ") : hint));
  }

  #paper() {
    const { told } = this, document = this.#document, shown = new Set(document ? FIELDS.flatMap((each) => each.fields).filter((field) => applies(field, document)).map((field) => field.path) : []);
    const rest = (told.errors ?? []).filter((row) => !shown.has(row.field));
    const write = (event) => {
      this.text = event.target.value;
      this.#changed();
    };
    const problems = rest.map((row) => h("li", {}, h("b", {}, row.field), `: ${row.problem}`));
    return h("section", { class: "card paper", key: "paper" }, h("h2", {}, h("label", { for: "document" }, "Document, JSON or YAML: write or paste")),
      h("textarea", { id: "document", rows: 24, spellcheck: "false", autocapitalize: "off", value: this.text, "aria-describedby": "problems", oninput: write }),
      h("div", { id: "problems", role: "status" },
        told.state === "refused" && !problems.length && !(told.errors ?? []).length && h("p", { class: "problem" }, told.message),
        problems.length > 0 && h("ul", { class: "problem" }, problems),
        told.state === "fits" && told.warnings.length > 0 && h("ul", { class: "warning" }, told.warnings.map((row) => h("li", {}, h("b", {}, row.field), `: ${row.problem}`)))));
  }
}
