"""Verdicts on one file by which golden samples were drawn: all draws must get the verdict of all samples.

    python -m benchmarks verdicts draws [--draws 200] [--weights FOLDER]

The net is MTCNN's P-Net (6,632 parameters, convolutions with PReLU, two outputs). `--weights` names the folder that the
package mtcnn 1.0.0 was unpacked in, with its trained weights; without it they are random (seed 0). Its file is made
once by each recipe; `verify` judges it on 300 samples that set no ranges, and on 32 of them, drawn without
replacement by seeds 0, 1, 2, ...; a row is the verdict on all 300, and how many draws differ from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_notes as kn
from benchmarks import command_line
from keras_notes.bundle import Bundle, write_bundle
from keras_notes.conversion._recipes import widen_tolerance
from keras_notes.errors import VerificationError

SAMPLES, GOLDEN = 300, 32
RECIPES = ("float32", "float16", "dynamic_int8", "int16x8", "static_int8", "weight_int4")


def p_net(weights: Path | None) -> keras.Model:
    """The first network of MTCNN on a window of 12 x 12."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    hidden = layers.PReLU(shared_axes=(1, 2))(layers.Conv2D(10, 3)(inputs))
    hidden = layers.MaxPooling2D(2, padding="same")(hidden)
    for filters in (16, 32):
        hidden = layers.PReLU(shared_axes=(1, 2))(layers.Conv2D(filters, 3)(hidden))
    boxes = layers.Conv2D(4, 1)(hidden)
    faces = layers.Softmax()(layers.Conv2D(2, 1)(hidden))
    model = keras.Model(inputs, [boxes, faces], name="p_net")
    if weights is not None:
        import joblib

        arrays = joblib.load(weights / "mtcnn/assets/weights/pnet.lz4")
        # Keras sorts layers by depth; both heads have one, so their shapes tell them apart.
        own = [tuple(variable.shape) for variable in model.weights]
        model.set_weights(arrays if [a.shape for a in arrays] == own else [*arrays[:9], *arrays[11:], *arrays[9:11]])
    return model


def windows(count: int, seed: int) -> np.ndarray:
    """Smooth windows of an image with values of -1 to 1, as the network takes them."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 4, 4, 3)).astype("float32")
    smooth = keras.ops.convert_to_numpy(keras.ops.image.resize(coarse, (12, 12), interpolation="bicubic"))
    return np.clip(smooth + rng.normal(0, 0.05, smooth.shape), -1, 1).astype("float32")


def judge(bundle: Bundle, samples: np.ndarray, expected: Mapping[str, np.ndarray], directory: Path) -> bool:
    """Returns the verdict on the file of a bundle with other golden samples and the model's outputs for them."""
    (signature,) = bundle.manifest.signatures
    files = {name: (bundle.directory / name).read_bytes() for name in bundle.manifest.files}
    files[signature.inputs[0].golden] = samples.tobytes()
    outputs, tolerance = [], bundle.manifest.tolerance
    for entry in signature.outputs:
        values = expected[entry.name]
        files[entry.golden] = values.tobytes()
        spread, largest = 5 * float(values.std()), float(np.abs(values).max())
        is_relative = tolerance.max_error_lsb is None
        # As `convert` sets it.
        magnitude = spread if is_relative and spread > largest else None
        own = None if is_relative or entry.scale is None else widen_tolerance(tolerance, values, entry.scale)
        outputs.append(dataclasses.replace(entry, magnitude=magnitude, tolerance=own))
    signature = dataclasses.replace(signature, outputs=tuple(outputs), golden_samples=len(samples))
    manifest = dataclasses.replace(bundle.manifest, signatures=(signature,), files={})
    try:
        return kn.verify(write_bundle(directory, manifest, files)).ok
    except VerificationError:
        return False


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("verdicts draws", __doc__)
    parser.add_argument("--draws", type=int, default=200, metavar="N", help="draws for each recipe; 200 by default")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="the unpacked package mtcnn 1.0.0")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a row for each recipe; returns the number of draws with another verdict than all samples."""
    options = build_parser().parse_args(arguments)
    model, test = p_net(options.weights), windows(SAMPLES, seed=1)
    expected = dict(zip(model.output_names, model.predict(test, verbose=0), strict=True))
    print("| recipe | all 300 samples | draws with another verdict |\n|---|---|---|", flush=True)
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        for recipe in RECIPES:
            calibration = {"calibration": windows(SAMPLES, seed=2)} if recipe in ("static_int8", "int16x8") else {}
            bundle = kn.convert(model, Path(folder) / recipe, recipe, golden=test[:GOLDEN], **calibration)
            verdict = judge(bundle, test, expected, Path(folder) / f"{recipe}_all")
            verdicts = []
            for seed in range(options.draws):
                draw = np.random.default_rng(seed).choice(SAMPLES, GOLDEN, replace=False)
                drawn = {name: values[draw] for name, values in expected.items()}
                verdicts.append(judge(bundle, test[draw], drawn, Path(folder) / f"{recipe}_{seed}"))
            count = sum(own != verdict for own in verdicts)
            different += count
            print(f"| {recipe} | {'ok' if verdict else 'refused'} | {count} of {options.draws} |", flush=True)
    return different


if __name__ == "__main__":
    sys.exit(main())
