"""The pipeline from deploy graphs to .tflite files: SavedModel -> float file -> ranges -> quantized file.

Each file that comes back from a program is read once; passes over its objects do the rest (`passes`).
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_notes._litert.reader import describe_model
from keras_notes.compression import CompressedModel
from keras_notes.conversion._quantizer_settings import (
    check_fused,
    find_float_edges,
    find_recipes_by_operator,
    fit_to_kernels,
    is_fused,
)
from keras_notes.conversion._recipes import RecipeByLayer
from keras_notes.conversion.graph._deploy_graph import DeployGraph
from keras_notes.conversion.graph._names_in_file import (
    integer_forms,
    layer_names,
    layers_in,
    missing_operations,
    paths_in_file,
    recurrent_paths,
)
from keras_notes.conversion.graph._recurrent_lowerings import choose_lowering, parse_lowering, recurrent_layers
from keras_notes.conversion.graph._unconvertible import describe_missing_operations
from keras_notes.conversion.grids._comparisons import compare_on_one_grid
from keras_notes.conversion.grids._fit_biases import fit_biases
from keras_notes.conversion.grids._fused_grids import fit_fused_grids
from keras_notes.conversion.passes._deduplicate_buffers import deduplicate_buffers, separate_weights
from keras_notes.conversion.passes._embedding_lookups import lookup_embeddings
from keras_notes.conversion.passes._fake_quant import strip_fake_quant
from keras_notes.conversion.passes._gather_reversals import gather_reversals
from keras_notes.conversion.passes._lower_masks import lower_masks
from keras_notes.conversion.passes._model_file import ModelFile, Pass
from keras_notes.conversion.passes._name_tensors import name_tensors
from keras_notes.conversion.passes._restore_trained_integers import TrainedWeights, restore_trained_integers
from keras_notes.conversion.passes._schema import TensorRange
from keras_notes.conversion.passes._select_integers import select_integers
from keras_notes.conversion.passes._set_edge_types import restore_outputs, set_edge_types
from keras_notes.conversion.passes._shrink_tables import shrink_tables
from keras_notes.conversion.passes._stand_ins import StandIns
from keras_notes.conversion.workers._export import Forms, input_names, save_model
from keras_notes.conversion.workers._job import Job
from keras_notes.errors import ConversionError

__all__ = ["ConversionPipeline", "ConvertedFiles"]


@dataclass(frozen=True)
class ConvertedFiles:
    """The files of a conversion.

    Attributes:
        file: The file with the number formats of the recipe.
        reference: The float32 file that `file` was made of, with the same names of tensors; None if nothing in `file`
            was quantized.
        recipes: The number formats, with the operators that compute in float32 because integers do not serve them.
    """

    file: ModelFile
    reference: ModelFile | None
    recipes: RecipeByLayer


class _Calibrated(NamedTuple):
    """A float file, and the range of each of its tensors."""

    file: ModelFile
    ranges: dict[str, TensorRange]


class ConversionPipeline:
    """Converts deploy graphs, a signature each, by one recipe or several; steps that recipes share run once.

    Args:
        graphs: The deploy graphs.
        batch_size: 1, or None for any.
        calibration: Samples of each input, states included, by signature; empty if no recipe needs ranges.
        lowering: The form of recurrent layers, as for `convert`.
        input_ranges: The smallest and the largest value of inputs, by name, in place of the measured ones.

    Raises:
        ValueError: If `lowering` names no recurrent layer of the model, or no lowering.
    """

    def __init__(
        self,
        graphs: tuple[DeployGraph, ...],
        batch_size: int | None,
        calibration: Mapping[str, Mapping[str, np.ndarray]],
        lowering: str | Mapping[str, str] = "auto",
        input_ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self._graphs = graphs
        self._limits = input_ranges or {}
        self._batch_size = batch_size
        self._calibration = calibration
        self._recurrent_paths = recurrent_paths(self._graphs)
        self._lowering = parse_lowering(lowering, [path for paths in self._recurrent_paths.values() for path in paths])
        self._naming_pass = functools.partial(name_tensors, names=layer_names(graphs))
        self._float_files: dict[str, ModelFile] = {}
        self._calibrated: dict[str, _Calibrated] = {}

    @property
    def is_trained(self) -> bool:
        """Whether the model is quantization-aware: its ranges are in its graph."""
        return any(isinstance(layer, CompressedModel) and layer.scheme is not None for layer in layers_in(self._graphs))

    def run(self, recipes: RecipeByLayer, edges: str) -> ConvertedFiles:
        """Converts the deploy graphs.

        Args:
            recipes: The number formats.
            edges: The type of the inputs and outputs.

        Raises:
            ConversionError: If a program refuses the model or its process dies; names the model and the recipe.
        """
        float_file = self._convert_to_float(recipes)
        if recipes.default.name == "float32" and not recipes.layers:
            return ConvertedFiles(float_file.copy(), None, recipes)
        if is_fused(self._recurrent_forms(recipes)):
            return self._convert_to_fused_int8(recipes, edges, float_file)
        if self.is_trained:
            calibrated = self._strip_trained_ranges(float_file, recipes)
        elif recipes.needs_calibration:
            calibrated = self._lower_masks(self._calibrate(float_file, recipes), recipes)
        else:
            calibrated = _Calibrated(float_file, {})
        return self._quantize(calibrated, recipes, edges)

    def _convert_to_float(self, recipes: RecipeByLayer) -> ModelFile:
        """Converts the graphs to a file in float32, its tensors named after layers."""
        forms = self._forms(recipes)
        key = json.dumps(forms)
        if key not in self._float_files:
            with self._job(recipes) as job:
                save_model(job, self._graphs, self._batch_size, forms)
                path = self._run_converter(job, "float.tflite", int8=False)
                file = ModelFile(path.read_bytes())
            file.run_passes([self._naming_pass])
            self._float_files[key] = file
        return self._float_files[key]

    def _calibrate(self, float_file: ModelFile, recipes: RecipeByLayer) -> _Calibrated:
        """Measures the range of each tensor over the calibration samples."""
        key = json.dumps(self._forms(recipes))
        if key not in self._calibrated:
            file = float_file.copy()
            file.run_passes([gather_reversals])
            self._calibrated[key] = _Calibrated(file, self._measure_ranges(file, recipes))
        return self._calibrated[key]

    def _lower_masks(self, calibrated: _Calibrated, recipes: RecipeByLayer) -> _Calibrated:
        """Lowers the masks in the layers that compute in integers, and measures the ranges again."""
        integer_layers = {pattern: recipe.is_integer for pattern, recipe in recipes.layers.items()}
        key = json.dumps([self._forms(recipes), recipes.default.is_integer, integer_layers])
        if key not in self._calibrated:
            file = calibrated.file.copy()

            def run_pass(model: schema.ModelT) -> bool:
                return lower_masks(model, calibrated.ranges, lambda name: recipes.recipe_of(name).is_integer)

            if file.run_passes([run_pass]):
                calibrated = _Calibrated(file, self._measure_ranges(file, recipes))
            self._calibrated[key] = calibrated
        return self._calibrated[key]

    def _strip_trained_ranges(self, float_file: ModelFile, recipes: RecipeByLayer) -> _Calibrated:
        """Takes the trained ranges of a quantization-aware model out of its file."""
        file, ranges = float_file.copy(), dict[str, TensorRange]()
        symmetric = recipes.default.activations == "int16"
        file.run_passes([functools.partial(strip_fake_quant, ranges=ranges, symmetric=symmetric)])
        return _Calibrated(file, ranges)

    def _quantize(self, calibrated: _Calibrated, recipes: RecipeByLayer, edges: str) -> ConvertedFiles:
        """Quantizes a float file."""
        float_file, ranges = self._lookup_embeddings(calibrated.file, recipes), calibrated.ranges
        if not self.is_trained and recipes.needs_calibration:
            ranges, recipes = fit_to_kernels(float_file.model, ranges, recipes, edges, self._calibration, self._limits)
        description = describe_model(float_file.model)
        stand_ins = StandIns(float_file.model, dict(ranges), recipes.integers_of, self.is_trained)
        known_file = float_file.copy()
        if not known_file.run_passes([stand_ins.insert, separate_weights]):
            known_file = float_file  # which is then written once
        known_tflite = known_file.to_bytes()
        with self._job(recipes) as job:
            (job.directory / "float.tflite").write_bytes(known_tflite)
            (job.directory / "ranges.json").write_text(json.dumps(stand_ins.ranges))
            path = job.run(
                "_run_quantizer.py",
                "quantized.tflite",
                recipe=recipes.default.name,
                by_operator=find_recipes_by_operator(
                    description,
                    recipes,
                    paths_in_file(self._graphs),
                    trained=self.is_trained,
                    loop_forms=integer_forms(self._graphs, fused=self._can_be_fused(recipes)),
                ),
                float_edges=find_float_edges(description, recipes),
            )
            tflite = path.read_bytes()
        file = ModelFile(tflite)
        changed = file.run_passes(
            [
                restore_outputs,
                functools.partial(fit_biases, float_model=float_file.model),
                *self._restoring_passes(float_file),
                functools.partial(shrink_tables, float_model=float_file.model, is_trained=self.is_trained),
                stand_ins.replace,
                functools.partial(compare_on_one_grid, float_model=float_file.model),
                select_integers,
                functools.partial(set_edge_types, edges=edges),
                deduplicate_buffers,
            ]
        )
        is_quantized = changed or tflite != known_tflite
        return ConvertedFiles(file, float_file if is_quantized else None, recipes)

    def _lookup_embeddings(self, float_file: ModelFile, recipes: RecipeByLayer) -> ModelFile:
        """Looks the tables up that get another type than their rows, so that they become small."""

        def is_lookup(name: str) -> bool:
            recipe = recipes.recipe_of(name)
            return recipe.name != "float32" and not recipe.is_integer

        file = float_file.copy()
        return file if file.run_passes([functools.partial(lookup_embeddings, is_lookup=is_lookup)]) else float_file

    def _restoring_passes(self, float_file: ModelFile) -> Iterator[Pass]:
        """Yields the passes that restore the integers of quantization-aware models."""
        for layer in layers_in(self._graphs):
            if isinstance(layer, CompressedModel):
                kernels, grids = layer.integers()
                trained = [TrainedWeights(*kernel) for kernel in kernels]
                yield functools.partial(
                    restore_trained_integers, float_model=float_file.model, trained=trained, grids=grids
                )

    def _convert_to_fused_int8(self, recipes: RecipeByLayer, edges: str, float_file: ModelFile) -> ConvertedFiles:
        """Converts by the converter's own quantization: ai-edge-quantizer does not know the fused operator."""
        with self._job(recipes) as job:
            save_model(job, self._graphs, self._batch_size, self._forms(recipes))
            self._save_calibration(job)
            path = self._run_converter(job, "quantized.tflite", int8=True)
            file = ModelFile(path.read_bytes())
        file.run_passes([self._naming_pass, fit_fused_grids, functools.partial(set_edge_types, edges=edges)])
        return ConvertedFiles(file, float_file, recipes)

    def _run_converter(self, job: Job, gives: str, *, int8: bool) -> Path:
        """Runs the converter; if it lacks operations, the error names their layers."""
        try:
            return job.run("_run_converter.py", gives, signatures=input_names(self._graphs), int8=int8)
        except ConversionError as error:
            operations = missing_operations(job.directory / "lacking.json", self._graphs)
            described = describe_missing_operations(self._graphs[0].model, operations, job.failure)
            raise (described or error) from error

    def _measure_ranges(self, file: ModelFile, recipes: RecipeByLayer) -> dict[str, TensorRange]:
        with self._job(recipes) as job:
            (job.directory / "float.tflite").write_bytes(file.to_bytes())
            self._save_calibration(job)
            path = job.run("_run_calibrator.py", "ranges.json", signatures=input_names(self._graphs))
            return {name: TensorRange(*values) for name, values in json.loads(path.read_text()).items()}

    def _forms(self, recipes: RecipeByLayer) -> Forms:
        recurrent = self._recurrent_forms(recipes)
        if is_fused(recurrent):
            check_fused(recipes, self._batch_size)
        return {"recurrent": recurrent}

    def _recurrent_forms(self, recipes: RecipeByLayer) -> dict[str, dict[str, str]]:
        """Returns the forms of the recurrent layers, by signature and path."""
        return {
            graph.signature: {
                "/".join(path): self._form_of(layer, recipes) for path, layer in recurrent_layers(graph.model).items()
            }
            for graph in self._graphs
        }

    def _form_of(self, layer: keras.layers.RNN, recipes: RecipeByLayer) -> str:
        """Returns the form of a recurrent layer, which is the same wherever the layer is used."""
        paths = self._recurrent_paths[id(layer)]
        integers = any(recipes.recipe_at(path).is_integer for path in paths)
        return choose_lowering(layer, paths, self._lowering, integers=integers)

    def _can_be_fused(self, recipes: RecipeByLayer) -> bool:
        return recipes.default.name == "static_int8" and not recipes.layers and self._batch_size == 1

    def _save_calibration(self, job: Job) -> None:
        for number, graph in enumerate(self._graphs):
            # By position: `np.savez` takes names as keywords, and an input may be called "file".
            np.savez(job.directory / f"calibration_{number}.npz", *self._calibration[graph.signature].values())

    @contextmanager
    def _job(self, recipes: RecipeByLayer) -> Iterator[Job]:
        subject = f"The model {self._graphs[0].model.name!r}"
        with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
            yield Job(Path(directory), f"{subject} could not be converted with the recipe {recipes.default.name!r}")
