"""Networks of these layers learn tasks that need attention and positions."""

import keras
import numpy as np

from keras_notes.layers import Transformer, TransformerEncoder


def test_learns_which_of_two_marks_comes_first():
    # A task that needs positions and attention: the order of two ones among zeros of a sequence.
    rng = np.random.default_rng(0)
    places = np.array([rng.permutation(6)[:2] for _ in range(512)])
    x = np.zeros((512, 6, 8), "float32")
    x[np.arange(512), places[:, 0], 0] = x[np.arange(512), places[:, 1], 1] = 1.0
    inputs = keras.Input((6, 8))
    hidden = TransformerEncoder(2, 16, rotary=True, norm_first=True)(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(keras.layers.GlobalAveragePooling1D()(hidden)))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, places[:, 0] < places[:, 1], epochs=25, batch_size=64, verbose=0)
    assert model.evaluate(x, places[:, 0] < places[:, 1], verbose=0)[1] > 0.95


def test_learns_to_reverse_a_sequence():
    rng = np.random.default_rng(0)
    source = rng.integers(2, 8, (512, 4)).astype("int32")
    target = np.concatenate([np.ones((512, 1), "int32"), source[:, ::-1]], axis=1)
    model = Transformer(8, 8, num_layers=1, width=32, num_heads=2, hidden_width=64, max_length=5, norm_first=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss, metrics=["accuracy"])
    model.fit((source, target[:, :-1]), target[:, 1:], epochs=15, batch_size=64, verbose=0)
    assert model.evaluate((source, target[:, :-1]), target[:, 1:], verbose=0)[1] > 0.9
