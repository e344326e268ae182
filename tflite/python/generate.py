#!/usr/bin/env python3
"""Decodes with a bundle on this device, greedily. Needs numpy and ai-edge-litert; for text, tokenizers too.

    python generate.py BUNDLE IDS... --start ID --end ID [--pad ID] [--max-length N] [--repeat N]
    python generate.py BUNDLE --text "A man rides a bicycle." [--max-length N] [--repeat N]

BUNDLE has the signatures "encode", "prefill" and "decode_step" of keras_notes.layers.decoding_models, and for text a
tokenizer.json. IDS are those of the source, which is padded behind. Checks every hash, decodes, and prints one line of
JSON: the ids up to the end id, their text, and tokens per second, the median of N times. Exit code: 0, or 2 if it
cannot run (the reason is on stderr).
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import run  # beside this file
from models import Decoder, Translator  # beside this file
from run import np, version


def generate(options):
    """Decodes and returns the line to print."""
    translator = None if options.text is None else Translator(options.bundle)
    if translator is None:
        decoder, source, edges = Decoder(options.bundle), options.ids, (options.start, options.end, options.pad)
    else:
        decoder, source = translator.decoder, translator.source_ids(options.text)
        edges = (translator.start, translator.end, translator.pad)
    most = decoder.most if options.max_length is None else options.max_length
    seconds = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        ids = decoder.decode(source, *edges, most)
        seconds.append(time.perf_counter() - start)
    return {
        "runner": "python",
        "runtime_version": f"ai-edge-litert {version('ai-edge-litert')}",
        "device": f"{platform.system()} {platform.machine()}",
        "ids": ids,
        "text": None if translator is None else translator.text_of(ids),
        "ended": ids[-1] == edges[1],
        "tokens_per_second": len(ids) / float(np.median(seconds)),
        "model_sha256": decoder.manifest["files"]["model.tflite"]["sha256"],
    }


def parsed():
    """The command line; exits with 2 and one line where it makes no sense."""
    parser = argparse.ArgumentParser(description="Decode with a bundle on this device, greedily.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("ids", type=int, nargs="*", metavar="IDS", help="ids of the source")
    parser.add_argument("--text", help="the source, read and written by the bundle's tokenizer.json")
    parser.add_argument("--start", type=int, metavar="ID", help="what stands before the first id")
    parser.add_argument("--end", type=int, metavar="ID", help="what ends the target")
    parser.add_argument("--pad", type=int, default=0, metavar="ID", help="what pads the source (default 0)")
    parser.add_argument("--max-length", type=int, metavar="N", help="the most ids (default: the size of the caches)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="times to decode (default 1)")
    options = parser.parse_args()
    if (options.text is None) != bool(options.ids):
        parser.error("Either IDS or --text must be given, and not both.")
    if options.ids and None in (options.start, options.end):
        parser.error("--start and --end must be given with IDS.")
    if options.repeat < 1:
        parser.error(f"--repeat must be >= 1. Received: {options.repeat}.")
    return options


def main():
    """Parses the command line, prints the result, and returns the exit code."""
    options = parsed()
    try:
        result = generate(options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        print(f"generate.py: cannot run {options.bundle}: {error}", file=sys.stderr)
        return run.CANNOT_RUN
    print(json.dumps(result, ensure_ascii=False))
    return run.EQUAL


if __name__ == "__main__":
    sys.exit(main())
