"""Runs the converter and the quantizer, each in a process of its own, and tells what became of them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_notes._tflite_file import TfliteFile
from keras_notes._tflite_reader import read_tflite
from keras_notes.conversion._deploy_graph import DeployGraph, save_graphs
from keras_notes.conversion._edges import with_edges
from keras_notes.conversion._names import name_by_layer
from keras_notes.conversion._recipes import Plan
from keras_notes.errors import ConversionError

__all__ = ["Converted", "convert_in_worker"]

_PROGRAMS = Path(__file__).parent
_log = logging.getLogger(__name__)
# The last line of a Python traceback: "package.SomeError: reason".
_EXCEPTION_LINE = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
_LONGEST_REASON = 600
_SIGNAL_HINTS = {
    signal.SIGKILL: "Likely cause: the machine ran out of memory. Give fewer calibration samples.",
}


@dataclass(frozen=True)
class Converted:
    """The file as asked for, and the one in float32 that it was made of; tensors have the same names in both."""

    tflite: bytes
    float_tflite: bytes


def convert_in_worker(
    graphs: tuple[DeployGraph, ...],
    plan: Plan,
    edges: str,
    calibration: Mapping[str, Mapping[str, np.ndarray]],
    batch_size: int | None,
) -> Converted:
    """Converts graphs to one file, a signature each.

    Args:
        graphs: The deploy graphs.
        plan: The number formats.
        edges: The type of the inputs and outputs.
        calibration: Samples of each input, states included, by signature; empty where the plan needs none.
        batch_size: 1, or None for any.

    Raises:
        ConversionError: If a program refuses the model or its process dies; says which model and recipe.
    """
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        job = _Job(Path(directory), f"The model {graphs[0].model.name!r}", plan)
        job.settle(
            signatures={graph.signature: [*graph.input_specs, *graph.state_specs] for graph in graphs},
            output_names={graph.signature: list(graph.output_names) for graph in graphs},
            batch_size=batch_size,
            unroll=plan.needs_calibration,
            recipe=plan.default.name,
        )
        _save(graphs, job)
        job.run("_converter.py", gives="float.tflite")
        layers = {layer.name for graph in graphs for layer in graph.model._flatten_layers(include_self=False)}
        models = {graph.model.name for graph in graphs}
        float_tflite = name_by_layer((job.directory / "float.tflite").read_bytes(), models, layers)
        (job.directory / "float.tflite").write_bytes(float_tflite)
        if plan.default.name == "float32" and not plan.layers:
            return Converted(float_tflite, float_tflite)
        float_file = read_tflite(job.directory / "float.tflite")
        job.settle(by_operator=_by_operator(float_file, plan), integer_edges=_has_integer_edges(float_file, plan))
        for number, graph in enumerate(graphs):
            if graph.signature in calibration:
                # By position: `np.savez` takes names as keywords, and an input may be called "file".
                np.savez(job.directory / f"calibration_{number}.npz", *calibration[graph.signature].values())
        job.run("_quantizer.py", gives="quantized.tflite")
        quantized = (job.directory / "quantized.tflite").read_bytes()
        return Converted(with_edges(quantized, edges), float_tflite)


class _Job:
    """A directory that a program works in, and what it is told."""

    def __init__(self, directory: Path, subject: str, plan: Plan) -> None:
        self.directory = directory
        self._subject, self._plan = subject, plan
        self._settings: dict = {}

    def settle(self, **settings) -> None:
        self._settings.update(settings)
        (self.directory / "job.json").write_text(json.dumps(self._settings))

    def run(self, program: str, gives: str) -> None:
        """Runs a program, which leaves a file or folder in the directory."""
        _log.info("running %s", program.strip("_").removesuffix(".py"))
        result = subprocess.run(
            [sys.executable, str(_PROGRAMS / program), str(self.directory)],
            capture_output=True,
            text=True,
            errors="replace",
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "CUDA_VISIBLE_DEVICES": "-1",
            },
            check=False,
        )
        made = self.directory / gives
        if result.returncode == 0 and made.exists() and made.stat().st_size > 0:
            return
        reason = "its process ended well, but gave no .tflite file."
        if result.returncode != 0:
            reason = _reason(result.returncode, result.stderr)
        raise ConversionError(
            f"{self._subject} could not be converted with the recipe {self._plan.default.name!r}: {reason}"
        )


def _has_integer_edges(file: TfliteFile, plan: Plan) -> bool:
    """Whether what takes the inputs and gives the outputs computes in integers."""
    for signature in file.signatures:
        graph = file.graph(signature)
        edges = {*signature.inputs.values(), *signature.outputs.values()}
        for operator in graph.operators:
            touches = edges & {*operator.inputs, *operator.outputs}
            if touches and not plan.recipe_of(graph.tensors[operator.outputs[0]].name).is_integer:
                return False
    return True


def _by_operator(file: TfliteFile, plan: Plan) -> dict[str, str]:
    """The recipe of each operator that has another one than the default.

    Raises:
        ConversionError: If a loop is to compute in integers.
    """
    recipes: dict[str, str] = {}
    for graph in file.graphs():
        for operator in graph.operators:
            scope = ";".join(graph.tensors[index].name for index in operator.outputs if index >= 0)
            recipe = plan.recipe_of(scope.split(";")[0])
            if operator.name == "WHILE" and recipe.is_integer:
                layer = scope.split("/")[0]
                raise ConversionError(
                    f"A loop must not compute in integers: nothing can see the ranges in it. Received: {scope!r} with "
                    f"the recipe {recipe.name!r}. Declare the layer, recipe={{'default': {plan.default.name!r}, "
                    f"'layers': {{{layer!r}: 'dynamic_int8'}}}}, or give it 32 steps or fewer, which are unrolled."
                )
            if recipe != plan.default:
                recipes[scope] = recipe.name
    if unused := {recipe.name for recipe in plan.layers.values()} - {*recipes.values(), plan.default.name}:
        raise ConversionError(
            f"`recipe['layers']` must name layers of the model. Received: {sorted(plan.layers)}; no operator gets "
            f"{sorted(unused)}."
        )
    return recipes


def _save(graphs: tuple[DeployGraph, ...], job: _Job) -> None:
    """Writes the SavedModel; by a TensorFlow process, where Keras runs on another backend here."""
    settings = json.loads((job.directory / "job.json").read_text())
    if keras.backend.backend() == "tensorflow":
        save_graphs(graphs, job.directory / "saved_model", batch_size=settings["batch_size"], unroll=settings["unroll"])
        return
    job.settle(modules=_modules_of(graphs), paths=[path for path in sys.path if path])
    for number, graph in enumerate(graphs):
        graph.model.save(job.directory / f"model_{number}.keras")
    job.run("_exporter.py", gives="saved_model")


def _modules_of(graphs: tuple[DeployGraph, ...]) -> list[str]:
    """The modules that define the layers which are not Keras's.

    Raises:
        ConversionError: If one is defined in the program itself, which another process cannot import.
    """
    layers = {type(layer) for graph in graphs for layer in graph.model._flatten_layers()}
    custom = {kind for kind in layers if not kind.__module__.startswith("keras.")}
    if own := sorted(kind.__name__ for kind in custom if kind.__module__ == "__main__"):
        raise ConversionError(
            f"On the backend {keras.backend.backend()!r}, custom layers must stand in a module, which the converter's "
            f"process imports. Received: {own}, defined in the program itself. Move them to a module, registered by "
            f"@keras.saving.register_keras_serializable()."
        )
    return sorted({kind.__module__ for kind in custom})


def _reason(returncode: int, stderr: str) -> str:
    if returncode < 0:
        number = signal.Signals(-returncode)
        return f"its process crashed with {number.name}. {_SIGNAL_HINTS.get(number, '')}".rstrip()
    matches = _EXCEPTION_LINE.findall(stderr)
    reason = matches[-1][:_LONGEST_REASON] if matches else stderr.strip()[-_LONGEST_REASON:]
    return reason or f"its process ended with exit code {returncode} and wrote nothing."
