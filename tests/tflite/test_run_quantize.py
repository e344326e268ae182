"""Quantization at the edges has two homes, since a runner imports nothing of ours: they agree, and with LiteRT."""

import warnings

import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType

from keras_notes._litert.reader import read_tflite
from keras_notes._litert.runtime import quantize
from keras_notes.bundle import open_bundle
from tests.support.bundles import MODEL_FILE, TESTDATA, interpreter, runner_module

runner = runner_module()


def _edge(dtype, scale, zero_point):
    return {"dtype": dtype, "scale": scale, "zero_point": zero_point}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("scale", "zero_point"), [(1.0, 0), (0.0119856922, -36), (0.1, 127)])
def test_both_homes_of_quantize_agree(dtype, scale, zero_point):
    steps = np.arange(-300, 301, dtype="float32") / 2
    values = np.concatenate(
        [
            steps * np.float32(scale),
            np.nextafter(steps, np.float32(0)) * np.float32(scale),
            np.random.default_rng(0).normal(0, 100 * scale, 10_000).astype("float32"),
            np.array([0.0, -0.0, 1e30, -1e30], "float32"),
        ]
    )
    ours = quantize(values, scale, zero_point, dtype)
    theirs = runner.quantize(values, _edge(dtype, scale, zero_point))
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_array_equal(theirs, ours)
    assert {ours.min(), ours.max()} == {np.iinfo(dtype).min, np.iinfo(dtype).max}


def _quantized_by_litert(values, kernels):
    """What the QUANTIZE operator at the float edge of the testdata model makes of images."""
    graph = read_tflite(TESTDATA / MODEL_FILE).main
    (operator,) = (operator for operator in graph.operators if operator.name == "QUANTIZE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # LiteRT warns of the memory that it takes to keep all tensors.
        run = interpreter(TESTDATA / MODEL_FILE, kernels, experimental_preserve_all_tensors=True)
    rows = []
    for image in values:
        run.set_tensor(operator.inputs[0], image[np.newaxis])
        run.invoke()
        rows.append(run.get_tensor(operator.outputs[0]))
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def edge():
    """The input of the testdata bundle, as an int8 edge."""
    entry = open_bundle(TESTDATA).manifest.signatures[0].inputs[0]
    return _edge("int8", entry.scale, entry.zero_point)


@pytest.mark.parametrize("kernels", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF])
def test_quantize_is_what_litert_does(edge, kernels):
    values = np.random.default_rng(0).normal(0, 2, (50, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(runner.quantize(values, edge), _quantized_by_litert(values, kernels))


def test_quantize_rounds_ties_as_the_reference_kernels_do(edge):
    # The optimized kernels round ties to even on some machines: there a float edge may differ from us by one step.
    halves = np.random.default_rng(0).integers(-140, 140, (50, 8, 8, 1)).astype("float32") + np.float32(0.5)
    values = halves * np.float32(edge["scale"])
    np.testing.assert_array_equal(
        runner.quantize(values, edge), _quantized_by_litert(values, OpResolverType.BUILTIN_REF)
    )


def test_dequantize_undoes_quantize(edge):
    steps = np.arange(-128, 128, dtype="int8")
    values = runner.dequantize(steps, edge)
    np.testing.assert_allclose(values, (steps - float(edge["zero_point"])) * edge["scale"], rtol=1e-6)
    np.testing.assert_array_equal(runner.quantize(values, edge), steps)
