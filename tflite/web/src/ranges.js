// The numbers that the pixels of an input are, from the range that model.json states for it.

import { LIMITS } from "./numbers.js";

const ROUNDING = 0.01;
const BYTE = 255;
// Noise around 0 and 1 seldom reaches further down; pixels that were divided by their deviation do.
const STANDARDIZED = -1.5;

/** The choices for [black, white], the likeliest first; `values` are samples of the input. */
export function pixelRanges(tensor, values) {
  const common = [
    [0, 1],
    [0, BYTE],
    [-1, 1],
  ];
  const likely = likelyRange(tensor, values);
  return [likely, ...common.filter((range) => String(range) !== String(likely))];
}

function likelyRange(tensor, values) {
  const ends = tensor.range ?? gridOf(tensor);
  if (!ends) return tensor.golden_dtype === "float32" ? [0, 1] : [0, BYTE];
  const [low, high] = ends;
  if (low >= -ROUNDING * high) return [0, topOf(high)];
  if (low >= -1 - ROUNDING && high <= 1 + ROUNDING) return [-1, 1];
  if (Math.max(-low, high) > 20 && low >= -128.5 && high <= 128.5) return [-128, 127];
  const levels = new Set(values).size;
  const isOfBytes = tensor.range && levels <= (BYTE + 1) * tensor.shape.at(-1);
  return isOfBytes || low < STANDARDIZED ? [low, high] : [0, 1];
}

/** White, from the largest value that was seen: samples may be dark. */
function topOf(high) {
  if (high <= 1 + ROUNDING) return 1;
  return high > BYTE / 2 && high <= BYTE + ROUNDING ? BYTE : high;
}

/** What the integer grid of a file with no stated range can hold. */
function gridOf({ dtype, scale, zero_point: zeroPoint }) {
  if (scale === null) return null;
  return (LIMITS[dtype] ?? LIMITS.int8).map((end) => (end - zeroPoint) * scale);
}

/** Pixels of 0 to 1 as the numbers of a range, whole ones for an input of integers. */
export function scaled(pixels, [low, high], dtype) {
  const values = Array.from(pixels, (pixel) => low + pixel * (high - low));
  return dtype === "float32" ? Float32Array.from(values) : Int32Array.from(values, Math.round);
}

/** The reverse. */
export function unscaled(values, [low, high]) {
  return Float32Array.from(values, (value) => (value - low) / (high - low));
}
