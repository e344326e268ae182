// Inputs of any kind as numbers: samples of the bundle, a CSV file, or what is typed; and a picture of them.

import { Bars } from "./bars.js";
import { button, field, filePicker, h, latestOnly } from "./dom.js";
import { CannotRun } from "./errors.js";
import { kindOfSound, rateOf } from "./kinds.js";
import { sizeOf } from "./numbers.js";
import { samplesOfSound } from "./sound.js";

// More are shown as a picture alone.
const MOST_TYPED = 64;
const MOST_SHOWN = 12;
const PICTURE_WIDTH = 560;

export function numbersView({ bundle, model, kind, report, fail }) {
  const { signature } = kind;
  const editors = signature.inputs.map((tensor) => new Editor(tensor, () => run()));
  const results = signature.outputs.map((tensor) => resultOf(tensor, bundle.manifest.labels));
  const predict = latestOnly(async () => {
    const inputs = Object.fromEntries(editors.map((editor) => [editor.tensor.name, editor.values]));
    const { outputs, ms } = await model.run(signature.name, inputs);
    for (const result of results) result.show(outputs[result.name]);
    report(ms, { input: editors[0].values, output: outputs[signature.outputs[0].name] });
  });
  const run = () => predict().catch(fail);
  let next = 0;
  const sample = () => {
    for (const editor of editors) {
      editor.set(bundle.goldenSample(editor.tensor, signature.golden_samples, next));
    }
    next = (next + 1) % signature.golden_samples;
    run();
  };
  const guarded = (work) => (value) => Promise.resolve(work(value)).catch(fail);
  const actions = [button("Sample", sample, { class: "primary", title: "The next golden sample of the bundle" })];
  if (editors.length === 1) {
    const [editor] = editors;
    const readCsv = async ([file]) => {
      editor.set(numbersOf(await file.text(), editor.size, editor.tensor));
      run();
    };
    actions.push(filePicker("CSV\u2026", guarded(readCsv), { accept: ".csv,text/csv,text/plain" }));
    if (kindOfSound(bundle.manifest, editor.tensor) === "wave") {
      const readSound = async ([file]) => {
        const gain = Math.max(1, ...(editor.tensor.range ?? []).map(Math.abs)) > 2 ? 32767 : 1;
        editor.set((await samplesOfSound(file, editor.size, rateOf(bundle.manifest, 16000))).map((x) => x * gain));
        run();
      };
      actions.push(filePicker("Sound\u2026", guarded(readSound), { accept: "audio/*" }));
    }
  }
  const element = h(
    "div",
    { class: "columns" },
    h("div", { class: "stack" }, ...editors.map((editor) => editor.element), h("div", { class: "actions" }, ...actions)),
    h("div", { class: "stack" }, ...results.map((result) => result.element)),
  );
  sample();
  return { element, hint: hintOf(kind.kind), dispose() {} };
}

function hintOf(kind) {
  return kind === "sound"
    ? "A model of sound: play its samples through it, or bring a recording."
    : "Numbers in, numbers out: step through the samples, or bring your own.";
}

/** One input: its numbers to type where they are few, and a picture of them where they are many. */
class Editor {
  constructor(tensor, changed) {
    this.tensor = tensor;
    this.size = sizeOf(tensor.shape);
    this.values = new Float32Array(this.size);
    const shape = tensor.shape.slice(1).join(" \u00d7 ") || "1";
    const range = tensor.range ? `, ${tensor.range.map(short).join(" to ")}` : "";
    this.caption = h("p", { class: "caption" }, `${tensor.name}: ${shape}${range}`);
    if (this.size <= MOST_TYPED) {
      const typed = () => {
        try {
          this.values = numbersOf(this.control.value, this.size, tensor);
          this.control.setCustomValidity("");
          changed();
        } catch (error) {
          this.control.setCustomValidity(error.message);
          this.control.reportValidity();
        }
      };
      this.control = h("textarea", { rows: Math.min(6, Math.ceil(this.size / 8) + 1), spellcheck: "false", onchange: typed });
      this.element = field(this.caption.textContent, this.control);
    } else {
      this.canvas = h("canvas", { class: "plot", role: "img", "aria-label": `A picture of ${tensor.name}` });
      this.element = h("div", { class: "stack" }, this.caption, this.canvas);
    }
  }

  set(values) {
    this.values = values;
    if (this.control) this.control.value = Array.from(values, short).join(", ");
    else draw(this.canvas, values, this.tensor.shape);
  }
}

/** Several rows as a map from dark to bright; one row as a line. */
function draw(canvas, values, shape) {
  const extents = shape.slice(1).filter((extent) => extent > 1);
  const rows = extents.length > 1 ? extents[0] : 1;
  const columns = values.length / rows;
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const span = high - low || 1;
  const context = canvas.getContext("2d");
  if (rows === 1) {
    [canvas.width, canvas.height] = [PICTURE_WIDTH, 140];
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--line-1");
    context.beginPath();
    for (let x = 0; x < PICTURE_WIDTH; x++) {
      // Both ends of what falls on a column of the picture, so that no peak is lost.
      const start = Math.floor((x * columns) / PICTURE_WIDTH);
      const part = values.subarray(start, Math.max(start + 1, Math.floor(((x + 1) * columns) / PICTURE_WIDTH)));
      for (const value of [Math.min(...part), Math.max(...part)]) context.lineTo(x, 136 - (132 * (value - low)) / span);
    }
    context.stroke();
    return;
  }
  // Time, the first axis, runs to the right; the first of the others is at the bottom.
  [canvas.width, canvas.height] = [rows, columns];
  const picture = new ImageData(rows, columns);
  for (let index = 0; index < values.length; index++) {
    const [row, column] = [Math.floor(index / columns), index % columns];
    const shade = (values[index] - low) / span;
    const place = 4 * ((columns - 1 - column) * rows + row);
    picture.data.set([30 + 200 * shade, 60 + 150 * shade, 90 + 60 * shade, 255], place);
  }
  context.putImageData(picture, 0, 0);
}

/** Bars for classes, a list of numbers for anything else. */
function resultOf(tensor, labels) {
  const size = sizeOf(tensor.shape);
  if (labels?.length === size && tensor.golden_dtype === "float32") {
    const bars = new Bars(labels, size);
    return { name: tensor.name, element: bars.element, show: (values) => bars.show(values) };
  }
  const list = h("output", { class: "numbers", "aria-live": "polite" }, "\u2013");
  const shape = tensor.shape.slice(1).join(" \u00d7 ") || "1";
  const element = h("div", { class: "results" }, h("p", { class: "caption" }, `${tensor.name}: ${shape}`), list);
  const show = (values) => {
    const shown = Array.from(values.subarray(0, MOST_SHOWN), short).join(", ");
    list.textContent = values.length > MOST_SHOWN ? `${shown}, \u2026 (${values.length} numbers)` : shown;
  };
  return { name: tensor.name, element, show };
}

function numbersOf(text, size, tensor) {
  const numbers = text.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (numbers.length !== size || !numbers.every(Number.isFinite)) {
    const received = numbers.every(Number.isFinite) ? `${numbers.length} numbers` : "text that is no number";
    throw new CannotRun(`${tensor.name} must be ${size} numbers with commas between. Received: ${received}.`);
  }
  return tensor.golden_dtype === "float32" ? Float32Array.from(numbers) : Int32Array.from(numbers);
}

const short = (value) => String(Number(Number(value).toPrecision(4)));
