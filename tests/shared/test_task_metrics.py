"""Metrics that suit labels and outputs, and their intervals."""

import numpy as np
import pytest

from keras_notes._shared.task_metrics import TaskMetric, choose_metric, digest_of, labels_by_output

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 4))
IDS = RNG.integers(0, 4, 50)


def figure(metric, y, outputs, **options):
    """The metric that is chosen, and its figure."""
    chosen = choose_metric(metric, np.asarray(y), outputs.shape[1:], **options)
    return chosen.name, chosen.value(outputs)


@pytest.mark.parametrize(
    ("y", "outputs", "options", "name", "value"),
    [
        pytest.param(IDS, LOGITS, {}, "accuracy", (LOGITS.argmax(-1) == IDS).mean(), id="class ids"),
        pytest.param(np.eye(4)[IDS], LOGITS, {}, "accuracy", (LOGITS.argmax(-1) == IDS).mean(), id="one-hot"),
        pytest.param([0, 1, 1, 1], np.array([[-1.0], [0.2], [3], [-0.1]]), {}, "binary_accuracy", 0.75, id="a logit"),
        pytest.param(
            [[0], [1], [1.0], [1]],
            np.array([0.4, 0.6, 0.9, 0.2])[:, None],
            {"activation": "sigmoid"},
            "binary_accuracy",
            0.75,
            id="a probability",
        ),
        pytest.param(
            [[0, 0, 1], [1, 1, 0]],
            np.array([[-1, 1, 1.0], [1, 1, -1]]),
            {},
            "binary_accuracy",
            5 / 6,
            id="several labels",
        ),
        pytest.param(
            np.arange(8).reshape(2, 2, 2) % 3,
            np.eye(3)[np.arange(8).reshape(2, 2, 2) % 3],
            {},
            "accuracy",
            1.0,
            id="a class of each pixel",
        ),
        pytest.param(
            np.ones((2, 3, 3), int),
            np.full((2, 3, 3, 1), 0.7),
            {"activation": "sigmoid"},
            "binary_accuracy",
            1.0,
            id="a mask",
        ),
        pytest.param([[1, 2], [3, 4]], np.array([[1, 2], [3, 0]]), {"is_integer": True}, "accuracy", 0.75, id="ids"),
        pytest.param([1.5, 2.5], np.array([[1.0], [3.0]]), {}, "mae", 0.5, id="numbers"),
    ],
)
def test_the_metric_suits_labels_and_output(y, outputs, options, name, value):
    assert figure(None, y, outputs, **options) == (name, pytest.approx(value))


def test_named_metrics_and_functions():
    y, outputs = np.array([[1.0], [3.0]]), np.array([[2.0], [6.0]])
    assert figure("rmse", y, outputs) == ("rmse", pytest.approx(np.sqrt(5)))
    assert figure("mae", y, outputs) == ("mae", 2.0)

    def bias(y_true, y_pred):
        return (y_pred - y_true).mean()

    metric = choose_metric(bias, y, (1,))
    assert (metric.name, metric.value(outputs), metric.loss(1.0, 2.0)) == ("bias", 2.0, None)
    assert metric.interval(outputs).low <= 2.0 <= metric.interval(outputs).high


@pytest.mark.parametrize(
    ("metric", "y", "shape", "message"),
    [
        ("auc", IDS, (4,), "`metric` must be one of 'accuracy'"),
        (3, IDS, (4,), "must be a name or a function"),
        (None, IDS.astype("float32"), (4,), "must hold class ids"),
        (None, IDS + 4, (4,), r"class ids in \[0, 4\)"),
        ("binary_accuracy", IDS[:, None], (1,), "must hold 0 and 1"),
        ("mae", IDS, (4,), r"numbers of the shape \(samples, 4\)"),
        (None, np.full((5, 6, 6), 9), (6, 6, 3), r"class ids in \[0, 3\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(metric, y, shape, message):
    with pytest.raises((ValueError, TypeError), match=message):
        choose_metric(metric, y, shape)


def test_labels_belong_to_outputs():
    assert set(labels_by_output({"b": [1]}, ["a", "b"])) == {"b"}
    with pytest.raises(ValueError, match="`y` as a dict by output"):
        labels_by_output([1], ["a", "b"])
    with pytest.raises(ValueError, match="labels by output"):
        labels_by_output({"c": [1]}, ["a", "b"])


def test_the_wilson_interval_is_the_published_one():
    metric = TaskMetric("accuracy", np.zeros(10, int))
    outputs = np.eye(2)[[0] * 8 + [1] * 2]
    interval = metric.interval(outputs)
    # 8 of 10: Newcombe (1998), method 3, gives 0.4902 to 0.9433.
    assert (interval.low, interval.high, interval.method) == (
        pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4), "wilson")  # fmt: skip


def test_pixels_of_a_sample_are_not_samples():
    # Each sample is right in 99 of 100 pixels, or in one: the interval is that of 10 samples, not of 1000.
    y = np.repeat([[1], [0]] * 5, 100, axis=1)
    answers = np.ones_like(y)
    answers[:, 0] = 0
    interval = choose_metric(None, y, (100, 2)).interval(np.eye(2)[answers])
    assert interval.method == "bootstrap"
    assert interval.high - interval.low > 0.4


def test_a_loss_is_sure_only_beyond_chance():
    y = np.zeros((400, 1))
    metric = choose_metric("binary_accuracy", y, (1,))
    right, wrong = np.full((400, 1), -1.0), np.full((400, 1), -1.0)
    wrong[:5] = 1.0
    # Exchanged answers cancel; five of 400 that are only lost do not.
    exchanged = right.copy()
    exchanged[5:10] = 1.0
    assert metric.sure_loss(metric.score(right), wrong) > 0
    assert metric.sure_loss(metric.score(exchanged), wrong) < 0


def test_digests_tell_data_apart():
    x, y = {"x": LOGITS}, IDS
    assert digest_of(x, y) == digest_of({"x": LOGITS.astype("float32")}, y.astype("int64"))
    assert digest_of(x, y) != digest_of({"x": LOGITS + 1e-3}, y)
    assert digest_of(x, y) != digest_of(x, y[::-1])
