"""Wrong arguments of TeacherCache are errors at once."""

import pytest

from keras_notes.distillation import SeededBatches
from tests.distillation.cache.caches import SizedLoader, build, linear

pytestmark = pytest.mark.any_backend


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
        ({"features": [(1, "dense")]}, ValueError, r"`teacher` must be the index of a teacher, in \[0, 1\)"),
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
