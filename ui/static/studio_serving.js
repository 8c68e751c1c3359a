// How serving goes, where the server tells: whatever figures it gives, version by version.

import { number, panel, table } from "./studio_kit.js";

/** A panel, or null where the server says nothing about it. */
export function renderServing(serving) {
  const lines = Array.isArray(serving) ? serving : serving?.versions;
  if (!lines?.length) return null;
  const names = Object.keys(lines[0]);
  const cell = (value) => (typeof value === "number" && !Number.isInteger(value) ? number(value, 3) : String(value ?? "–"));
  return panel("Serving", "Live figures of this server, by version.", table("Serving", names.map((name) => name.replaceAll("_", " ")), lines.map((line) => names.map((name) => cell(line[name])))));
}
