"""Helpers of the tests of bundles: a small problem and a net for it, and ways to copy, change and run bundles."""

from __future__ import annotations

import copy
import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes._litert.model import Graph, Operator, Tensor, TfliteFile
from keras_notes.bundle import Bundle, open_bundle

ROOT = Path(__file__).resolve().parent.parent.parent
RUNNER = ROOT / "tflite" / "python" / "run.py"
SCHEMA = ROOT / "tflite" / "bundle.schema.json"
TESTDATA = ROOT / "tflite" / "testdata" / "bars_static_int8"

LABELS = ("row", "column", "diagonal", "blob")
MODEL_FILE = "model.tflite"
GOLDEN_INPUT = "golden/serving_default.input.image.bin"
GOLDEN_OUTPUT = "golden/serving_default.output.output.bin"

# Operators for `drawn_file`: from the float edge to integers, and back.
QUANTIZE, DEQUANTIZE = ("QUANTIZE", False, (0,), (1,)), ("DEQUANTIZE", False, (1,), (0,))

# A runner in a process where the libraries of the training side cannot be imported.
_DEVICE = """
import runpy, sys
for name in ("keras", "keras_notes", "tensorflow"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
# As Python itself does for a program that is called by its path.
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bars(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8x8 images of a row, a column, the diagonal or a blob: x of (samples, 8, 8, 1), and the class ids."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(LABELS), samples)
    images = rng.normal(0.0, 0.3, (samples, 8, 8, 1)).astype("float32")
    for image, class_id, place in zip(images, classes, rng.integers(1, 7, samples), strict=True):
        row, column = (
            (place, slice(None)),
            (slice(None), place),
            (range(8), range(8)),
            (slice(place - 1, place + 2), slice(place - 1, place + 2)),
        )[class_id]
        image[row, column, 0] += 1.0
    return images, classes


def trained_net(seed: int) -> keras.Model:
    """A CNN of 372 weights that tells `bars` apart; logits out."""
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(len(LABELS)),
        ],
        name="bars",
    )
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(*bars(1000, seed), epochs=5, batch_size=32, verbose=0)
    return net


def output_lsb(bundle: Bundle) -> float:
    """The step of the first output's integer grid."""
    scale = bundle.manifest.signatures[0].outputs[0].scale
    if scale is None:
        raise ValueError("The bundle must be quantized.")
    return scale


