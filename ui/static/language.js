// Which language the page speaks: what was chosen here, else what the browser asks for, else the server's own.

import { loadLanguage } from "./memory.js";

/** A key of `catalogues`. */
export function chooseLanguage(catalogues, fallback) {
  const wanted = [loadLanguage(), ...navigator.languages, fallback].map((tag) => tag.split("-")[0].toLowerCase());
  return wanted.find((language) => language in catalogues) || Object.keys(catalogues)[0];
}

/** Looks texts up: `say(key, {name: value}, fallback)`. */
export function catalogue(texts) {
  return (key, values = {}, fallback = key) => (texts[key] ?? fallback).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
