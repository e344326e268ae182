"""FocalLoss by kind of label: one-hot, mixed with soft, absent, independent; 16-bit predictions; training."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_notes.losses import FocalLoss, _focal
from tests.losses.references import exclusive_focal, independent_focal, softmax
from tests.support.gradients import value_and_gradient, values_and_gradients

pytestmark = pytest.mark.any_backend

# float32 holds 24 bits; an exponent of 50 leaves 50 * 2^-24 = 3e-6 of it.
ROUNDING = 1e-5
# bfloat16 holds 8 bits.
BFLOAT16_ROUNDING = 2.0**-8
ALPHA = [0.1, 0.2, 0.3, 0.4, 0.5]
# One compilation is quicker than JAX's of every operation on its own.
IS_JAX = keras.backend.backend() == "jax"


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return rng.normal(scale=3, size=(12, 5)).astype("float32"), rng.integers(0, 5, 12)


@pytest.fixture
def mixed(batch):
    """Logits, and labels of which every third row is soft, one in four is absent, and the rest are one-hot."""
    logits, ids = batch
    labels = np.eye(5, dtype="float32")[ids]
    labels[::3] = softmax(np.random.default_rng(5).normal(size=(4, 5)))
    labels[1::4] = 0.0
    return logits, labels


def focal_of_weights(logits, labels, gamma):
    """sum_c labels_c * FL_c and its gradient, in float64."""
    parts = [exclusive_focal(logits, np.full(len(logits), c), gamma) for c in range(labels.shape[-1])]
    labels = np.asarray(labels, np.float64)
    return tuple(
        sum(labels[:, c].reshape((-1,) + (1,) * (part[i].ndim - 1)) * part[i] for c, part in enumerate(parts))
        for i in range(2)
    )


# One-hot labels


def test_only_labels_that_are_all_one_hot_take_the_path_of_class_ids(batch, mixed, monkeypatch):
    logits, ids = batch
    one_hot = np.eye(5, dtype="float32")[ids]
    almost = one_hot.copy()
    almost[3, ids[3]] = 1 - 2.0**-24
    several = one_hot.copy()
    several[3] = 1.0
    more_than_one = one_hot.copy()
    more_than_one[3, (ids[3] + 1) % 5] = 0.5
    monkeypatch.setattr(_focal, "focal_of_one_hot", lambda logits, *_: 0 * ops.sum(logits, axis=-1) + 7.0)
    loss = FocalLoss(from_logits=True, reduction=None)
    assert (np.asarray(loss(one_hot, logits)) == 7).all()
    for labels in (almost, several, more_than_one, mixed[1], 0 * one_hot):
        assert (np.asarray(loss(labels, logits)) != 7).all()


def test_one_hot_labels_equal_class_ids_with_alpha_per_class_and_another_axis(batch):
    logits, ids = batch
    logits, ids = np.stack([logits, logits[::-1]], axis=-1), np.stack([ids, (ids + 1) % 5], axis=-1)  # (12, 5, 2)
    one_hot = np.moveaxis(np.eye(5, dtype="float32")[ids], -1, 1)
    loss = FocalLoss(alpha=ALPHA, axis=1, from_logits=True, reduction=None)
    of_ids, of_one_hot = (
        value_and_gradient(lambda z, labels=labels: ops.sum(loss(labels, z)), logits, compiled=IS_JAX)
        for labels in (ids, one_hot)
    )
    for got_part, wanted_part in zip(of_one_hot, of_ids, strict=True):
        np.testing.assert_allclose(got_part, wanted_part, rtol=ROUNDING)
    plain = np.asarray(FocalLoss(axis=1, from_logits=True, reduction=None)(ids, logits))
    np.testing.assert_allclose(np.asarray(loss(one_hot, logits)), np.array(ALPHA)[ids] * plain, rtol=ROUNDING)


# Mixed and absent labels


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_batch_of_one_hot_soft_and_absent_labels_matches_float64(mixed, gamma, compiled):
    logits, labels = mixed
    got = values_and_gradients(FocalLoss(gamma, from_logits=True), labels, logits, compiled)
    wanted = focal_of_weights(logits, labels, gamma)
    np.testing.assert_allclose(got[0], wanted[0], rtol=ROUNDING)
    # Within a row of soft labels the parts of a gradient cancel: the tolerance is that of its largest.
    scale = np.abs(wanted[1]).max(-1, keepdims=True) + (labels.sum(-1, keepdims=True) == 0)
    np.testing.assert_allclose(got[1] / scale, wanted[1] / scale, rtol=0, atol=ROUNDING)


def test_alpha_per_class_weights_every_part_of_a_soft_label(mixed):
    logits, labels = mixed
    got = FocalLoss(alpha=ALPHA, from_logits=True, reduction=None)(labels, logits)
    wanted, _ = focal_of_weights(logits, labels * np.array(ALPHA), 2.0)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=ROUNDING)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_rows_without_a_label_have_exactly_no_loss_and_no_gradient(batch, mixed, gamma):
    logits, labels = mixed
    is_absent = labels.sum(-1) == 0
    for rows in (labels, np.where(is_absent[:, None], 0, np.eye(5)[batch[1]]).astype("float32"), 0 * labels):
        value, gradient = values_and_gradients(FocalLoss(gamma, from_logits=True), rows, logits)
        assert (value[rows.sum(-1) == 0] == 0).all()
        assert (gradient[rows.sum(-1) == 0] == 0).all()
        assert (value[rows.sum(-1) > 0] > 0).all()


# The ends of the number range


@pytest.mark.parametrize("kind", ["ids", "one_hot", "mixed"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_classes_that_are_ruled_out_leave_a_finite_loss_and_gradient(gamma, kind):
    # A row of one possible class costs nothing if that is the label.
    logits = np.full((3, 3), -np.inf, "float32")
    logits[0, 0], logits[1, 1:], logits[2] = 2.0, [1.0, -1.0], [0.5, 0.0, -0.5]
    labels = {"ids": np.array([0, 1, 2]), "one_hot": np.eye(3, dtype="float32"), "mixed": np.eye(3, dtype="float32")}
    y_true = labels[kind]
    if kind == "mixed":
        y_true[2] = [0.25, 0.25, 0.5]
    value, gradient = values_and_gradients(FocalLoss(gamma, from_logits=True), y_true, logits)
    p = 1 / (1 + np.exp(-2.0))
    assert value[0] == 0
    assert (gradient[0] == 0).all()
    assert value[1] == pytest.approx((1 - p) ** gamma * -np.log(p), rel=ROUNDING)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_very_easy_samples_have_a_finite_and_vanishing_gradient_below_gamma_one(gamma):
    # Where 1 - p is 0 in float32, the derivative of its power alone would be infinite.
    logits = np.array([[margin, 0.0, -1.0] for margin in (20, 60, 90, 200, 1e4)], "float32")
    ids, one_hot = np.zeros(5, int), np.eye(3, dtype="float32")[np.zeros(5, int)]
    soft = one_hot.copy()
    soft[0] = [0.5, 0.25, 0.25]
    cases = [(ids, True), (one_hot, True), (soft, True), (1 - one_hot[:, [1, 1, 1]], False)]
    for y_true, exclusive in cases:
        y_pred = logits if exclusive else logits[:, [0, 0, 0]]
        _, gradient = values_and_gradients(FocalLoss(gamma, exclusive=exclusive, from_logits=True), y_true, y_pred)
        assert np.isfinite(gradient).all()
        assert (np.abs(gradient[1:]) < 1e-25).all()


@pytest.mark.parametrize("kind", ["ids", "one_hot", "mixed", "independent"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_float16_logits_to_1e4_give_a_finite_loss_and_gradient(gamma, kind):
    rows = [[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]]
    one_hot = np.eye(3, dtype="float32")[[0, 0, 2, 1]]
    soft = np.concatenate([one_hot[:3], [[0.5, 0.25, 0.25]]]).astype("float32")
    y_true = {"ids": np.array([0, 0, 2, 1]), "one_hot": one_hot, "mixed": soft, "independent": soft}[kind]
    loss = FocalLoss(gamma, exclusive=kind != "independent", from_logits=True)
    value, gradient = values_and_gradients(loss, y_true, np.array(rows), dtype="float16")
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert value[1] == pytest.approx(2e4 if kind != "independent" else 2e4 + 2.0**-gamma * np.log(2), rel=ROUNDING)


@pytest.mark.parametrize("kind", ["ids", "one_hot", "mixed", "independent"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_bfloat16_logits_cost_no_more_than_their_own_rounding(batch, mixed, gamma, kind):
    logits, ids = batch
    one_hot = np.eye(5, dtype="float32")[ids]
    y_true = {"ids": ids, "one_hot": one_hot, "mixed": mixed[1], "independent": one_hot}[kind]
    reference = independent_focal if kind == "independent" else focal_of_weights
    wanted, slopes = reference(logits, one_hot if kind == "ids" else y_true, gamma)
    loss = FocalLoss(gamma, exclusive=kind != "independent", from_logits=True)
    got, _ = values_and_gradients(loss, y_true, logits, dtype="bfloat16")
    assert got.mean() == pytest.approx(wanted.mean(), rel=BFLOAT16_ROUNDING)
    # The rounding of a logit moves the loss by its slope; half of 2^-8 is the most a logit is rounded by.
    assert (np.abs(got - wanted) <= BFLOAT16_ROUNDING * (np.abs(slopes * logits).sum(-1) + 1e-3 * wanted)).all()


# Independent labels


def test_a_person_that_is_also_male_is_two_logistic_losses_summed():
    # Labels: person, male, car. log(1 + e^-2) + log(1 + e^-1) + log(1 + e^-3), by hand.
    labels, logits = np.array([[1.0, 1.0, 0.0]], "float32"), np.array([[2.0, 1.0, -3.0]], "float32")
    loss = FocalLoss(0.0, exclusive=False, from_logits=True)
    value, gradient = values_and_gradients(loss, labels, logits)
    assert value[0] == pytest.approx(0.12692801 + 0.31326169 + 0.04858735, rel=1e-6)
    np.testing.assert_allclose(gradient, [[0.88079708 - 1, 0.73105858 - 1, 0.04742587]], rtol=1e-6)
    # Neither label competes with the other: more certain of the person, as certain of the male.
    certain_value, certain_gradient = values_and_gradients(loss, labels, logits + np.array([[8, 0, 0]], "float32"))
    assert certain_value[0] == pytest.approx(0.00004540 + 0.31326169 + 0.04858735, rel=1e-6)
    np.testing.assert_array_equal(certain_gradient[0, 1:], gradient[0, 1:])


# Training


def test_fit_gives_the_same_history_however_it_is_compiled_and_labels_are_encoded():
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    ids = (x[:, 0] > 0).astype("int32") + (x[:, 1] > 0)
    one_hot = np.eye(3, dtype="float32")[ids]
    exclusive, independent = FocalLoss(0.5, from_logits=True), FocalLoss(0.5, exclusive=False, from_logits=True)
    compilers = [False] if keras.backend.backend() == "torch" else [False, True]
    same = [
        [history(exclusive, x, ids, False), *(history(exclusive, x, one_hot, jit) for jit in compilers)],
        [history(independent, x, one_hot, jit) for jit in compilers],
    ]
    for first, *others in same:
        assert first[-1] < first[0]
        for other in others:
            np.testing.assert_allclose(other, first, rtol=ROUNDING)


def history(loss, x, y_true, jit_compile):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.5), loss=loss, jit_compile=jit_compile)
    return model.fit(x, y_true, batch_size=32, epochs=2, shuffle=False, verbose=0).history["loss"]