def edit_manifest(directory: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Changes model.json in place, its own hash included: damage that no hash shows."""
    path = directory / "model.json"
    manifest = json.loads(path.read_text())
    manifest["manifest_sha256"] = "0" * 64
    edit(manifest)
    content = json.dumps(manifest)
    if manifest.get("manifest_sha256") == "0" * 64:
        content = content.replace("0" * 64, hashlib.sha256(content.encode()).hexdigest(), 1)
    path.write_text(content)


def rewrite(directory: Path, name: str, content: bytes) -> None:
    """Replaces a file of a bundle, and its size and hash in the manifest: damage that no hash shows."""
    (directory / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(directory, lambda manifest: manifest["files"].update({name: entry}))


def rewrite_golden(directory: Path, change: Callable[[np.ndarray], np.ndarray], name: str = GOLDEN_OUTPUT) -> None:
    """Replaces the values of a golden float32 file by `change(values)`, hash included."""
    values = np.fromfile(directory / name, dtype="<f4")
    rewrite(directory, name, change(values).astype("<f4").tobytes())


def shift_golden_by_2_lsb(directory: Path, limit: float) -> None:
    """Moves the golden outputs by 2 LSB, and gives the output a tolerance of its own: its largest error in LSB."""
    lsb = output_lsb(open_bundle(directory))
    rewrite_golden(directory, lambda values: values + 2 * lsb)
    limits = ("max_error", "rms_error", "max_error_lsb", "rms_error_lsb", "mean_error_lsb")
    own = {**dict.fromkeys(limits), "max_error_lsb": limit}
    edit_manifest(directory, lambda m: m["signatures"][0]["outputs"][0].update(tolerance=own))


def append_operator(model: Any, name: str, inputs: list[int], outputs: list[int]) -> None:
    """Appends a builtin operator to the main graph of a model, as `flatbuffer_utils.read_model` gives it."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), inputs, outputs
    model.operatorCodes.append(code)
    model.subgraphs[0].operators.append(operator)


def add_signature(directory: Path, name: str, shift: float) -> None:
    """Adds a second signature of the same tensors, whose golden outputs are those of the first plus `shift`."""
    model = flatbuffer_utils.read_model(str(directory / MODEL_FILE))
    second = copy.deepcopy(model.signatureDefs[0])
    second.signatureKey = name
    model.signatureDefs.append(second)
    rewrite(directory, MODEL_FILE, bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    shifted = f"golden/{name}.output.output.bin"
    rewrite(directory, shifted, (directory / GOLDEN_OUTPUT).read_bytes())
    rewrite_golden(directory, lambda values: values + np.float32(shift), shifted)

    def edit(manifest: dict[str, Any]) -> None:
        entry = copy.deepcopy(manifest["signatures"][0])
        entry["name"], entry["outputs"][0]["golden"] = name, shifted
        manifest["signatures"].append(entry)

    edit_manifest(directory, edit)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by relative path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def copied(bundle: Bundle | Path, directory: Path) -> Path:
    """A copy of a bundle, to damage."""
    return Path(shutil.copytree(bundle.directory if isinstance(bundle, Bundle) else bundle, directory))


def drawn_file(*operators: tuple[str, bool, tuple[int, ...], tuple[int, ...]]) -> TfliteFile:
    """A .tflite file drawn by hand, of four tensors: 0 is float32, 1 is int8, 2 is float16, 3 a float32 weight."""
    tensors = (
        Tensor("block/a float32", "float32", (1, 2), None, None, False),
        Tensor("an int8", "int8", (1, 2), 0.5, 0, False),
        Tensor("a float16", "float16", (1, 2), None, None, False),
        Tensor("a weight", "float32", (2, 2), None, None, True),
    )
    return TfliteFile((Graph(tensors, tuple(Operator(*operator) for operator in operators)),))


def runner_module() -> SimpleNamespace:
    """The functions of tflite/python/run.py, which is a program and in no package."""
    return SimpleNamespace(**runpy.run_path(str(RUNNER), run_name="runner"))


def run_device(*arguments: Any, script: Path = RUNNER) -> subprocess.CompletedProcess[str]:
    """Runs tflite/python/run.py where neither Keras, TensorFlow nor keras_notes can be imported."""
    command = [sys.executable, "-c", _DEVICE, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def error_lines(stderr: str) -> list[str]:
    """The lines on stderr but those that LiteRT and TensorFlow log."""
    logged = ("INFO: ", "WARNING: All log messages", "I0000", "W0000")
    return [line for line in stderr.splitlines() if line.strip() and not line.startswith(logged)]


def interpreter(model: Path, resolver: OpResolverType = OpResolverType.BUILTIN_REF, **options: Any) -> Interpreter:
    """LiteRT on a .tflite file, ready to run; on the portable reference kernels unless told otherwise."""
    runtime = Interpreter(str(model), num_threads=1, experimental_op_resolver_type=resolver, **options)
    runtime.allocate_tensors()
    return runtime


@contextmanager
def failing_after(monkeypatch, owner: Any, name: str, calls: int) -> Iterator[None]:
    """Lets `owner.name` work `calls` times, then raise OSError once, as a full disk that is cleared at last."""
    original, calls_made = getattr(owner, name), []

    def limited(*arguments: Any, **options: Any) -> Any:
        calls_made.append(name)
        if len(calls_made) == calls + 1:
            raise OSError("No space left on device")
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, limited)
        yield
