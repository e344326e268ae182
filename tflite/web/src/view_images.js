// A classifier of images: draw, pick or paste one, and see the probabilities while drawing.

import { Bars } from "./bars.js";
import { button, field, filePicker, h, latestOnly } from "./dom.js";
import { Drawing } from "./drawing.js";
import { CannotRun } from "./errors.js";
import { sizeOf } from "./numbers.js";
import { pixelRanges, scaled, unscaled } from "./ranges.js";

export function imagesView({ bundle, model, kind, report, fail }) {
  const { signature, input, output } = kind;
  const [, height, width, channels] = input.shape;
  const bars = new Bars(bundle.manifest.labels, sizeOf(output.shape));
  const ranges = pixelRanges(input, bundle.golden(input, signature.golden_samples));
  const choice = h("select", {}, ...ranges.map((range, index) => h("option", { value: index }, rangeText(range))));
  const range = () => ranges[choice.value];
  const predict = latestOnly(async (values) => {
    const { outputs, ms } = await model.run(signature.name, { [input.name]: values });
    bars.show(outputs[output.name]);
    report(ms, { input: values, output: outputs[output.name] });
  });
  const predictPixels = (pixels) => predict(scaled(pixels, range(), input.golden_dtype));
  const drawing = new Drawing(height, width, channels, (pixels) => predictPixels(pixels).catch(fail));
  choice.addEventListener("change", () => predictPixels(drawing.pixels()).catch(fail));
  const place = async (file) => {
    drawing.place(await decoded(file));
    await predictPixels(drawing.pixels());
  };
  let next = 0;
  const sample = () => {
    const values = bundle.goldenSample(input, signature.golden_samples, next);
    next = (next + 1) % signature.golden_samples;
    drawing.placeValues(unscaled(values, range()));
    // The sample itself: the canvas holds 0 to 255 alone.
    predict(values).catch(fail);
  };
  const clear = () => {
    drawing.clear();
    bars.clear();
  };
  const paste = (event) => {
    const file = Array.from(event.clipboardData.files).find((item) => item.type.startsWith("image/"));
    if (file) place(file).catch(fail);
  };
  addEventListener("paste", paste);
  const element = h(
    "div",
    { class: "columns" },
    h(
      "div",
      { class: "stack" },
      drawing.element,
      h(
        "div",
        { class: "actions thirds" },
        button("Clear", clear),
        button("Sample", sample, { title: "The next golden sample of the bundle" }),
        filePicker("Image\u2026", ([file]) => place(file).catch(fail), { accept: "image/*" }),
      ),
      field("Black to white is", choice),
    ),
    bars.element,
  );
  bars.heading.append(
    h("span", { class: "sees" }, `${width} \u00d7 ${height},`, h("br"), "as the model sees it"),
    drawing.sight,
  );
  const hint = "Draw something, or bring an image.";
  return { element, hint, dispose: () => removeEventListener("paste", paste) };
}

function rangeText([low, high]) {
  return [low, high].map((end) => String(Number(end.toPrecision(3))).replace("-", "\u2212")).join(" to ");
}

async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new CannotRun(`An image must be a picture that this browser can show. Received: ${file.name}.`);
  }
}
