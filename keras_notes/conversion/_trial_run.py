"""The trial run: opens a converted file and runs a sample, on XNNPACK and on LiteRT's own kernels.

A quantizer can write a file that no kernel takes. The file runs in the sandbox's worker, because LiteRT can end its
process.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_notes._litert import client as tflite_process
from keras_notes._litert.model import TfliteFile
from keras_notes._litert.sandbox import Limits
from keras_notes._shared.models.layer_patterns import Path as LayerPath
from keras_notes.bundle import SignatureEntry
from keras_notes.conversion._recipes import RecipeByLayer, layers_of_tensor
from keras_notes.conversion._refusals import float_layers_of, refuse
from keras_notes.conversion.grids._weighted_operators import step_ratios
from keras_notes.conversion.passes._model_file import ModelFile
from keras_notes.errors import BundleError, ConversionError

__all__ = ["TRIAL_LIMITS", "run_trial"]

# Larger than those of `verify`: a large model must not fail to convert because the machine is slow.
TRIAL_LIMITS = Limits(cpu_seconds=60.0, memory_bytes=16 * 2**30)
_KERNELS = {"xnnpack": "LiteRT's default kernels (XNNPACK)", "builtin": "LiteRT's builtin kernels"}
# How LiteRT names an operator that it refuses.
_NODE = re.compile(r"Node number (\d+) \((\w+)\)")
_log = logging.getLogger(__name__)
_REPLACE = "Replace the layer of that operator, or use another recipe."
# From this ratio of a step of the products to a step of the result on, XNNPACK refuses a file.
_REFUSED_RATIO = 256.0


def run_trial(
    file: ModelFile,
    description: TfliteFile,
    signatures: Sequence[SignatureEntry],
    samples: Mapping[str, Mapping[str, np.ndarray]],
    model_name: str,
    recipes: RecipeByLayer,
    *,
    is_trained: bool,
) -> None:
    """Opens a file and runs a sample of each signature.

    Args:
        file: The file.
        description: The description of the file.
        signatures: The signatures.
        samples: Samples of each signature by input name, of which the first is run.
        model_name: The name of the model, for the error message.
        recipes: The recipes that the file was converted by.
        is_trained: Whether the model is quantization-aware.

    Raises:
        ConversionError: If LiteRT refuses the file, or its process dies; names the layer, where it is known.
    """
    _log.info("running the file on a sample")
    with tempfile.TemporaryDirectory(prefix="keras_notes_") as directory:
        path = Path(directory) / "model.tflite"
        path.write_bytes(file.to_bytes())
        for signature in signatures:
            sample = {name: array[:1] for name, array in samples[signature.name].items()}
            for kernels, words in _KERNELS.items():
                try:
                    tflite_process.outputs(path, signature, sample, kernels, limits=TRIAL_LIMITS)
                except BundleError as error:
                    reason = str(error).replace(repr(str(path)), "the file")
                    problem = (
                        f"The model {model_name!r} converted with the recipe {recipes.default.name!r} must run on "
                        f"{words}. Received: {reason}"
                    )
                    raise _error(problem, description, signature, file, recipes, is_trained) from error


def _error(
    problem: str,
    description: TfliteFile,
    signature: SignatureEntry,
    file: ModelFile,
    recipes: RecipeByLayer,
    is_trained: bool,
) -> ConversionError:
    layers = _refused_layers(description, signature, problem) or _layers_by_ratio(file)
    if not layers or not recipes.needs_calibration:
        remedy = "Use the recipe 'dynamic_int8', which has no ranges." if recipes.needs_calibration else _REPLACE
        return ConversionError(f"{problem} {remedy}", problems=[problem])
    names = ", ".join("/".join(path) for path in layers)
    problem = f"{problem} The operator belongs to the layer {names!r}."
    return refuse([problem], recipes, float_layers_of(layers), trained=is_trained)


def _refused_layers(file: TfliteFile, signature: SignatureEntry, reason: str) -> list[LayerPath]:
    """Returns the layer of the operator that a message names by its number."""
    graph = next(file.graph(entry) for entry in file.signatures if entry.name == signature.name)
    node = _NODE.search(reason)
    if node is None or int(node[1]) >= len(graph.operators) or graph.operators[int(node[1])].name != node[2]:
        return []  # XNNPACK names the whole part of the graph that it was to run
    return [layers_of_tensor(graph.tensors[graph.operators[int(node[1])].outputs[0]].name)]


def _layers_by_ratio(file: ModelFile) -> list[LayerPath]:
    """Returns the layers whose scales XNNPACK refuses."""
    refused = [name for name, ratio in step_ratios(file.model).items() if ratio >= _REFUSED_RATIO]
    return sorted({layers_of_tensor(name) for name in refused})
