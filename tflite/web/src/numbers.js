// Values of tensors: raw bytes to typed arrays, and real values to the integers of a grid, as model.json defines it.

import { CannotRun } from "./errors.js";

const ARRAYS = {
  float32: Float32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};
export const LIMITS = { uint8: [0, 255], int8: [-128, 127], int16: [-32768, 32767] };

/** How many values a shape holds. */
export const sizeOf = (shape) => shape.reduce((product, extent) => product * extent, 1);

/** Raw little-endian bytes as values; every platform that has WebAssembly is little-endian. */
export function fromBytes(bytes, dtype) {
  const ArrayType = arrayType(dtype);
  // A copy: a view must begin at a multiple of the width of its type, and a slice of a file need not.
  const copy = bytes.slice().buffer;
  if (copy.byteLength % ArrayType.BYTES_PER_ELEMENT) {
    throw new CannotRun(`Golden values must be whole ${dtype} numbers. Received: ${copy.byteLength} bytes.`);
  }
  const values = new ArrayType(copy);
  return dtype === "int64" ? Float64Array.from(values, Number) : values;
}

/** Whether the edge of the file takes or gives integers of a grid. */
export const isQuantized = (tensor) => tensor.dtype in LIMITS && tensor.scale !== null;

/** round(value / scale) + zero_point, halves away from zero, saturated; a float edge takes values as they are. */
export function quantize(values, tensor) {
  const ArrayType = arrayType(tensor.dtype);
  if (!isQuantized(tensor)) return values instanceof ArrayType ? values : ArrayType.from(values);
  const scale = Math.fround(tensor.scale);
  const [least, most] = LIMITS[tensor.dtype];
  return ArrayType.from(values, (value) => {
    const rounded = roundHalfAway(Math.fround(Math.fround(value) / scale));
    return Math.min(Math.max(Math.fround(rounded + tensor.zero_point), least), most);
  });
}

/** (value - zero_point) * scale in float32; a float edge gives the values as they are. */
export function dequantize(values, tensor) {
  if (!isQuantized(tensor)) return values;
  const scale = Math.fround(tensor.scale);
  return Float32Array.from(values, (value) => Math.fround(value - tensor.zero_point) * scale);
}

// Not trunc(steps + 0.5): the sum rounds the float below a half up to 1.
function roundHalfAway(steps) {
  const whole = Math.trunc(steps);
  return Math.abs(Math.fround(steps - whole)) >= 0.5 ? Math.fround(whole + Math.sign(steps)) : whole;
}

/** Probabilities of classes: the outputs if they are some already, their softmax otherwise. */
export function probabilities(outputs) {
  const values = Array.from(outputs);
  const sum = values.reduce((total, value) => total + value, 0);
  // An int8 softmax is off by up to half a step (1/512) a class.
  const rounding = 0.01 + values.length / 512;
  if (values.every((value) => value >= 0 && value <= 1.001) && Math.abs(sum - 1) <= rounding) return values;
  if (values.length === 1) return [1 / (1 + Math.exp(-values[0]))];
  const largest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/** The place of the largest value; a NaN counts as the largest, as in NumPy. */
export function argmax(values) {
  let best = 0;
  for (let index = 0; index < values.length; index++) {
    if (Number.isNaN(values[index])) return index;
    if (values[index] > values[best]) best = index;
  }
  return best;
}

/** Linear interpolation between the sorted values, as numpy.percentile. */
export function percentile(values, percent) {
  const sorted = Array.from(values).sort((a, b) => a - b);
  const place = ((sorted.length - 1) * percent) / 100;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

function arrayType(dtype) {
  if (!(dtype in ARRAYS)) {
    throw new CannotRun(`A type must be one of ${Object.keys(ARRAYS).join(", ")}. Received: ${dtype}.`);
  }
  return ARRAYS[dtype];
}
