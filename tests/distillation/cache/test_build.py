"""What a cache holds of the teachers' outputs, and the progress of a build."""

import contextlib
import shutil

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import TeacherCache
from keras_notes.distillation import SeededBatches
from keras_notes.losses import DistillationLoss, HintLoss
from tests.distillation.cache.caches import (
    CLASSES,
    FEATURES,
    FLOAT32_SUMS,
    SAMPLES,
    answers,
    assert_holds,
    assert_measures_alike,
    assert_trains_alike,
    build,
    compiled,
    deep,
    evaluated,
    halved,
    history_of,
    linear,
    top_k_loss,
    two_inputs,
)
from tests.distillation.training import (
    crossentropy,
)
from tests.losses.references import log_softmax

pytestmark = pytest.mark.any_backend


# float16 keeps 11 bits; where numbers are subnormal, multiples of 2^-24.
FLOAT16, SUBNORMAL = 2.0**-11, 2.0**-25


def test_the_checker_tells_teachers_apart(data, tmp_path):
    cache = build(linear(), data, tmp_path)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_holds(cache, linear(), data[0])


def test_float32_keeps_the_answers_and_float16_rounds_them(data, tmp_path):
    teacher = linear()
    assert_holds(build(teacher, data, tmp_path / "32"), teacher, data[0])
    rounded = build(teacher, data, tmp_path / "16", dtype="float16")
    assert_holds(rounded, teacher, data[0], rtol=FLOAT16, atol=SUBNORMAL)
    with pytest.raises(AssertionError):
        assert_holds(rounded, teacher, data[0])


def test_the_first_step_has_the_loss_of_the_live_teacher_to_the_last_bit(data, tmp_path):
    teacher, student = linear(), linear()
    batches = SeededBatches(*data, batch_size=SAMPLES, seed=1)
    cache = build(teacher, batches, tmp_path)
    start = student.get_weights()
    live = history_of(compiled(kn.Distiller(teacher, student), jit_compile="auto"), batches, epochs=1)
    student.set_weights(start)
    cached = history_of(compiled(kn.Distiller(cache, student), jit_compile="auto"), cache.join(batches), epochs=1)
    assert cached["distillation_loss"] == live["distillation_loss"]
    assert cached["loss"] == live["loss"]


def test_training_on_the_cache_is_training_on_the_teacher(data, tmp_path):
    batches = SeededBatches(*data, batch_size=12, seed=1)
    assert_trains_alike(linear(), linear, batches, tmp_path)


def test_the_checker_of_training_tells_teachers_apart(data, tmp_path):
    batches = SeededBatches(*data, batch_size=12, seed=1)
    build(linear(), batches, tmp_path / "other")
    teacher = linear()
    build(teacher, batches, tmp_path / "cache")
    # The records of one teacher under the name of another.
    for shard in (tmp_path / "other").glob("shard-*"):
        shutil.rmtree(tmp_path / "cache" / shard.name)
        shutil.copytree(shard, tmp_path / "cache" / shard.name)
    with pytest.raises(AssertionError):
        assert_trains_alike(teacher, linear, batches, tmp_path / "cache")


def test_no_teacher_runs_while_its_cache_is_joined(data, tmp_path):
    calls = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs):
            calls.append(self.name)
            return inputs

    teacher = keras.Sequential([keras.Input((FEATURES,)), Recorder(), keras.layers.Dense(CLASSES)])
    batches = SeededBatches(*data, batch_size=12)
    cache = build(teacher, batches, tmp_path)
    distiller = compiled(kn.Distiller(teacher, linear()))
    calls.clear()
    history_of(distiller, cache.join(batches))
    # Not even a trace of it.
    assert calls == []
    history_of(distiller, batches, epochs=1)
    assert calls


