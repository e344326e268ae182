"""SeededBatches: what a batch holds depends on seed, epoch and place alone, whoever reads it and how."""

import tracemalloc

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.distillation import SeededBatches

pytestmark = pytest.mark.any_backend

SAMPLES = 24


@pytest.fixture
def data():
    """Samples that carry their number in each entry, and the number as label."""
    ids = np.arange(SAMPLES)
    return np.repeat(ids[:, None], 3, axis=1).astype("float32"), ids


def ids_of(batches, epoch=None):
    """The numbers of the samples in each batch of an epoch."""
    if epoch is not None:
        batches.epoch = epoch
    return [batch[0][:, 0].astype(int).tolist() for batch in batches]


def flat(batches):
    return [i for batch in batches for i in batch]


# Order


@pytest.mark.parametrize("batch_size", [1, 7, 24, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_comes_once_an_epoch_with_its_label_and_weight(data, batch_size, shuffle):
    x, y = data
    batches = SeededBatches(x, y, y * 0.5, batch_size=batch_size, shuffle=shuffle, seed=3)
    for epoch in range(2):
        batches.epoch = epoch
        seen = []
        for inputs, labels, weights in batches:
            assert len(labels) <= batch_size
            np.testing.assert_array_equal(inputs[:, 0], labels)
            np.testing.assert_array_equal(weights, labels * 0.5)
            seen.extend(labels.tolist())
        assert len(seen) == SAMPLES
        assert sorted(seen) == list(range(SAMPLES))
        assert (seen == sorted(seen)) == (not shuffle)
    assert len(batches) == batches.num_batches == -(-SAMPLES // batch_size)


def test_the_order_depends_on_seed_and_epoch_alone(data):
    running = SeededBatches(*data, batch_size=5, seed=7)
    orders = [ids_of(running, epoch) for epoch in range(4)]
    np.random.seed(1)
    keras.utils.set_random_seed(1)
    fresh = SeededBatches(*data, batch_size=5, seed=7)
    fresh.epoch = 3
    backwards = [fresh[i][1].tolist() for i in reversed(range(5))]
    assert backwards[::-1] == orders[3]
    assert ids_of(running, 1) == orders[1]
    # Other epochs and other seeds have other orders.
    others = [ids_of(SeededBatches(*data, batch_size=5, seed=seed), 3) for seed in (8, 2**40)]
    assert len({str(order) for order in [*orders, *others]}) == 6


def test_the_last_smaller_batch_can_be_left_out(data):
    batches = SeededBatches(*data, batch_size=10, drop_remainder=True, seed=1)
    whole = SeededBatches(*data, batch_size=10, seed=1)
    assert [len(batch) for batch in ids_of(batches)] == [10, 10]
    assert ids_of(batches) == ids_of(whole)[:2]
    # Other samples are left out in another epoch.
    assert set(flat(ids_of(batches, 0))) != set(flat(ids_of(batches, 1)))


def test_epochs_may_be_shorter_than_a_pass_over_the_samples(data):
    passes = SeededBatches(*data, batch_size=5, seed=2)
    stretched = SeededBatches(*data, batch_size=5, seed=2, batches_per_epoch=3)
    wanted = [batch for number in range(3) for batch in ids_of(passes, number)]
    assert [batch for epoch in range(5) for batch in ids_of(stretched, epoch)] == wanted
    assert len(stretched) == 3


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_each_batch(data, count):
    whole = SeededBatches(*data, batch_size=6, seed=5)
    shares = [SeededBatches(*data, batch_size=6, seed=5, process=(i, count)) for i in range(count)]
    for epoch in range(2):
        parts = [ids_of(share, epoch) for share in shares]
        for batch, *pieces in zip(ids_of(whole, epoch), *parts, strict=True):
            assert {len(piece) for piece in pieces} == {6 // count}
            # Together the batch, and so disjoint.
            assert flat(pieces) == batch


# Views


def noisy(sample, rng):
    return sample + rng.random()


def noise_of(batches, epoch):
    """What was added to each sample, by its number."""
    batches.epoch = epoch
    return {int(x[0]): float(x[0]) % 1 for batch in batches for x in batch[0]}


def test_a_view_depends_on_seed_view_and_sample_alone(data):
    arguments = {"seed": 9, "augment": noisy}
    first = noise_of(SeededBatches(*data, batch_size=5, views=3, **arguments), 1)
    np.random.seed(1)
    assert first == noise_of(SeededBatches(*data, batch_size=24, views=2, shuffle=False, **arguments), 1)
    shares = [SeededBatches(*data, batch_size=6, process=(i, 2), **arguments) for i in range(2)]
    assert first == {**noise_of(shares[0], 1), **noise_of(shares[1], 1)}
    assert len(set(first.values())) == SAMPLES
    for seed in (8, 10):
        assert first != noise_of(SeededBatches(*data, seed=seed, augment=noisy), 1)


def test_views_repeat_with_their_period_and_orders_do_not(data):
    batches = SeededBatches(*data, batch_size=24, augment=noisy, views=3)
    views = [noise_of(batches, epoch) for epoch in range(7)]
    assert views[0] == views[3] == views[6]
    assert views[1] == views[4]
    assert views[0] != views[1] != views[2] != views[0]
    assert ids_of(batches, 0) != ids_of(batches, 3)
    endless = SeededBatches(*data, batch_size=24, augment=noisy)
    assert len({str(noise_of(endless, epoch)) for epoch in range(7)}) == 7


def test_augmentation_that_writes_into_its_sample_leaves_the_data_alone(data):
    x, y = data
    before = x.copy()

    def overwrite(sample, rng):
        sample["a"][:] = rng.random()
        return sample

    batches = SeededBatches({"a": x}, y, augment=overwrite)
    first = batches[0][0]["a"]
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(batches[0][0]["a"], first)


# Arrays


def test_any_structure_of_arrays_is_cut_alike(data):
    x, y = data
    inputs = {"left": x, "right": (x.astype("int32"), x[:, 0].astype("uint8"))}
    for batch, labels in SeededBatches(inputs, {"a": y, "b": -y}, batch_size=7):
        leaves = [batch["left"][:, 0], batch["right"][0][:, 0], batch["right"][1], -labels["b"]]
        for leaf in leaves:
            np.testing.assert_array_equal(leaf, labels["a"])
        assert batch["right"][0].dtype == "int32"
        assert batch["right"][1].dtype == "uint8"
    (alone,) = SeededBatches(x, batch_size=24, shuffle=False)[0]
    np.testing.assert_array_equal(alone, x)


def peak_bytes(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_arrays_that_are_memory_mapped_are_not_loaded(tmp_path):
    rows, width = 1 << 16, 256
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (rows, width)).flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")

    def read():
        batches = SeededBatches(mapped, np.zeros(rows), batch_size=64)
        for index in range(3):
            assert batches[index][0].shape == (64, width)

    assert peak_bytes(lambda: mapped[:].copy()) > mapped.nbytes
    # The order of an epoch, and three batches.
    assert peak_bytes(read) < 4 * 8 * rows + 6 * 64 * width * 4


def test_lists_and_tensors_are_taken_as_arrays(data):
    x, y = data
    wanted = ids_of(SeededBatches(*data, batch_size=5))
    assert ids_of(SeededBatches(x, y.tolist(), batch_size=5)) == wanted
    tensors = SeededBatches(*map(keras.ops.convert_to_tensor, data), batch_size=5)
    assert ids_of(tensors) == wanted
    assert isinstance(tensors[0][0], np.ndarray)


# Keras around them


class Seen(keras.layers.Layer):
    """Keeps the numbers of the samples that it sees in training."""

    batches: list

    def call(self, inputs, training=None):
        if training:
            self.batches.append(keras.ops.convert_to_numpy(inputs)[:, 0].astype(int).tolist())
        return inputs


def student_and_seen():
    layer = Seen()
    layer.batches = []
    return keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(SAMPLES)]), layer.batches


def seen_batches(data, *, plain=False, fits=({"epochs": 3},), validates=False, **batches):
    """The numbers of the samples in each training batch, and the SeededBatches."""
    student, seen = student_and_seen()
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(SAMPLES)])
    model = student if plain else kn.Distiller(teacher, student)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True, jit_compile=False)
    dataset = SeededBatches(*data, **{"batch_size": 8, "seed": 6, **batches})
    seen.clear()
    settings = {"verbose": 0, "validation_data": dataset if validates else None}
    if plain:
        settings.update(shuffle=False, callbacks=[dataset.epoch_callback()])
    for arguments in fits:
        model.fit(dataset, **settings, **arguments)
    return seen, dataset


