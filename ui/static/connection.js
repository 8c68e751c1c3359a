// The websocket: one hello per connection, a heartbeat, reconnecting with backoff. Knows no frame beyond hello and ping.

const BACKOFF_FIRST_MS = 400;
const BACKOFF_MAX_MS = 10_000;
const PING_EVERY_MS = 20_000;
const SILENCE_MAX_MS = 45_000;

export class Connection {
  #socket = null;
  #attempt = 0;
  #reconnectTimer = 0;
  #pingTimer = 0;
  #heardAt = 0;
  #greeted = false;

  /** `greeting()` makes the hello; `onState("online" | "offline")` tells when frames can flow. */
  constructor(url, { greeting, onFrame, onState }) {
    this.url = url;
    this.greeting = greeting;
    this.onFrame = onFrame;
    this.onState = onState;
    window.addEventListener("online", () => this.hurry());
    window.addEventListener("offline", () => this.#socket?.close());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.hurry());
  }

  /** True between the server's hello and the end of this socket. */
  get online() {
    return this.#greeted;
  }

  /** Opens a fresh socket, leaving the one before. */
  open() {
    this.#drop();
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.onopen = () => socket.send(JSON.stringify(this.greeting()));
    socket.onmessage = (event) => socket === this.#socket && this.#receive(event.data);
    socket.onclose = () => socket === this.#socket && this.retryLater();
  }

  /** Ends the connection for good: no reconnecting. */
  close() {
    this.#drop();
    this.onState("offline");
  }

  /** Sends now if the server has said hello; returns whether it was sent. */
  send(frame) {
    if (!this.#greeted || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** Reconnects at once instead of waiting for the backoff. */
  hurry() {
    if (this.#reconnectTimer) this.open();
  }

  #receive(data) {
    this.#heardAt = Date.now();
    const frame = JSON.parse(data);
    if (frame.type === "pong") return;
    const first = frame.type === "hello" && !this.#greeted;
    if (first) this.#welcome();
    this.onFrame(frame);
    if (first) this.onState("online");
  }

  #welcome() {
    this.#greeted = true;
    this.#attempt = 0;
    this.#pingTimer = setInterval(() => this.#beat(), PING_EVERY_MS);
  }

  #beat() {
    if (Date.now() - this.#heardAt > SILENCE_MAX_MS) this.retryLater();
    else this.send({ type: "ping" });
  }

  /** Gives this socket up and tries again after a growing wait. */
  retryLater() {
    this.#drop();
    this.onState("offline");
    const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.#attempt) * (0.5 + Math.random() / 2);
    this.#attempt += 1;
    this.#reconnectTimer = setTimeout(() => this.open(), wait);
  }

  #drop() {
    clearTimeout(this.#reconnectTimer);
    clearInterval(this.#pingTimer);
    this.#reconnectTimer = 0;
    this.#greeted = false;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) socket.close();
  }
}
