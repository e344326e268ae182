"""Biases beside vanishing weights: the integer of each bias stays within int32, and the channel gives its bias."""

import functools

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers

import keras_notes as kn
from keras_notes.conversion import _pipeline
from keras_notes.conversion.grids._fit_biases import fit_biases

X = np.random.default_rng(0).uniform(-1, 1, (64, 6, 6, 2)).astype("float32")
# Output 0 of each layer has these biases, beside weights that are smaller by these factors.
SIZES = {"gone": 0.0, "vanished": 1e-10, "small": 1e-5}
BIAS = 1.0


def _with_vanishing_channel(layer, size, channel_axis):
    """Makes the weights of channel 0 of a layer small and its bias 1."""
    kernel, bias = layer.get_weights()
    np.moveaxis(kernel, channel_axis, 0)[0] *= size
    bias[:] = 0.1
    bias[0] = BIAS
    layer.set_weights([kernel, bias])


def every_layer():
    """Each layer with a bias, with a channel of each size; and a normalization whose gamma is 0."""
    image = keras.Input((6, 6, 2))
    outputs = {}
    for name, size in SIZES.items():
        for make, axis in (
            (layers.Conv2D(3, 3, activation="relu"), 3),
            (layers.DepthwiseConv2D(3, depth_multiplier=2), 2),
            (layers.Conv2DTranspose(3, 2, strides=2), 2),
            (layers.Dense(3), 1),
        ):
            key = f"{name}_{type(make).__name__}".lower()
            result = make(layers.Flatten()(image) if isinstance(make, layers.Dense) else image)
            if isinstance(make, layers.DepthwiseConv2D):
                kernel, bias = make.get_weights()
                kernel[:, :, 0, 0] *= size
                bias[:] = [BIAS, 0.1, 0.1, 0.1]
                make.set_weights([kernel, bias])
            else:
                _with_vanishing_channel(make, size, axis)
            outputs[key] = result if isinstance(make, layers.Dense) else layers.GlobalAveragePooling2D()(result)
    normalization = layers.BatchNormalization()
    normalized = normalization(layers.Conv2D(3, 1, use_bias=False)(image))
    gamma, beta, mean, variance = normalization.get_weights()
    gamma[0], beta[0] = 0.0, 30.0
    normalization.set_weights([gamma, beta, mean, variance])
    outputs["normalization"] = layers.GlobalAveragePooling2D()(normalized)
    return keras.Model(image, outputs)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return every_layer()


@pytest.mark.parametrize("recipe", ["static_int8", "int16x8"])
def test_a_channel_without_weights_gives_its_bias(model, recipe, tmp_path):
    bundle = kn.convert(model, tmp_path / "bundle", recipe, calibration=X)
    for kernels in ("xnnpack", "builtin"):
        report = kn.verify(bundle, kernels=kernels)
        scales = {entry.name: entry.scale for entry in bundle.manifest.signatures[0].outputs}
        for output in report.outputs:
            # Two steps of the result, and what rounding the other channels' weights to int8 moves in float32 inputs.
            limit = 2.0 * scales[output.name] + 0.03
            assert output.max_error < limit, (kernels, output.name, output.max_error)


def test_without_the_pass_such_a_channel_is_lost(model, tmp_path, monkeypatch):
    monkeypatch.setattr(_pipeline, "fit_biases", lambda model, float_model: False)
    bundle = kn.convert(model, tmp_path / "bundle", "static_int8", calibration=X)
    with pytest.raises(kn.errors.VerificationError, match=r"254\.9"):
        kn.verify(bundle)


def test_sound_biases_and_fitted_ones_are_left_alone(model, tmp_path, monkeypatch):
    changes = []

    def counting(quantized, float_model):
        run = functools.partial(fit_biases, quantized, float_model=float_model)
        changes.append([run(), run()])
        return changes[-1][0]

    monkeypatch.setattr(_pipeline, "fit_biases", counting)
    kn.convert(model, tmp_path / "vanishing", "static_int8", calibration=X)
    sound = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(2)])
    bundle = kn.convert(sound, tmp_path / "sound", "static_int8", calibration=X)
    assert changes == [[True, False], [False, False]]
    assert flatbuffer_utils.read_model(str(bundle.model_path)).subgraphs
