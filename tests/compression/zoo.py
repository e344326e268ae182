"""One small net for each layer that quantization-aware training covers: the layer, and a dense head behind it."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L  # noqa: N812

from keras_notes.layers import LSTM

__all__ = ["NETS", "samples"]

IMAGE = (8, 8, 4)
VOLUME = (4, 6, 6, 2)
SEQUENCE = (8, 6)


def samples(net: keras.Model, count: int, seed: int = 0) -> list[np.ndarray]:
    """Inputs for a net, an array for each: normal floats, pixels in uint8, or ids below 20."""
    rng = np.random.default_rng(seed)

    def of(tensor) -> np.ndarray:
        shape = (count, *tensor.shape[1:])
        if "float" in tensor.dtype:
            return rng.normal(size=shape).astype("float32")
        return rng.integers(0, 256 if tensor.dtype == "uint8" else 20, size=shape).astype(tensor.dtype)

    return [of(tensor) for tensor in net.inputs]


def _net(shape: tuple[int, ...], *middle: Callable, dtype: str = "float32", head: bool = True) -> Callable:
    def build() -> keras.Model:
        inputs = keras.Input(shape, dtype=dtype)
        x = inputs
        for layer in middle:
            x = layer()(x) if isinstance(layer, type) or not isinstance(layer, keras.Layer) else layer(x)
        if head:
            x = L.Dense(5, name="head")(L.Flatten()(x))
        return keras.Model(inputs, x)

    return build


def _conv(**keywords) -> Callable:
    return lambda: L.Conv2D(4, 3, padding="same", **keywords)


def _two_branches(merge: Callable) -> Callable:
    def build() -> keras.Model:
        inputs = keras.Input(IMAGE)
        first = L.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        second = L.Conv2D(4, 1)(inputs)
        return keras.Model(inputs, L.Dense(5)(L.Flatten()(merge()([first, second]))))

    return build


def _attention(**keywords) -> Callable:
    def build() -> keras.Model:
        inputs = keras.Input(SEQUENCE)
        x = L.Dense(8)(inputs)
        x = L.MultiHeadAttention(2, 16)(x, x, **keywords)
        return keras.Model(inputs, L.Dense(5)(L.Flatten()(x)))

    return build


@keras.saving.register_keras_serializable(package="keras_notes_tests")
class Block(keras.Model):
    """A subclassed model of layers, operations and weights of its own."""

    def __init__(self, **keywords) -> None:
        super().__init__(**keywords)
        self.expand = L.Dense(12, activation="relu", name="expand")
        self.contract = L.Dense(6, name="contract")

    def build(self, shape) -> None:
        """Creates the weights."""
        self.expand.build(shape)
        self.contract.build((*shape[:-1], 12))
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")
        self.built = True

    def call(self, x):
        """X + contract(expand(x)) * scale."""
        return x + self.contract(self.expand(x)) * self.scale


def _subclassed() -> keras.Model:
    inputs = keras.Input(SEQUENCE)
    return keras.Model(inputs, L.Dense(5)(L.Flatten()(Block(name="block")(inputs))))


def _nested() -> keras.Model:
    inner_inputs = keras.Input(IMAGE)
    x = L.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inner_inputs)
    inner = keras.Model(inner_inputs, L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x)), name="inner")
    return keras.Sequential([keras.Input(IMAGE), inner, L.Flatten(), L.Dense(5)])


def _normalization() -> keras.Layer:
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(1).normal(2.0, 3.0, size=(64, *IMAGE)))
    return layer


NETS: dict[str, Callable[[], keras.Model]] = {
    "Dense": _net(SEQUENCE, lambda: L.Dense(7, activation="relu", bias_initializer="random_normal")),
    "EinsumDense": _net(
        SEQUENCE, lambda: L.EinsumDense("abc,cde->abde", (8, 2, 3), bias_axes="de", bias_initializer="random_normal")
    ),
    "Conv1D": _net(SEQUENCE, lambda: L.Conv1D(4, 3, activation="relu", bias_initializer="random_normal")),
    "Conv1D, causal": _net(SEQUENCE, lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    "Conv2D": _net(IMAGE, lambda: L.Conv2D(4, 3, strides=2, padding="same", activation="relu")),
    "Conv2D, dilated": _net(IMAGE, lambda: L.Conv2D(4, 3, dilation_rate=2)),
    "Conv3D": _net(VOLUME, lambda: L.Conv3D(4, 3, padding="same", activation="relu", bias_initializer="random_normal")),
    "Conv3D, strided": _net(VOLUME, lambda: L.Conv3D(4, (2, 3, 3), strides=2, padding="same")),
    "Conv3D, dilated": _net(VOLUME, lambda: L.Conv3D(4, (2, 3, 2), dilation_rate=2)),
    "DepthwiseConv1D": _net(SEQUENCE, lambda: L.DepthwiseConv1D(3, bias_initializer="random_normal")),
    "DepthwiseConv2D": _net(IMAGE, lambda: L.DepthwiseConv2D(3, depth_multiplier=2)),
    "SeparableConv1D": _net(SEQUENCE, lambda: L.SeparableConv1D(5, 3, bias_initializer="random_normal")),
    "SeparableConv2D": _net(IMAGE, lambda: L.SeparableConv2D(5, 3, activation="relu")),
    "Conv1DTranspose": _net(SEQUENCE, lambda: L.Conv1DTranspose(4, 3, strides=2, bias_initializer="random_normal")),
    "Conv2DTranspose": _net(IMAGE, lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same")),
    "BatchNormalization, folded": _net(IMAGE, _conv(use_bias=False), L.BatchNormalization, L.ReLU),
    "BatchNormalization, volumes": _net(VOLUME, lambda: L.Conv3D(4, 2), L.BatchNormalization, L.ReLU),
    "BatchNormalization, alone": _net(IMAGE, L.BatchNormalization, _conv()),
    "BatchNormalization, dense": _net((12,), lambda: L.Dense(8), L.BatchNormalization, L.ReLU, head=True),
    "LayerNormalization": _net(SEQUENCE, lambda: L.Dense(8), L.LayerNormalization),
    "RMSNormalization": _net(SEQUENCE, lambda: L.Dense(8), L.RMSNormalization),
    "MaxPooling1D": _net(SEQUENCE, lambda: L.Conv1D(4, 1), L.MaxPooling1D),
    "MaxPooling2D": _net(IMAGE, _conv(), L.MaxPooling2D),
    "MaxPooling3D": _net(VOLUME, lambda: L.Conv3D(4, 1), L.MaxPooling3D),
    "AveragePooling1D": _net(SEQUENCE, lambda: L.Conv1D(4, 1), lambda: L.AveragePooling1D(2)),
    "AveragePooling2D": _net(IMAGE, _conv(), lambda: L.AveragePooling2D(2)),
    "AveragePooling2D, same": _net(IMAGE, _conv(), lambda: L.AveragePooling2D(3, 1, padding="same")),
    "AveragePooling3D": _net(VOLUME, lambda: L.Conv3D(4, 1), lambda: L.AveragePooling3D(2)),
    "AveragePooling3D, same": _net(VOLUME, lambda: L.Conv3D(4, 1), lambda: L.AveragePooling3D(3, 2, padding="same")),
    "GlobalAveragePooling1D": _net(SEQUENCE, lambda: L.Conv1D(4, 1), L.GlobalAveragePooling1D),
    "GlobalAveragePooling2D": _net(IMAGE, _conv(), L.GlobalAveragePooling2D),
    "GlobalAveragePooling3D": _net(VOLUME, lambda: L.Conv3D(4, 1), L.GlobalAveragePooling3D),
    "GlobalMaxPooling1D": _net(SEQUENCE, lambda: L.Conv1D(4, 1), L.GlobalMaxPooling1D),
    "GlobalMaxPooling2D": _net(IMAGE, _conv(), L.GlobalMaxPooling2D),
    "GlobalMaxPooling3D": _net(VOLUME, lambda: L.Conv3D(4, 1), lambda: L.GlobalMaxPooling3D(keepdims=True)),
    "ReLU": _net(IMAGE, L.MaxPooling2D, L.ReLU),
    "ReLU, up to 6": _net(IMAGE, _conv(), lambda: L.ReLU(6.0)),
    "LeakyReLU": _net(IMAGE, _conv(), L.LeakyReLU),
    "PReLU": _net(IMAGE, _conv(), lambda: L.PReLU(alpha_initializer="random_normal", shared_axes=[1, 2])),
    "sigmoid": _net(IMAGE, _conv(activation="sigmoid")),
    "tanh": _net(IMAGE, _conv(activation="tanh")),
    "softmax": _net(SEQUENCE, lambda: L.Dense(8, activation="softmax")),
    "silu": _net(IMAGE, _conv(activation="silu")),
    "gelu": _net(IMAGE, _conv(activation="gelu")),
    "hard_sigmoid": _net(IMAGE, _conv(activation="hard_sigmoid")),
    "hard_silu": _net(IMAGE, _conv(activation="hard_silu")),
    "Softmax": _net(SEQUENCE, lambda: L.Dense(8), L.Softmax, head=False),
    "Add": _two_branches(L.Add),
    "Subtract": _two_branches(L.Subtract),
    "Multiply": _two_branches(L.Multiply),
    "Average": _two_branches(L.Average),
    "Maximum": _two_branches(L.Maximum),
    "Minimum": _two_branches(L.Minimum),
    "Concatenate": _two_branches(L.Concatenate),
    "Reshape": _net(IMAGE, _conv(), lambda: L.Reshape((16, 16)), lambda: L.Dense(4)),
    "Permute": _net(SEQUENCE, lambda: L.Dense(8), lambda: L.Permute((2, 1)), lambda: L.Dense(4)),
    "RepeatVector": _net((6,), lambda: L.Dense(4), lambda: L.RepeatVector(3)),
    "ZeroPadding1D": _net(SEQUENCE, lambda: L.Dense(4), L.ZeroPadding1D),
    "ZeroPadding2D": _net(IMAGE, _conv(), L.ZeroPadding2D),
    "ZeroPadding3D": _net(VOLUME, lambda: L.Conv3D(4, 1), L.ZeroPadding3D),
    "Cropping1D": _net(SEQUENCE, lambda: L.Dense(4), L.Cropping1D),
    "Cropping2D": _net(IMAGE, _conv(), lambda: L.Cropping2D(1)),
    "Cropping3D": _net(VOLUME, lambda: L.Conv3D(4, 1), lambda: L.Cropping3D(1)),
    "UpSampling1D": _net(SEQUENCE, lambda: L.Dense(4), L.UpSampling1D),
    "UpSampling2D, nearest": _net(IMAGE, _conv(), L.UpSampling2D),
    "UpSampling2D, bilinear": _net(IMAGE, _conv(), lambda: L.UpSampling2D(interpolation="bilinear")),
    "UpSampling3D": _net(VOLUME, lambda: L.Conv3D(4, 1), L.UpSampling3D),
    "Dropout": _net(IMAGE, _conv(), lambda: L.Dropout(0.2)),
    "Embedding": _net((8,), lambda: L.Embedding(20, 6), L.GlobalAveragePooling1D, dtype="int32"),
    "MultiHeadAttention": _attention(),
    "MultiHeadAttention, causal": _attention(use_causal_mask=True),
    "LSTM": _net(SEQUENCE, lambda: L.LSTM(5)),
    "LSTM, sequences": _net(SEQUENCE, lambda: LSTM(5, return_sequences=True), lambda: LSTM(4)),
    "GRU": _net(SEQUENCE, lambda: L.GRU(5, bias_initializer="random_normal")),
    "SimpleRNN": _net(SEQUENCE, lambda: L.SimpleRNN(5)),
    "Bidirectional": _net(SEQUENCE, lambda: L.Bidirectional(L.LSTM(4))),
    "Rescaling": _net(IMAGE, lambda: L.Rescaling(1.0 / 127.5, -1.0), _conv()),
    "Rescaling, uint8": _net(IMAGE, lambda: L.Rescaling(1.0 / 127.5, -1.0), _conv(), dtype="uint8"),
    "Normalization": _net(IMAGE, _normalization, _conv()),
    "nested model": _nested,
    "subclassed model": _subclassed,
}
