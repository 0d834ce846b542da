// The versions of a job's model: what was measured of each, and those that can be downloaded.

import { path, post } from "../api.js";
import { confirmed, h } from "../dom.js";
import { listed, measured, words } from "../format.js";
import { card, downloadLink, empty, rowHead, table } from "../parts.js";

const STEP = 30;
const RANK = 8;

// Whether a version is kept, as `rounds.keep_versions` says.
function isKept(job, version) {
  const { last, every } = job.spec.rounds.keep_versions, newest = job.model_version;
  const ended = ["COMPLETED", "FAILED", "CANCELLED"].includes(job.status);
  return version > newest - last || version === job.best?.model_version || (version > 0 && every && version % every === 0) || (version === 0 && !ended);
}

function versionsOf(job, rounds) {
  const told = new Map();
  for (const one of rounds) {
    if (one.evaluation || one.held_out) told.set(one.model_version, { ...told.get(one.model_version), ...one.evaluation?.metrics });
  }
  if (job.evaluation) told.set(job.evaluation.model_version, job.evaluation.metrics);
  return Array.from({ length: job.model_version + 1 }, (_, i) => job.model_version - i).map((version) => ({ version, metrics: told.get(version) ?? {} }));
}

export function modelsTab(page) {
  const { job, rounds } = page.data, { state } = page;
  if (job.model_version == null) return card("Versions", empty("The model is being prepared."));
  const all = versionsOf(job, rounds), kept = all.filter(({ version }) => isKept(job, version));
  const shown = (state.allVersions ? all : kept).slice(0, state.versions ?? STEP);
  const metrics = [...new Set(all.flatMap((each) => [...listed(each.metrics), ...("loss" in each.metrics ? ["loss"] : [])]))];
  const toggle = () => { state.allVersions = !state.allVersions; page.redraw(); };
  const more = () => { state.versions = (state.versions ?? STEP) + 4 * STEP; page.redraw(); };
  const ranked = (event) => { state.rank = event.target.value; page.redraw(); };
  return card("Versions",
    h("div", { class: "choices" },
      h("label", { class: "choice" }, h("span", {}, "Rank of adapters"), h("input", { type: "number", min: 1, max: 1024, value: RANK, oninput: ranked })),
      h("button", { class: "small", "aria-pressed": String(Boolean(state.allVersions)), onclick: toggle }, "Show those that are not kept")),
    table("Versions of the model", ["version", "", ...metrics.map(words), "download", ""], shown.map((each) => row(page, each, metrics, kept.includes(each)))),
    all.length > shown.length && state.allVersions && h("p", {}, h("button", { onclick: more }, "Show older versions")),
    h("p", { class: "note" }, "A model is a folder that from_pretrained loads, packed as a tar. An adapter holds the best approximation of its change of this rank, for PEFT."));
}

function row(page, { version, metrics }, columns, kept) {
  const { job } = page.data, where = `jobs/${path(page.id)}`, rank = Number(page.state.rank ?? RANK) || RANK;
  const marks = [version === job.model_version && "newest", version === job.best?.model_version && "best", version === 0 && "untrained"].filter(Boolean).join(", ");
  const report = (text, isError) => page.tell(text, isError);
  return { key: version, cells: [rowHead(`version ${version}`), marks, ...columns.map((name) => measured(name, metrics[name])),
    kept ? h("td", {}, h("div", { class: "actions" }, downloadLink(`${where}/model?version=${version}`, "Model", report),
      version > 0 && downloadLink(`${where}/adapter?version=${version}&rank=${rank}`, "Adapter", report))) : "not kept",
    kept && version !== job.model_version && job.status !== "CANCELLED" ? h("button", { class: "small", onclick: () => rollBack(page, version) }, "Go back to it") : ""] };
}

async function rollBack(page, version) {
  const question = `Make version ${version} current again? It becomes a new version, from which training goes on; a round in flight is abandoned.`;
  if (!(await confirmed(question, "Go back"))) return;
  try {
    await post(`jobs/${path(page.id)}/rollback`, JSON.stringify({ version }));
  } catch (error) {
    page.app.complain(error.message);
  }
  page.data.look("job", "rounds");
}
