// The phone's motion sensor as rows of numbers at a steady rate.

import { isIos } from "./device.js";
import { CannotRun } from "./errors.js";

const STANDARD_GRAVITY = 9.80665;
const DEGREE = Math.PI / 180;
const SILENCE_MS = 2000;

/** Starts the sensor; each finished interval's mean goes to `take`. Returns what stops it. */
export async function startMotion(width, rate, take, fail) {
  await allowMotion();
  const resampler = new Resampler(rate);
  const silence = setTimeout(
    () => fail(new CannotRun("No motion arrives: this device has no sensor that the page may read. Try a recording.")),
    SILENCE_MS,
  );
  const listener = (event) => {
    const row = rowOf(event, width);
    if (!row) return;
    clearTimeout(silence);
    for (const mean of resampler.push(event.timeStamp, row)) take(mean);
  };
  addEventListener("devicemotion", listener);
  return () => {
    clearTimeout(silence);
    removeEventListener("devicemotion", listener);
  };
}

async function allowMotion() {
  if (!globalThis.DeviceMotionEvent || !isSecureContext) {
    throw new CannotRun("The motion sensor needs a browser that has it, and a page opened by https or on localhost.");
  }
  // iOS asks the user, and only right after a tap.
  const answer = await DeviceMotionEvent.requestPermission?.();
  if (answer && answer !== "granted") {
    throw new CannotRun("The motion sensor was not allowed. Allow it in the browser's settings, or try a recording.");
  }
}

/** Acceleration with gravity in g along x, y, z; for six numbers, rotation in rad/s around x, y, z, too. */
function rowOf(event, width) {
  const pull = event.accelerationIncludingGravity;
  if (pull?.x == null) return null;
  // iOS gives the pull of gravity, the standard the push against it.
  const sign = isIos() ? -1 : 1;
  const row = [pull.x, pull.y, pull.z].map((value) => (sign * value) / STANDARD_GRAVITY);
  if (width === 3) return row;
  const turn = event.rotationRate;
  // Despite the names, which orientation uses for z, x, y, rates are around x, y, z.
  return [...row, ...[turn?.alpha, turn?.beta, turn?.gamma].map((value) => (value ?? 0) * DEGREE)];
}

/** Means over intervals of 1 / rate seconds; an interval in which nothing came repeats the one before. */
export class Resampler {
  #interval;
  #end = null;
  #sums = null;
  #count = 0;
  #last = null;

  constructor(rate) {
    this.#interval = 1000 / rate;
  }

  /** Takes a row at a time in milliseconds; returns the rows of the intervals that are over. */
  push(time, row) {
    const done = [];
    this.#end ??= time + this.#interval;
    while (time >= this.#end) {
      if (this.#count) this.#last = this.#sums.map((sum) => sum / this.#count);
      if (this.#last) done.push(this.#last);
      this.#sums = null;
      this.#count = 0;
      this.#end += this.#interval;
    }
    this.#sums = this.#sums ? this.#sums.map((sum, index) => sum + row[index]) : row.slice();
    this.#count += 1;
    return done;
  }
}

/** Rows of `width` numbers from CSV text; a first line that is no numbers is a header. */
export function rowsOfCsv(text, width) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  const parsed = lines.map((line) => line.split(/[,;\t]/).map((cell) => (cell.trim() ? Number(cell) : NaN)));
  const isRow = (row) => row.length === width && row.every(Number.isFinite);
  const rows = parsed.length && !isRow(parsed[0]) && parsed[0].some(Number.isNaN) ? parsed.slice(1) : parsed;
  const bad = rows.findIndex((row) => !isRow(row));
  if (!rows.length || bad >= 0) {
    const received = rows.length ? `"${lines[bad + lines.length - rows.length].slice(0, 60)}"` : "no rows";
    throw new CannotRun(`A recording must have ${width} numbers a row, with commas between. Received: ${received}.`);
  }
  return rows;
}
