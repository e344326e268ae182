// The first view: the bundles that the server lists, and ways to open others.

import { bytesText, filePicker, h, isPlainClick } from "./dom.js";
import { LIST } from "./offline.js";

const KIND_NAMES = {
  images: "images",
  sound: "sound",
  streamer: "signals, live",
  window: "signals",
  translator: "translation",
  numbers: "numbers",
  other: "check only",
};

/** Its elements, once the list is there: so that nothing moves when it comes. */
export async function homeView(openPath, openFiles) {
  const cards = (await listed()).map((entry) => card(entry, openPath));
  return [
    h("h1", {}, "Run a model here"),
    h("p", { class: "lead" }, "In this browser, without a server. What you draw, write or record stays here."),
    h("ul", { class: "bundles" }, ...cards),
    openPanel(openFiles),
  ];
}

async function listed() {
  try {
    const response = await fetch(LIST);
    return response.ok ? await response.json() : [];
  } catch {
    // Offline and never listed before: what is on this device can still be opened.
    return [];
  }
}

function card({ path, name, kind, recipe, bytes }, openPath) {
  const go = (event) => {
    if (!isPlainClick(event)) return;
    event.preventDefault();
    openPath(path);
  };
  const facts = [KIND_NAMES[kind] ?? kind, recipe, bytesText(bytes)].join(" \u00b7 ");
  const link = h("a", { class: "card", href: `?bundle=${encodeURIComponent(path)}`, onclick: go });
  link.append(h("span", { class: `glyph glyph-${kind}`, "aria-hidden": "true" }));
  link.append(h("span", { class: "card-text" }, h("strong", {}, name), h("span", {}, facts)));
  return h("li", {}, link);
}

function openPanel(openFiles) {
  return h(
    "section",
    { class: "panel drop", "aria-labelledby": "open-title" },
    h("h2", { id: "open-title" }, "Open your own"),
    h("p", { class: "note" }, "A folder with model.json, or a .zip of it. On a computer, drop it anywhere."),
    h(
      "div",
      { class: "actions" },
      filePicker("Folder\u2026", openFiles, { webkitdirectory: true, multiple: true }),
      filePicker("Files or .zip\u2026", openFiles, { multiple: true }),
    ),
  );
}
