"""Checks that every layer of the package must pass, whatever it computes."""

import json

import keras
import numpy as np

FLOAT32_ROUNDING = 1e-5
# Compilers sum in another order, and a block of a Transformer is a dozen sums deep.
COMPILED_ROUNDING = 1e-4
# Error of a few products in sequence, in units of the largest output: float16 has 11 bits, bfloat16 has 8.
HALF_ROUNDING = {"mixed_float16": 2**-6, "mixed_bfloat16": 2**-3}
# Error of a whole block, which rounds some ten times as often; in bfloat16 it is too large for a check.
BLOCK_ROUNDING = {"mixed_float16": 2**-5}

# The bias of the keys adds the same number to all logits of a softmax, which changes nothing.
NO_GRADIENT = "key/bias"


def check_layer(layer, *inputs, tmp_path, half_rounding=HALF_ROUNDING, **call):
    """Checks the Keras contract of a layer on one batch.

    The checks: a config round trip, a file loaded in safe mode, half precision, a compiled training step, symbolic
    shapes, and equal results of equal calls outside of training. `half_rounding` is the tolerance by dtype policy.
    """
    outputs = run(layer, *inputs, **call)
    np.testing.assert_array_equal(first(run(layer, *inputs, training=False, **call)), first(outputs))
    _check_config(layer)
    _check_shapes(layer, inputs, outputs, call)
    model = model_of(layer, inputs, **call)
    _check_file(model, inputs, tmp_path)
    _check_compiled_training(model, inputs)
    _check_half_precision(layer, inputs, call, half_rounding)


def run(layer, *inputs, **call):
    """Returns the outputs as NumPy arrays; of an inference unless `training` is True."""
    training = {"training": call.pop("training", False)} if _has_training(layer) else {}
    call.pop("training", None)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, layer(*inputs, **training, **call))


def first(outputs):
    """Returns the outputs without scores and caches."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def copy_of(layer, **changes):
    """Returns the same layer without weights, with some arguments changed."""
    return type(layer).from_config({**layer.get_config(), **changes})


def model_of(layer, inputs, **call):
    """Returns the layer as a functional model, for batches of any size."""
    symbols = [keras.Input(values.shape[1:], dtype=str(values.dtype)) for values in inputs]
    return keras.Model(symbols, first(layer(*symbols, **call)))


def compiles():
    """Returns whether the backend's compiler works here: that of PyTorch needs a C++ toolchain at run time."""
    return keras.backend.backend() != "torch"


def _has_training(layer):
    return "training" in layer._call_signature.parameters


def _check_config(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def _check_shapes(layer, inputs, outputs, call):
    symbols = [keras.Input(batch_shape=values.shape, dtype=str(values.dtype)) for values in inputs]
    symbolic = copy_of(layer)(*symbols, **call)
    shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), symbolic)
    assert keras.tree.flatten(shapes) == keras.tree.flatten(keras.tree.map_structure(np.shape, outputs))
    assert layer.compute_output_shape(*(values.shape for values in inputs)) == first(outputs).shape
    for symbol, array in zip(keras.tree.flatten(symbolic), keras.tree.flatten(outputs), strict=True):
        assert symbol.dtype == str(array.dtype)


def _check_file(model, inputs, tmp_path):
    model.save(tmp_path / "layer.keras")
    again = keras.saving.load_model(tmp_path / "layer.keras", safe_mode=True)
    np.testing.assert_array_equal(*(np.asarray(keras.ops.convert_to_numpy(m(list(inputs)))) for m in (model, again)))


def _check_compiled_training(model, inputs):
    """Trains the layer below a dense one, and compares the outputs of a compiled call."""
    below = keras.models.clone_model(model)
    below.set_weights(model.get_weights())
    expected = keras.ops.convert_to_numpy(model(list(inputs), training=False))
    below.compile(jit_compile=compiles())
    actual = below.predict(list(inputs), verbose=0)
    np.testing.assert_allclose(actual, expected, rtol=COMPILED_ROUNDING, atol=COMPILED_ROUNDING)
    trained = keras.Model(below.inputs, keras.layers.Dense(2)(below.outputs[0]))
    trained.compile(keras.optimizers.SGD(0.01), loss="mse", jit_compile=compiles())
    before = trained.get_weights()
    targets = np.ones((*expected.shape[:-1], 2), "float32")
    history = trained.fit(list(inputs), targets, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    for old, new, weight in zip(before, trained.get_weights(), trained.weights, strict=True):
        assert weight.path.endswith(NO_GRADIENT) or (old != new).any(), weight.path


def _check_half_precision(layer, inputs, call, half_rounding):
    expected = first(run(layer, *inputs, **call)).astype("float32")
    for policy, rounding in half_rounding.items():
        half = copy_of(layer, dtype=policy)
        first(run(half, *inputs, **call))
        half.set_weights(layer.get_weights())
        actual = first(run(half, *inputs, **call)).astype("float32")
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding * np.abs(expected).max())
