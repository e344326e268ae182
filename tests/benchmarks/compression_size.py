"""Zeros and clusters counted in the int8 file itself, and what they are worth in bytes.

    python tests/benchmarks/compression.py size [--seeds 3]

The residual network of compression_accuracy.py on digits, trained in floating point for 30 epochs; then pruned to 75 %
over 400 steps, clustered to 16 values with its zeros for 200 steps, and quantization-aware for 200 steps (Adam at 1e-3,
1e-3 and 1e-4); each stage is also converted to int8 after training. Bytes of the .tflite file, raw and as a zip.
"""

import io
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np

import keras_notes as kn
from keras_notes.compression import PolynomialSparsity, cluster, prune, quantize_aware
from tests.benchmarks.compression_accuracy import BATCH, CALIBRATION, accuracy, batches, digits, loss, residual_net
from tests.benchmarks.compression_accuracy import trained_float as trained
from tests.compression.files import integer_weights

SPARSITY, CLUSTERS = 0.75, 16


def main(seeds: int) -> None:
    """Prints a row for each stage, the mean over the seeds."""
    rows: dict[str, list[tuple]] = {}
    for seed in range(seeds):
        data = digits(seed)
        for name, model in stages(data, seed):
            rows.setdefault(name, []).append(measured(model, data))
    print(f"{'':<34}{'accuracy':>9}{'zeros':>8}{'values':>8}{'bytes':>9}{'zipped':>9}")
    for name, found in rows.items():
        share, zeros, values, raw, zipped = np.mean(found, axis=0)
        print(f"  {name:<32}{share:>9.4f}{zeros:>8.3f}{values:>8.1f}{raw:>9.0f}{zipped:>9.0f}")


def stages(data, seed: int):
    """The network after each stage."""
    model = trained(residual_net, data, 30, seed)
    yield "float", model
    pruned = fitted(
        prune(model, PolynomialSparsity(0.2, SPARSITY, begin_step=0, end_step=300, frequency=50)), data, 400
    )
    yield "pruned", pruned
    clustered = fitted(cluster(pruned, CLUSTERS), data, 200)
    yield "pruned, clustered", clustered
    calibration = data[0][0][:CALIBRATION]
    yield "quantization-aware", fitted(quantize_aware(model, calibration=calibration), data, 200, 1e-4)
    yield "pruned, clustered, aware", fitted(quantize_aware(clustered, calibration=calibration), data, 200, 1e-4)


def fitted(model: keras.Model, data, steps: int, rate: float = 1e-3) -> keras.Model:
    """The model after some steps."""
    model.compile(keras.optimizers.Adam(rate), loss())
    model.fit(*batches(data, steps, 0), batch_size=BATCH, shuffle=False, verbose=0)
    return model


def measured(model: keras.Model, data) -> tuple[float, float, float, int, int]:
    """Accuracy, share of zeros, most different weights in a kernel, bytes, bytes as a zip."""
    aware = getattr(model, "scheme", None) is not None
    calibration = None if aware else data[0][0][:CALIBRATION]
    with tempfile.TemporaryDirectory() as directory:
        bundle = kn.convert(
            model, Path(directory) / "b", "static_int8", calibration=calibration, golden=data[1][0][:64]
        )
        path = bundle.directory / "model.tflite"
        weights = [integers for _, integers in integer_weights(path)]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.write(path, "model.tflite")
        return (
            accuracy(model, data),
            float(np.mean(np.concatenate([one.reshape(-1) for one in weights]) == 0)),
            max(len(np.unique(one)) for one in weights),
            path.stat().st_size,
            len(packed.getvalue()),
        )