def test_several_outputs_of_a_teacher_are_kept(data, tmp_path):
    x, y = data

    def two_heads():
        inputs = keras.Input((FEATURES,))
        heads = {"b": keras.layers.Dense(CLASSES)(inputs), "a": keras.layers.Dense(2)(inputs)}
        return keras.Model(inputs, heads)

    teacher = two_heads()
    batches = SeededBatches(x, {"b": y, "a": y % 2}, batch_size=12)
    loss = {"b": crossentropy(), "a": crossentropy()}
    assert_trains_alike(teacher, two_heads, batches, tmp_path, loss=loss)
    assert_holds(TeacherCache.open(tmp_path), teacher, x)


@pytest.mark.parametrize("teacher_weights", [[1.0, 3.0], "best"])
def test_several_teachers_are_kept(data, tmp_path, teacher_weights):
    batches = SeededBatches(*data, batch_size=12)
    teachers = [linear(), linear()]
    assert_measures_alike(teachers, linear(), batches, tmp_path, teacher_weights=teacher_weights)
    for record, teacher in zip(TeacherCache.open(tmp_path).lookup(data[0])["outputs"], teachers, strict=True):
        np.testing.assert_allclose(record[0], answers(teacher, data[0]), atol=FLOAT32_SUMS)


def test_features_are_kept(data, tmp_path):
    batches = SeededBatches(*data, batch_size=12)
    match = kn.FeatureMatch("hidden", "hidden", HintLoss(), weight=2.0)
    assert_trains_alike(deep(), deep, batches, tmp_path, cache={"features": ["hidden"]}, features=[match])


def test_features_of_the_second_of_two_teachers_are_kept(data, tmp_path):
    teachers = [linear(), deep()]
    cache = build(teachers, data, tmp_path, features=[(1, "hidden")])
    wanted = answers(keras.Model(teachers[1].inputs[0], teachers[1].get_layer("hidden").output), data[0])
    ((name, feature),) = cache.lookup(data[0])["features"].items()
    assert name == "1:hidden"
    np.testing.assert_allclose(feature, wanted, atol=FLOAT32_SUMS)


@pytest.mark.parametrize("features", [["hidden"], []])
def test_features_that_the_cache_lacks_are_an_error(data, tmp_path, features):
    cache = build(deep(), data, tmp_path, features=features)
    match = kn.FeatureMatch("head", "head", HintLoss())
    with pytest.raises(ValueError, match=r"must hold the teacher's features.*without '0:head'"):
        kn.Distiller(cache, deep(), features=[match])


def test_two_functions_never_stand_for_one_feature(data, tmp_path):
    with contextlib.suppress(ValueError):  # an error is as good as two features
        cache = build(deep(), data, tmp_path, features=[lambda m: m.layers[0], lambda m: m.layers[1]])
        assert sorted(cache.settings["feature_shapes"]) == [[CLASSES], [5]]


def divergence_of_top_k(teacher_logits, student_logits, k, temperature):
    """T^2 KL of the k most probable classes and the rest as one more, a mean over samples."""
    ids = np.argsort(-teacher_logits, axis=-1)[:, :k]
    lumped = []
    for logits in (teacher_logits, student_logits):
        probs = np.exp(log_softmax(logits / temperature))
        listed = np.take_along_axis(probs, ids, axis=-1)
        lumped.append(np.concatenate([listed, 1 - listed.sum(-1, keepdims=True)], axis=-1))
    p, q = lumped
    return temperature**2 * (p * np.log(p / q)).sum(-1).mean()


@pytest.mark.parametrize(("form", "activation"), [("logits", None), ("probs", "softmax"), ("log_probs", "log_softmax")])
def test_top_k_targets_are_those_of_the_teachers_answers(data, tmp_path, form, activation):
    x, y = data
    teacher, student = linear(classes=6, activation=activation), linear(classes=6)
    batches = SeededBatches(x, y, batch_size=SAMPLES, shuffle=False)
    cache = build(teacher, batches, tmp_path, top_k=2, temperature=3.0, form=form)
    logs = evaluated(compiled(kn.Distiller(cache, student, top_k_loss(3.0))), cache.join(batches))
    teacher_logits = x.astype("float64") @ teacher.get_weights()[0]
    student_logits = x.astype("float64") @ student.get_weights()[0]
    wanted = divergence_of_top_k(teacher_logits, student_logits, 2, 3.0)
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=1e-4)
    # The reference itself tells one k from another.
    assert divergence_of_top_k(teacher_logits, student_logits, 3, 3.0) > 1.01 * wanted


