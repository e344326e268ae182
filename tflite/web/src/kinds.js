// What the page can do with a bundle, read from the signatures of its model.json. Also used by the build.

const DECODING = ["encode", "prefill", "decode_step"];

/** {kind, signature, input, output}: how to feed the bundle, and what to show. */
export function kindOf(manifest) {
  const names = manifest.signatures.map((signature) => signature.name);
  if (DECODING.every((name) => names.includes(name))) return { kind: "translator" };
  const [first] = manifest.signatures;
  return manifest.signatures.map(streamOf).find(Boolean) ?? singleOf(manifest, first) ?? numbersOf(first);
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

function singleOf(manifest, signature) {
  const [input] = signature.inputs;
  const [output] = signature.outputs;
  if (signature.inputs.length !== 1 || signature.states.length) return null;
  if (kindOfSound(manifest, input)) return { kind: "sound", signature, input, output };
  const { shape, golden_dtype: dtype } = input;
  const isImage = shape.length === 4 && [1, 3].includes(shape[3]) && ["float32", "uint8"].includes(dtype);
  if (isImage) return { kind: "images", signature, input, output };
  if (shape.length === 3 && dtype === "float32") return { kind: "window", signature, input, output };
  return null;
}

/** Any other signature without states: its inputs as numbers. */
function numbersOf(signature) {
  if (signature.states.length) return { kind: "other" };
  return { kind: "numbers", signature, input: signature.inputs[0], output: signature.outputs[0] };
}

const SOUND = /spectro|mel\b|mfcc|filter ?bank|audio|sound|speech|spoken|keyword|wave ?form|microphone|\bpcm\b/i;

/** "wave" for samples of sound, "spectrum" for what was computed of them, null for anything else. */
export function kindOfSound(manifest, { name, shape, range, golden_dtype: dtype }) {
  if (dtype === "bool") return null;
  const isWave = shape.filter((extent) => extent > 1).length === 1;
  const words = [manifest.preprocessing, manifest.name, name].filter(Boolean).join(" ").replaceAll("_", " ");
  if (SOUND.test(words)) return isWave ? (shape.some((extent) => extent >= 1000) ? "wave" : null) : "spectrum";
  // Decibels and cepstral coefficients, in one channel and no square: no picture has such numbers.
  const isMap = shape.length === 4 && shape[3] === 1 && shape[1] !== shape[2];
  return isMap && range && range[0] < -1.5 ? "spectrum" : null;
}

/** Samples a second, as the words on preprocessing say: "... at 12.5 Hz". */
export function rateOf(manifest, otherwise = 50) {
  const [, number, thousands] = (manifest.preprocessing ?? "").match(/([0-9]+(?:\.[0-9]+)?) ?(k?)Hz/) ?? [];
  const rate = Number(number) * (thousands ? 1000 : 1);
  return rate > 0 ? rate : otherwise;
}
