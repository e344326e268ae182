"""Other teachers, data sets and settings than those of a cache are errors."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import TeacherCache
from keras_notes.distillation._fingerprints import model_fingerprint
from keras_notes.distillation.cache import _cache_settings, _teacher_cache
from tests.distillation.cache.caches import (
    CLASSES,
    FEATURES,
    SAMPLES,
    build,
    compiled,
    deep,
    evaluated,
    halved,
    history_of,
    linear,
)

pytestmark = pytest.mark.any_backend


def test_another_teacher_is_an_error(data, tmp_path):
    teacher = linear()
    cache = build(teacher, data, tmp_path)
    cache.check_teacher(teacher)
    teacher.set_weights([np.nextafter(value, 9, dtype="float32") for value in teacher.get_weights()])
    message = r"teacher must be the one that .* was built with"
    with pytest.raises(ValueError, match=message):
        cache.check_teacher(teacher)
    with pytest.raises(ValueError, match=message):
        history_of(compiled(kn.Distiller(teacher, linear())), cache.join(data))
    with pytest.raises(ValueError, match=message):
        evaluated(compiled(kn.Distiller(teacher, linear())), cache.join(data))
    with pytest.raises(ValueError, match="whose teacher is another"):
        build(teacher, data, tmp_path)


@pytest.fixture
def fingerprinted(monkeypatch):
    """The models whose weights were hashed since."""
    models = []

    def recorded(model):
        models.append(model)
        return model_fingerprint(model)

    for module in (_teacher_cache, _cache_settings):
        monkeypatch.setattr(module, "model_fingerprint", recorded)
    return models


def test_a_fit_with_validation_hashes_a_live_teacher_once(data, tmp_path, fingerprinted):
    teacher = linear()
    cache = build(teacher, data, tmp_path)
    distiller = compiled(kn.Distiller(teacher, linear()))
    fingerprinted.clear()
    history_of(distiller, cache.join(data), validation_data=cache.join(data), epochs=5)
    assert fingerprinted == [teacher]
    evaluated(distiller, cache.join(data))
    assert fingerprinted == [teacher, teacher]


def test_a_fit_hashes_a_layer_that_preprocesses_once(data, tmp_path, fingerprinted):
    teacher, halve = linear(), keras.layers.Rescaling(0.5)
    cache = build(teacher, data, tmp_path, preprocess=halve)
    distiller = compiled(kn.Distiller(teacher, linear(), preprocess=halve))
    fingerprinted.clear()
    history_of(distiller, cache.join(data), validation_data=cache.join(data), epochs=3)
    assert len(fingerprinted) == 2


def moved_by_one_rounding(weights):
    return [np.nextafter(value, 9, dtype="float32") for value in weights]


def test_a_teacher_that_changes_between_two_calls_is_noticed(data, tmp_path):
    teacher = linear()
    joined = build(teacher, data, tmp_path).join(data)
    distiller = compiled(kn.Distiller(teacher, linear()))
    history_of(distiller, joined, validation_data=joined)
    evaluated(distiller, joined)
    original = teacher.get_weights()
    teacher.set_weights(moved_by_one_rounding(original))
    with pytest.raises(ValueError, match="teacher must be the one that"):
        evaluated(distiller, joined)
    with pytest.raises(ValueError, match="teacher must be the one that"):
        history_of(distiller, joined, validation_data=joined)
    teacher.set_weights(original)
    history_of(distiller, joined, validation_data=joined)


def test_a_teacher_that_a_callback_changes_is_noticed_after_that_epoch(data, tmp_path):
    teacher, epochs = linear(), []
    joined = build(teacher, data, tmp_path).join(data)

    def change(epoch, logs):
        epochs.append(epoch)
        if epoch == 1:
            kernel, bias = teacher.get_weights()
            kernel[0, 0] += 0.01
            teacher.set_weights([kernel, bias])

    # Before the evaluation: `on_epoch_end` comes after it.
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=change)
    distiller = compiled(kn.Distiller(teacher, linear()))
    with pytest.raises(ValueError, match="teacher must be the one that"):
        history_of(distiller, joined, validation_data=joined, epochs=4, callbacks=[callback])
    assert epochs == [0, 1]


def functional(outputs_of):
    """A model of two dense layers, b behind a: in that order, whatever is made of their outputs."""
    inputs = keras.Input((FEATURES,))
    a = keras.layers.Dense(CLASSES)(inputs)
    return keras.Model(inputs, outputs_of(a, keras.layers.Dense(CLASSES)(a)))


def sequence(layer):
    return keras.Sequential([keras.Input((3, FEATURES)), layer])


class Scaled(keras.Model):
    """A subclassed model with a number that is no weight."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.dense = scale, keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.dense(inputs) * self.scale

    def get_config(self):
        return {"scale": self.scale}


