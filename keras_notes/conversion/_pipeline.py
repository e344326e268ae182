"""Makes the file of each number format: SavedModel -> float file -> ranges -> quantized file, each step once."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_notes._litert.model import TfliteFile
from keras_notes._litert.reader import read_tflite
from keras_notes._shared.layer_patterns import Path as LayerPath
from keras_notes.compression import CompressedModel
from keras_notes.conversion._recipes import Plan
from keras_notes.conversion.graph._deploy_graph import DeployGraph, save_graphs
from keras_notes.conversion.graph._layer_lowerings import differs_for_integers
from keras_notes.conversion.graph._recurrent_lowerings import check_lowering, lowering_of, recurrent_layers
from keras_notes.conversion.passes._deduplicate_buffers import share_buffers
from keras_notes.conversion.passes._fake_quant import take_marks
from keras_notes.conversion.passes._gather_reversals import gather_reversals
from keras_notes.conversion.passes._lower_masks import lower_masks
from keras_notes.conversion.passes._name_tensors import name_by_layer, path_in_file
from keras_notes.conversion.passes._restore_trained_integers import TrainedWeights, with_trained_integers
from keras_notes.conversion.passes._set_edge_types import with_edges
from keras_notes.conversion.workers._job import Job
from keras_notes.errors import ConversionError

__all__ = ["Converted", "FileMaker"]


@dataclass(frozen=True)
class Converted:
    """The file as asked for, and the one in float32 that it was made of; tensors have the same names in both."""

    tflite: bytes
    float_tflite: bytes


class FileMaker:
    """Deploy graphs on their way to files, a signature each; what several recipes need is made for the first of them.

    Args:
        graphs: The deploy graphs.
        batch_size: 1, or None for any.
        calibration: Samples of each input, states included, by signature; empty where no recipe needs ranges.
        lowering: What recurrent layers become, as for `convert`.

    Raises:
        ValueError: If `lowering` names no recurrent layer of the model, or no lowering.
    """

    def __init__(
        self,
        graphs: tuple[DeployGraph, ...],
        batch_size: int | None,
        calibration: Mapping[str, Mapping[str, np.ndarray]],
        lowering: str | Mapping[str, str] = "auto",
    ) -> None:
        self._graphs = graphs
        self._batch_size = batch_size
        self._calibration = calibration
        self._integers_differ = any(map(differs_for_integers, self._layers()))
        self._recurrent_paths = self._paths_of_recurrent_layers()
        self._lowering = check_lowering(lowering, [path for paths in self._recurrent_paths.values() for path in paths])
        self._float_files: dict[str, bytes] = {}
        self._ranges: dict[bytes, dict[str, list]] = {}

    @property
    def is_trained(self) -> bool:
        """Whether the model is quantization-aware: its ranges are in its graph."""
        return any(isinstance(layer, CompressedModel) and layer.scheme is not None for layer in self._layers())

    def make(self, plan: Plan, edges: str) -> Converted:
        """Makes the file of a plan, with inputs and outputs of the type `edges`.

        Raises:
            ConversionError: If a program refuses the model or its process dies; says which model and recipe.
        """
        float_tflite = self._float_file(plan)
        if plan.default.name == "float32" and not plan.layers:
            return Converted(float_tflite, float_tflite)
        if _is_fused(self._recurrent(plan)):
            return Converted(with_edges(self._fused_int8(plan), edges), float_tflite)
        ranges: dict[str, list] = {}
        if self.is_trained:
            float_tflite, ranges = take_marks(float_tflite, plan.default.activations == "int16")
        elif plan.needs_calibration:
            float_tflite = gather_reversals(float_tflite)
            ranges = self._ranges_of(float_tflite, plan)
            lowered = lower_masks(float_tflite, ranges, lambda name: plan.recipe_of(name).is_integer)
            if lowered != float_tflite:
                float_tflite, ranges = lowered, self._ranges_of(lowered, plan)
        with self._job(plan) as job:
            (job.directory / "float.tflite").write_bytes(float_tflite)
            (job.directory / "ranges.json").write_text(json.dumps(ranges))
            file = read_tflite(job.directory / "float.tflite")
            job.settle(recipe=plan.default.name, by_operator=_by_operator(file, plan))
            job.settle(float_edges=_float_edges(file, plan))
            job.run("_run_quantizer.py", gives="quantized.tflite")
            quantized = (job.directory / "quantized.tflite").read_bytes()
            for model in self._layers():
                if isinstance(model, CompressedModel):
                    kernels, grids = model.integers()
                    trained = [TrainedWeights(*kernel) for kernel in kernels]
                    quantized = with_trained_integers(quantized, float_tflite, trained, grids)
            return Converted(share_buffers(with_edges(quantized, edges)), float_tflite)

    def _float_file(self, plan: Plan) -> bytes:
        forms = self._forms(plan)
        key = json.dumps(forms)
        if key not in self._float_files:
            with self._job(plan) as job:
                self._save(job, **forms)
                job.settle(int8=False)
                job.run("_run_converter.py", gives="float.tflite")
                self._float_files[key] = self._named((job.directory / "float.tflite").read_bytes())
        return self._float_files[key]

    def _forms(self, plan: Plan) -> dict[str, Any]:
        """What layers shall compute in the deploy graph."""
        recurrent = self._recurrent(plan)
        if _is_fused(recurrent):
            _check_fused(plan, self._batch_size)
        return {"integers": plan.needs_calibration and self._integers_differ, "recurrent": recurrent}

    def _recurrent(self, plan: Plan) -> dict[str, dict[str, str]]:
        """The forms of the recurrent layers, by signature and path."""
        return {
            graph.signature: {
                "/".join(path): self._form_of(layer, plan) for path, layer in recurrent_layers(graph.model).items()
            }
            for graph in self._graphs
        }

    def _form_of(self, layer: keras.layers.RNN, plan: Plan) -> str:
        """The form of a recurrent layer, which is the same wherever the layer is used."""
        paths = self._recurrent_paths[id(layer)]
        return lowering_of(layer, paths, self._lowering, any(plan.recipe_at(path).is_integer for path in paths))

    def _paths_of_recurrent_layers(self) -> dict[int, list[LayerPath]]:
        """The paths of each recurrent layer, by its `id`, as its tensors name them in the file."""
        paths: dict[int, list[LayerPath]] = defaultdict(list)
        for graph in self._graphs:
            for path, layer in recurrent_layers(graph.model).items():
                paths[id(layer)].append(path_in_file(path, self._model_names()))
        return paths

    def _fused_int8(self, plan: Plan) -> bytes:
        """By the converter's own quantization: ai-edge-quantizer does not know the operator."""
        with self._job(plan) as job:
            self._save(job, **self._forms(plan))
            self._save_calibration(job)
            job.settle(int8=True)
            job.run("_run_converter.py", gives="quantized.tflite")
            return self._named((job.directory / "quantized.tflite").read_bytes())

    def _named(self, tflite: bytes) -> bytes:
        return name_by_layer(tflite, self._model_names(), {layer.name for layer in self._layers()})

    def _model_names(self) -> set[str]:
        return {graph.model.name for graph in self._graphs}

    def _ranges_of(self, float_tflite: bytes, plan: Plan) -> dict[str, list]:
        if float_tflite not in self._ranges:
            with self._job(plan) as job:
                (job.directory / "float.tflite").write_bytes(float_tflite)
                job.settle(signatures=self._inputs())
                self._save_calibration(job)
                job.run("_run_calibrator.py", gives="ranges.json")
                self._ranges[float_tflite] = json.loads((job.directory / "ranges.json").read_text())
        return self._ranges[float_tflite]

    def _save_calibration(self, job: Job) -> None:
        for number, graph in enumerate(self._graphs):
            # By position: `np.savez` takes names as keywords, and an input may be called "file".
            np.savez(job.directory / f"calibration_{number}.npz", *self._calibration[graph.signature].values())

    def _save(self, job: Job, **forms: Any) -> None:
        """Writes the SavedModel; by a TensorFlow process, where Keras runs on another backend here."""
        job.settle(signatures=self._inputs())
        if keras.backend.backend() == "tensorflow":
            save_graphs(self._graphs, job.directory / "saved_model", batch_size=self._batch_size, **forms)
            return
        job.settle(batch_size=self._batch_size, **forms)
        job.settle(output_names={graph.signature: list(graph.output_names) for graph in self._graphs})
        job.settle(modules=self._modules(), paths=[path for path in sys.path if path])
        for number, graph in enumerate(self._graphs):
            graph.model.save(job.directory / f"model_{number}.keras")
        job.run("_run_exporter.py", gives="saved_model")

    def _modules(self) -> list[str]:
        """The modules that define the layers which are not Keras's.

        Raises:
            ConversionError: If one is defined in the program itself, which another process cannot import.
        """
        custom = {kind for kind in map(type, self._layers()) if not kind.__module__.startswith("keras.")}
        if own := sorted(kind.__name__ for kind in custom if kind.__module__ == "__main__"):
            raise ConversionError(
                f"On the backend {keras.backend.backend()!r}, custom layers must stand in a module, which the "
                f"converter's process imports. Received: {own}, defined in the program itself. Move them to a module, "
                f"registered by @keras.saving.register_keras_serializable()."
            )
        return sorted({kind.__module__ for kind in custom})

    def _inputs(self) -> dict[str, list[str]]:
        return {graph.signature: [*graph.input_specs, *graph.state_specs] for graph in self._graphs}

    def _layers(self) -> Iterator[keras.Layer]:
        for graph in self._graphs:
            yield from graph.model._flatten_layers(include_self=False)

    @contextmanager
    def _job(self, plan: Plan) -> Iterator[Job]:
        subject = f"The model {self._graphs[0].model.name!r}"
        with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
            yield Job(Path(directory), f"{subject} could not be converted with the recipe {plan.default.name!r}")


