// Numbers, times and names in words for people.

export const FINAL = ["COMPLETED", "FAILED", "CANCELLED"];
export const STATUSES = ["PENDING", "RUNNING", "PAUSED", ...FINAL];
export const NONE = "–";
const NOT_SHARES = ["loss", "perplexity", "mse", "mae", "r2", "pearson", "spearman", "mcc"];

export function size(bytes) {
  if (bytes == null) return NONE;
  let step = 0;
  while (bytes >= 1000 && step < 4) { bytes /= 1000; step++; }
  return `${step ? bytes.toFixed(1) : bytes} ${["B", "kB", "MB", "GB", "TB"][step]}`;
}

export const percent = (share) => (share == null ? NONE : `${(100 * share).toFixed(1)} %`);
export const number = (value) => (value == null ? NONE : Math.abs(value) >= 1000 ? value.toLocaleString() : value.toFixed(4));
export const count = (value) => (value == null ? NONE : value.toLocaleString());

export function seconds(value) {
  if (value == null) return NONE;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 90) return `${value.toFixed(1)} s`;
  if (value < 5400) return `${(value / 60).toFixed(1)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export const when = (text) => new Date(text).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
export const clock = (at) => new Date(at).toLocaleTimeString([], { timeStyle: "medium" });

export function ago(text, now = Date.now()) {
  const passed = Math.max(0, (now - new Date(text)) / 1000);
  if (passed < 5) return "now";
  if (passed < 90) return `${Math.round(passed)} s ago`;
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  if (passed < 129600) return `${Math.round(passed / 3600)} h ago`;
  return when(text);
}

export const words = (name) => name.replaceAll("_", " ");
export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1);
export const coded = (text, code) => (code ? `${text} [${code}]` : text);

// Metrics. The loss has its own place in lists; accuracy is what people look for first.
export const isShare = (metric) => !NOT_SHARES.includes(metric) && !metric.includes(":");
export const measured = (metric, value) => (isShare(metric) ? percent : number)(value);
export const listed = (metrics) => Object.keys(metrics).filter((name) => name !== "loss")
  .sort((a, b) => (b === "accuracy") - (a === "accuracy") || a.localeCompare(b));

// The metric by which people tell how a job goes.
export function mainMetric(job) {
  const asked = job.spec.evaluation, found = { ...job.held_out?.metrics, ...job.evaluation?.metrics };
  if (asked.keep) return asked.keep.metric;
  if (asked.exact_match) return "exact_match";
  return asked.metrics.find((name) => found[name] != null) ?? ("accuracy" in found ? "accuracy" : "loss");
}
