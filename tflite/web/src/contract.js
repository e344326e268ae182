// The contract of ../../README.md: run all golden samples, compare, time, and give one line of JSON.

import { compare } from "./compare.js";
import { deviceName } from "./device.js";
import { percentile, sizeOf } from "./numbers.js";

const WARM_UP_RUNS = 10;
export const EQUAL = 0;
export const NOT_EQUAL = 1;
export const CANNOT_RUN = 2;

/** Runs a bundle. Returns the line, the outputs by the path of their golden values, and the verdict of each output. */
export async function runContract(bundle, model, runtimeVersion, repeat) {
  const outputs = new Map();
  const compared = [];
  for (const signature of bundle.manifest.signatures) {
    const got = await runSamples(bundle, model, signature);
    for (const tensor of signature.outputs) {
      outputs.set(tensor.golden, got[tensor.name]);
      const golden = bundle.golden(tensor, signature.golden_samples);
      const result = compare(tensor, golden, got[tensor.name], bundle.manifest.tolerance);
      compared.push({ signature: signature.name, output: tensor.name, ...result });
    }
  }
  const elapsed = await latencies(bundle, model, repeat);
  return { line: lineOf(bundle, compared, elapsed, runtimeVersion), outputs, compared };
}

/** All golden samples one by one; with states they are the steps of one sequence. */
async function runSamples(bundle, model, signature) {
  const inputs = goldenInputs(bundle, signature);
  const rows = Object.fromEntries(signature.outputs.map((tensor) => [tensor.name, []]));
  let carried = {};
  for (let index = 0; index < signature.golden_samples; index++) {
    const { outputs } = await model.run(signature.name, { ...sampleOf(inputs, index), ...carried });
    for (const [name, values] of Object.entries(outputs)) rows[name].push(values);
    carried = nextStates(signature, outputs);
  }
  return Object.fromEntries(Object.entries(rows).map(([name, values]) => [name, concatenated(values)]));
}

/** What the states' inputs are fed at the next step. */
export function nextStates(signature, outputs) {
  return Object.fromEntries(signature.states.map((state) => [state.input, outputs[state.output]]));
}

function goldenInputs(bundle, signature) {
  return signature.inputs.map((tensor) => ({
    name: tensor.name,
    size: sizeOf(tensor.shape.slice(1)),
    values: bundle.golden(tensor, signature.golden_samples),
  }));
}

function sampleOf(inputs, index) {
  const cut = ({ values, size }) => values.subarray(index * size, (index + 1) * size);
  return Object.fromEntries(inputs.map((input) => [input.name, cut(input)]));
}

function concatenated(rows) {
  const whole = new rows[0].constructor(rows.reduce((total, row) => total + row.length, 0));
  let start = 0;
  for (const row of rows) {
    whole.set(row, start);
    start += row.length;
  }
  return whole;
}

async function latencies(bundle, model, repeat) {
  const [signature] = bundle.manifest.signatures;
  const inputs = goldenInputs(bundle, signature);
  const elapsed = [];
  for (let run = 0; run < WARM_UP_RUNS + repeat; run++) {
    const { ms } = await model.run(signature.name, sampleOf(inputs, run % signature.golden_samples));
    elapsed.push(ms);
  }
  return elapsed.slice(WARM_UP_RUNS);
}

function lineOf(bundle, compared, elapsed, runtimeVersion) {
  const errors = compared.map((result) => result.maxError);
  const known = (key) => compared.map((result) => result[key]).filter((value) => value !== null);
  const agreements = known("agreement");
  const errorsLsb = known("maxErrorLsb");
  return {
    runner: "web",
    runtime_version: runtimeVersion,
    device: deviceName(),
    ok: compared.every((result) => result.ok),
    max_error: errors.includes(null) ? null : Math.max(...errors),
    max_error_lsb: errorsLsb.length ? Math.max(...errorsLsb) : null,
    top1_agreement: agreements.length ? Math.min(...agreements) : null,
    latency_ms_p50: percentile(elapsed, 50),
    latency_ms_p95: percentile(elapsed, 95),
    model_sha256: bundle.manifest.files["model.tflite"].sha256,
  };
}
