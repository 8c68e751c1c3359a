// A tiny safe subset of markdown: bold, lists, and links to http(s). Returns DOM nodes built from text, never HTML.

import { el } from "./dom.js";

const INLINE = /\*\*([^*\n]+)\*\*|\[([^\]\n]{1,200})\]\((https?:\/\/[^\s()<>"']+)\)|(https?:\/\/[^\s<>"']+)/g;
const BULLET = /^\s*[-*•]\s+(.*)$/;
const NUMBERED = /^\s*\d{1,3}[.)]\s+(.*)$/;

/** Text -> a fragment of paragraphs and lists. */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  for (const block of blocksOf(text)) fragment.append(renderBlock(block));
  return fragment;
}

function blocksOf(text) {
  const blocks = [];
  for (const line of text.replace(/\r/g, "").split("\n")) {
    const [tag, content] = classify(line);
    const last = blocks.at(-1);
    if (tag && last && last.tag === tag) last.lines.push(content);
    else blocks.push({ tag, lines: tag ? [content] : [] });
  }
  return blocks.filter((block) => block.tag);
}

function classify(line) {
  if (!line.trim()) return ["", ""];
  const bullet = BULLET.exec(line);
  if (bullet) return ["ul", bullet[1]];
  const numbered = NUMBERED.exec(line);
  return numbered ? ["ol", numbered[1]] : ["p", line];
}

function renderBlock({ tag, lines }) {
  if (tag !== "p") return el(tag, {}, lines.map((line) => el("li", {}, inline(line))));
  const paragraph = el("p");
  lines.forEach((line, i) => paragraph.append(...(i ? [el("br")] : []), ...inline(line)));
  return paragraph;
}

function inline(line) {
  const nodes = [];
  let end = 0;
  for (const match of line.matchAll(INLINE)) {
    nodes.push(line.slice(end, match.index), inlineNode(match));
    end = match.index + match[0].length;
  }
  return [...nodes, line.slice(end)].filter((node) => node !== "");
}

function inlineNode([whole, bold, label, address, bare]) {
  if (bold) return el("strong", {}, bold);
  return link(address || bare, label) || whole;
}

/** A link that shows where it leads: the host is written beside any label. */
function link(address, label) {
  const url = parsed(address);
  if (!url || !["http:", "https:"].includes(url.protocol) || url.username || url.password) return null;
  const shown = label ? `${label} (${url.host})` : address;
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, shown);
}

function parsed(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}
