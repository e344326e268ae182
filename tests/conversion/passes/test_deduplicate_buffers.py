"""Constants of the same bytes are in a file once."""

import keras
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

import keras_notes as kn
from keras_notes.conversion.passes._deduplicate_buffers import deduplicate_buffers
from keras_notes.conversion.passes._model_file import ModelFile
from tests.support.bundles import interpreter


def buffers_of(tflite):
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    return {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors if has_data(model, tensor)}


def has_data(model, tensor):
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def with_copies(tflite):
    """The file with a buffer of its own for each constant."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if has_data(model, tensor):
                buffer = type(model.buffers[0])()
                buffer.data = model.buffers[tensor.buffer].data
                model.buffers.append(buffer)
                tensor.buffer = len(model.buffers) - 1
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_copies_are_shared_and_nothing_else_changes(tmp_path):
    net = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu")])
    again = keras.Model(net.inputs, net.outputs)
    x = np.random.default_rng(1).normal(size=(40, 64)).astype("float32")
    samples = {"serving_default": x, "again": x}
    bundle = kn.convert(net, tmp_path / "bundle", "static_int8", calibration=samples, signatures={"again": again})
    tflite = bundle.model_path.read_bytes()
    copied = with_copies(tflite)
    assert len(copied) > len(tflite) + 64 * 64
    file = ModelFile(copied)
    assert file.run_passes([deduplicate_buffers])
    shared = file.to_bytes()
    assert len(buffers_of(shared)) == len(buffers_of(tflite)) < len(buffers_of(copied))
    outputs = []
    for name, content in (("copied", copied), ("shared", shared)):
        (tmp_path / name).write_bytes(content)
        runner = interpreter(tmp_path / name).get_signature_runner("again")
        outputs.append(runner(input=x[:1])["output"])
    np.testing.assert_array_equal(*outputs)
    again_shared = ModelFile(shared)
    assert not again_shared.run_passes([deduplicate_buffers]), "a file without copies stays as it is"
    assert again_shared.to_bytes() == shared


def test_kernels_of_equal_bytes_and_unlike_shapes_keep_their_channels(tmp_path):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(10, kernel_initializer="ones", bias_initializer="random_normal")(inputs)
    outputs = keras.layers.Dense(6, kernel_initializer="ones", bias_initializer="random_normal")(hidden)
    model = keras.Model(inputs, [outputs, keras.layers.Dense(10, kernel_initializer="ones")(inputs)])
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    bundle = kn.convert(model, tmp_path / "bundle", "static_int8", calibration=x)
    assert kn.verify(bundle).ok
