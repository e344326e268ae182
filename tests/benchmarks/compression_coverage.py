"""Which layers quantization-aware training covers, and how nearly the device gives what the Keras model gives.

    python tests/benchmarks/compression.py coverage [--write]

A net for each layer (tests/compression/zoo.py): calibrated on 256 samples of the standard normal distribution, trained
for ten steps of Adam at 1e-3 on random targets, saved and loaded, converted with the recipe int8, and run on 64 samples
by LiteRT, on XNNPACK and on its plain kernels. "equal" is the share of outputs that are the very integers of
`predict`; "largest" the largest difference in LSB. "float" counts operators of the file in floating point.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import keras_notes as kn
from keras_notes.compression import quantize_aware
from keras_notes.errors import KerasNotesError
from tests.compression.zoo import NETS, samples

KERNELS = {
    "XNNPACK": OpResolverType.AUTO,
    "plain": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}
CALIBRATION, RUNS, STEPS = 256, 64, 10


@dataclass(frozen=True)
class Row:
    """What became of a net."""

    name: str
    trains: bool
    loads: bool
    floats: int
    equal: dict[str, float]
    largest: dict[str, float]


def row_of(name: str) -> Row:
    """Trains, saves, converts and runs the net of a layer."""
    keras.utils.set_random_seed(0)
    net = NETS[name]()
    x = samples(net, CALIBRATION)[0]
    model = quantize_aware(net, calibration=x, freeze_after=STEPS - 2)
    targets = np.random.default_rng(1).normal(size=(CALIBRATION, *net.output_shape[1:]))
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
    before = model.evaluate(x, targets, verbose=0)
    model.fit(x, targets, batch_size=CALIBRATION, epochs=STEPS, verbose=0)
    with tempfile.TemporaryDirectory() as directory:
        model.save(Path(directory) / "model.keras")
        loaded = keras.models.load_model(Path(directory) / "model.keras")
        wanted = model.predict(x[:RUNS], verbose=0)
        loads = bool(np.array_equal(loaded.predict(x[:RUNS], verbose=0), wanted))
        bundle = kn.convert(model, Path(directory) / "bundle", golden=x[:RUNS])
        floats = len(kn.verify(bundle).float_islands)
        errors = {kernels: _errors(bundle, x[:RUNS], wanted, resolver) for kernels, resolver in KERNELS.items()}
    return Row(
        name,
        model.evaluate(x, targets, verbose=0) < before,
        loads,
        floats,
        {kernels: float(np.mean(error < 0.5)) for kernels, error in errors.items()},
        {kernels: float(error.max()) for kernels, error in errors.items()},
    )


def _errors(bundle: kn.Bundle, x: np.ndarray, wanted: np.ndarray, resolver: OpResolverType) -> np.ndarray:
    """The differences of device and model, in steps of the output."""
    interpreter = Interpreter(str(bundle.directory / "model.tflite"), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    inside, outside = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    found = []
    for sample in x:
        interpreter.set_tensor(inside, sample[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(outside)[0])
    step = bundle.manifest.signatures[0].outputs[0].scale or _step(interpreter)
    return np.abs(np.array(found) - wanted) / step


def _step(interpreter: Interpreter) -> float:
    """The scale of the last tensor of integers: what the output is made of."""
    operators = interpreter._get_ops_details()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    return float(details[int(operators[-1]["inputs"][0])]["quantization"][0])


def main(path: Path | None, names: list[str]) -> None:
    """Prints the table, and writes it if there is a path."""
    lines = [
        "| layer | trains | loads equal | float operators | equal, XNNPACK | largest | equal, plain | largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names or list(NETS):
        try:
            row = row_of(name)
            cells = [name, _word(row.trains), _word(row.loads), str(row.floats)]
            for kernels in KERNELS:
                cells += [f"{row.equal[kernels]:.4f}", f"{row.largest[kernels]:.0f}"]
        except (KerasNotesError, ValueError) as error:
            cells = [name, f"refused: {error}", *[""] * 6]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        keras.backend.clear_session()
    if path is not None:
        path.write_text(
            "\n".join(["# Coverage of quantization-aware training", "", (__doc__ or "").strip(), "", *lines, ""])
        )


def _word(holds: bool) -> str:
    return "yes" if holds else "NO"
