"""The quantizer: a program of its own around ai-edge-quantizer.

    python _run_quantizer.py JOB

JOB is a directory with `float.tflite`, `job.json` ({"recipe", "by_operator", "float_edges"}) and, for recipes that need
ranges, `ranges.json` of _run_calibrator.py. The result is JOB/quantized.tflite.

ai-edge-quantizer and not TFLiteConverter's own quantization, because it quantizes weights of any size, to 4 bits too,
and differs by operator; with the ranges of _run_calibrator.py its int8 files compute what the converter's compute, in 1
to 14 % fewer bytes (benchmarks/conversion/engines.py). It imports nothing of keras_notes, so that it starts without
Keras.
"""

import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

ANYTHING = qtyping.TFLOperationName.ALL_SUPPORTED
PER_CHANNEL = qtyping.QuantGranularity.CHANNELWISE
# The quantizer cuts scopes at this length.
LONGEST_SCOPE = 10000
EDGES = (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT)


def add_recipe(manager: recipe_manager.RecipeManager, regex: str, recipe: str) -> None:
    """Gives a recipe to the operators whose scope matches `regex`."""
    match recipe:
        case "float32":
            nothing = algorithm_manager.AlgorithmName.NO_QUANTIZE
            manager.add_quantization_config(regex, ANYTHING, algorithm_key=nothing)
        case "float16":
            casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
            manager.add_weight_only_config(regex, ANYTHING, 16, algorithm_key=casting)
        case "weight_only_int8":
            manager.add_weight_only_config(regex, ANYTHING, 8, PER_CHANNEL)
        case "dynamic_int8":
            manager.add_dynamic_config(regex, ANYTHING, 8, PER_CHANNEL)
        case "weight_int4":
            # Of two matching entries, the last that the operator supports counts; not every operator takes 4 bits.
            manager.add_dynamic_config(regex, ANYTHING, 8, PER_CHANNEL)
            manager.add_dynamic_config(f"(?:{regex})", ANYTHING, 4, PER_CHANNEL)
        case "static_int8":
            manager.add_static_config(regex, ANYTHING, 8, 8, PER_CHANNEL)
        case "int16x8":
            manager.add_static_config(regex, ANYTHING, 16, 8, PER_CHANNEL)
        case _:
            raise ValueError(f"Unknown recipe {recipe!r}.")


def quantize(job: Path) -> None:
    """Quantizes JOB/float.tflite with the settings in JOB/job.json."""
    settings = json.loads((job / "job.json").read_text())
    manager = recipe_manager.RecipeManager()
    add_recipe(manager, ".*", settings["recipe"])
    for operator, recipe in settings["by_operator"].items():
        scope = f"^{re.escape(operator)};"
        # Otherwise an operator that its own recipe does not support would get the default recipe.
        add_recipe(manager, scope, "float32")
        add_recipe(manager, f"(?:{scope})", recipe)
    tflite = (job / "float.tflite").read_bytes()
    kept = [(scope, edge) for scope in edges_of_loops(tflite) for edge in EDGES]
    # Only the sides that need it: otherwise a result that is both an output and the input of another integer operator
    # would be in floating point for both.
    kept += [(".*", qtyping.TFLOperationName[edge]) for edge in settings["float_edges"]]
    for scope, edge in kept:
        manager.add_quantization_config(scope, edge, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    engine = quantizer.Quantizer(bytearray(tflite), manager.get_quantization_recipe())
    ranges = ranges_of(job) if engine.need_calibration else None
    result = engine.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    (job / "quantized.tflite").write_bytes(result.quantized_model)


def edges_of_loops(tflite: bytes) -> list[str]:
    """Returns expressions for the inputs and outputs of loop bodies, which stay in floating point."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    called = {signature.subgraphIndex for signature in model.signatureDefs or ()}
    bodies = [graph for number, graph in enumerate(model.subgraphs) if number not in called]
    scopes = [
        "".join(f"{graph.tensors[index].name.decode()};" for index in indices)
        for graph in bodies
        for indices in (graph.inputs, graph.outputs)
    ]
    return [f"^{re.escape(scope[:LONGEST_SCOPE])}" for scope in scopes]


def ranges_of(job: Path) -> dict:
    """Returns JOB/ranges.json in the quantizer's own form."""
    ranges = json.loads((job / "ranges.json").read_text())
    return {
        name: {"min": np.full((1,) * rank, minimum, np.float32), "max": np.full((1,) * rank, maximum, np.float32)}
        for name, (minimum, maximum, rank) in ranges.items()
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    quantize(Path(sys.argv[1]))
