// LiteRT.js, loaded once a bundle is opened: about 10 MB that a page without a model does not need.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

import { checkEdges } from "./edges.js";
import { CannotRun } from "./errors.js";
import { dequantize, quantize } from "./numbers.js";

export const VERSION = LITERT_VERSION;

let loading;

/** Loads the build that suits this browser, from this page's own folder. */
export function loadRuntime() {
  loading ??= loadLiteRt(new URL("wasm/", document.baseURI).href).catch((error) => {
    loading = undefined;
    throw new CannotRun(
      `The runtime could not be loaded (${String(error?.message ?? "no answer").split("\n")[0]}). ` +
        "Open the page once while you are online.",
    );
  });
  return loading;
}

/** Which of the builds was loaded: plain, or the one for browsers without relaxed SIMD. */
export function buildName() {
  const script = document.querySelector('script[src*="litert_wasm"]')?.src ?? "";
  return script.includes("_compat_") ? "wasm, no relaxed SIMD" : "wasm, relaxed SIMD";
}

/** The model of a bundle, ready to run. */
export async function compile(bundle) {
  checkEdges(bundle.manifest);
  await loadRuntime();
  let compiled;
  try {
    compiled = await loadAndCompile(bundle.model, { accelerator: "wasm", cpuOptions: { numThreads: 1 } });
  } catch (error) {
    throw new CannotRun(`LiteRT.js cannot load model.tflite: ${firstLine(error)}`);
  }
  const model = new Model(compiled, bundle.manifest);
  model.checkShapes();
  return model;
}

/** Runs signatures by name, in the units of the trained model. */
class Model {
  constructor(compiled, manifest) {
    this.compiled = compiled;
    this.entries = new Map(manifest.signatures.map((signature) => [signature.name, signature]));
  }

  /** Throws unless the file has the tensors that model.json describes. */
  checkShapes() {
    for (const signature of this.entries.values()) {
      const runner = this.compiled.signatures[signature.name];
      if (!runner) throw new CannotRun(`model.tflite must have the signature ${signature.name}. Convert again.`);
      checkTensors(signature.inputs, runner.getInputDetails());
      checkTensors(signature.outputs, runner.getOutputDetails());
    }
  }

  /** Outputs by name for inputs by name, and the milliseconds of the invocation alone. */
  async run(name, inputs) {
    const signature = this.entries.get(name);
    const fed = {};
    for (const tensor of signature.inputs) {
      fed[tensor.name] = new Tensor(quantize(inputs[tensor.name], tensor), tensor.shape);
    }
    try {
      const start = performance.now();
      const results = await this.compiled.run(name, fed);
      const ms = performance.now() - start;
      return { ms, outputs: this.#read(signature, results) };
    } catch (error) {
      throw new CannotRun(`LiteRT.js cannot run ${name}: ${firstLine(error)}`);
    } finally {
      for (const tensor of Object.values(fed)) tensor.delete();
    }
  }

  #read(signature, results) {
    const outputs = {};
    for (const tensor of signature.outputs) {
      // A copy: the runtime's memory may move or be freed.
      outputs[tensor.name] = dequantize(results[tensor.name].toTypedArray().slice(), tensor);
    }
    for (const result of Object.values(results)) result.delete();
    return outputs;
  }

  delete() {
    this.compiled.delete();
  }
}

function checkTensors(tensors, details) {
  const found = new Map(details.map((detail) => [detail.name, detail]));
  for (const { name, dtype, shape } of tensors) {
    const detail = found.get(name);
    const received = detail ? `${detail.dtype} [${detail.shape.join(", ")}]` : "no such tensor";
    if (received !== `${dtype} [${shape.join(", ")}]`) {
      throw new CannotRun(
        `${name} must be ${dtype} [${shape.join(", ")}] in model.tflite. Received: ${received}. Convert again.`,
      );
    }
  }
}

function firstLine(error) {
  const line = String(error?.message ?? error).split("\n")[0].trim().replace(/\s+/g, " ").slice(0, 200);
  return /[.!?]$/.test(line) ? line : `${line}.`;
}
