// What charts show, made of a job and its rounds: pure.

import { measured, number, percent, seconds, size, words } from "./format.js";

export const AXES = { round: "rounds", bytes: "bytes moved", time: "time" };
const byName = (a, b) => a.localeCompare(b, undefined, { numeric: true });

const sum = (values) => values.reduce((all, value) => all + value, 0);
const parts = (one) => Object.entries(one.participants);
const namesIn = (objects) => [...new Set(objects.flatMap((each) => Object.keys(each ?? {})))].sort();

// Every number that rounds hold, by group: [{ group, options: [{ key, label }] }].
export function choices(rounds) {
  const all = rounds.flatMap((one) => Object.values(one.participants));
  const option = (kind) => (name) => ({ key: `${kind}/${name}`, label: words(name) });
  const groups = [
    ["On the sites' test data", namesIn(all.map((part) => part.evaluation?.metrics)).map(option("evaluation"))],
    ["On held-out data", namesIn(rounds.map((one) => one.held_out?.metrics)).map(option("held_out"))],
    ["While training", namesIn(all.map((part) => part.metrics)).map(option("train"))],
    ["Bytes", ["up_bytes", "down_bytes"].map(option("bytes"))],
    ["Of the aggregation", namesIn(rounds.map((one) => one.statistics)).map(option("statistics"))],
    ["Seconds of the aggregator", namesIn(rounds.map((one) => one.timings)).map(option("timings"))],
    ["Seconds in a phase", namesIn(rounds.map((one) => one.phase_s)).map(option("phase_s"))],
  ];
  return groups.filter(([, options]) => options.length).map(([group, options]) => ({ group, options }));
}

export function formatOf(key) {
  const [kind, name] = key.split("/");
  if (kind === "bytes") return size;
  if (kind === "timings" || kind === "phase_s") return seconds;
  if (kind === "statistics") return name.endsWith("share") ? percent : number;
  return (value) => measured(name, value);
}

// Where on the axis a round lies: as its version was there before it, or as it ended.
export function positions(job, rounds) {
  let moved = 0;
  const created = new Date(job.created), places = new Map();
  for (const one of rounds) {
    const times = Object.values(one.phase_at).map((text) => (new Date(text) - created) / 1000);
    const before = { round: one.model_version, bytes: moved, time: times[0] ?? 0 };
    moved += one.up_bytes + one.down_bytes;
    const after = { round: one.result_version ?? one.model_version + 1, bytes: moved, time: times.at(-1) ?? 0 };
    places.set(one.number, { before, after });
  }
  return places;
}

const OF_A_PART = {
  evaluation: (part, name) => part.evaluation?.metrics[name],
  train: (part, name) => part.metrics[name],
  bytes: (part, name) => (part.reported ? part[name] : null),
};
const OF_A_ROUND = {
  evaluation: (one, name) => one.evaluation?.metrics[name],
  held_out: (one, name) => one.held_out?.metrics[name],
  statistics: (one, name) => one.statistics[name],
  timings: (one, name) => one.timings[name],
  phase_s: (one, name) => one.phase_s[name],
};
const MAIN = { evaluation: "all examples", held_out: "held out", statistics: "mean", timings: "aggregator", phase_s: "round" };

// The line of all sites: points [x, y]; empty where there is none.
export function whole(job, rounds, key, axis) {
  const [kind, name] = key.split("/"), read = OF_A_ROUND[kind], places = positions(job, rounds);
  const side = kind === "evaluation" || kind === "held_out" ? "before" : "after";
  if (!read) return [];
  const points = new Map(); // by place: a version that was measured in several tries has the last of them
  for (const one of rounds) {
    const value = read(one, name);
    if (value != null) points.set(places.get(one.number)[side][axis], value);
  }
  return [...points].sort((a, b) => a[0] - b[0]);
}

// All lines of a number: [{ name, points, main }], the sites in the order of their names.
export function lines(job, rounds, key, axis) {
  const [kind, name] = key.split("/"), read = OF_A_PART[kind], places = positions(job, rounds), found = new Map();
  const side = kind === "evaluation" ? "before" : "after";
  for (const one of read ? rounds : []) {
    for (const [client, part] of parts(one)) {
      const value = read(part, name);
      if (value == null) continue;
      if (!found.has(client)) found.set(client, new Map());
      found.get(client).set(places.get(one.number)[side][axis], value);
    }
  }
  const made = [...found].sort(([a], [b]) => byName(a, b)).map(([client, points]) => ({ name: client, points: [...points] }));
  const main = whole(job, rounds, key, axis);
  return main.length ? [{ name: MAIN[kind], points: main, main: true }, ...made] : made;
}

export const axisFormat = { round: (value) => String(value), bytes: size, time: seconds };

const reporting = (rounds) => rounds.filter((one) => one.kind === "train")
  .flatMap((one) => Object.values(one.participants).filter((part) => part.reported).map((part) => ({ part, one })));

// Mean bytes of a client that reported, each way, and what it would have sent of a dense change; null before any has.
export function perClient(rounds) {
  const reports = reporting(rounds);
  if (!reports.length) return null;
  const mean = (of) => sum(reports.map(of)) / reports.length;
  const [up, down, dense] = [({ part }) => part.up_bytes, ({ part }) => part.down_bytes, ({ one }) => one.dense_bytes].map(mean);
  return { up, down, dense, share: dense ? up / dense : null };
}

export const epsilonSpent = (rounds) => rounds.findLast((one) => one.statistics.epsilon != null)?.statistics.epsilon ?? null;

// Heat maps of alignment: rows and columns with their names, values[row][column] (null: none).
export function alignment(rounds, what) {
  const told = rounds.filter((one) => Object.keys(one.alignment).length);
  if (!told.length) return null;
  const columns = told.map((one) => String(one.number));
  const layers = Object.keys(told.at(-1).alignment), sites = namesIn(told.flatMap((one) => Object.values(one.alignment)).map((each) => each.explained)).sort(byName);
  const mean = (values) => (values.length ? sum(values) / values.length : null);
  const table = (rows, cell) => ({ rows, columns, values: rows.map((row) => told.map((one) => cell(one, row) ?? null)) });
  if (what === "rank") return table(layers, (one, layer) => one.alignment[layer]?.joint_rank);
  if (what === "share") return table(layers, (one, layer) => one.alignment[layer] && mean(Object.values(one.alignment[layer].explained)));
  if (what === "sites") return table(sites, (one, site) => mean(Object.values(one.alignment).map((each) => each.explained[site]).filter((value) => value != null)));
  const last = told.at(-1).alignment; // "now": sites by layers
  return { rows: sites, columns: layers, values: sites.map((site) => layers.map((layer) => last[layer].explained[site] ?? null)), round: told.at(-1).number };
}

// A document as rows of path and value.
export function flat(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value) || !Object.keys(value).length) {
    return { [prefix]: JSON.stringify(value) };
  }
  const under = Object.entries(value).map(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name));
  return Object.assign({}, ...under);
}

// Documents side by side: [{ field, values, differs }]; a document without the field has null.
export function compared(documents) {
  const rows = documents.map((each) => flat(each));
  return [...new Set(rows.flatMap((row) => Object.keys(row)))].map((field) => {
    const values = rows.map((row) => row[field] ?? null);
    return { field, values, differs: new Set(values).size > 1 };
  });
}
