"""Causes: a refused file says which column, tensor and layer make it stray, and the remedy that is named helps."""

import ast
import re

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import errors

RNG = np.random.default_rng(0)


def refused(bundle):
    """The causes in the report of a file that must be refused."""
    with pytest.raises(errors.VerificationError, match="Likely cause: ") as caught:
        kn.verify(bundle)
    return caught.value.report.causes


def dense(columns, *layers):
    """A model of dense layers with the kernels given."""
    inputs = keras.Input((columns,))
    hidden = inputs
    for index, kernel in enumerate(layers):
        hidden = keras.layers.Dense(np.shape(kernel)[1], use_bias=False, name=f"layer_{index}")(hidden)
    model = keras.Model(inputs, hidden)
    model.set_weights([np.asarray(kernel, "float32") for kernel in layers])
    return model


def test_columns_within_a_step_of_the_grid_are_named_and_16_bits_help(tmp_path):
    x = np.c_[RNG.uniform(0, 1000, 200), RNG.uniform(0, 1, 200), RNG.uniform(0, 2, 200)].astype("float32")
    # A ReLU before the first weights: `convert` leaves only first layers with weights in floating point on its own.
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(keras.layers.ReLU()(inputs)))
    model.set_weights([np.array([[0.0], [1.0], [1.0]], "float32")])
    (cause, *_) = refused(kn.convert(model, tmp_path / "int8", calibration=x))
    assert cause.startswith("columns 1, 2 of the input 'input' vary by at most")
    assert "recipe='int16x8'" in cause
    assert kn.verify(kn.convert(model, tmp_path / "int16", "int16x8", calibration=x)).ok


def test_the_first_wrong_tensor_is_named_with_its_layer_and_both_remedies_help(tmp_path):
    x = RNG.uniform(-1, 1, (200, 2)).astype("float32")
    # A channel of thousands, which the next layer ignores, takes the grid from the one that counts.
    model = dense(2, [[2000.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, -1.0]])
    causes = refused(kn.convert(model, tmp_path / "int8", calibration=x))
    cause = causes[-1]
    assert "the first tensor that is wrong is that of the layer 'layer_1'" in cause
    recipe = ast.literal_eval(re.search(r"recipe=(\{.*?\}\s*\})", cause)[1])
    assert recipe == {"default": "static_int8", "layers": {"layer_0": "float32", "layer_1": "float32"}}
    assert kn.verify(kn.convert(model, tmp_path / "mixed", recipe, calibration=x)).ok
    assert "recipe='int16x8'" in cause
    assert kn.verify(kn.convert(model, tmp_path / "int16", "int16x8", calibration=x)).ok


def test_a_sound_file_has_no_causes(tmp_path):
    x = RNG.uniform(-1, 1, (200, 2)).astype("float32")
    assert kn.verify(kn.convert(dense(2, np.eye(2)), tmp_path / "bundle", calibration=x)).causes == ()