def test_all_classes_as_top_k_are_the_dense_answers(data, tmp_path):
    batches = SeededBatches(*data, batch_size=12)
    teacher, student = linear(), linear()
    cache = build(teacher, batches, tmp_path, top_k=CLASSES, temperature=2.0)
    dense = evaluated(compiled(kn.Distiller(teacher, student, DistillationLoss(2.0))), batches)
    assert evaluated(compiled(kn.Distiller(cache, student, top_k_loss(2.0))), cache.join(batches)) == pytest.approx(
        dense, rel=1e-5
    )


@pytest.mark.parametrize("make", [lambda: halved, lambda: keras.layers.Rescaling(0.5)], ids=["function", "layer"])
def test_preprocess_makes_the_teachers_inputs_and_samples_are_known_by_the_students(data, tmp_path, make):
    teacher = linear()
    cache = build(teacher, data, tmp_path, preprocess=make())
    (record,) = cache.lookup(data[0])["outputs"][0]
    np.testing.assert_allclose(record, answers(teacher, data[0] * 0.5), atol=FLOAT32_SUMS)
    assert cache.verify(teacher, data[0], preprocess=make()) < 1e-5


def test_a_layer_that_preprocesses_is_known_by_what_it_does_and_not_by_its_name(data, tmp_path):
    teacher = linear()
    build(teacher, data, tmp_path, preprocess=keras.layers.Rescaling(0.5, name="first"))
    build(teacher, data, tmp_path, preprocess=keras.layers.Rescaling(0.5, name="second"))
    with pytest.raises(ValueError, match="whose preprocess is another"):
        build(teacher, data, tmp_path, preprocess=keras.layers.Rescaling(0.25, name="first"))


@pytest.mark.parametrize("structure", [dict, tuple])
def test_several_inputs_make_one_sample(data, tmp_path, structure):
    x, y = data
    # Rows of one input are alike: only both together tell the samples apart.
    left, right = np.repeat(x[::4], 4, axis=0), np.tile(x[:4, :2], (6, 1))
    inputs = {"left": left, "right": right} if structure is dict else (left, right)
    teacher = two_inputs(structure)
    batches = SeededBatches(inputs, y, batch_size=12, seed=3)
    assert_measures_alike(teacher, two_inputs(structure), batches, tmp_path)
    assert_holds(TeacherCache.open(tmp_path), teacher, inputs)


def test_tokens_are_samples(data, tmp_path):
    tokens = np.random.default_rng(1).integers(0, 9, (SAMPLES, 5)).astype("int32")

    def classifier():
        layers = [keras.layers.Embedding(9, 4, mask_zero=True), keras.layers.GlobalAveragePooling1D()]
        return keras.Sequential([keras.Input((5,), dtype="int32"), *layers, keras.layers.Dense(CLASSES)])

    batches = SeededBatches(tokens, data[1], batch_size=12)
    teacher = classifier()
    assert_measures_alike(teacher, classifier(), batches, tmp_path)
    assert_holds(TeacherCache.open(tmp_path), teacher, tokens)


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_inputs_of_any_dtype_are_samples(data, tmp_path, dtype):
    x = (np.abs(data[0]) * 50).astype(dtype)
    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Rescaling(0.01), keras.layers.Dense(CLASSES)])
    cache = build(teacher, (x, data[1]), tmp_path)
    assert_holds(cache, teacher, keras.ops.convert_to_numpy(x))
    logs = evaluated(compiled(kn.Distiller(cache, linear())), cache.join((x, data[1])))
    assert np.isfinite(logs["loss"])


def test_inputs_of_another_dtype_are_an_error_that_names_both(data, tmp_path):
    cache = build(linear(), data, tmp_path)
    with pytest.raises(ValueError, match=r"float64\[4\]; the cache was built from float32\[4\]"):
        cache.lookup(data[0].astype("float64"))


