"""Prints the largest error of a .tflite file, relative to the largest golden output.

    run_tflite.py FILE GOLDEN.npz NUMBER_OF_INPUTS

A program, because the file may end its process.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def largest_error(path, golden, inputs):
    """Runs the golden samples one by one; inputs are matched by shape, as exported names differ."""
    interpreter = Interpreter(path, num_threads=1)
    details = interpreter.get_input_details()
    fed, expected = golden[:inputs], golden[inputs:]
    order = [next(i for i, d in enumerate(details) if _fits(d, array)) for array in fed]
    if len(set(order)) != len(fed):
        order = list(range(len(fed)))
    worst = 0.0
    for place, array in zip(order, fed, strict=True):
        interpreter.resize_tensor_input(details[place]["index"], (1, *array.shape[1:]))
    interpreter.allocate_tensors()
    results = interpreter.get_output_details()
    for index in range(len(fed[0])):
        for place, array in zip(order, fed, strict=True):
            interpreter.set_tensor(details[place]["index"], array[index : index + 1].astype(details[place]["dtype"]))
        interpreter.invoke()
        outputs = [interpreter.get_tensor(result["index"]) for result in results]
        for array in expected:
            same = [g for g in outputs if g.shape[1:] == array.shape[1:]]
            error = min(np.abs(g[0] - array[index]).max() for g in same)
            worst = max(worst, float(error / (np.abs(array).max() or 1.0)))
    return worst


def _fits(detail, array):
    return tuple(detail["shape_signature"][1:]) == array.shape[1:]


if __name__ == "__main__":
    with np.load(sys.argv[2]) as arrays:
        print(largest_error(sys.argv[1], list(arrays.values()), int(sys.argv[3])))
