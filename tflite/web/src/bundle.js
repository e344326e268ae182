// A bundle: its manifest and files, checked before anything is run. ../../bundle.schema.json is the definition.

import { CannotRun } from "./errors.js";
import { fromBytes, sizeOf } from "./numbers.js";

export const FORMAT_VERSION = 2;
const KEYS = ["manifest_sha256", "files", "signatures", "tolerance"];
const LIMITS = ["max_error", "rms_error", "max_error_lsb", "rms_error_lsb", "mean_error_lsb"];

/** Reads model.json from a source, and every file that it lists, by size and SHA-256. */
export async function openBundle(source) {
  const content = await source.read("model.json");
  const manifest = parse(content);
  checkManifest(manifest);
  await checkOwnHash(content, manifest.manifest_sha256);
  const files = new Map();
  for (const [name, entry] of Object.entries(manifest.files)) files.set(name, await checkedFile(source, name, entry));
  return new Bundle(manifest, files);
}

/** What was read and found whole. */
class Bundle {
  constructor(manifest, files) {
    this.manifest = manifest;
    this.files = files;
  }

  get model() {
    return this.files.get("model.tflite");
  }

  get bytes() {
    let total = 0;
    for (const content of this.files.values()) total += content.length;
    return total;
  }

  /** The golden values of an input or output: all samples, row-major. */
  golden(tensor, samples) {
    const values = fromBytes(this.files.get(tensor.golden), tensor.golden_dtype);
    const wanted = samples * sizeOf(tensor.shape.slice(1));
    if (values.length !== wanted) {
      throw new CannotRun(
        `${tensor.golden} must hold ${samples} samples, ${wanted} values. Received: ${values.length} values. ` +
          "Convert the model again.",
      );
    }
    return values;
  }

  /** One golden sample. */
  goldenSample(tensor, samples, index) {
    const size = sizeOf(tensor.shape.slice(1));
    return this.golden(tensor, samples).subarray(index * size, (index + 1) * size);
  }

  /** A JSON file of the bundle; null if it has none of this name. */
  json(name) {
    return this.files.has(name) ? parse(this.files.get(name), name) : null;
  }
}

/** Throws for what would make the comparison mean nothing. */
export function checkManifest(manifest) {
  const isObject = manifest !== null && typeof manifest === "object" && !Array.isArray(manifest);
  if (!isObject || manifest.format_version !== FORMAT_VERSION) {
    const found = isObject ? JSON.stringify(manifest.format_version) : "no object";
    throw new CannotRun(
      `format_version must be ${FORMAT_VERSION}. Received: ${found}. Convert the model again with this keras_notes.`,
    );
  }
  if (KEYS.some((key) => !(key in manifest))) {
    throw new CannotRun(`model.json must have the keys ${KEYS.join(", ")}. Copy the bundle again.`);
  }
  checkTolerance(manifest.tolerance);
  checkFiles(manifest.files);
  if (!Array.isArray(manifest.signatures) || manifest.signatures.length === 0) {
    throw new CannotRun("model.json must describe at least one signature. Convert the model again.");
  }
  for (const signature of manifest.signatures) checkSignature(signature, manifest.files);
}

function checkTolerance(tolerance) {
  // A limit that is left out would be no limit at all.
  if (LIMITS.some((limit) => !(limit in Object(tolerance)))) {
    throw new CannotRun(`The tolerance must have ${LIMITS.join(", ")}. Convert the model again.`);
  }
}

function checkFiles(files) {
  if (files === null || typeof files !== "object" || Array.isArray(files) || !("model.tflite" in files)) {
    throw new CannotRun("model.json must list model.tflite among its files, by name. Copy the bundle again.");
  }
  for (const name of Object.keys(files)) {
    if (/^([/\\]|[A-Za-z]:)/.test(name) || name.split(/[/\\]/).includes("..")) {
      throw new CannotRun(`Files must lie inside the bundle. Received: ${name}.`);
    }
  }
}

function checkSignature(signature, files) {
  for (const key of ["inputs", "outputs", "states"]) {
    if (!Array.isArray(signature[key])) throw new CannotRun(`A signature must have a list of ${key}.`);
  }
  if (!Number.isInteger(signature.golden_samples) || signature.golden_samples < 1) {
    throw new CannotRun(`A signature must have golden samples. Received: ${signature.golden_samples}.`);
  }
  for (const tensor of [...signature.inputs, ...signature.outputs]) {
    if (!(tensor.golden in files)) throw new CannotRun(`model.json must have the hash of ${tensor.golden}.`);
    if (tensor.scale !== null && !(tensor.scale > 0)) {
      throw new CannotRun(`A scale must be > 0. Received: ${tensor.scale} for ${tensor.name}.`);
    }
    if (tensor.tolerance !== undefined) checkTolerance(tensor.tolerance);
  }
}

async function checkOwnHash(content, stated) {
  // Bytes, not text: a decoder would mend or drop what is not UTF-8. One character a byte keeps the places.
  const text = new TextDecoder("latin1").decode(content);
  const place = text.indexOf(stated);
  const zeroed = content.slice();
  if (place >= 0) zeroed.fill("0".charCodeAt(0), place, place + stated.length);
  if ((await sha256(zeroed)) !== stated) {
    throw new CannotRun("model.json is damaged: its hash is not the one that it states. Copy the bundle again.");
  }
}

async function checkedFile(source, name, entry) {
  const content = await source.read(name, entry.sha256);
  if (content.length !== entry.bytes || (await sha256(content)) !== entry.sha256) {
    throw new CannotRun(`${name} is damaged: it is not the file that model.json describes. Copy the bundle again.`);
  }
  return content;
}

async function sha256(content) {
  if (!globalThis.crypto?.subtle) {
    throw new CannotRun("Hashes need a secure page: open this one by https or on localhost.");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parse(content, name = "model.json") {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content));
  } catch {
    throw new CannotRun(`${name} must be JSON text, and is not. Copy the bundle again.`);
  }
}
