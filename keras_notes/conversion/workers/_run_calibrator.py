"""The calibrator: a program of its own that measures the range of each tensor of a float file.

    python _run_calibrator.py JOB

JOB is a directory with `float.tflite`, `job.json` ({"signatures": {name: input names}, ...}) and a file
`calibration_<signature number>.npz` for each signature. The result is JOB/ranges.json: {tensor name: [minimum, maximum,
rank]}.

Not `Quantizer.calibrate` of ai-edge-quantizer: its ranges are moving averages, which cut off rare values (errors ten
times as large on the nets of benchmarks/conversion/engines.py), and it runs on XNNPACK, which refuses to show some
tensors. It imports nothing of keras_notes, so that it starts without Keras.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

# Past this a value is an infinite padding, such as that of a maximum.
LARGEST = 3e38


def ranges_of(job: Path) -> dict[str, list]:
    """Returns the minimum, the maximum and the rank of each tensor over all calibration samples, by tensor name."""
    tflite = (job / "float.tflite").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the memory that keeping all tensors takes
        interpreter = Interpreter(
            model_content=tflite,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    ranges: dict[str, list] = {}
    for number, (name, inputs) in enumerate(json.loads((job / "job.json").read_text())["signatures"].items()):
        runner = interpreter.get_signature_runner(name)
        graph = runner._subgraph_index
        # Without constants: the range of a whole weight would replace those of its channels.
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


def widen(ranges: dict[str, list], detail: dict, interpreter: Interpreter, graph: int) -> None:
    """Widens the range of a tensor by its values in the last run."""
    try:
        values = interpreter.get_tensor(detail["index"], graph)
    except ValueError:  # a tensor that no operator of this graph computes, such as one of a loop's body
        return
    values = values[np.abs(values) < LARGEST]
    if values.size == 0:
        return
    minimum, maximum = float(values.min()), float(values.max())
    if (before := ranges.get(detail["name"])) is not None:
        minimum, maximum = min(minimum, before[0]), max(maximum, before[1])
    ranges[detail["name"]] = [minimum, maximum, max(1, len(detail["shape"]))]


if __name__ == "__main__":
    job_directory = Path(sys.argv[1])
    (job_directory / "ranges.json").write_text(json.dumps(ranges_of(job_directory)))
