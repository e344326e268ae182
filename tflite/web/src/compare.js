// One output against its golden values, in float64, by the tolerance of model.json.

import { argmax } from "./numbers.js";

const STANDARD_ERRORS = 3;

/** The largest error (plain and in LSB), the top-1 agreement, and whether all is within the tolerance. */
export function compare(tensor, golden, got, toleranceOfAll) {
  const tolerance = tensor.tolerance ?? toleranceOfAll;
  const { largest, rms, mean } = errorsOf(golden, got, golden.length / elementsOf(tensor));
  const scale = tensor.scale;
  const largestLsb = scale === null ? null : largest / scale;
  // Class ids have no magnitude: how many are equal counts.
  const areIds = scale === null && !(golden instanceof Float32Array);
  let measures;
  if (areIds && (tolerance.agreement ?? null) !== null) {
    // Negative, because every other measure has an upper limit.
    measures = [[-equalShare(golden, got), -tolerance.agreement]];
  } else if (scale !== null && tolerance.max_error_lsb !== null) {
    measures = [
      [largestLsb, tolerance.max_error_lsb],
      [rms / scale, tolerance.rms_error_lsb],
      [mean / scale, tolerance.mean_error_lsb],
    ];
  } else {
    measures = relative(largest, rms, tensor.magnitude ?? largestOf(golden), tolerance);
  }
  measures = measures.filter(([, most]) => most !== null);
  return {
    maxError: finite(largest),
    maxErrorLsb: finite(largestLsb),
    agreement: areIds ? null : agreementOf(tensor, golden, got),
    // A NaN must fail. So must an output that nothing measures.
    ok: measures.length > 0 && measures.every(([value, most]) => Number.isFinite(value) && value <= most),
  };
}

function equalShare(golden, got) {
  let equal = 0;
  for (let index = 0; index < golden.length; index++) equal += Number(golden[index]) === Number(got[index]) ? 1 : 0;
  return equal / golden.length;
}

// The root mean square and the absolute mean are less 3 standard errors: what the draw of the samples does not explain.
function errorsOf(golden, got, samples) {
  let largest = 0;
  const squares = new Float64Array(samples);
  const means = new Float64Array(samples);
  const size = golden.length / samples;
  for (let index = 0; index < golden.length; index++) {
    const error = Number(got[index]) - Number(golden[index]);
    // Math.max, unlike a comparison, keeps a NaN.
    largest = Math.max(largest, Math.abs(error));
    const sample = Math.floor(index / size);
    squares[sample] += (error * error) / size;
    means[sample] += error / size;
  }
  const square = momentsOf(squares);
  const mean = momentsOf(means);
  return {
    largest,
    rms: Math.sqrt(Math.max(square.mean - STANDARD_ERRORS * square.error, 0)),
    mean: Math.max(Math.abs(mean.mean) - STANDARD_ERRORS * mean.error, 0),
  };
}

function momentsOf(values) {
  const count = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, error: count > 1 ? Math.sqrt(squares / (count - 1) / count) : 0 };
}

const elementsOf = (tensor) => tensor.shape.slice(1).reduce((product, size) => product * size, 1);

function largestOf(golden) {
  let magnitude = 0;
  for (const value of golden) magnitude = Math.max(magnitude, Math.abs(Number(value)));
  return magnitude === 0 ? 1 : magnitude;
}

function relative(largest, rms, magnitude, tolerance) {
  return [
    [largest / magnitude, tolerance.max_error],
    [rms / magnitude, tolerance.rms_error],
  ];
}

function agreementOf(tensor, golden, got) {
  const classes = tensor.shape.at(-1) ?? 1;
  if (tensor.shape.length < 2 || classes < 2) return null;
  let equal = 0;
  for (let start = 0; start < golden.length; start += classes) {
    const end = start + classes;
    equal += argmax(golden.subarray(start, end)) === argmax(got.subarray(start, end)) ? 1 : 0;
  }
  return equal / (golden.length / classes);
}

// JSON holds neither NaN nor Infinity.
const finite = (value) => (value !== null && Number.isFinite(value) ? value : null);
