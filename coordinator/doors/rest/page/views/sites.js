// A job's sites: what each does now, what it measured, and whether its data fit.

import { h } from "../dom.js";
import { ago, coded, count, listed, measured, number, size, words } from "../format.js";
import { card, empty, outcome, outcomeMark, rowHead, table, wide } from "../parts.js";
import { current } from "./rounds.js";

const MOST_COLUMNS = 30, MOST_CLASSES = 200; // of a table; REST has all of them

export function sitesTab(page) {
  const { job } = page.data;
  return [clients(page), fits(job), classes(job.evaluation, job.spec.model.label_names)].filter(Boolean);
}

function moved(rounds) {
  const sums = {};
  for (const one of rounds) {
    for (const [name, part] of Object.entries(one.participants)) {
      const sum = sums[name] ??= { up: 0, down: 0, loss: null, reports: 0, rounds: 0 };
      sum.up += part.up_bytes;
      sum.down += part.down_bytes;
      sum.rounds++;
      if (part.reported) sum.reports++;
      sum.loss = part.metrics.train_loss ?? sum.loss;
    }
  }
  return sums;
}

function clients(page) {
  const { job, rounds, agents } = page.data, flying = current(page.data), told = job.evaluation?.clients ?? {}, sums = moved(rounds);
  const names = [...new Set([...Object.keys(flying?.participants ?? {}), ...Object.keys(told), ...Object.keys(sums)])].sort();
  if (!names.length) return card("What they do", empty("No site has taken part yet."));
  const metrics = listed(Object.assign({}, ...Object.values(told).map((result) => result.metrics)));
  const doing = (name) => {
    if (flying?.participants[name]) return outcome(flying, name, agents);
    if (agents[name] && !agents[name].present) return { is: "silent", why: `last heard of ${agents[name].last_seen ? ago(agents[name].last_seen) : "never"}` };
    return null;
  };
  return card("What they do", table("Sites", ["site", "now", "", "reported", "train loss", ...metrics.map(words), "test loss", "test examples", "up", "down"], names.map((name) => {
    const now = doing(name), result = told[name], sum = sums[name] ?? { up: 0, down: 0, loss: null, reports: 0, rounds: 0 };
    const loss = flying?.participants[name]?.train_loss ?? sum.loss;
    return { key: name, cells: [rowHead(name), now ? outcomeMark(now) : "not in a round", wide(now?.why ?? ""), `${sum.reports} of ${sum.rounds}`, number(loss),
      ...metrics.map((metric) => measured(metric, result?.metrics[metric])), number(result?.metrics.loss), count(result?.examples), size(sum.up), size(sum.down)] };
  })));
}

function fits(job) {
  const names = Object.keys(job.sites).sort((a, b) => Boolean(job.sites[b].problem) - Boolean(job.sites[a].problem) || a.localeCompare(b));
  const troubled = names.some((name) => job.sites[name].problem);
  if (!names.length) return card("Their data", empty("No site has been asked yet whether its data fit."));
  const answer = (site) => (site.fits == null ? h("span", { class: "dim" }, "not answered yet")
    : outcomeText(site.fits ? ["reported", "✓ fits"] : ["failed", "✕ does not"]));
  return card("Their data", table("Whether the sites' data fit the job", ["site", "fits the job", "training examples", "test examples", "labels", "longest text", ...(troubled ? ["why not"] : [])], names.map((name) => {
    const site = job.sites[name];
    return { key: name, cells: [rowHead(name), answer(site), count(site.examples), count(site.test_examples), count(site.classes), count(site.longest_text), ...(troubled ? [wide(site.problem ? coded(site.problem, site.code) : "")] : [])] };
  })));
}

const outcomeText = ([name, text]) => h("span", { class: `outcome ${name}` }, text);

function classes(told, labels) {
  if (!told) return null;
  const byClass = listed(told.per_class), whole = told.confusion_matrix, matrix = whole && whole.length <= MOST_COLUMNS ? whole : null;
  if (!byClass.length && !matrix) return null;
  const called = (index) => labels?.[index] ?? String(index);
  const names = (matrix ? matrix.map((_, i) => called(i)) : Object.keys(told.per_class[byClass[0]])).slice(0, MOST_CLASSES);
  return card(`Classes, version ${told.model_version}`, table("By class", ["class", ...byClass.map(words), ...(matrix ? names.map((name) => `as ${name}`) : [])],
    names.map((name, i) => [rowHead(name), ...byClass.map((metric) => measured(metric, told.per_class[metric][name])),
      ...(matrix ? matrix[i].map((each, j) => h("td", { class: i === j ? "right" : null }, each.toLocaleString())) : [])])));
}
