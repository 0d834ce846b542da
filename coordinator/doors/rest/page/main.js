// The frame: which page is shown, the key, and what is said of the connection.

import { ask, dropApiKey, dropKey, hasKey, onLocked, takeKey } from "./api.js";
import { h, show } from "./dom.js";
import { clock } from "./format.js";
import { hasLogin, signedIn, signIn, signInPlace } from "./sign_in.js";
import { AgentsPage } from "./views/agents.js";
import { AuditPage } from "./views/audit.js";
import { ComparePage } from "./views/compare.js";
import { JobPage } from "./views/job.js";
import { JobsPage } from "./views/jobs.js";
import { LaunchPage } from "./views/launch.js";
import { ModelsPage } from "./views/all_models.js";

const COMPLAINT_MS = 9000;
const NAV = [["jobs", "Jobs"], ["launch", "New job"], ["models", "Models"], ["agents", "Agents"], ["audit", "Audit"]];
const $ = (id) => document.getElementById(id);
const root = $("page");

// What pages may say to the frame.
const app = {
  title(text) { document.title = `${text} · FedGaLore`; },
  connected() { say(""); },
  failed(error) {
    if (error.code === "not_authenticated") say("locked");
    else if (error.status) app.complain(error.message);
    else say("lost");
  },
  complain(text) {
    const close = () => show($("alert"));
    show($("alert"), h("div", { class: "alert" }, h("span", {}, text), h("button", { class: "small", onclick: close }, "Close")));
    clearTimeout(app.complaining);
    app.complaining = setTimeout(close, COMPLAINT_MS);
  },
};

let since = null;
function say(state) {
  if (state === "lost") since ??= Date.now();
  else since = null;
  const words = { "": "connected", locked: "locked: no key", lost: `no connection since ${since && clock(since)}; what you see may be old` };
  document.body.classList.toggle("lost", state === "lost");
  if ($("link").textContent !== words[state]) $("link").textContent = words[state];
}

// "#/jobs/ID/rounds/3": the page, what it is about, and the rest. An address of old, "#ID", is a job's.
function route() {
  const hash = location.hash.slice(1), parts = hash.split("/").filter(Boolean).map(decodeURIComponent);
  if (hash && !hash.startsWith("/")) return { name: "jobs", rest: [decodeURIComponent(hash)] };
  return { name: parts[0] || "jobs", rest: parts.slice(1) };
}

function make({ name, rest }) {
  if (name === "jobs" && rest.length) return [`job ${rest[0]}`, () => new JobPage(root, app, rest[0]), rest.slice(1)];
  if (name === "launch") return [`launch ${rest[0] ?? ""}`, () => new LaunchPage(root, app), rest];
  if (name === "compare") return [`compare ${rest[0]}`, () => new ComparePage(root, app, rest[0] ?? ""), []];
  if (name === "models") return ["models", () => new ModelsPage(root, app), []];
  if (name === "agents") return ["agents", () => new AgentsPage(root, app), []];
  if (name === "audit") return ["audit", () => new AuditPage(root, app), []];
  return ["jobs", () => new JobsPage(root, app), []];
}

let page = null, shown = null;
function go(anew = false) {
  const found = route(), [key, create, rest] = make(found), moved = key !== shown || anew === true;
  if (moved) {
    page?.close();
    show(root);
    page = create();
    shown = key;
  }
  page.open(rest);
  show($("nav"), NAV.map(([name, label]) => h("a", { href: `#/${name}`, "aria-current": found.name === name ? "page" : null }, label)));
  show($("keys"), hasKey() && h("button", { class: "small", onclick: forget }, hasLogin() ? "Sign out" : "Forget the key"));
}

function forget() {
  dropKey();
  go(true);
}

onLocked((why) => {
  say("locked");
  if ($("key").open) return;
  $("why").textContent = why;
  $("secret").value = "";
  signInPlace().then((place) => { $("sign-in").hidden = !place; });
  $("key").showModal();
});
$("sign-in").addEventListener("click", signIn);
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  takeKey($("secret").value.trim());
  $("key").close();
  go(true);
});

addEventListener("hashchange", () => {
  const before = shown;
  go();
  if (before !== shown) root.querySelector("h1")?.focus();
});
ask("/version").then((told) => { $("version").textContent = told.version; }, () => {});
signedIn().then((done) => done && dropApiKey(), (error) => app.complain(error.message)).then(() => go()); // a key would go before
