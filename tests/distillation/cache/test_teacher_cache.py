"""TeacherCache: what it holds, that each sample finds its own record, and that nothing else passes for it."""

import contextlib
import shutil

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import TeacherCache
from keras_notes.distillation import SeededBatches
from keras_notes.distillation._fingerprints import model_fingerprint
from keras_notes.distillation.cache import _record_layout, _teacher_cache
from keras_notes.losses import DistillationLoss, HintLoss
from tests.distillation.training import (
    crossentropy,
)
from tests.losses.references import log_softmax

pytestmark = pytest.mark.any_backend

CLASSES, FEATURES, SAMPLES = 3, 4, 24
# float16 keeps 11 bits; where numbers are subnormal, multiples of 2^-24.
FLOAT16, SUBNORMAL = 2.0**-11, 2.0**-25
# Sums of a few float32 numbers, which XLA may take in another order.
FLOAT32_SUMS = 1e-6

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data feeds TensorFlow")
needs_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="DataLoader feeds torch")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)


def linear(classes=CLASSES, **dense):
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(classes, **dense)])


def build(teacher, dataset, directory, **arguments):
    return TeacherCache.build(teacher, dataset, directory, **{"dtype": "float32", "verbose": 0, **arguments})


def answers(model, inputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, training=False))


def assert_holds(cache, teacher, inputs, rtol=FLOAT32_SUMS, atol=FLOAT32_SUMS):
    """The record of each sample is what the teacher says of it now."""
    wanted = keras.tree.flatten(answers(teacher, inputs))
    (found,) = cache.lookup(inputs)["outputs"]
    assert len(found) == len(wanted)
    for record, answer in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(record, "float32"), answer, rtol=rtol, atol=atol)


def compiled(distiller, loss=None, **arguments):
    # Tiny models train faster than XLA compiles them for TensorFlow; JAX has no other way.
    arguments = {"jit_compile": keras.backend.backend() == "jax", **arguments}
    distiller.compile(keras.optimizers.SGD(0.5), loss or crossentropy(), **arguments)
    return distiller


def fitted(distiller, dataset, **arguments):
    return distiller.fit(dataset, **{"epochs": 2, "shuffle": False, "verbose": 0, **arguments}).history


def distance(first, second):
    """The largest difference between the weights of two models."""
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def assert_trains_alike(teacher, make_student, batches, directory, *, cache=None, loss=None, **arguments):
    """A student that is fitted on the cache ends with the weights of one that is fitted on the live teacher."""
    cached, live, start = make_student(), make_student(), make_student()
    for student in (cached, live):
        student.set_weights(start.get_weights())
    store = build(teacher, batches, directory, **(cache or {}))
    fitted(compiled(kn.Distiller(teacher, live, **arguments), loss), batches)
    fitted(compiled(kn.Distiller(store, cached, **arguments), loss), store.join(batches))
    assert distance(live, start) > 1e-3
    assert distance(live, cached) <= FLOAT32_SUMS


def evaluated(distiller, dataset):
    return distiller.evaluate(dataset, return_dict=True, verbose=0)


def assert_measures_alike(teacher, student, batches, directory, *, cache=None, loss=None, **arguments):
    """The losses on the cache are those on the live teacher, and another student has others."""
    store = build(teacher, batches, directory, **(cache or {}))
    live = evaluated(compiled(kn.Distiller(teacher, student, **arguments), loss), batches)
    distiller = compiled(kn.Distiller(store, student, **arguments), loss)
    assert evaluated(distiller, store.join(batches)) == pytest.approx(live, rel=1e-5)
    student.set_weights([2 * weight for weight in student.get_weights()])
    assert evaluated(distiller, store.join(batches)) != pytest.approx(live, rel=1e-3)


