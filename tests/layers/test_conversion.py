"""Networks of these layers are quantized, converted and verified."""

from collections import Counter

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.layers import OneHot, PositionalEncoding, Transformer, TransformerEncoder

RECIPES = ("float32", "dynamic_int8", "static_int8", "int16x8")
LENGTH, WIDTH = 8, 16
VARIANTS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True, "activation": "swiglu", "normalization": "rms", "rotary": True,
                 "num_key_value_heads": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(64, LENGTH, WIDTH)).astype("float32")


def classifier(**arguments):
    """An encoder block over positions and a dense layer."""
    inputs = keras.Input((LENGTH, WIDTH))
    hidden = TransformerEncoder(4, 32, **arguments)(PositionalEncoding(LENGTH)(inputs))
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling1D()(hidden)))


def operators_of(bundle):
    graphs = read_tflite(bundle.directory / "model.tflite").graphs
    return Counter(operator.name for graph in graphs for operator in graph.operators)


@pytest.mark.parametrize(
    ("variant", "recipe"), [("post-norm", "static_int8"), *(("pre-norm", recipe) for recipe in RECIPES)]
)
def test_an_encoder_converts_without_floats_left_and_is_proven(x, variant, recipe, tmp_path):
    is_integer = recipe in ("static_int8", "int16x8")
    calibration = {"calibration": x} if is_integer else {"golden": x[:8]}
    bundle = kn.convert(classifier(**VARIANTS[variant]), tmp_path / "bundle", recipe, **calibration)
    report = kn.verify(bundle)
    assert report.ok
    assert (report.float_islands == ()) == is_integer
    assert not {"NEG", "SELECT_V2", "GATHER", "SIN", "COS"} & set(operators_of(bundle))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_encoder_trains_in_the_arithmetic_of_the_device(x, variant, tmp_path):
    model = classifier(**VARIANTS[variant])
    aware = kn.compression.quantize_aware(model, calibration=x)
    expected = model.predict(x, verbose=0)
    assert np.abs(aware.predict(x, verbose=0) - expected).max() < 0.15 * np.abs(expected).max()
    aware.compile(keras.optimizers.Adam(1e-3), "mse")
    history = aware.fit(x, expected, epochs=2, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert kn.verify(kn.convert(aware, tmp_path / "bundle", "static_int8")).ok


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["static_int8", "int16x8"])
def test_padding_and_causal_masks_convert_without_floats_left(x, recipe, tmp_path):
    inputs, mask = keras.Input((LENGTH, WIDTH)), keras.Input((LENGTH,), dtype="bool")
    hidden = TransformerEncoder(4, 32)(inputs, mask=mask, attention_mask=np.tri(LENGTH, dtype=bool))
    model = keras.Model([inputs, mask], keras.layers.Dense(5)(hidden))
    masks = np.arange(LENGTH) < np.random.default_rng(1).integers(0, LENGTH + 1, 64)[:, None]
    assert kn.verify(kn.convert(model, tmp_path / "bundle", recipe, calibration=[x, masks])).ok


@pytest.mark.parametrize("out_of_range", ["zero", "error"])
def test_one_hot_becomes_one_operator(out_of_range, tmp_path):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), OneHot(9, out_of_range=out_of_range)])
    ids = [0, 8, 9, -1] if out_of_range == "zero" else [0, 8, 3, 1]
    bundle = kn.convert(model, tmp_path / "bundle", "float32", golden=np.array([ids], "int32"))
    assert kn.verify(bundle).ok
    assert set(operators_of(bundle)) <= {"ONE_HOT", "CAST"}


@pytest.mark.slow
def test_a_whole_transformer_converts_without_floats_left(tmp_path):
    model = Transformer(11, 7, num_layers=1, width=WIDTH, num_heads=2, hidden_width=32, max_length=LENGTH)
    inputs = keras.Input((6,), dtype="int32"), keras.Input((5,), dtype="int32")
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 11, (32, 6)).astype("int32"), rng.integers(1, 7, (32, 5)).astype("int32")]
    bundle = kn.convert(keras.Model(inputs, model(inputs)), tmp_path / "bundle", calibration=ids)
    assert kn.verify(bundle).ok


class Step(keras.Layer):
    """A step of decoding, with all its state as inputs and outputs."""

    def __init__(self, transformer, **kwargs):
        super().__init__(**kwargs)
        self.transformer = transformer

    def call(self, ids, start, mask, caches, memory_caches):
        logits, caches = self.transformer.step(ids, caches, memory_caches, start[0], mask)
        return logits, caches


def test_a_step_with_caches_converts(tmp_path):
    model = Transformer(11, 7, num_layers=1, width=WIDTH, num_heads=2, hidden_width=32, max_length=LENGTH)
    source, target = np.array([[3, 4, 5, 6, 0]], "int32"), np.array([[1, 5, 2]], "int32")
    mask = keras.ops.convert_to_numpy(model.source_mask(source))
    memory_caches, caches = model.memory_caches(model.encode(source)), model.start_caches(1)
    _, caches = model.step(target[:, :2], caches, memory_caches, 0, mask)
    state = [keras.ops.convert_to_numpy(array) for array in keras.tree.flatten((caches, memory_caches))]
    arrays = [target[:, 2:], np.array([2], "int32"), mask, *state]
    inputs = [keras.Input(batch_shape=array.shape, dtype=str(array.dtype)) for array in arrays]
    ids, start, source_mask, keys, values, memory_keys, memory_values = inputs
    outputs = Step(model)(ids, start, source_mask, ((keys, values),), ((memory_keys, memory_values),))
    bundle = kn.convert(keras.Model(inputs, outputs), tmp_path / "bundle", "float32", golden=arrays)
    assert kn.verify(bundle).ok
    assert operators_of(bundle)["DYNAMIC_UPDATE_SLICE"] == 2
