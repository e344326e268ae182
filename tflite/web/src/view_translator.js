// A translator: text in, text out, token by token.

import { breathe, button, field, h } from "./dom.js";
import { decode, decoderSizes, tokenizerOf } from "./decoding.js";
import { CannotRun } from "./errors.js";

export async function translatorView({ bundle, model, report, fail }) {
  const sizes = decoderSizes(bundle.manifest);
  const tokenizer = await tokenizerOf(bundle);
  const source = h("textarea", { rows: 4, spellcheck: "false", autocapitalize: "sentences" });
  const special = tokenizer ? null : specialFields();
  const target = h("output", { class: "target", "aria-live": "polite" });
  const speed = h("span", { class: "speed" }, "\u2013");
  const places = h("p", { class: "note" });
  let isRunning = false;

  const ids = () => (tokenizer ? tokenizer.encode(source.value.trim()) : numbersIn(source.value));
  const count = () => {
    const length = ids().length;
    places.textContent = `${length} of ${sizes.source} tokens`;
    places.classList.toggle("too-many", length > sizes.source);
  };
  const translate = async () => {
    if (isRunning) return;
    setRunning(true);
    target.textContent = "";
    const found = [];
    let total = 0;
    const marks = tokenizer?.special ?? special.values();
    try {
      for await (const { id, ms } of decode(model, sizes, ids(), marks)) {
        total += ms;
        found.push(id);
        target.textContent = tokenizer ? tokenizer.decode(found) : found.join(" ");
        speed.textContent = `${((1000 * found.length) / total).toFixed(0)} tokens/s`;
        report(ms, { ids: found });
        await breathe();
        if (!isRunning) return;
      }
    } finally {
      setRunning(false);
    }
  };
  const setRunning = (value) => {
    isRunning = value;
    run.disabled = value;
    halt.disabled = !value;
    target.setAttribute("aria-busy", value);
  };
  const run = button("Translate", () => translate().catch(fail), { class: "primary" });
  const halt = button("Stop", () => setRunning(false), { disabled: true });
  source.addEventListener("input", () => guardedCount());
  source.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    translate().catch(fail);
  });
  const guardedCount = () => {
    try {
      count();
    } catch (error) {
      fail(error);
    }
  };
  guardedCount();
  const element = h(
    "div",
    { class: "columns even" },
    h(
      "div",
      { class: "stack" },
      field(tokenizer ? "Text" : "Ids of the source, with spaces between", source),
      special?.element ?? null,
      h("div", { class: "actions" }, run, halt, places),
    ),
    h(
      "div",
      { class: "results" },
      h("p", { class: "caption" }, tokenizer ? "Translation" : "Ids of the translation"),
      target,
      h("p", { class: "note" }, "Greedy decoding, ", speed),
    ),
  );
  const hint = "Your text never leaves this device.";
  return { element, hint, dispose: () => setRunning(false) };
}

function numbersIn(text) {
  const words = text.split(/[\s,]+/).filter(Boolean);
  const wrong = words.find((word) => !/^\d+$/.test(word));
  if (wrong !== undefined) throw new CannotRun(`Ids must be whole numbers. Received: ${wrong.slice(0, 40)}.`);
  return words.map(Number);
}

/** Without a tokenizer nobody knows which ids start, end and pad a sentence. */
function specialFields() {
  const number = (value) => h("input", { type: "number", min: 0, value, inputmode: "numeric" });
  const inputs = { start: number(1), end: number(2), pad: number(0) };
  const fields = Object.entries(inputs).map(([name, input]) => field(`${name} id`, input));
  return {
    element: h("div", { class: "inline-fields" }, ...fields),
    values: () => Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, Number(input.value)])),
  };
}