# What it holds


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
    live = fitted(compiled(kn.Distiller(teacher, student), jit_compile="auto"), batches, epochs=1)
    student.set_weights(start)
    cached = fitted(compiled(kn.Distiller(cache, student), jit_compile="auto"), cache.join(batches), epochs=1)
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
    fitted(distiller, cache.join(batches))
    # Not even a trace of it.
    assert calls == []
    fitted(distiller, batches, epochs=1)
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


def deep(hidden=5):
    layers = [keras.layers.Dense(hidden, "relu", name="hidden"), keras.layers.Dense(CLASSES, name="head")]
    return keras.Sequential([keras.Input((FEATURES,)), *layers])


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


def top_k_loss(temperature):
    return DistillationLoss(temperature, teacher="top_k", teacher_temperature=temperature)


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
    teacher, student = linear(6, activation=activation), linear(6)
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


def halved(inputs):
    return inputs * 0.5


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


def two_inputs(structure):
    left, right = keras.Input((FEATURES,), name="left"), keras.Input((2,), name="right")
    inputs = {"left": left, "right": right} if structure is dict else (left, right)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Concatenate()([left, right]))
    return keras.Model(inputs, outputs)


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


# Every sample finds its record


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 24), (5, 7), (24, 8), (100, 100)])
def test_neither_batches_nor_shards_nor_order_matter(data, tmp_path, batch_size, shard_size):
    x, y = data
    teacher = linear()
    cache = build(teacher, data, tmp_path, batch_size=batch_size, shard_size=shard_size)
    assert cache.samples == SAMPLES
    assert_holds(cache, teacher, x[np.random.default_rng(5).permutation(SAMPLES)])
    seen = 0
    for batch in cache.join(SeededBatches(x, y, batch_size=9, seed=2)):
        inputs, record = batch[0]["keras_notes.inputs"], batch[0]["keras_notes.teacher"]
        np.testing.assert_allclose(record["outputs"][0][0], answers(teacher, inputs), atol=FLOAT32_SUMS)
        seen += len(batch[1])
    assert seen == SAMPLES


def test_a_part_of_the_data_set_finds_its_records(data, tmp_path):
    x, y = data
    teacher = linear()
    cache = build(teacher, data, tmp_path, shard_size=10)
    assert_holds(cache, teacher, x[:10])
    labels = [label for batch in cache.join((x[5:13], y[5:13]), batch_size=4, seed=1) for label in batch[1]]
    assert sorted(labels) == sorted(y[5:13])


