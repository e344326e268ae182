"""Data sets joined with a cache: each sample finds its own record, in every order and view."""

import shutil

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import TeacherCache
from keras_notes.distillation import SeededBatches
from keras_notes.losses import DistillationLoss
from tests.distillation.cache.caches import (
    FLOAT32_SUMS,
    SAMPLES,
    Loader,
    SizedLoader,
    answers,
    assert_holds,
    assert_measures_alike,
    assert_trains_alike,
    build,
    compiled,
    evaluated,
    history_of,
    linear,
    top_k_loss,
    two_inputs,
)

pytestmark = pytest.mark.any_backend


needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data feeds TensorFlow")


needs_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="DataLoader feeds torch")


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
    logs = history_of(compiled(kn.Distiller(teacher, linear())), cache.join(dataset), **fit)
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
    logs = history_of(distiller, joined[0], validation_data=joined[1])
    assert logs["val_loss"][-1] == pytest.approx(evaluated(distiller, joined[1])["loss"], rel=1e-5)
    assert logs["val_loss"][-1] < logs["val_loss"][0]


def test_tensors_and_dictionaries_of_arrays_are_data_sets(data, tmp_path):
    x, _ = data
    teacher, inputs = two_inputs(dict), {"left": x, "right": x[:, :2]}
    assert_holds(build(teacher, inputs, tmp_path / "dict"), teacher, inputs)
    teacher = linear()
    assert_holds(build(teacher, keras.ops.convert_to_tensor(x), tmp_path / "tensor"), teacher, x)


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
            history_of(compiled(kn.Distiller(cache, linear(), loss)), cache.join(data))
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
