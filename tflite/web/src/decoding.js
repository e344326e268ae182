// Greedy decoding with the signatures encode, prefill and decode_step, and the tokenizer of the bundle.

import { CannotRun } from "./errors.js";
import { argmax } from "./numbers.js";

const DECODING = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
const SPECIAL = { pad: "<pad>", start: "<s>", end: "</s>" };

/** The sizes that the signatures have. */
export function decoderSizes(manifest) {
  const entry = (name) => manifest.signatures.find((signature) => signature.name === name);
  const shape = (signature, name) => {
    const tensor = entry(signature).inputs.find((input) => input.name === name);
    if (!tensor) throw new CannotRun(`The signature ${signature} must have an input ${name}. Convert again.`);
    return tensor.shape;
  };
  const logits = entry("decode_step").outputs.find((output) => output.name === "logits");
  if (!logits) throw new CannotRun("The signature decode_step must have an output logits. Convert again.");
  return {
    source: shape("encode", "source_ids")[1],
    prompt: shape("prefill", "prompt_ids")[1],
    most: shape("decode_step", "cache_0_keys")[2],
    vocabulary: logits.shape.at(-1),
  };
}

/** Gives the likeliest ids one by one, up to the end id or the size of the caches; {id, ms} each. */
export async function* decode(model, sizes, sourceIds, { start, end, pad }) {
  checkIds(sourceIds, sizes, { start, end, pad });
  const source = new Int32Array(sizes.source).fill(pad);
  source.set(sourceIds);
  const encoded = await model.run("encode", { source_ids: source });
  const memory = encoded.outputs;
  const prompt = new Int32Array(sizes.prompt).fill(start);
  let { outputs, ms } = await model.run("prefill", { prompt_ids: prompt, ...memory });
  // The first of the prompt's places: the others repeat the start id.
  let id = argmax(outputs.logits.subarray(0, sizes.vocabulary));
  yield { id, ms: ms + encoded.ms };
  for (let position = 1; id !== end && position < sizes.most; position++) {
    const step = { target_ids: Int32Array.of(id), position: Int32Array.of(position) };
    ({ outputs, ms } = await model.run("decode_step", { ...step, ...cachesOf(outputs), ...memory }));
    id = argmax(outputs.logits.subarray(0, sizes.vocabulary));
    yield { id, ms };
  }
}

function cachesOf(outputs) {
  const next = Object.entries(outputs).filter(([name]) => name.endsWith("_next"));
  return Object.fromEntries(next.map(([name, values]) => [name.slice(0, -"_next".length), values]));
}

function checkIds(ids, sizes, special) {
  if (!ids.length || ids.length > sizes.source) {
    throw new CannotRun(`A source must have 1 to ${sizes.source} ids. Received: ${ids.length}. Shorten the text.`);
  }
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0);
  if (wrong !== undefined) throw new CannotRun(`Ids must be integers >= 0. Received: ${wrong}.`);
  for (const [name, id] of Object.entries(special)) {
    if (!Number.isInteger(id) || id < 0 || id >= sizes.vocabulary) {
      throw new CannotRun(`The ${name} id must be in [0, ${sizes.vocabulary}). Received: ${id}.`);
    }
  }
}

/** Text to ids and back by the bundle's tokenizer.json; null if it has none. */
export async function tokenizerOf(bundle) {
  const description = bundle.json("tokenizer.json");
  if (!description) return null;
  const { Tokenizer } = await import("@huggingface/tokenizers");
  const tokenizer = new Tokenizer(description, {});
  const special = {};
  for (const [name, token] of Object.entries(SPECIAL)) {
    special[name] = tokenizer.token_to_id(token);
    if (special[name] === undefined) throw new CannotRun(`tokenizer.json must know ${token}. Add it, convert again.`);
  }
  return {
    special,
    encode: (text) => Array.from(tokenizer.encode(text).ids, Number),
    // As the tokenizer says and no tidier: the library would pull full stops to the word before.
    decode: (ids) => (ids.length ? tokenizer.decode(ids, DECODING) : ""),
  };
}