class Batches(keras.utils.PyDataset):
    """Batches of 6, by index."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 6

    def __getitem__(self, index):
        rows = slice(6 * index, 6 * index + 6)
        return self.x[rows], self.y[rows]


class Loader:
    """Batches of 6 in another order each time, as lists or tuples, with or without a length."""

    def __init__(self, x, y, kind=tuple):
        self.x, self.y, self.kind = x, y, kind
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        order = self.rng.permutation(len(self.x))
        for start in range(0, len(order), 6):
            rows = order[start : start + 6]
            yield self.kind([self.x[rows], self.y[rows]])


class SizedLoader(Loader):
    def __len__(self):
        return len(self.x) // 6


def assert_joins(dataset, data, directory, **fit):
    """A data set is cached and joined, with the right records, and trains a student."""
    x, _ = data
    teacher = linear()
    cache = build(teacher, dataset, directory, shard_size=10)
    assert cache.samples == SAMPLES
    assert_holds(cache, teacher, x)
    labels = []
    for batch in cache.join(dataset):
        inputs, record = batch[0]["keras_notes.inputs"], batch[0]["keras_notes.teacher"]
        np.testing.assert_allclose(record["outputs"][0][0], answers(teacher, inputs), atol=FLOAT32_SUMS)
        labels.extend(np.asarray(batch[1]).tolist())
    assert sorted(labels) == sorted(data[1].tolist())
    logs = fitted(compiled(kn.Distiller(teacher, linear())), cache.join(dataset), **fit)
    assert np.isfinite(logs["loss"]).all()


def test_batches_by_index_are_joined(data, tmp_path):
    assert_joins(Batches(*data), data, tmp_path, shuffle=True)


def test_batches_that_come_as_a_stream_are_joined(data, tmp_path):
    assert_joins(SizedLoader(*data), data, tmp_path)


def test_a_stream_is_joined_with_the_defaults_of_fit(data, tmp_path):
    assert_joins(SizedLoader(*data), data, tmp_path, shuffle=None)


def test_a_stream_without_a_length_is_joined(data, tmp_path):
    assert_joins(Loader(*data), data, tmp_path)


def test_batches_may_be_lists(data, tmp_path):
    assert_joins(SizedLoader(*data, kind=list), data, tmp_path)


@needs_tensorflow
def test_a_shuffled_tf_data_set_is_joined(data, tmp_path):
    import tensorflow as tf

    assert_joins(tf.data.Dataset.from_tensor_slices(data).shuffle(SAMPLES).batch(5), data, tmp_path)


@needs_tensorflow
def test_a_tf_data_set_whose_length_is_unknown_is_joined(data, tmp_path):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(data).batch(5).filter(lambda *batch: True)
    assert_joins(dataset, data, tmp_path)


@needs_torch
def test_a_shuffled_data_loader_is_joined(data, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(*map(torch.from_numpy, data))
    assert_joins(torch.utils.data.DataLoader(tensors, batch_size=5, shuffle=True), data, tmp_path)


def test_inputs_alone_are_joined_where_no_labels_are_needed(data, tmp_path):
    x, _ = data
    teacher, student = linear(), linear()
    cache = build(teacher, x, tmp_path)
    distiller = kn.Distiller(cache, student, DistillationLoss(2.0), student_loss_weight=0.0)
    distiller.compile("sgd")
    logs = evaluated(distiller, cache.join(x, batch_size=SAMPLES))
    wanted = float(DistillationLoss(2.0)(answers(teacher, x), answers(student, x)))
    assert logs["loss"] == pytest.approx(wanted, rel=1e-5)


def test_sample_weights_go_along(data, tmp_path):
    weights = np.linspace(0, 2, SAMPLES, dtype="float32")
    batches = SeededBatches(*data, weights, batch_size=12)
    assert_measures_alike(linear(), linear(), batches, tmp_path)
    cache = TeacherCache.open(tmp_path)
    for joined, plain in zip(cache.join(batches), batches, strict=True):
        np.testing.assert_array_equal(joined[2], plain[2])


def test_validation_data_is_joined(data, tmp_path):
    cache = build(linear(), data, tmp_path)
    distiller = compiled(kn.Distiller(cache, linear()))
    joined = [cache.join(data, batch_size=12, seed=seed) for seed in (0, 1)]
    logs = fitted(distiller, joined[0], validation_data=joined[1])
    assert logs["val_loss"][-1] == pytest.approx(evaluated(distiller, joined[1])["loss"], rel=1e-5)
    assert logs["val_loss"][-1] < logs["val_loss"][0]


def test_tensors_and_dictionaries_of_arrays_are_data_sets(data, tmp_path):
    x, _ = data
    teacher, inputs = two_inputs(dict), {"left": x, "right": x[:, :2]}
    assert_holds(build(teacher, inputs, tmp_path / "dict"), teacher, inputs)
    teacher = linear()
    assert_holds(build(teacher, keras.ops.convert_to_tensor(x), tmp_path / "tensor"), teacher, x)


# Views


def noisy(sample, rng):
    return (sample + rng.normal(size=sample.shape)).astype("float32")


def test_teacher_and_student_see_the_same_views(data, tmp_path):
    batches = SeededBatches(*data, batch_size=10, seed=4, augment=noisy, views=3)
    teacher = linear()
    cache = build(teacher, batches, tmp_path, shard_size=20)
    assert cache.samples == 3 * SAMPLES
    joined = cache.join(batches)
    first_inputs = []
    for epoch in range(4):
        joined.epoch = epoch
        assert batches.epoch == epoch
        for batch in joined:
            inputs, record = batch[0]["keras_notes.inputs"], batch[0]["keras_notes.teacher"]
            np.testing.assert_allclose(record["outputs"][0][0], answers(teacher, inputs), atol=FLOAT32_SUMS)
        first_inputs.append(np.sort(np.concatenate([batch[0] for batch in batches]), axis=0))
    # The views repeat with their period, and not before.
    np.testing.assert_array_equal(first_inputs[0], first_inputs[3])
    assert not np.array_equal(first_inputs[0], first_inputs[1])


def test_training_on_cached_views_is_training_on_the_teacher(data, tmp_path):
    batches = SeededBatches(*data, batch_size=12, seed=4, augment=noisy, views=2)
    assert_trains_alike(linear(), linear, batches, tmp_path)


def test_views_that_were_not_cached_are_errors(data, tmp_path):
    endless = SeededBatches(*data, augment=noisy)
    with pytest.raises(ValueError, match=r"`views` of augmented SeededBatches must be the number that is cached"):
        build(linear(), endless, tmp_path)
    cache = build(linear(), SeededBatches(*data, augment=noisy, views=2), tmp_path)
    with pytest.raises(ValueError, match=r"Received: views=3, a cache of 2"):
        cache.join(SeededBatches(*data, augment=noisy, views=3))
    with pytest.raises(ValueError, match=r"Received: views=None, a cache of 2"):
        cache.join(endless)


def test_batches_that_are_random_are_an_error_that_says_what_to_do(data, tmp_path):
    class Random(Batches):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + np.random.default_rng().normal(size=x.shape).astype("float32"), y

    cache = build(linear(), Random(*data), tmp_path)
    message = r"must be one that the teacher saw. Received: 6 of 6 samples.*augment in SeededBatches"
    with pytest.raises(ValueError, match=message):
        cache.join(Random(*data))[0]
    # TensorFlow wraps what its data pipeline raises.
    with pytest.raises(Exception, match=message):
        evaluated(compiled(kn.Distiller(cache, linear())), cache.join(Random(*data)))


def test_a_sample_that_is_missing_from_a_later_batch_stops_training(data, tmp_path):
    x, y = data
    cache = build(linear(), x[:20], tmp_path)
    batches = cache.join((x, y), batch_size=4, shuffle=False)
    # TensorFlow wraps what its data pipeline raises.
    with pytest.raises(Exception, match=r"4 of 4 samples of the batch are not in"):
        evaluated(compiled(kn.Distiller(cache, linear())), batches)


# Teachers, data sets and settings that are others


def test_another_teacher_is_an_error(data, tmp_path):
    teacher = linear()
    cache = build(teacher, data, tmp_path)
    cache.check_teacher(teacher)
    teacher.set_weights([np.nextafter(value, 9, dtype="float32") for value in teacher.get_weights()])
    message = r"teacher must be the one that .* was built with"
    with pytest.raises(ValueError, match=message):
        cache.check_teacher(teacher)
    with pytest.raises(ValueError, match=message):
        fitted(compiled(kn.Distiller(teacher, linear())), cache.join(data))
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

    for module in (_teacher_cache, _record_layout):
        monkeypatch.setattr(module, "model_fingerprint", recorded)
    return models


def test_a_fit_with_validation_hashes_a_live_teacher_once(data, tmp_path, fingerprinted):
    teacher = linear()
    cache = build(teacher, data, tmp_path)
    distiller = compiled(kn.Distiller(teacher, linear()))
    fingerprinted.clear()
    fitted(distiller, cache.join(data), validation_data=cache.join(data), epochs=5)
    assert fingerprinted == [teacher]
    evaluated(distiller, cache.join(data))
    assert fingerprinted == [teacher, teacher]


def test_a_fit_hashes_a_layer_that_preprocesses_once(data, tmp_path, fingerprinted):
    teacher, halve = linear(), keras.layers.Rescaling(0.5)
    cache = build(teacher, data, tmp_path, preprocess=halve)
    distiller = compiled(kn.Distiller(teacher, linear(), preprocess=halve))
    fingerprinted.clear()
    fitted(distiller, cache.join(data), validation_data=cache.join(data), epochs=3)
    assert len(fingerprinted) == 2


def moved_by_one_rounding(weights):
    return [np.nextafter(value, 9, dtype="float32") for value in weights]


def test_a_teacher_that_changes_between_two_calls_is_noticed(data, tmp_path):
    teacher = linear()
    joined = build(teacher, data, tmp_path).join(data)
    distiller = compiled(kn.Distiller(teacher, linear()))
    fitted(distiller, joined, validation_data=joined)
    evaluated(distiller, joined)
    original = teacher.get_weights()
    teacher.set_weights(moved_by_one_rounding(original))
    with pytest.raises(ValueError, match="teacher must be the one that"):
        evaluated(distiller, joined)
    with pytest.raises(ValueError, match="teacher must be the one that"):
        fitted(distiller, joined, validation_data=joined)
    teacher.set_weights(original)
    fitted(distiller, joined, validation_data=joined)


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
        fitted(distiller, joined, validation_data=joined, epochs=4, callbacks=[callback])
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
        fitted(distiller, cache.join(data))


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"process": (2, 2)}, ValueError, r"`process` must be \(index, count\)"),
        ({"process": (-1, 2)}, ValueError, r"`process` must be \(index, count\)"),
        ({"process": (0, 0)}, ValueError, r"`process` must be \(index, count\)"),
        ({"process": 1}, (TypeError, ValueError), "`process` must be"),
        ({"process": (0.0, 2.0)}, TypeError, "`process` must be"),
        ({"process": (0, 1, 2)}, (TypeError, ValueError), "`process` must be"),
        ({"views": 0}, ValueError, "`views` must be >= 1"),
        ({"views": -1}, ValueError, "`views` must be >= 1"),
        ({"views": 1.5}, TypeError, "`views` must be an integer"),
        ({"top_k": 0}, ValueError, r"`(top_)?k` must be in \[1, 3\]"),
        ({"top_k": 4}, ValueError, r"`(top_)?k` must be in \[1, 3\]"),
        ({"top_k": 2.0}, TypeError, "`top_k` must be an integer"),
        ({"shard_size": 0}, ValueError, "`shard_size` must be >= 1"),
        ({"shard_size": -8}, ValueError, "`shard_size` must be >= 1"),
        ({"shard_size": "large"}, TypeError, "`shard_size` must be an integer"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be >= 1"),
        ({"temperature": 0}, ValueError, "`temperature` must be > 0"),
        ({"form": "odds"}, ValueError, "`form` must be one of 'logits', 'probs', 'log_probs'"),
        ({"dtype": "bfloat16"}, ValueError, "`dtype` must be one of 'float16', 'float32'"),
        ({"features": ["nowhere"]}, ValueError, "`teacher_layer` must be a layer of"),
        ({"features": [(1, "dense")]}, ValueError, r"`teacher` must be the place of a teacher, in \[0, 1\)"),
        ({"preprocess": 3}, TypeError, "`preprocess` must be a layer or a function"),
    ],
)
def test_wrong_arguments_are_errors_at_once(data, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        build(linear(), data, tmp_path / "cache", **arguments)
    assert not (tmp_path / "cache/cache.json").exists()


def test_batches_of_no_samples_are_an_error_and_never_end_in_a_loop(data, tmp_path):
    class Bounded(SeededBatches):
        calls = 0

        def inputs(self, rows, view):
            self.calls += 1
            assert self.calls < 10, "batches without samples, on and on"
            return super().inputs(rows, view)

    with pytest.raises(ValueError, match="`batch_size` must be >= 1"):
        build(linear(), Bounded(*data), tmp_path, batch_size=0)


@pytest.mark.parametrize(
    "make", [iter, lambda x: (row for row in x), lambda x: 3], ids=["iterator", "generator", "int"]
)
def test_what_cannot_be_read_again_is_no_data_set(data, tmp_path, make):
    with pytest.raises(TypeError, match="`dataset` must be arrays, SeededBatches, a PyDataset, or batches that can be"):
        build(linear(), make([data[0]]), tmp_path)


def test_a_generator_is_not_joined(data, tmp_path):
    cache = build(linear(), data, tmp_path)
    with pytest.raises(TypeError, match="`dataset` must be"):
        cache.join(batch for batch in [data])
    with pytest.raises(TypeError, match="`dataset` must be"):
        cache.join(3)
    with pytest.raises(TypeError, match="`dataset` must be arrays to be cut into batches"):
        cache.join(SeededBatches(*data), batch_size=4)


@pytest.mark.parametrize("make", [lambda x: x[:0], lambda x: SizedLoader(x[:0], x[:0])], ids=["arrays", "stream"])
def test_an_empty_data_set_is_an_error(data, tmp_path, make):
    with pytest.raises(ValueError, match="at least one"):
        build(linear(), make(data[0]), tmp_path)


@pytest.mark.parametrize("teacher", ["resnet", []])
def test_a_teacher_must_be_a_model(data, tmp_path, teacher):
    with pytest.raises((TypeError, ValueError), match="`teacher` must"):
        build(teacher, data, tmp_path)


# Distiller


def test_losses_must_take_what_is_cached(data, tmp_path):
    teacher = linear()
    dense = build(teacher, data, tmp_path / "dense")
    sparse = build(teacher, data, tmp_path / "sparse", top_k=2, temperature=2.0)
    for cache, loss, message in (
        (dense, top_k_loss(2.0), "for dense outputs in"),
        (sparse, DistillationLoss(2.0), "for the top 2 at temperature 2 in"),
        (sparse, top_k_loss(3.0), "for the top 2 at temperature 2 in"),
    ):
        with pytest.raises(ValueError, match=f"The losses must take what the cache holds.*{message}"):
            fitted(compiled(kn.Distiller(cache, linear(), loss)), cache.join(data))
    sparse.check_losses([top_k_loss(2.0)])
    dense.check_losses([DistillationLoss(2.0)])


def test_batches_without_records_are_an_error_where_a_cache_is_the_teacher(data, tmp_path):
    cache = build(linear(), data, tmp_path)
    distiller = compiled(kn.Distiller(cache, linear()), run_eagerly=True, jit_compile=False)
    with pytest.raises(ValueError, match=r"Each batch must bring the teacher's outputs.*`cache.join\(dataset\)`"):
        distiller.fit(*data, verbose=0)


def test_a_distiller_on_a_cache_survives_its_config_and_its_file(data, tmp_path):
    cache = build(linear(), data, tmp_path / "cache")
    distiller = compiled(kn.Distiller(cache, linear(), DistillationLoss(2.0), student_loss_weight=0.2))
    again = kn.Distiller.from_config(distiller.get_config())
    assert isinstance(again.teacher, TeacherCache)
    assert again.teacher.directory == cache.directory
    again.student.set_weights(distiller.student.get_weights())
    wanted = evaluated(distiller, cache.join(data))
    assert evaluated(compiled(again), again.teacher.join(data)) == pytest.approx(wanted, rel=1e-6)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras", safe_mode=True)
    assert evaluated(loaded, loaded.teacher.join(data)) == pytest.approx(wanted, rel=1e-6)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ValueError, match="must hold a complete teacher cache"):
        kn.Distiller.from_config(distiller.get_config())


# Progress


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
