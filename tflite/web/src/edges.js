// What LiteRT.js takes at the edges of a file. Also used by the build, which leaves other bundles out.

import { CannotRun } from "./errors.js";

const EDGES = ["float32", "int32", "uint8"];
const QUANTIZED = ["int8", "int16"];

/** Throws for a bundle whose inputs or outputs LiteRT.js does not take. */
export function checkEdges(manifest) {
  if (manifest.batch_size !== 1) {
    throw new CannotRun(
      `LiteRT.js takes one sample at a time. Received: batch_size=${manifest.batch_size}. Convert with batch_size=1.`,
    );
  }
  for (const { inputs, outputs } of manifest.signatures) {
    for (const { name, dtype } of [...inputs, ...outputs]) {
      if (EDGES.includes(dtype)) continue;
      const remedy = QUANTIZED.includes(dtype)
        ? 'Convert with edges="float32".'
        : "Give the model inputs and outputs of one of these types.";
      throw new CannotRun(
        `LiteRT.js takes ${EDGES.join(", ")} at the edges of a file. Received: ${dtype} for ${name}. ${remedy}`,
      );
    }
  }
}
