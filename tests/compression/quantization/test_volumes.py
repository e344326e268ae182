"""Layers over volumes, which quantization-aware models compute by those over images."""

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from keras import ops

from keras_notes.compression import quantize_aware

X = np.random.default_rng(0).normal(size=(8, 5, 7, 6, 3)).astype("float32")
LAYERS = {
    "valid": lambda: L.Conv3D(4, (2, 3, 3), activation="relu", bias_initializer="random_normal"),
    "same": lambda: L.Conv3D(4, (4, 3, 2), padding="same"),
    "strided, same": lambda: L.Conv3D(4, (3, 3, 2), strides=(2, 2, 2), padding="same"),
    "strided, valid": lambda: L.Conv3D(4, (2, 3, 3), strides=(3, 2, 1)),
    "dilated, same": lambda: L.Conv3D(4, (3, 2, 2), dilation_rate=(2, 2, 2), padding="same"),
    "dilated, valid": lambda: L.Conv3D(4, (2, 2, 3), dilation_rate=(3, 1, 2)),
    "one frame": lambda: L.Conv3D(4, (1, 3, 3)),
    "largest": lambda: L.MaxPooling3D((2, 3, 2), strides=(2, 1, 2)),
    "largest, same": lambda: L.MaxPooling3D(3, strides=2, padding="same"),
    "average": lambda: L.AveragePooling3D((2, 3, 2), strides=(1, 2, 2)),
    # As many pads on both sides: with more on one, Keras's averages on PyTorch are not those of its other backends.
    "average, same": lambda: L.AveragePooling3D((3, 3, 2), strides=2, padding="same"),
    "global average": lambda: L.GlobalAveragePooling3D(),
    "global average, kept": lambda: L.GlobalAveragePooling3D(keepdims=True),
    "global largest": lambda: L.GlobalMaxPooling3D(),
    "global largest, kept": lambda: L.GlobalMaxPooling3D(keepdims=True),
    "pads": lambda: L.ZeroPadding3D(((1, 0), (0, 2), (1, 1))),
    "cropped": lambda: L.Cropping3D(((1, 0), (0, 2), (1, 1))),
    "repeated": lambda: L.UpSampling3D((2, 1, 3)),
}
EVERYWHERE = ("same", "strided, valid", "average, same", "global largest, kept")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.any_backend if name in EVERYWHERE else ()) for name in LAYERS]
)
def test_result_is_that_of_keras_but_for_16_bits(name):
    keras.utils.set_random_seed(0)
    layer = LAYERS[name]()
    inputs = keras.Input(X.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    if isinstance(layer, L.Conv3D):
        # Weights on their grid, so that only activations are rounded.
        integers = np.random.default_rng(1).integers(-127, 128, layer.kernel.shape)
        integers[0, 0, 0, 0] = 127
        layer.kernel.assign(integers / 127.0)
    aware = quantize_aware(model, recipe="int16x8", calibration=X)
    expected, actual = (ops.convert_to_numpy(net(X, training=False)) for net in (model, aware))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=2e-4 * np.ptp(expected))


@pytest.mark.any_backend
def test_gradients_reach_the_kernel_of_a_volume():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(X.shape[1:])
    x = L.MaxPooling3D(2)(L.Conv3D(4, 2, padding="same", name="conv")(inputs))
    aware = quantize_aware(keras.Model(inputs, L.Dense(1)(L.Flatten()(x))), calibration=X)
    before = np.array(ops.convert_to_numpy(aware.network.get_layer("conv").kernel))
    aware.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = aware.fit(X, X.mean((1, 2, 3, 4)), epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert np.all(np.any(ops.convert_to_numpy(aware.network.get_layer("conv").kernel) != before, axis=(0, 1, 2, 3)))


def test_groups_are_an_error_that_names_the_layer():
    inputs = keras.Input((4, 6, 6, 2))
    model = keras.Model(inputs, L.Conv3D(4, 2, groups=2, name="grouped")(inputs))
    with pytest.raises(ValueError, match=r"'grouped' with groups=2.*`skip`"):
        quantize_aware(model, calibration=np.zeros((2, 4, 6, 6, 2), "float32"))
