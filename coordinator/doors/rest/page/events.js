// A job's server-sent events over fetch, which can carry the key: EventSource cannot.

import { path, reach } from "./api.js";

const RETRY_MS = [1000, 2000, 5000, 10_000];

// The events in a piece of the stream, and what is left of it. An id begins with its time in milliseconds.
export function parse(text) {
  const blocks = text.split("\n\n"), rest = blocks.pop(), events = [];
  for (const block of blocks) {
    const fields = {};
    for (const line of block.split("\n")) {
      const at = line.indexOf(": ");
      if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
    }
    if (fields.event) events.push({ id: fields.id, at: parseInt(fields.id), type: fields.event, data: JSON.parse(fields.data) });
  }
  return [events, rest];
}

// Reads the events after an id until `take` returns false, `signal` aborts or the stream ends. Whether the job has ended.
export async function read(jobId, after, take, { signal, opened } = {}) {
  const mine = new AbortController();
  signal?.addEventListener("abort", () => mine.abort());
  const answer = await reach(`jobs/${path(jobId)}/events`, { signal: mine.signal, headers: { "Last-Event-ID": after } });
  opened?.();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return false;
    let events;
    [events, rest] = parse(rest + value);
    for (const event of events) {
      if (event.type === "end") return true;
      if (take(event) === false) {
        mine.abort();
        return false;
      }
    }
  }
}

// Follows a job over lost connections, until it has ended or `signal` aborts. `since`: milliseconds since the epoch.
export async function follow(jobId, since, { event, opened, lost }, signal) {
  let after = String(Math.max(1, Math.floor(since))), tries = 0;
  const take = (one) => {
    tries = 0;
    after = one.id ?? after;
    event(one);
  };
  while (!signal.aborted) {
    try {
      if (await read(jobId, after, take, { signal, opened })) return;
    } catch (error) {
      if (signal.aborted || (error.status && error.status < 500)) return; // what was refused, the next look says
      lost(error);
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]));
  }
}
