// Requests to the coordinator. The key lives in this tab alone, and is asked for when the coordinator wants one.

import { hasLogin, loginToken, signOut } from "./sign_in.js";

const API = "/api/v1";
const KEY = "key";

let askForKey = () => {};
export const onLocked = (ask) => { askForKey = ask; };
export const hasKey = () => sessionStorage.getItem(KEY) != null || hasLogin();
export const takeKey = (key) => sessionStorage.setItem(KEY, key);
export const dropApiKey = () => sessionStorage.removeItem(KEY);
export const dropKey = () => {
  dropApiKey();
  signOut();
};

// What the coordinator refused, with the fields that it named; `code` is "" where it did not answer at all.
export class Refused extends Error {
  constructor(message, { code = "", status = 0, errors = [] } = {}) {
    super(message);
    Object.assign(this, { code, status, errors });
  }
}

export const path = (...parts) => parts.map((part) => encodeURIComponent(part)).join("/");

export async function reach(where, options = {}) {
  const key = sessionStorage.getItem(KEY) ?? await loginToken(), headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(where.startsWith("/") ? where : `${API}/${where}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The coordinator does not answer.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (told.code === "not_allowed" && /--insecure/.test(told.detail)) dropKey();
  if (told.code === "not_authenticated") askForKey(key ? told.detail : "This coordinator asks who you are.");
  const gone = !told.code && answer.status >= 502; // a proxy in front speaks for a coordinator that is away
  if (gone) throw new Refused("The coordinator does not answer.");
  throw new Refused(told.detail || `${answer.status} ${answer.statusText}`, { ...told, status: answer.status });
}

export async function ask(where, options = {}) {
  const answer = await reach(where, options);
  return answer.status === 204 ? null : answer.json();
}

export const post = (where, body, type = "application/json", headers = {}) =>
  ask(where, { method: "POST", body, headers: body === undefined ? {} : { "Content-Type": type, ...headers } });

// A link cannot carry the key: with one, the file is fetched here and handed to the browser.
export async function download(where, progress) {
  const link = document.createElement("a");
  link.download = "";
  if (hasKey()) {
    const answer = await reach(where), pieces = [], whole = Number(answer.headers.get("content-length"));
    let got = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      got += value.length;
      progress(got, whole);
    }
    link.download = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1] ?? "model.tar";
    link.href = URL.createObjectURL(new Blob(pieces));
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } else {
    link.href = `${API}/${where}`;
  }
  link.click();
}
