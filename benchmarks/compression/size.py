"""Zeros and clusters counted in the int8 file itself, the bytes that they save, and the time that channels save.

    python -m benchmarks compression size [--seeds 5]

The residual network on digits of tasks.py, trained in floating point; then pruned to 75 % over 400 steps, clustered to
16 values with its zeros for 200 steps, and quantization-aware for 200 steps (Adam at 1e-3, 1e-3 and 1e-4); or without
half of its channels, fine-tuned for 400 steps (Adam at 1e-3), and quantization-aware for 200. A stage that is not
quantization-aware is converted to int8 after training. Zeros and values are those of the file's int8 weights; bytes are
those of the .tflite file, raw and as a zip.

Channels go from a larger network as well, five convolutions of 24 to 96 filters on 28 x 28 (the teacher of
`distillation help`, weights as they are initialized), for latency alone: p50 on LiteRT (XNNPACK, one thread) with half
of the channels over that with all of them, rounds in turns, as `kn.bench` measures it.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

import keras_notes as kn
from benchmarks import command_line
from benchmarks.compression.tasks import BATCH, CALIBRATION, TASKS, Data, batches, loss, train_float
from benchmarks.distillation.help import teacher_network
from keras_notes.compression import PolynomialSparsity, cluster, prune, prune_channels, quantize_aware
from tests.compression.files import integer_weights

SPARSITY, CLUSTERS, CHANNELS = 0.75, 16, 0.5
ROUNDS = 15


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("compression size", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each stage, the mean over the seeds, and the ratios of latency."""
    seeds = build_parser().parse_args(arguments).seeds
    rows: dict[str, list[tuple]] = {}
    task = TASKS["digits"]
    for seed in range(seeds):
        for name, model in run_stages(train_float(task, seed), task.data(seed)):
            rows.setdefault(name, []).append(measure_file(model, task.data(seed)))
        keras.backend.clear_session()
    print(f"{seeds} seeds, means; accuracy with its standard deviation, zeros with the least")
    print(f"{'':<34}{'accuracy':>18}{'zeros':>16}{'values':>8}{'bytes':>8}{'zipped':>8}")
    for name, measurements in rows.items():
        shares, zeros, values, raw, zipped = np.array(measurements).T
        spread = f"{shares.mean():.4f} +- {np.std(shares, ddof=1):.4f}"
        cells = f"{spread:>18}{f'{zeros.mean():.4f} ({zeros.min():.4f})':>16}"
        print(f"  {name:<32}{cells}{values.max():>8.0f}{raw.mean():>8.0f}{zipped.mean():>8.0f}")
    print_latencies()


def run_stages(model: keras.Model, data: Data) -> Iterator[tuple[str, keras.Model]]:
    """Yields the network after each stage, with the stage's name."""
    calibration = data[0][0][:CALIBRATION]
    yield "float, then int8", model
    schedule = PolynomialSparsity(0.2, SPARSITY, begin_step=0, end_step=300, frequency=50)
    pruned = fit(prune(model, schedule), data, 400)
    yield "pruned, then int8", pruned
    clustered = fit(cluster(pruned, CLUSTERS), data, 200)
    yield "pruned, clustered, then int8", clustered
    yield "aware", fit(quantize_aware(model, calibration=calibration), data, 200, 1e-4)
    yield "pruned, clustered, aware", fit(quantize_aware(clustered, calibration=calibration), data, 200, 1e-4)
    smaller = fit(prune_channels(model, CHANNELS), data, 400)
    yield "half of the channels, then int8", smaller
    yield "half of the channels, aware", fit(quantize_aware(smaller, calibration=calibration), data, 200, 1e-4)


def fit(model: keras.Model, data: Data, steps: int, rate: float = 1e-3) -> keras.Model:
    """Trains the model for some steps and returns it."""
    model.compile(keras.optimizers.Adam(rate), loss())
    model.fit(*batches(data, steps, 0), batch_size=BATCH, shuffle=False, verbose=0)
    return model


def measure_file(model: keras.Model, data: Data) -> tuple[float, float, int, int, int]:
    """Returns the accuracy of the file, share of zeros, most different weights in a kernel, bytes, bytes as a zip."""
    aware = getattr(model, "scheme", None) is not None
    calibration = None if aware else data[0][0][:CALIBRATION]
    with tempfile.TemporaryDirectory() as directory:
        bundle = kn.convert(model, Path(directory) / "b", calibration=calibration, golden=data[1][0][:64])
        path = bundle.directory / "model.tflite"
        weights = [integers for _, integers in integer_weights(path)]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.write(path, "model.tflite")
        return (
            kn.verify(bundle, *data[1]).accuracy,
            float(np.mean(np.concatenate([integers.reshape(-1) for integers in weights]) == 0)),
            max(len(np.unique(integers)) for integers in weights),
            path.stat().st_size,
            len(packed.getvalue()),
        )


def print_latencies() -> None:
    """Prints the latency of both networks without half of their channels, as a share of that with all."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    for name, build in (
        ("residual net, 8 x 8", TASKS["digits"].build),
        ("five convolutions, 28 x 28", teacher_network),
    ):
        model = build()
        x = rng.uniform(0, 255 if model.inputs[0].dtype == "uint8" else 1, (CALIBRATION, *model.input_shape[1:]))
        x = x.astype(model.inputs[0].dtype)
        for recipe in ("static_int8", "float32"):
            with tempfile.TemporaryDirectory() as directory:
                options = {"golden": x[:16], "calibration": x if recipe == "static_int8" else None}
                smaller, whole = (
                    kn.convert(network, Path(directory) / place, recipe, **options)
                    for place, network in (("smaller", prune_channels(model, CHANNELS)), ("whole", model))
                )
                report = kn.bench(smaller, whole, threads=(1,), rounds=ROUNDS)
            ratio, (first, second) = report.ratios[0], report.rows
            print(
                f"  {name}, {recipe}: {ratio.median:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f}) of the latency, "
                f"{first.model_bytes / second.model_bytes:.2f} of the bytes",
                flush=True,
            )
