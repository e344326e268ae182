"""The quantizer: a program of its own around ai-edge-quantizer.

    python _quantizer.py JOB

JOB is a directory with `float.tflite`, `job.json` ({"recipe", "by_operator", "integer_edges", "signatures"}) and, for
recipes that need ranges, `calibration_<signature number>.npz`. The result is JOB/quantized.tflite.

ai-edge-quantizer and not TFLiteConverter's own quantization, because it quantizes weights of any size, to 4 bits too,
and differs by operator; with the ranges taken here its int8 files compute what the converter's compute, in 1 to 14 %
fewer bytes (tests/benchmarks/engines.py). It imports nothing of keras_notes, so that it starts without Keras.
"""

import json
import logging
import re
import sys
import warnings
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

ANYTHING = qtyping.TFLOperationName.ALL_SUPPORTED
PER_CHANNEL = qtyping.QuantGranularity.CHANNELWISE
EDGES = (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT)


def add_recipe(manager: recipe_manager.RecipeManager, regex: str, recipe: str) -> None:
    """Lets the operators whose scope matches `regex` have a recipe."""
    match recipe:
        case "float32":
            nothing = algorithm_manager.AlgorithmName.NO_QUANTIZE
            manager.add_quantization_config(regex, ANYTHING, algorithm_key=nothing)
        case "float16":
            casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
            manager.add_weight_only_config(regex, ANYTHING, 16, algorithm_key=casting)
        case "dynamic_int8":
            manager.add_dynamic_config(regex, ANYTHING, 8, PER_CHANNEL)
        case "weight_int4":
            # Of two entries that match, the last one that the operator supports counts; not every one takes 4 bits.
            manager.add_dynamic_config(regex, ANYTHING, 8, PER_CHANNEL)
            manager.add_dynamic_config(f"(?:{regex})", ANYTHING, 4, PER_CHANNEL)
        case "static_int8":
            manager.add_static_config(regex, ANYTHING, 8, 8, PER_CHANNEL)
        case "int16x8":
            manager.add_static_config(regex, ANYTHING, 16, 8, PER_CHANNEL)
        case _:
            raise ValueError(f"Unknown recipe {recipe!r}.")


def quantize(job: Path) -> None:
    """Quantizes JOB/float.tflite as JOB/job.json says."""
    settings = json.loads((job / "job.json").read_text())
    manager = recipe_manager.RecipeManager()
    add_recipe(manager, ".*", settings["recipe"])
    for operator, recipe in settings["by_operator"].items():
        add_recipe(manager, f"^{re.escape(operator)};", recipe)
    if not settings["integer_edges"]:
        for edge in EDGES:
            manager.add_quantization_config(".*", edge, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    tflite = (job / "float.tflite").read_bytes()
    engine = quantizer.Quantizer(bytearray(tflite), manager.get_quantization_recipe())
    ranges = ranges_of(tflite, job, settings["signatures"]) if engine.need_calibration else None
    result = engine.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    (job / "quantized.tflite").write_bytes(result.quantized_model)


def ranges_of(tflite: bytes, job: Path, signatures: dict) -> dict:
    """The least and largest value of each tensor over all calibration samples, by tensor name.

    Not `Quantizer.calibrate`: its ranges are moving averages, which cut off what is rare (errors ten times as large on
    the nets of tests/benchmarks/engines.py), and it runs on XNNPACK, which refuses to show some tensors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping all tensors takes memory is meant
        interpreter = Interpreter(
            model_content=tflite,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    ranges: dict = {}
    for number, (name, inputs) in enumerate(signatures.items()):
        runner = interpreter.get_signature_runner(name)
        graph = runner._subgraph_index
        # Not of constants: the range of a whole weight would take the place of those of its channels.
        computed = {i for i, t in enumerate(model.subgraphs[graph].tensors) if model.buffers[t.buffer].data is None}
        details = [
            detail
            for detail in interpreter.get_tensor_details(graph)
            if detail["dtype"] == np.float32 and detail["index"] in computed
        ]
        with np.load(job / f"calibration_{number}.npz") as arrays:
            samples = dict(zip(inputs, arrays.values(), strict=True))
        for index in range(len(next(iter(samples.values())))):
            interpreter.reset_all_variables()
            runner(**{key: array[index : index + 1] for key, array in samples.items()})
            for detail in details:
                widen(ranges, detail, interpreter, graph)
    return ranges


def widen(ranges: dict, detail: dict, interpreter: Interpreter, graph: int) -> None:
    """Widens the range of a tensor by its values in the last run."""
    try:
        values = interpreter.get_tensor(detail["index"], graph)
    except ValueError:  # a tensor that no operator of this graph computes, such as one of a loop's body
        return
    values = values[np.abs(values) < 3e38]  # infinite padding of a maximum is no value
    if values.size == 0:
        return
    shape = (1,) * max(1, len(detail["shape"]))
    least, most = (np.full(shape, value, np.float32) for value in (values.min(), values.max()))
    before = ranges.get(detail["name"])
    if before is not None:
        least, most = np.minimum(least, before["min"]), np.maximum(most, before["max"])
    ranges[detail["name"]] = {"min": least, "max": most}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    quantize(Path(sys.argv[1]))
