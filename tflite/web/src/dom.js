// Small helpers for the page.

/** An element: attributes by name, listeners by "onclick" and the like, then its children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function button(label, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, label);
}

let ids = 0;

/** A button that opens the picker of files. */
export function filePicker(label, take, attributes = {}) {
  const id = `picker-${(ids += 1)}`;
  const input = h("input", {
    type: "file",
    id,
    class: "visually-hidden",
    onchange: () => {
      if (input.files.length) take(Array.from(input.files));
      // So that the same file can be picked again.
      input.value = "";
    },
    ...attributes,
  });
  return h("span", { class: "picker" }, input, h("label", { class: "button", for: id }, label));
}

/** Whether a click on a link is the page's to handle: with a key held, it opens a tab or a window. */
export function isPlainClick(event) {
  return !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
}

/** A field with its label above it. */
export function field(label, control) {
  control.id ||= `field-${(ids += 1)}`;
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control);
}

export function bytesText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

export function msText(ms) {
  // Browsers round their clocks to 0.1 ms unless a page is isolated.
  if (ms < 0.1) return "<\u00a00.1\u00a0ms";
  return ms < 10 ? `${ms.toFixed(2)}\u00a0ms` : `${ms.toFixed(0)}\u00a0ms`;
}

/** Lets the page draw and react before work goes on; a timer would wait longer. */
export function breathe() {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
}

/** Runs the newest of many jobs: while one runs, only the last that was asked for waits. */
export function latestOnly(work) {
  let running = false;
  let waiting = null;
  return async function run(...values) {
    waiting = values;
    if (running) return;
    running = true;
    try {
      while (waiting) {
        const next = waiting;
        waiting = null;
        await work(...next);
      }
    } finally {
      running = false;
    }
  };
}
