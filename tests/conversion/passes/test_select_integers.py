"""Operators that select among values: ARG_MAX, ARG_MIN, TOPK_V2 and ONE_HOT, on integers in integer files."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.compression import quantize_aware

X = np.random.default_rng(0).normal(size=(64, 4, 5, 3)).astype("float32")
SELECTIONS = {
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "argmax_of_rows": lambda x: ops.argmax(x, axis=1, keepdims=True),
    "argmin": lambda x: ops.argmin(x, axis=-1),
    "argsort": lambda x: ops.argsort(x, axis=-1),
    "class_map": lambda x: layers.Conv2D(2, 1)(ops.one_hot(ops.argmax(x, axis=-1), 6)),
    "sort": lambda x: ops.sort(x, axis=-1),
    "top_values": lambda x: ops.top_k(x, 3)[0],
    "top_indices": lambda x: ops.top_k(x, 3)[1],
}
# Of names of outputs: the operations themselves are called "argmax" and so on.
PREFIX = "result_of_"
INDICES = ("argmax", "argmax_of_rows", "argmin", "argsort", "top_indices")


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 5, 3), name="x")
    scores = layers.Conv2D(6, 1, name="before")(inputs)
    selections = {**SELECTIONS, "scores": lambda x: x}
    return keras.Model(
        inputs, {name: layers.Identity(name=PREFIX + name)(select(scores)) for name, select in selections.items()}
    )


def run(bundle: kn.Bundle, x: np.ndarray) -> dict[str, np.ndarray]:
    runner = Interpreter(str(bundle.model_path)).get_signature_runner()
    outputs = [runner(x=sample[None]) for sample in x]
    return {name.removeprefix(PREFIX): np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def check_selections(outputs: dict[str, np.ndarray]) -> None:
    """Checks the selections among the scores that the same file gives, ties to the first of them."""
    scores = outputs["scores"]
    np.testing.assert_array_equal(outputs["argmax"], scores.argmax(-1))
    np.testing.assert_array_equal(outputs["argmax_of_rows"], scores.argmax(1, keepdims=True))
    np.testing.assert_array_equal(outputs["argmin"], scores.argmin(-1))
    np.testing.assert_array_equal(outputs["argsort"], np.argsort(scores, -1, kind="stable"))
    np.testing.assert_allclose(outputs["sort"], np.sort(scores, -1), atol=1e-6)
    np.testing.assert_allclose(outputs["top_values"], np.sort(scores, -1)[..., :-4:-1], atol=1e-6)
    np.testing.assert_array_equal(outputs["top_indices"], np.argsort(-scores, -1, kind="stable")[..., :3])


@pytest.mark.parametrize(
    "recipe",
    ["static_int8", pytest.param("int16x8", marks=pytest.mark.slow), pytest.param("float32", marks=pytest.mark.slow)],
)
def test_selections_are_those_among_the_values_of_the_file(recipe, tmp_path):
    samples = {"golden": X[:8]} if recipe == "float32" else {"calibration": X}
    bundle = kn.convert(build(), tmp_path / "bundle", recipe, **samples)
    file = read_tflite(bundle.model_path)
    if recipe != "float32":
        assert file.float_operators() == ()
    counts = file.operator_counts()
    assert (counts["ARG_MAX"], counts["ARG_MIN"], counts["ONE_HOT"]) == (2, 1, 1)
    check_selections(run(bundle, X[:8]))


def test_selections_in_training_are_those_of_the_file(tmp_path):
    aware = quantize_aware(build(), calibration=X)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=X[:8])
    assert read_tflite(bundle.model_path).float_operators() == ()
    actual, expected = run(bundle, X), aware.predict(X, verbose=0)
    check_selections(actual)
    for name in INDICES:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_an_index_of_another_position_is_noticed():
    scores = X
    outputs = {
        "scores": scores, "argmax": scores.argmax(-1), "argmax_of_rows": scores.argmax(1, keepdims=True),
        "argmin": scores.argmin(-1), "argsort": np.argsort(scores, -1), "sort": np.sort(scores, -1),
        "top_values": np.sort(scores, -1)[..., ::-1], "top_indices": np.argsort(-scores, -1),
    }  # fmt: skip
    check_selections(outputs)
    outputs["argmin"] = outputs["argmin"].copy()
    outputs["argmin"][0, 0, 0] = (outputs["argmin"][0, 0, 0] + 1) % 3
    with pytest.raises(AssertionError):
        check_selections(outputs)
