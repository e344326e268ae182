// A recording as the samples that a model of sound takes.

import { CannotRun } from "./errors.js";

/** `count` samples in [-1, 1] at `rate` a second, of the mean of the channels; silence where the recording is short. */
export async function samplesOfSound(file, count, rate) {
  const context = new OfflineAudioContext(1, count, rate);
  let recording;
  try {
    // Decoding resamples to the rate of the context.
    recording = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new CannotRun(`A recording must be sound that this browser can play. Received: ${file.name}.`);
  }
  const samples = new Float32Array(count);
  for (let channel = 0; channel < recording.numberOfChannels; channel++) {
    const values = recording.getChannelData(channel);
    const length = Math.min(count, values.length);
    for (let index = 0; index < length; index++) samples[index] += values[index] / recording.numberOfChannels;
  }
  return samples;
}
