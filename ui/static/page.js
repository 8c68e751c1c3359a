// The page `/`: waits for the container that it renders, then starts the chat in it, once.

import { Chat } from "./chat.js";

const SERVER = new URL("../../", import.meta.url);

function begin() {
  const container = document.querySelector("#rejoinder");
  if (!container || container.dataset.started) return Boolean(container);
  container.dataset.started = "yes";
  const chat = new Chat(SERVER, JSON.parse(container.dataset.config));
  document.documentElement.lang = chat.language;
  chat.start(container);
  return true;
}

if (!begin()) {
  const observer = new MutationObserver(() => begin() && observer.disconnect());
  observer.observe(document.documentElement, { childList: true, subtree: true });
}
