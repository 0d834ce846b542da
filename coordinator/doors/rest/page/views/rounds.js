// All rounds of a job, newest first.

import { h } from "../dom.js";
import { seconds, size } from "../format.js";
import { OUTCOMES, card, empty, outcome, pill, roundLink, rowHead, table, wide } from "../parts.js";

const STEP = 50;
export const PHASES = ["SELECTION", "CONFIGURATION", "REPORTING", "AGGREGATION"];
const COLOURS = ["c6", "c1", "c0", "c2"];

export function phaseBar(one) {
  const total = PHASES.reduce((sum, phase) => sum + (one.phase_s[phase] ?? 0), 0);
  const told = PHASES.filter((phase) => one.phase_s[phase] != null).map((phase) => `${phase.toLowerCase()} ${seconds(one.phase_s[phase])}`).join(", ");
  return total ? h("div", { class: "bar", role: "img", "aria-label": told, title: told },
    PHASES.map((phase, i) => h("div", { style: { width: `${100 * (one.phase_s[phase] ?? 0) / total}%`, background: `var(--${COLOURS[i]})` } }))) : null;
}

export const phaseLegend = () => h("div", { class: "legend" }, PHASES.map((phase, i) => h("span", { class: "item" }, h("i", { style: { background: `var(--${COLOURS[i]})` } }), phase.toLowerCase())));

// How many became what: "27 reported, 2 failed".
export function tally(one, agents) {
  const counts = {};
  for (const client of Object.keys(one.participants)) {
    const { is } = outcome(one, client, agents);
    counts[is] = (counts[is] ?? 0) + 1;
  }
  return OUTCOMES.toReversed().filter((is) => counts[is]).map((is) => `${counts[is]} ${is}`).join(", ");
}

// The round in flight as the job tells it, which is newer than the list of rounds.
export function current({ job, rounds }) {
  if (!job.round) return null;
  const listed = rounds.find((one) => one.number === job.round.number);
  if (listed && ["COMMITTED", "ABANDONED"].includes(listed.phase)) return null;
  const told = listed?.participants ?? {};
  const participants = Object.entries(job.round.participants).map(([name, part]) => [name, { metrics: {}, up_bytes: 0, down_bytes: 0, dropped: null, lost: null, ...told[name], ...part }]);
  return { up_bytes: 0, down_bytes: 0, phase_s: {}, phase_at: {}, ...listed, ...job.round, participants: Object.fromEntries(participants) };
}

export function roundsTab(page) {
  const flying = current(page.data), closed = page.data.rounds.filter((one) => one.number !== flying?.number);
  const all = [...closed, ...(flying ? [flying] : [])].reverse(), shown = all.slice(0, page.state.rounds ?? STEP);
  if (!all.length) return card("Rounds", empty("No round has begun yet."));
  const more = () => {
    page.state.rounds = (page.state.rounds ?? STEP) + 4 * STEP;
    page.redraw();
  };
  return card("Rounds", phaseLegend(),
    table("Rounds", ["round", "phase", "clients", "up", "down", "time", "reason"], shown.map((one) => row(page, one))),
    all.length > shown.length && h("p", {}, h("button", { onclick: more }, "Show older rounds")));
}

function row(page, one) {
  const total = Object.values(one.phase_s).reduce((sum, each) => sum + each, 0);
  return { key: one.number, cells: [
    rowHead(roundLink(page.id, one.number, String(one.number)), one.kind === "evaluate" ? " evaluation" : ""),
    pill(one.phase), tally(one, page.data.agents), size(one.up_bytes), size(one.down_bytes),
    h("td", {}, seconds(total), phaseBar(one)), wide(one.reason)] };
}
