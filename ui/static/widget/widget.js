// The widget: one script tag on any website opens the same chat, in a shadow root of its own.
//
// This small part draws a button; the chat itself (its modules and styles) is loaded when the button is first pressed.
// The server puts `window.rejoinderConfig` before it: who speaks, and all texts (ui/chat.py). The page it is on must be
// one of the server's `allowed_origins`: elsewhere nothing is drawn, and the console says why.

(() => {
  const server = new URL("./", document.currentScript.src);
  const config = window.rejoinderConfig;
  const language = [...navigator.languages, config.language].map((tag) => tag.split("-")[0]).find((tag) => tag in config.texts);
  const texts = config.texts[language];

  const host = document.createElement("div");
  host.id = "rejoinder-widget";
  const root = host.attachShadow({ mode: "open" });

  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const styles = ["chat.css", "widget/widget.css"].map((name) => make("link", { rel: "stylesheet", href: new URL(`static/rejoinder/${name}`, server).href }));
  const panel = make("section", { className: "rjw-panel", hidden: true, ariaLabel: config.assistant });
  const container = make("div", { className: "rjw-chat" });
  const button = make("button", { type: "button", className: "rjw-button" });
  let started = false;

  async function start() {
    started = true;
    try {
      const { Chat } = await import(new URL("static/rejoinder/chat.js", server).href);
      new Chat(server, config).start(container);
    } catch {
      started = false; // offline, or the server is gone: the next press tries again
      container.replaceChildren(make("p", { className: "rjw-failed", textContent: texts["widget.failed"] }));
    }
  }

  function show(open) {
    panel.hidden = !open;
    button.ariaExpanded = String(open);
    button.ariaLabel = texts[open ? "widget.close" : "widget.open"];
    button.textContent = open ? "\u00d7" : config.assistant;
    if (open && !started) start();
  }

  button.addEventListener("click", () => show(panel.hidden));
  panel.addEventListener("keydown", (event) => {
    // A dialog or menu inside takes its Escape first.
    if (event.key !== "Escape" || event.defaultPrevented || root.querySelector("dialog[open], .rj-menu:not([hidden])")) return;
    show(false);
    button.focus();
  });
  panel.append(container);
  root.append(...styles, panel, button);
  show(false);

  /** Pages of other sites can read what is public to all, but not this. A server that is away allows: the chat says it is offline. */
  async function isAllowed() {
    const canRead = (path) => fetch(new URL(path, server), { cache: "no-store" }).then(() => true, () => false);
    return (await canRead("health/live")) || !(await canRead("static/rejoinder/tokens.css"));
  }

  async function draw() {
    if (await isAllowed()) document.body.append(host);
    else console.error(`The chat is not shown here: ${location.origin} is not one of the allowed_origins of ${server.origin}.`);
  }

  if (document.body) draw();
  else addEventListener("DOMContentLoaded", draw);
})();
