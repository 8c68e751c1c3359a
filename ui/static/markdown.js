// A small safe subset of markdown: headings, bold, italics, code, lists, quotes, and links to http(s). Returns DOM nodes
// built from text, never HTML. A picture is shown as a link to it: nothing is ever fetched.

import { el } from "./dom.js";

const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|!?\[([^\]\n]{1,200})\]\((https?:\/\/[^\s()<>"']+)\)|(https?:\/\/[^\s<>"'`]+)/g;
const LINE = [
  ["ul", /^\s*[-*•]\s+(.*)$/],
  ["ol", /^\s*\d{1,3}[.)]\s+(.*)$/],
  ["blockquote", /^\s*>\s?(.*)$/],
  ["h", /^#{1,6}\s+(.*)$/],
];
const FENCE = /^\s*\x60{3}/;

/** Text -> a fragment of paragraphs, lists, quotes and code. */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  for (const block of blocksOf(text)) fragment.append(renderBlock(block));
  return fragment;
}

function blocksOf(text) {
  const blocks = [];
  let isCode = false;
  for (const line of text.replace(/\r/g, "").split("\n")) {
    if (FENCE.test(line)) {
      isCode = !isCode;
      blocks.push({ tag: isCode ? "pre" : "", lines: [] });
      continue;
    }
    const [tag, content] = isCode ? ["pre", line] : classify(line);
    const last = blocks.at(-1);
    if (tag && last && last.tag === tag && tag !== "h") last.lines.push(content);
    else blocks.push({ tag, lines: tag ? [content] : [] });
  }
  return blocks.filter((block) => block.tag);
}

function classify(line) {
  if (!line.trim()) return ["", ""];
  for (const [tag, form] of LINE) {
    const found = form.exec(line);
    if (found) return [tag, found[1]];
  }
  return ["p", line];
}

function renderBlock({ tag, lines }) {
  if (tag === "ul" || tag === "ol") return el(tag, {}, lines.map((line) => el("li", {}, inline(line))));
  if (tag === "pre") return el("pre", { tabIndex: 0 }, el("code", {}, lines.join("\n")));
  if (tag === "h") return el("p", {}, el("strong", {}, inline(lines[0])));
  const block = el(tag);
  lines.forEach((line, i) => block.append(...(i ? [el("br")] : []), ...inline(line)));
  return block;
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

function inlineNode([whole, code, bold, italic, label, address, bare]) {
  if (code) return el("code", {}, code);
  if (bold) return el("strong", {}, bold);
  if (italic) return el("em", {}, italic);
  return link(address || bare, label) || whole;
}

/** A link that shows where it leads: the host is written beside any label, out of reach of the label's direction signs. */
function link(address, label) {
  const url = parsed(address);
  if (!url || !["http:", "https:"].includes(url.protocol) || url.username || url.password) return null;
  const shown = label ? [el("bdi", {}, label), " (", el("bdi", {}, url.host), ")"] : [el("bdi", {}, address)];
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, shown);
}

function parsed(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}
