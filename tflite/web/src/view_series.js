// Classifiers of signals: step by step with states carried on, or a window of steps at once.

import { Bars } from "./bars.js";
import { Chart } from "./chart.js";
import { nextStates } from "./contract.js";
import { button, filePicker, h } from "./dom.js";
import { rateOf } from "./kinds.js";
import { rowsOfCsv, startMotion } from "./motion.js";
import { sizeOf } from "./numbers.js";

const CHART_SECONDS = 8;
const SIX_AXES = ["x", "y", "z", "turn x", "turn y", "turn z"];

/** One step at a time. */
export function streamerView(session) {
  const { bundle, model, kind } = session;
  const { signature, input, output } = kind;
  const initial = () =>
    Object.fromEntries(
      signature.states.map(({ input: name }) => {
        const tensor = signature.inputs.find((candidate) => candidate.name === name);
        return [name, bundle.goldenSample(tensor, signature.golden_samples, 0)];
      }),
    );
  let states = initial();
  const step = async (row) => {
    const { outputs, ms } = await model.run(signature.name, { [input.name]: Float32Array.from(row), ...states });
    states = nextStates(signature, outputs);
    return { ms, input: row, output: outputs[output.name] };
  };
  const reset = () => {
    states = initial();
  };
  const rows = () => samplesOf(bundle, kind, signature.golden_samples);
  return seriesView(session, { step, reset, rows, hint: "Move the device, or play a recording." });
}

/** T steps at once; the window slides by half of itself. */
export function windowView(session) {
  const { bundle, model, kind } = session;
  const { signature, input, output } = kind;
  const [, steps, width] = input.shape;
  let rows = [];
  const step = async (row) => {
    rows.push(Array.from(row));
    if (rows.length < steps) return null;
    const values = Float32Array.from(rows.flat());
    rows = rows.slice(Math.ceil(steps / 2));
    const { outputs, ms } = await model.run(signature.name, { [input.name]: values });
    return { ms, input: values, output: outputs[output.name] };
  };
  const reset = () => {
    rows = [];
  };
  let next = 0;
  const recorded = () => {
    // Each golden sample is a window of its own.
    reset();
    const values = bundle.goldenSample(input, signature.golden_samples, next);
    next = (next + 1) % signature.golden_samples;
    return Array.from({ length: steps }, (_, index) => values.subarray(index * width, (index + 1) * width));
  };
  const hint = `Move the device, or play a recording: a prediction takes ${steps} steps.`;
  return seriesView(session, { step, reset, rows: recorded, hint });
}

function samplesOf(bundle, { input }, samples) {
  const values = bundle.golden(input, samples);
  const width = sizeOf(input.shape);
  return Array.from({ length: samples }, (_, index) => values.subarray(index * width, (index + 1) * width));
}

/** Sources of rows, the chart and the bars; `step` takes a row and gives what is to be shown. */
function seriesView({ bundle, kind, report, fail }, { step, reset, rows, hint }) {
  const width = kind.input.shape.at(-1);
  const isMotion = [3, 6].includes(width);
  const rate = rateOf(bundle.manifest);
  const names = Array.from({ length: width }, (_, index) => (isMotion ? SIX_AXES[index] : `${index}`));
  const bars = new Bars(bundle.manifest.labels, sizeOf(kind.output.shape));
  const chart = new Chart(names, Math.round(CHART_SECONDS * rate));
  // Rows wait for one another: each step needs the states of the one before.
  let queue = Promise.resolve();
  let stopSource = null;
  const take = (row) => {
    chart.push(Array.from(row));
    queue = queue
      .then(async () => {
        const shown = await step(row);
        if (!shown) return;
        bars.show(shown.output);
        report(shown.ms, shown);
      })
      .catch(stopAndFail);
    return queue;
  };
  const stop = () => {
    stopSource?.();
    stopSource = null;
    live.textContent = "Use sensor";
    play.textContent = "Play sample";
  };
  const stopAndFail = (error) => {
    stop();
    fail(error);
  };
  const startLive = async () => {
    if (stopSource) return stop();
    resetAll();
    stopSource = () => {};
    live.textContent = "Stop";
    const ended = await startMotion(width, rate, take, stopAndFail);
    if (stopSource) stopSource = ended;
    else ended();
  };
  const playRows = async (recording) => {
    let isPlaying = true;
    stopSource = () => {
      isPlaying = false;
    };
    play.textContent = "Stop";
    for (const row of recording) {
      if (!isPlaying) return;
      await Promise.all([take(row), new Promise((resolve) => setTimeout(resolve, 1000 / rate))]);
    }
    // Else it is another recording that plays by now.
    if (isPlaying) stop();
  };
  const resetAll = () => {
    stop();
    reset();
    bars.clear();
    chart.clear();
  };
  const playSample = () => {
    if (stopSource) return stop();
    resetAll();
    return playRows(rows());
  };
  const playFile = async ([file]) => {
    resetAll();
    await playRows(rowsOfCsv(await file.text(), width));
  };
  const guarded = (work) => (value) => Promise.resolve(work(value)).catch(stopAndFail);
  const sensorNote = isMotion ? "" : " The sensor would give 3 or 6.";
  const live = button("Use sensor", guarded(startLive), { class: "primary", disabled: !isMotion });
  const play = button("Play sample", guarded(playSample));
  const element = h(
    "div",
    { class: "columns" },
    h(
      "div",
      { class: "stack" },
      chart.element,
      h(
        "div",
        { class: "actions halves" },
        live,
        play,
        filePicker("CSV\u2026", guarded(playFile), { accept: ".csv,text/csv,text/plain" }),
        button("Reset", resetAll),
      ),
      h("p", { class: "note" }, `${width} numbers a step, ${rate} steps a second.${sensorNote}`),
    ),
    bars.element,
  );
  return { element, hint, dispose: resetAll };
}