def _is_fused(recurrent: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a recurrent layer becomes a fused operator, of the forms by signature and path."""
    return any("fused" in forms.values() for forms in recurrent.values())


def _check_fused(plan: Plan, batch_size: int | None) -> None:
    """Raises ConversionError if no quantizer makes such a file, or the operator cannot run in it."""
    if batch_size != 1:
        raise ConversionError("`batch_size` must be 1 for a fused LSTM. Received: batch_size=None.")
    if plan.layers or plan.default.name not in ("float32", "static_int8"):
        raise ConversionError(
            f"A fused LSTM must have the recipe 'float32' or 'static_int8', without exceptions by layer. "
            f"Received: {plan.default.name!r}{f' with {sorted(plan.layers)}' if plan.layers else ''}. Use the "
            f"lowering 'loop'."
        )


def _float_edges(file: TfliteFile, plan: Plan) -> list[str]:
    """Which of "INPUT" and "OUTPUT" stay in floating point, because an operator there does."""
    sides = set()
    for signature in file.signatures:
        graph = file.graph(signature)
        for operator in graph.operators:
            if plan.recipe_of(graph.tensors[operator.outputs[0]].name).is_integer:
                continue
            if {*signature.inputs.values()} & {*operator.inputs}:
                sides.add("INPUT")
            if {*signature.outputs.values()} & {*operator.outputs}:
                sides.add("OUTPUT")
    return sorted(sides)


def _by_operator(file: TfliteFile, plan: Plan) -> dict[str, str]:
    """The recipe of each operator that has another one than the default.

    Raises:
        ConversionError: If a loop is to compute in integers.
    """
    recipes: dict[str, str] = {}
    matched: set[str] = set()
    for graph in file.graphs:
        for operator in graph.operators:
            scope = ";".join(graph.tensors[index].name for index in operator.outputs if index >= 0)
            recipe = plan.recipe_of(scope.split(";")[0])
            matched.update(plan.patterns_of(scope.split(";")[0]))
            if operator.name == "WHILE" and recipe.is_integer:
                layer = scope.split("/")[0]
                raise ConversionError(
                    f"A loop must not compute in integers: nothing can see the ranges in it. Received: {scope!r} with "
                    f"the recipe {recipe.name!r}. Declare the layer, recipe={{'default': {plan.default.name!r}, "
                    f"'layers': {{{layer!r}: 'dynamic_int8'}}}}, or write its steps out, lowering={{{layer!r}: "
                    f"'unrolled'}}, which takes memory for each."
                )
            if recipe != plan.default:
                recipes[scope] = recipe.name
    if unmatched := sorted(set(plan.layers) - matched):
        raise ConversionError(
            f"`recipe['layers']` must name layers of the model. Received: {unmatched}, which no operator of it matches."
        )
    return recipes