def wanted(data, epochs):
    batches = SeededBatches(*data, batch_size=8, seed=6)
    return [batch for epoch in epochs for batch in ids_of(batches, epoch)]


def test_a_distiller_goes_through_the_epochs(data):
    seen, _ = seen_batches(data)
    assert seen == wanted(data, range(3))
    assert seen != wanted(data, range(1, 4))


def test_a_distiller_that_goes_on_at_a_later_epoch_sees_its_batches(data):
    assert seen_batches(data, fits=[{"epochs": 4, "initial_epoch": 2}])[0] == wanted(data, [2, 3])
    assert seen_batches(data, fits=[{"epochs": 1}, {"epochs": 3, "initial_epoch": 1}])[0] == wanted(data, range(3))


def test_plain_fit_goes_through_the_epochs_that_a_callback_tells(data):
    seen, _ = seen_batches(data, plain=True, fits=[{"epochs": 2}, {"epochs": 4, "initial_epoch": 2}])
    assert seen == wanted(data, range(4))
    assert seen_batches(data, plain=True, validates=True)[0] == seen[:9]


def test_a_distiller_that_measures_on_its_own_batches_goes_through_the_same_epochs(data):
    assert seen_batches(data, validates=True)[0] == wanted(data, range(3))


def test_workers_change_nothing(data):
    seen, _ = seen_batches(data, workers=2)
    assert sorted(flat(seen[:3])) == list(range(SAMPLES))
    assert seen == wanted(data, range(3))


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be >= 1"),
        ({"batch_size": 2.5}, TypeError, "`batch_size` must be an integer"),
        ({"seed": -1}, ValueError, "`seed` must be >= 0"),
        ({"seed": None}, TypeError, "`seed` must be an integer"),
        ({"views": 0, "augment": noisy}, ValueError, "`views` must be >= 1"),
        ({"views": 2}, ValueError, "`augment` must be given where there is more than one view"),
        ({"batch_size": 100, "drop_remainder": True}, ValueError, "`drop_remainder=True` must leave a batch"),
        ({"batches_per_epoch": 0}, ValueError, "`batches_per_epoch` must be >= 1"),
        ({"process": (2, 2), "batch_size": 8}, ValueError, r"`process` must be \(index, count\)"),
        ({"process": (-1, 2), "batch_size": 8}, ValueError, r"`process` must be \(index, count\)"),
        ({"process": (0.0, 2.0), "batch_size": 8}, TypeError, "`process` must be an integer"),
        ({"process": 2, "batch_size": 8}, (TypeError, ValueError), "`process` must be"),
        ({"process": (0, 1, 2), "batch_size": 8}, (TypeError, ValueError), "`process` must be"),
        ({"process": (0, 3), "batch_size": 8}, ValueError, "Each batch must divide into equal shares"),
        ({"process": (0, 5), "batch_size": 10}, ValueError, "The last batch has 4: set `drop_remainder=True`"),
        ({"y": np.zeros(3)}, ValueError, r"the same number of samples, at least one. Received: samples=\[24, 3\]"),
        ({"sample_weight": np.zeros(3)}, ValueError, "the same number of samples, at least one"),
        ({"x": np.zeros((0, 3)), "y": None}, ValueError, "the same number of samples, at least one"),
        ({"x": np.float32(1.0), "y": None}, (TypeError, ValueError), "`x`"),
    ],
)
def test_wrong_arguments_are_errors_at_once(data, arguments, error, message):
    with pytest.raises(error, match=message):
        SeededBatches(**{"x": data[0], "y": data[1], **arguments})


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_batches_that_there_are_not_are_an_error(data, index):
    batches = SeededBatches(*data, batch_size=8)
    batches[2]
    with pytest.raises(IndexError, match=r"`index` must be in \[0, 3\)"):
        batches[index]
