#!/usr/bin/env python3
"""Decodes with a bundle on this device, greedily. Needs numpy and ai-edge-litert, nothing else.

    python generate.py BUNDLE IDS... --start ID --end ID [--pad ID] [--max-length N] [--repeat N]

BUNDLE has the signatures "encode", "prefill" and "decode_step" of keras_notes.layers.decoding_models. IDS are those of
the source, which is padded behind. Checks every hash, decodes, and prints one line of JSON: the ids up to the end id,
and tokens per second, the median of N times. Exit code: 0, or 2 if it cannot run (the reason is on stderr).
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import run  # beside this file
from run import Interpreter, np, version

SIGNATURES = ("encode", "prefill", "decode_step")


class Decoder:
    """The three signatures of a bundle, and the ids that they take."""

    def __init__(self, bundle):
        self.manifest = run.load_manifest(bundle)
        entries = {entry["name"]: entry for entry in self.manifest["signatures"]}
        if missing := [name for name in SIGNATURES if name not in entries]:
            raise ValueError(f"The bundle must have the signatures {', '.join(SIGNATURES)}. It has no {missing[0]}.")
        self._entries = {name: entries[name] for name in SIGNATURES}
        interpreter = Interpreter(str(bundle / "model.tflite"), num_threads=1)
        self._runners = {name: interpreter.get_signature_runner(name) for name in SIGNATURES}
        self.source_length = self._shape("encode", "source_ids")[1]
        self.prompt_length = self._shape("prefill", "prompt_ids")[1]
        self.most = self._shape("decode_step", "cache_0_keys")[2]
        self.vocabulary = next(t["shape"][-1] for t in entries["decode_step"]["outputs"] if t["name"] == "logits")

    def decode(self, source_ids, start, end, pad, most):
        """The likeliest ids one by one, up to the end id or `most` of them."""
        source = np.full((1, self.source_length), pad, np.int32)
        source[0, : len(source_ids)] = source_ids
        try:
            memory = self._run("encode", {"source_ids": source})
        except RuntimeError as error:
            raise ValueError(f"Ids of the source must be in the vocabulary. {' '.join(str(error).split())}") from error
        prompt = np.full((1, self.prompt_length), start, np.int32)
        results = self._run("prefill", {"prompt_ids": prompt, **memory})
        ids = [int(results["logits"][0, 0].argmax())]
        while ids[-1] != end and len(ids) < most:
            caches = {name[: -len("_next")]: values for name, values in results.items() if name.endswith("_next")}
            step = {"target_ids": np.array([ids[-1:]], np.int32), "position": np.array([len(ids)], np.int32)}
            results = self._run("decode_step", {**step, **caches, **memory})
            ids.append(int(results["logits"][0].argmax()))
        return ids

    def _shape(self, signature, name):
        for tensor in self._entries[signature]["inputs"]:
            if tensor["name"] == name:
                return tensor["shape"]
        raise ValueError(f"The signature {signature} must have an input {name}.")

    def _run(self, signature, values):
        entry = self._entries[signature]
        results = self._runners[signature](**{t["name"]: run.quantize(values[t["name"]], t) for t in entry["inputs"]})
        return {tensor["name"]: run.dequantize(results[tensor["name"]], tensor) for tensor in entry["outputs"]}


def check_ids(options, decoder):
    """Raises ValueError for ids that the model does not have, or a source that is empty or too long."""
    if not 1 <= len(options.ids) <= decoder.source_length:
        raise ValueError(f"A source must have 1 to {decoder.source_length} ids. Received: {len(options.ids)}.")
    # A negative id would count from the end; how many there are, the file knows.
    if min(*options.ids, options.pad) < 0:
        raise ValueError(f"Ids must be >= 0. Received: {min(*options.ids, options.pad)}.")
    for name in ("start", "end"):
        if not 0 <= getattr(options, name) < decoder.vocabulary:
            raise ValueError(f"--{name} must be in [0, {decoder.vocabulary}). Received: {getattr(options, name)}.")


def generate(options):
    """Decodes and returns the line to print."""
    decoder = Decoder(options.bundle)
    check_ids(options, decoder)
    most = decoder.most if options.max_length is None else options.max_length
    if not 1 <= most <= decoder.most:
        raise ValueError(f"--max-length must be in [1, {decoder.most}]. Received: {most}.")
    seconds = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        ids = decoder.decode(options.ids, options.start, options.end, options.pad, most)
        seconds.append(time.perf_counter() - start)
    return {
        "runner": "python",
        "runtime_version": f"ai-edge-litert {version('ai-edge-litert')}",
        "device": f"{platform.system()} {platform.machine()}",
        "ids": ids,
        "ended": ids[-1] == options.end,
        "tokens_per_second": len(ids) / float(np.median(seconds)),
        "model_sha256": decoder.manifest["files"]["model.tflite"]["sha256"],
    }


def main():
    """Parses the command line, prints the result, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Decode with a bundle on this device, greedily.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("ids", type=int, nargs="+", metavar="IDS", help="ids of the source")
    parser.add_argument("--start", type=int, required=True, metavar="ID", help="what stands before the first id")
    parser.add_argument("--end", type=int, required=True, metavar="ID", help="what ends the target")
    parser.add_argument("--pad", type=int, default=0, metavar="ID", help="what pads the source (default 0)")
    parser.add_argument("--max-length", type=int, metavar="N", help="the most ids (default: the size of the caches)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="times to decode (default 1)")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error(f"--repeat must be >= 1. Received: {options.repeat}.")
    try:
        result = generate(options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        print(f"generate.py: cannot run {options.bundle}: {error}", file=sys.stderr)
        return run.CANNOT_RUN
    print(json.dumps(result))
    return run.EQUAL


if __name__ == "__main__":
    sys.exit(main())