TWINS = {
    "activation": (lambda: linear(), lambda: linear(activation="relu")),
    "epsilon": (
        lambda: keras.Sequential([keras.Input((FEATURES,)), keras.layers.BatchNormalization()]),
        lambda: keras.Sequential([keras.Input((FEATURES,)), keras.layers.BatchNormalization(epsilon=0.1)]),
    ),
    "precision": (lambda: linear(), lambda: linear(dtype="mixed_bfloat16")),
    "direction": (
        lambda: sequence(keras.layers.SimpleRNN(CLASSES)),
        lambda: sequence(keras.layers.SimpleRNN(CLASSES, go_backwards=True)),
    ),
    "merging": (
        lambda: sequence(keras.layers.Bidirectional(keras.layers.SimpleRNN(CLASSES), merge_mode="sum")),
        lambda: sequence(keras.layers.Bidirectional(keras.layers.SimpleRNN(CLASSES), merge_mode="ave")),
    ),
    "wiring": (
        lambda: functional(lambda a, b: keras.layers.Subtract()([a, b])),
        lambda: functional(lambda a, b: keras.layers.Subtract()([b, a])),
    ),
    "constant": (lambda: functional(lambda a, b: (a + b) * 2.0), lambda: functional(lambda a, b: (a + b) * 3.0)),
    "order of outputs": (lambda: functional(lambda a, b: [a, b]), lambda: functional(lambda a, b: [b, a])),
    "number in a subclassed model": (lambda: Scaled(1.0), lambda: Scaled(2.0)),
}


@pytest.mark.parametrize("difference", TWINS)
def test_a_teacher_with_the_same_weights_that_computes_something_else_is_another(data, tmp_path, difference):
    teacher, twin = (make() for make in TWINS[difference])
    x = data[0] if difference not in ("direction", "merging") else np.stack([data[0], -data[0], 2 * data[0]], axis=1)
    for model in (teacher, twin):
        model(keras.KerasTensor(x.shape))
    twin.set_weights(teacher.get_weights())
    pairs = zip(*(keras.tree.flatten(model.predict_on_batch(x)) for model in (teacher, twin)), strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)
    cache = build(teacher, x, tmp_path)
    with pytest.raises(ValueError, match="with other weights or layers"):
        cache.check_teacher(twin)


def test_a_teacher_that_was_saved_reloaded_renamed_or_frozen_is_the_same(data, tmp_path):
    layers = [keras.layers.Dense(5, kernel_regularizer="l2"), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    teacher = keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(CLASSES)])
    cache = build(teacher, data, tmp_path / "cache")
    teacher.save(tmp_path / "teacher.keras")
    again = keras.saving.load_model(tmp_path / "teacher.keras")
    again.name = "another_name"
    again.trainable = False
    cache.check_teacher(again)
    kn.Distiller(teacher, linear())
    cache.check_teacher(teacher)
    assert build(again, data, tmp_path / "cache").samples == SAMPLES


def test_another_number_of_teachers_is_an_error(data, tmp_path):
    first, second = linear(), linear()
    cache = build([first, second], data, tmp_path)
    cache.check_teacher([first, second])
    for others in (first, [second, first], [first, second, first]):
        with pytest.raises(ValueError, match="teacher must be the one that"):
            cache.check_teacher(others)


def test_another_data_set_is_an_error(data, tmp_path):
    x, y = data
    teacher = linear()
    build(teacher, data, tmp_path, shard_size=8)
    changed = x.copy()
    changed[-1, -1] += 1
    for others in (changed, x[::-1], x + 1):
        with pytest.raises(ValueError, match="`dataset` must be the one that the build began with, in the same order"):
            build(teacher, (others, y), tmp_path, shard_size=8)
    with pytest.raises(ValueError, match="whose data set is another"):
        build(teacher, (x.astype("float64"), y), tmp_path, shard_size=8)
    assert build(teacher, data, tmp_path, shard_size=8).samples == SAMPLES


def test_a_part_of_the_data_set_never_takes_the_place_of_the_whole(data, tmp_path):
    x, _ = data
    teacher = linear()
    build(teacher, x, tmp_path, shard_size=8)
    with pytest.raises(ValueError, match="`dataset` must be the one that the build began with"):
        build(teacher, x[:16], tmp_path, shard_size=8)
    assert TeacherCache.open(tmp_path).samples == SAMPLES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "float16"),
        ("top_k", 2),
        ("temperature", 2.0),
        ("form", "probs"),
        ("views", 2),
        ("shard_size", 9),
        ("features", ["hidden"]),
        ("preprocess", halved),
    ],
)
def test_other_settings_are_errors_that_name_them(data, tmp_path, name, value):
    teacher = deep()
    build(teacher, data, tmp_path, shard_size=8)
    with pytest.raises(ValueError, match=f"whose {name} is another"):
        build(teacher, data, tmp_path, **{"shard_size": 8, name: value})
    assert build(teacher, data, tmp_path, shard_size=8).samples == SAMPLES


def test_a_live_teacher_that_preprocesses_otherwise_is_an_error(data, tmp_path):
    teacher = linear()
    cache = build(teacher, data, tmp_path)
    distiller = compiled(kn.Distiller(teacher, linear(), preprocess=halved))
    with pytest.raises(ValueError, match="preprocess"):
        history_of(distiller, cache.join(data))
