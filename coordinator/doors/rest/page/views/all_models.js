// The models of all jobs: the versions of each that can be downloaded.

import { ask } from "../api.js";
import { h, show } from "../dom.js";
import { listed, measured, number, size, words } from "../format.js";
import { downloadLink, empty, jobLink, pill, plainCard, rowHead, table, tagList } from "../parts.js";

const PAGE = 20;
const TYPING_MS = 300;

export class ModelsPage {
  constructor(root, app) {
    Object.assign(this, { root, app, models: null, next: null, name: "", told: "" });
  }

  open() {
    this.app.title("Models");
    this.#look();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
  }

  async #look(after = null) {
    const { name } = this;
    try {
      const query = new URLSearchParams({ limit: PAGE, ...(name.trim() && { name: name.trim() }), ...(after && { after }) });
      const page = await ask(`models?${query}`);
      if (name !== this.name) return;
      this.models = after ? [...this.models, ...page.models] : page.models;
      this.next = page.next;
      this.app.connected();
    } catch (error) {
      this.app.failed(error);
    }
    this.#draw();
  }

  #draw() {
    if (this.closed) return;
    const { models } = this;
    const typed = (event) => {
      this.name = event.target.value;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#look(), TYPING_MS);
    };
    show(this.root, h("div", { class: "head" }, h("h1", { tabindex: -1 }, "Models")), plainCard("Models",
      h("div", { class: "filters" }, h("input", { type: "search", placeholder: "Part of the job's name", "aria-label": "Part of the job's name", oninput: typed }),
        h("button", { class: "small", onclick: () => this.#look() }, "Look again"), h("span", { class: "dim", role: "status" }, this.told)),
      !models ? empty("Asking the coordinator …") : !models.length ? empty("No job has a model that fits.")
        : table("Models", ["job", "version", "quality", "size", "hash", "download"], models.flatMap((model) => this.#rows(model))),
      this.next && h("p", {}, h("button", { onclick: () => this.#look(this.next) }, "Load older ones"))));
  }

  #rows(model) {
    const where = `jobs/${encodeURIComponent(model.job)}`;
    const report = (text, isError) => {
      if (isError) return this.app.complain(text);
      this.told = text;
      return this.#draw();
    };
    return model.versions.map((each, i) => {
      const marks = [each.newest && "newest", each.best && "best", each.version === 0 && "untrained"].filter(Boolean).join(", ");
      const quality = [each.metrics, each.held_out].flatMap((found, held) => [...listed(found).map((name) => `${words(name)} ${measured(name, found[name])}`), ..."loss" in found ? [`loss ${number(found.loss)}`] : []].map((text) => (held ? `${text} held out` : text)));
      return { key: `${model.job} ${each.version}`, cells: [
        i ? rowHead(h("span", { class: "dim" }, model.name)) : rowHead(jobLink(model.job, model.name), " ", pill(model.status), h("div", { class: "dim small-text" }, `${model.method}, ${model.task}`), tagList(model.tags)),
        h("td", {}, each.version, marks && h("div", { class: "dim small-text" }, marks)), quality.join(", ") || "not measured", size(each.size_bytes),
        each.sha256 ? h("code", { title: each.sha256 }, each.sha256.slice(0, 12)) : h("span", { class: "dim" }, "made when it is asked for"),
        h("td", {}, h("div", { class: "actions" }, downloadLink(`${where}/model?version=${each.version}`, "Model", report), each.version > 0 && downloadLink(`${where}/adapter?version=${each.version}`, "Adapter", report)))] };
    });
  }
}
