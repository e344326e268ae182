"""Channels whose weights vanish beside their bias, in every layer with weights: simulation, training and file."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812

import keras_notes as kn
from keras_notes.compression import quantize_aware
from keras_notes.compression.quantization._affine import smallest_scale_for_bias

LAYERS = {
    "dense": (lambda name: L.Dense(4, activation="relu", name=name), (6,)),
    "einsum": (lambda name: L.EinsumDense("abc,cd->abd", (5, 4), bias_axes="d", name=name), (5, 6)),
    "conv1d": (lambda name: L.Conv1D(4, 3, name=name), (5, 6)),
    "conv2d": (lambda name: L.Conv2D(4, 3, padding="same", name=name), (5, 5, 2)),
    "depthwise": (lambda name: L.DepthwiseConv2D(3, name=name), (5, 5, 4)),
    "transposed": (lambda name: L.Conv2DTranspose(4, 3, strides=2, name=name), (3, 3, 2)),
    "conv3d": (lambda name: L.Conv3D(4, 2, name=name), (3, 4, 4, 2)),
    "separable": (lambda name: L.SeparableConv2D(4, 3, name=name), (5, 5, 2)),
    "lstm": (lambda name: L.LSTM(4, name=name), (5, 6)),
}
SIZES = (1e-10, 1e-5, 0.0)


def hostile_model(size: float) -> keras.Model:
    """A model with an output for each layer, whose channel 0 has weights times `size` and a bias of 1."""
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input(shape, name=name) for name, (_, shape) in LAYERS.items()}
    layers = {name: make(f"{name}_layer") for name, (make, _) in LAYERS.items()}
    model = keras.Model(inputs, {name: layers[name](tensor) for name, tensor in inputs.items()})
    for name, layer in layers.items():
        cell = layer.cell if name == "lstm" else layer
        kernel = cell.pointwise_kernel if name == "separable" else cell.kernel
        values = keras.ops.convert_to_numpy(kernel).copy()
        by_channel = np.moveaxis(values, -2, -1) if name in ("transposed", "depthwise") else values
        by_channel[..., 0] *= size
        kernel.assign(values)
        biases = np.full(cell.bias.shape, 0.1, "float32")
        biases[0] = 1.0
        cell.bias.assign(biases)
    return model


def samples(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-1, 1, (count, *shape)).astype("float32") for name, (_, shape) in LAYERS.items()}


@pytest.mark.any_backend
@pytest.mark.parametrize("size", SIZES)
def test_model_in_integers_gives_the_bias(size):
    model, x = hostile_model(size), samples(32)
    aware = quantize_aware(model, calibration=x)
    for training in (False, True):
        results = aware(x, training=training)
        for name, expected in model(x).items():
            exact, actual = (keras.ops.convert_to_numpy(tensor) for tensor in (expected, results[name]))
            # 6 % of the range: a few steps after one layer, more after five of an LSTM; an overflow is 100 %.
            assert np.abs(actual - exact).max() < 0.06 * np.ptp(exact), (name, training)


@pytest.mark.any_backend
def test_bias_is_at_most_two_to_the_thirty():
    scale = smallest_scale_for_bias(keras.ops.convert_to_tensor([1.0, -8.0]), 0.5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(scale), [2.0**-29, 2.0**-26], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-10])
def test_file_gives_the_integers_of_the_model_after_training(size, tmp_path: Path):
    model, x = hostile_model(size), samples(64)
    aware = quantize_aware(model, calibration=x)
    aware.compile(keras.optimizers.SGD(1e-3), "mse")
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in aware.trainable_variables]
    aware.fit(x, {name: np.zeros(y.shape) for name, y in model(x).items()}, verbose=0)
    after = aware.trainable_variables
    assert all(np.isfinite(keras.ops.convert_to_numpy(variable)).all() for variable in after)
    assert all((keras.ops.convert_to_numpy(new) != old).any() for new, old in zip(after, before, strict=True))
    report = kn.verify(kn.convert(aware, tmp_path / "bundle", golden={name: values[:32] for name, values in x.items()}))
    # A hundredth of a step: float32 beside the integers.
    assert {output.name: output.max_error_lsb for output in report.outputs if output.max_error_lsb > 0.01} == {}
