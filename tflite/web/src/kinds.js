// What the page can do with a bundle, read from the signatures of its model.json. Also used by the build.

const DECODING = ["encode", "prefill", "decode_step"];

/** {kind, signature, input, output}: how to feed the bundle, and what to show. */
export function kindOf(manifest) {
  const names = manifest.signatures.map((signature) => signature.name);
  if (DECODING.every((name) => names.includes(name))) return { kind: "translator" };
  for (const [find, kinds] of [
    [streamOf, manifest.signatures],
    [singleOf, manifest.signatures.slice(0, 1)],
  ]) {
    const found = kinds.map(find).find(Boolean);
    if (found) return found;
  }
  return { kind: "other" };
}

/** A signature that carries states from step to step, and takes F numbers at each. */
function streamOf(signature) {
  if (!signature.states.length) return null;
  const fed = new Set(signature.states.map((state) => state.input));
  const given = new Set(signature.states.map((state) => state.output));
  const inputs = signature.inputs.filter((tensor) => !fed.has(tensor.name));
  const [output] = signature.outputs.filter((tensor) => !given.has(tensor.name));
  const [input] = inputs;
  if (inputs.length !== 1 || !output || input.golden_dtype !== "float32") return null;
  const isOneStep = input.shape.length === 2 || (input.shape.length === 3 && input.shape[1] === 1);
  return isOneStep ? { kind: "streamer", signature, input, output } : null;
}

function singleOf(signature) {
  const [input] = signature.inputs;
  const [output] = signature.outputs;
  if (signature.inputs.length !== 1 || signature.states.length || input.golden_dtype !== "float32") return null;
  const { shape } = input;
  if (shape.length === 4 && [1, 3].includes(shape[3])) return { kind: "images", signature, input, output };
  if (shape.length === 3) return { kind: "window", signature, input, output };
  return null;
}

/** Samples a second, as the words on preprocessing say: "... at 12.5 Hz". */
export function rateOf(manifest) {
  const rate = Number((manifest.preprocessing ?? "").match(/([0-9]+(?:\.[0-9]+)?) ?Hz/)?.[1]);
  return rate > 0 ? rate : 50;
}
