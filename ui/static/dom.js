// Builds DOM nodes. Strings always become text nodes: nothing in these pages is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  send: ["M12 19V5", "M5 12l7-7 7 7"],
  stop: ["M7 7h10v10H7z"],
  up: ["M7 11v9H4v-9z", "M7 11l4-8a2.5 2.5 0 0 1 2.5 2.5V9H19a2 2 0 0 1 2 2.3l-1.2 7A2 2 0 0 1 17.8 20H7"],
  down: ["M7 13V4H4v9z", "M7 13l4 8a2.5 2.5 0 0 0 2.5-2.5V15H19a2 2 0 0 0 2-2.3l-1.2-7A2 2 0 0 0 17.8 4H7"],
  copy: ["M9 9h11v11H9z", "M5 15H4V4h11v1"],
  check: ["M5 12.5l4.5 4.5L19 7.5"],
  person: ["M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8z", "M4.5 20.5c1.2-3.6 4-5.5 7.5-5.5s6.3 1.9 7.5 5.5"],
  menu: ["M4 7h9", "M19 7h1", "M4 17h1", "M11 17h9", "M18.5 7a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0z", "M10.5 17a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0z"],
  plus: ["M12 5v14", "M5 12h14"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  book: ["M5 4h11a3 3 0 0 1 3 3v13H8a3 3 0 0 1-3-3z", "M5 17a3 3 0 0 1 3-3h11"],
  arrow: ["M12 5v14", "M5 12l7 7 7-7"],
  pencil: ["M4 20l1-4L16.5 4.5a2.1 2.1 0 0 1 3 3L8 19z"],
  download: ["M12 4v11", "M7 11l5 5 5-5", "M5 20h14"],
  trash: ["M4 7h16", "M9 7V4h6v3", "M6 7l1 13h10l1-13"],
  star: ["M12 4l2.4 5 5.6.7-4.1 3.8 1.1 5.5-5-2.8-5 2.8 1.1-5.5L4 9.7 9.6 9z"],
  chat: ["M5 5h14v11H10l-5 4z"],
  retry: ["M20 11a8 8 0 1 0-2.3 6.3", "M20 5v6h-6"],
};

/** An element: `el("button", {class: "x", on: {click}, aria: {label}}, "text", node)`. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) setProperty(node, name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function setProperty(node, name, value) {
  if (name === "class") node.className = value;
  else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
  else if (name === "aria") for (const [key, text] of Object.entries(value)) node.setAttribute(`aria-${key}`, String(text));
  else if (name === "data") Object.assign(node.dataset, value);
  else if (name === "role" || name === "for") node.setAttribute(name, value);
  else node[name] = value;
}

/** A decorative line icon. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("rj-icon");
  for (const d of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** A button that shows an icon and says its name to assistive technology. */
export function iconButton(name, label, onClick, extra = {}) {
  return el("button", { type: "button", class: "rj-icon-button", title: label, aria: { label }, on: { click: onClick }, ...extra }, icon(name));
}

/** A random id that also works on plain-http addresses, where `crypto.randomUUID` is missing. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