def test_one_sample_is_a_data_set(data, tmp_path):
    x, y = data[0][:1], data[1][:1]
    teacher = linear()
    cache = build(teacher, x, tmp_path)
    assert_holds(cache, teacher, x)
    logs = evaluated(compiled(kn.Distiller(cache, linear())), cache.join((x, y), batch_size=1))
    assert np.isfinite(logs["loss"])


def test_samples_that_occur_twice_share_what_the_teacher_says(data, tmp_path):
    teacher = linear()
    cache = build(teacher, np.concatenate([data[0], data[0]]), tmp_path, shard_size=20)
    assert_holds(cache, teacher, data[0])


def test_layers_of_the_teacher_run_as_in_inference(data, tmp_path):
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES)]
    teacher = keras.Sequential([keras.Input((FEATURES,)), *layers])
    # The last batch has 3 samples, and the last shard 2.
    assert_holds(build(teacher, data, tmp_path, batch_size=7, shard_size=22), teacher, data[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_teacher_that_gives_no_numbers_is_an_error(data, tmp_path, value):
    teacher = linear()
    teacher.set_weights([np.zeros((FEATURES, CLASSES)), np.full(CLASSES, value)])
    with pytest.raises(ValueError, match=r"must give finite numbers. Received: NaN or inf in output_0_0 for 24 of 24"):
        build(teacher, data, tmp_path)
    with pytest.raises(ValueError, match="was not finished"):
        TeacherCache.open(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_classes_that_the_teacher_rules_out_stay_ruled_out(data, tmp_path, dtype):
    class RuledOut(keras.layers.Layer):
        def call(self, inputs):
            return keras.ops.where(keras.ops.arange(CLASSES) == 1, -np.inf, inputs)

    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES), RuledOut()])
    cache = build(teacher, data, tmp_path, dtype=dtype)
    assert_holds(cache, teacher, data[0], rtol=FLOAT16, atol=SUBNORMAL)
    assert cache.verify(teacher, data[0]) < 2e-3


def test_numbers_beyond_float16_are_an_error_that_names_float32(data, tmp_path):
    teacher = linear()
    teacher.set_weights([np.full((FEATURES, CLASSES), 1e6), np.zeros(CLASSES)])
    with pytest.raises(ValueError, match=r"float16 must hold what the teacher gives.*Use `dtype='float32'`"):
        build(teacher, data, tmp_path / "16", dtype="float16")
    # Products of a million, to float32.
    assert_holds(build(teacher, data, tmp_path / "32"), teacher, data[0], rtol=1e-5, atol=1.0)


def test_verify_gives_the_rounding_and_raises_for_another_teacher(data, tmp_path):
    teacher = linear()
    cache = build(teacher, data, tmp_path, dtype="float16")
    assert 0 < cache.verify(teacher, data[0][:8]) <= FLOAT16
    with pytest.raises(ValueError, match="It is another teacher, or `preprocess` is another"):
        cache.verify(linear(), data[0])
    with pytest.raises(ValueError, match="It is another teacher, or `preprocess` is another"):
        cache.verify(teacher, data[0], preprocess=halved)


def test_progress_is_told_in_samples_or_not_at_all(data, tmp_path, capsys):
    teacher = linear()
    TeacherCache.build(teacher, data, tmp_path / "loud", batch_size=8, verbose=1)
    out = capsys.readouterr().out
    assert "24/24" in out
    assert "/sample" in out
    TeacherCache.build(teacher, data, tmp_path / "silent", batch_size=8, verbose=0)
    assert capsys.readouterr().out == ""


def test_progress_counts_what_is_left(data, tmp_path, capsys):
    arguments = {"batch_size": 8, "shard_size": 8, "verbose": 1}
    teacher = linear()
    TeacherCache.build(teacher, data, tmp_path, process=(0, 2), **arguments)
    assert "16/16" in capsys.readouterr().out
    TeacherCache.build(teacher, data, tmp_path, **arguments)
    assert "8/8" in capsys.readouterr().out
    TeacherCache.build(teacher, data, tmp_path, **arguments)
    assert capsys.readouterr().out == ""
