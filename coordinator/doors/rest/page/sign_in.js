// Signing in at the coordinator's identity provider: the code flow with PKCE (RFC 7636). The page has no secret: whoever
// began proves it by a number that has never left this tab. What comes back stays in this tab, as an API key does.

const BEGUN = "sign-in", LOGIN = "login";
const EARLY_MS = 30_000, LIFE_S = 300; // before its end a token is renewed; how long one is good that does not say
const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const home = () => `${location.origin}${location.pathname}`;

let place = null;
// Where people sign in, or null: as the coordinator says, which asks nobody for a key here.
export async function signInPlace() {
  place ??= fetch("/sign-in").then((answer) => answer.json()).catch(() => ({}));
  const told = await place;
  if (told.authorization_endpoint && told.token_endpoint) return told;
  place = null; // the provider may answer later
  return null;
}

// Leaves the page for the provider's.
export async function signIn() {
  const where = await signInPlace(), verifier = random(), state = random();
  sessionStorage.setItem(BEGUN, JSON.stringify({ verifier, state, hash: location.hash }));
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const to = new URL(where.authorization_endpoint);
  const wanted = {
    response_type: "code", client_id: where.client_id, redirect_uri: home(), state,
    scope: where.scopes.split(" ").filter((scope) => scope !== "offline_access").join(" "), // not beyond this tab
    code_challenge: base64url(new Uint8Array(digest)), code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(wanted)) to.searchParams.set(name, value);
  location.assign(to);
}

// Takes what the provider has put into the address, and gives the address back. True: somebody has signed in.
export async function signedIn() {
  const told = new URLSearchParams(location.search), state = told.get("state");
  if (state === null) return false;
  const begun = JSON.parse(sessionStorage.getItem(BEGUN) ?? "{}");
  sessionStorage.removeItem(BEGUN);
  history.replaceState(null, "", home() + (begun.hash ?? ""));
  if (state !== begun.state) throw new Error("This sign-in was not begun in this tab; sign in again.");
  if (!told.get("code")) throw new Error(`The identity provider did not sign you in: ${told.get("error_description") ?? told.get("error")}.`);
  const where = await signInPlace();
  if (!where) throw new Error("The identity provider does not answer; sign in again.");
  keep(await ask(where, { grant_type: "authorization_code", code: told.get("code"), redirect_uri: home(), code_verifier: begun.verifier }));
  return true;
}

export const hasLogin = () => sessionStorage.getItem(LOGIN) !== null;
export const signOut = () => sessionStorage.removeItem(LOGIN);

let renewing = null;
// The token to show, renewed before it expires; null: nobody is signed in, or not any more.
export async function loginToken() {
  const login = JSON.parse(sessionStorage.getItem(LOGIN) ?? "null");
  if (!login || Date.now() < login.expires - EARLY_MS || !login.refresh) return login?.token ?? null;
  renewing ??= renew(login).finally(() => { renewing = null; });
  return renewing;
}

async function renew(login) {
  const before = sessionStorage.getItem(LOGIN), where = await signInPlace();
  const goes = () => sessionStorage.getItem(LOGIN) === before; // nobody has signed out or in meanwhile
  try {
    const made = where && await ask(where, { grant_type: "refresh_token", refresh_token: login.refresh }, login.refresh);
    if (made && goes()) return keep(made);
  } catch (error) {
    if (error.refused && goes()) signOut();
  }
  return hasLogin() ? login.token : null;
}

function keep(login) {
  sessionStorage.setItem(LOGIN, JSON.stringify(login));
  return login.token;
}

async function ask(where, form, refresh) {
  const body = new URLSearchParams({ ...form, client_id: where.client_id });
  const answer = await fetch(where.token_endpoint, { method: "POST", body, credentials: "omit" });
  const told = await answer.json().catch(() => ({})), token = told[where.token];
  if (!answer.ok || typeof token !== "string") {
    const why = told.error_description ?? told.error ?? `it answers ${answer.status}, without a usable ${where.token}`;
    const refused = answer.status < 500 && answer.status !== 429; // else it may do so again
    throw Object.assign(new Error(`The identity provider did not sign you in: ${why}.`), { refused });
  }
  return { token, refresh: told.refresh_token ?? refresh, expires: Date.now() + 1000 * (Number(told.expires_in) || LIFE_S) };
}
