"""A converted Transformer encodes, prefills and decodes step by step."""

from collections import Counter

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.layers import decoding_models, decoding_samples
from tests.layers.decoders import device_samples, device_transformer
from tests.support.bundles import run_device

# Of logits up to 6.6. Seen against Keras: 2e-6, 0.061, 0.21 and 0.053; against the same file's whole sequence: 0, 0,
# 0.22 and 0.002.
LARGEST_ERROR = {"float32": 1e-5, "dynamic_int8": 0.12, "static_int8": 0.4, "int16x8": 0.1}


@pytest.fixture(scope="module")
def transformer():
    return device_transformer()


@pytest.fixture(
    scope="module",
    params=[
        "float32",
        "static_int8",
        pytest.param("dynamic_int8", marks=pytest.mark.slow),
        pytest.param("int16x8", marks=pytest.mark.slow),
    ],
)
def bundle(request, transformer, tmp_path_factory):
    models = decoding_models(transformer, 6)
    golden = decoding_samples(models, *device_samples(3, seed=0), steps=2)
    is_integer = request.param in ("static_int8", "int16x8")
    ranges = {"calibration": decoding_samples(models, *device_samples(60, seed=1))} if is_integer else {}
    directory = tmp_path_factory.mktemp(request.param) / "bundle"
    return kn.convert(transformer, directory, request.param, signatures=models, golden=golden, **ranges)


def logits_by_steps(bundle, source, target):
    """Logits (target length, vocabulary) by the signatures of the file."""
    interpreter = Interpreter(str(bundle.model_path), num_threads=1)
    run = {name: interpreter.get_signature_runner(name) for name in ("encode", "prefill", "decode_step")}
    memory = run["encode"](source_ids=source[None])
    results = run["prefill"](prompt_ids=target[None, :1], **memory)
    logits = [results["logits"][0, 0]]
    for position in range(1, len(target)):
        caches = {name.removesuffix("_next"): results[name] for name in results if name.endswith("_next")}
        step = {"target_ids": target[None, position : position + 1], "position": np.array([position], "int32")}
        results = run["decode_step"](**step, **caches, **memory)
        logits.append(results["logits"][0])
    return np.array(logits)


def test_steps_give_what_the_whole_sequence_gives(bundle, transformer):
    sources, targets = device_samples(4, seed=2)
    whole = Interpreter(str(bundle.model_path), num_threads=1).get_signature_runner("serving_default")
    largest = LARGEST_ERROR[bundle.manifest.recipe]
    for source, target in zip(sources, targets, strict=True):
        by_keras = transformer.predict_on_batch((source[None], target[None]))[0]
        by_file = whole(input_0=source[None], input_1=target[None])["output"][0]
        stepwise = logits_by_steps(bundle, source, target)
        np.testing.assert_allclose(stepwise, by_keras, rtol=1e-5, atol=largest)
        np.testing.assert_allclose(stepwise, by_file, rtol=1e-5, atol=largest)


def test_the_file_is_proven_here_and_by_the_runner(bundle):
    report = kn.verify(bundle)
    assert report.ok
    assert (report.float_islands == ()) == (bundle.manifest.recipe in ("static_int8", "int16x8"))
    assert {entry.name for entry in bundle.manifest.signatures} == {
        "serving_default",
        "encode",
        "prefill",
        "decode_step",
    }
    result = run_device(bundle.directory, "--repeat", 2)
    assert result.returncode == 0, result.stderr


def test_a_step_has_fixed_sizes_and_built_in_operators_only(bundle):
    file = read_tflite(bundle.model_path)
    assert file.custom_operators() == ()
    (step,) = (signature for signature in file.signatures if signature.name == "decode_step")
    graph = file.graph(step)
    assert all(size > 0 for tensor in graph.tensors for size in tensor.shape)
    operators = Counter(operator.name for operator in graph.operators)
    assert operators["DYNAMIC_UPDATE_SLICE"] == 2
    assert not {"NEG", "WHILE", "TRANSPOSE"} & set(operators)


def test_weights_are_in_the_file_once(bundle, transformer, tmp_path):
    recipe = bundle.manifest.recipe
    if recipe not in ("float32", "static_int8"):
        pytest.skip("the others share as these do")
    ranges = {"calibration": list(device_samples(60, seed=1))} if recipe == "static_int8" else {}
    alone = kn.convert(transformer, tmp_path / "alone", recipe, golden=list(device_samples(3, seed=0)), **ranges)
    assert bundle.model_bytes <= 1.2 * alone.model_bytes


@pytest.mark.slow
def test_layers_of_a_step_can_stay_in_floats_by_name(transformer, tmp_path):
    models = decoding_models(transformer, 6)
    samples = decoding_samples(models, *device_samples(20, seed=1), steps=2)
    recipe = {"default": "static_int8", "layers": {"decoder_0/attention": "float32"}}
    golden = decoding_samples(models, *device_samples(3, seed=0), steps=2)
    report = kn.verify(
        kn.convert(transformer, tmp_path / "bundle", recipe, signatures=models, calibration=samples, golden=golden)
    )
    assert report.ok
    assert "SOFTMAX decoder_0/attention/softmax/Softmax" in report.float_islands
    assert not [name for name in report.float_islands if "memory_attention" in name or "encoder_0" in name]
