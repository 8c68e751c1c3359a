// The operator page's road to the server: requests with the session cookie, and the socket that tells of changes.

const BASE = new URL("../", location.href);
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15000;
const SIGN_IN_AGAIN = 1008;

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** An answer's JSON (null where there is none). Throws ApiError with one line for people; signs out when the session ended. */
export async function call(method, path, body) {
  const options = { method, headers: body === undefined ? {} : { "Content-Type": "application/json" } };
  if (body !== undefined) options.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), options);
  } catch {
    throw new ApiError("The server does not answer. Nothing was changed; try again in a moment.", 0);
  }
  if (answer.status === 401) signInAgain();
  const content = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(content?.error?.message || `The server answered ${answer.status}.`, answer.status);
  return content;
}

/** To the form, and from there back to the conversation that is open here. */
function signInAgain() {
  const here = location.pathname + location.search;
  location.assign(new URL(`login?next=${encodeURIComponent(here)}`, BASE));
}

/** Keeps in the page's address which conversation is open: a reload, or signing in again, comes back to it. */
export function rememberOpen(id) {
  history.replaceState(null, "", id ? `?${new URLSearchParams({ open: id })}` : location.pathname);
}

export const openedBefore = () => new URLSearchParams(location.search).get("open");

export const read = (path) => call("GET", path);
export const conversationPath = (id, rest = "") => `v1/conversations/${encodeURIComponent(id)}${rest}`;

/** The address of something that somebody gave a name. Throws ApiError for a name that addresses leave out. */
export function namedPath(kind, name) {
  if (name === "." || name === "..") throw new ApiError(`"${name}" cannot be a name: choose another.`, 400);
  return `v1/${kind}/${encodeURIComponent(name)}`;
}

export const absolute = (path) => new URL(path, BASE).href;

/** The list's parameters as a query string, without what does not filter. */
export function query(filter) {
  const given = Object.entries(filter).filter(([, value]) => value !== "" && value !== false && value !== 0 && value !== null);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

/** Hears of changes; comes back by itself after a lost connection. `on`: {changed(ids), viewers(byId), state(isLive)}. */
export class Live {
  constructor(on) {
    this.on = on;
    this.shown = null;
    this.wait = FIRST_RETRY_MS;
    this.#open();
  }

  /** Which conversation this page shows; null: none. */
  look(id) {
    this.shown = id;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "look", conversation_id: id }));
  }

  /** A refused handshake does not say why to a page; a request does, and leads to the form. */
  async #openIfSignedIn() {
    const isGone = await read("v1/me").then(() => false, ({ status }) => status === 401);
    if (!isGone) this.#open();
  }

  #open() {
    const url = new URL("ws/operator", BASE);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.onopen = () => {
      this.wait = FIRST_RETRY_MS;
      this.look(this.shown);
      this.on.state(true);
    };
    this.socket.onmessage = (event) => {
      const frame = JSON.parse(event.data);
      if (frame.type === "changed") this.on.changed(frame.conversations);
      if (frame.type === "viewers") this.on.viewers(frame.viewers);
    };
    this.socket.onclose = ({ code }) => {
      this.on.state(false);
      if (code === SIGN_IN_AGAIN) return signInAgain();
      setTimeout(() => this.#openIfSignedIn(), this.wait);
      this.wait = Math.min(this.wait * 2, LAST_RETRY_MS);
    };
  }
}
