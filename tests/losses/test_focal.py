"""FocalLoss: identities, a float64 reference at the extremes, the Keras contract, errors."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_notes.losses import FocalLoss, class_balanced_alpha
from tests.losses.contract import check_loss, check_trains_in_a_plain_model
from tests.losses.references import exclusive_focal, independent_focal, sigmoid, softmax
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

# float32 holds 24 bits; an exponent of 50 leaves 50 * 2^-24 = 3e-6 of it, one of 100 twice that.
TO_MARGIN_50, TO_MARGIN_100 = 1e-5, 5e-5
# Below this float32 loses bits to gradual underflow; results there are compared with zero.
LEAST_NORMAL = 1e-36
MARGINS = np.array([0, 1, 5, 15, 16, 20, 35, 50, 75, 100], "float32")
MARGINS = np.concatenate([-MARGINS[:0:-1], MARGINS])
GAMMAS = (0.0, 0.3, 1.0, 2.0, 5.0)


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return rng.normal(scale=3, size=(12, 5)).astype("float32"), rng.integers(0, 5, 12)


def logits_of_margins(margins):
    """One sample a margin, five classes; the true class 2 leads the best of the others by the margin."""
    logits = np.random.default_rng(3).normal(size=(len(margins), 5)).astype("float32")
    logits[:, 2] = -np.inf
    logits[:, 2] = logits.max(-1) + margins
    return logits


def assert_match(got, wanted, margins):
    """Relative agreement per sample, as far as float32 can hold numbers of that size."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted)
    for row, reference, margin in zip(got, wanted, margins, strict=True):
        measurable = np.abs(reference) > LEAST_NORMAL
        tolerance = TO_MARGIN_50 if abs(margin) <= 50 else TO_MARGIN_100
        np.testing.assert_allclose(row[measurable], reference[measurable], rtol=tolerance, err_msg=f"margin {margin}")
        assert (np.abs(row[~measurable]) <= 2 * LEAST_NORMAL).all()


def values_and_gradients(loss, y_true, y_pred, compiled=False, through=lambda z: z):
    """The loss of each sample, and the gradient of their sum."""
    per_sample = FocalLoss.from_config({**loss.get_config(), "reduction": None})
    _, gradient = value_and_gradient(lambda z: ops.sum(per_sample(y_true, through(z))), y_pred, compiled=compiled)
    return np.asarray(per_sample(y_true, through(ops.convert_to_tensor(y_pred)))), gradient


# Identities


def test_gamma_zero_is_crossentropy(batch):
    logits, ids = batch
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(ids, logits)
    assert float(FocalLoss(0.0, from_logits=True)(ids, logits)) == pytest.approx(float(crossentropy), rel=1e-6)


def test_gamma_zero_with_independent_labels_is_the_sum_of_logistic_losses(batch):
    logits, _ = batch
    labels = (np.random.default_rng(2).random(logits.shape) < 0.4).astype("float32")
    logistic = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits)
    focal = FocalLoss(0.0, exclusive=False, from_logits=True)(labels, logits)
    assert float(focal) == pytest.approx(5 * float(logistic), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_ratio_to_crossentropy_is_the_focusing_factor(batch, gamma):
    logits, ids = batch
    focal = np.asarray(FocalLoss(gamma, from_logits=True, reduction=None)(ids, logits))
    crossentropy = np.asarray(FocalLoss(0.0, from_logits=True, reduction=None)(ids, logits))
    p_true = softmax(logits.astype("float64"))[np.arange(len(ids)), ids]
    np.testing.assert_allclose(focal / crossentropy, (1 - p_true) ** gamma, rtol=1e-5)


def test_a_constant_added_to_all_logits_changes_nothing(batch):
    logits, ids = batch
    loss = FocalLoss(from_logits=True)
    assert float(loss(ids, logits + 64.0)) == pytest.approx(float(loss(ids, logits)), rel=1e-5)


def test_all_label_encodings_agree(batch):
    logits, ids = batch
    loss = FocalLoss(from_logits=True, alpha=[0.1, 0.2, 0.3, 0.4, 0.5], label_smoothing=0.1)
    wanted = float(loss(ids, logits))
    for labels in (ids[:, None], np.eye(5, dtype="float32")[ids], ids.astype("float32")):
        assert float(loss(labels, logits)) == pytest.approx(wanted, rel=1e-6)


def test_as_many_samples_as_classes_are_still_class_ids():
    logits = np.random.default_rng(4).normal(size=(5, 5)).astype("float32")
    ids = np.arange(5)[::-1].copy()
    wanted, _ = exclusive_focal(logits, ids, 2.0)
    np.testing.assert_allclose(np.asarray(FocalLoss(from_logits=True, reduction=None)(ids, logits)), wanted, rtol=1e-5)


def test_class_axis_can_stand_anywhere(batch):
    logits, ids = batch
    images = np.stack([logits, logits[::-1]], axis=-1)  # (12, 5, 2), classes on axis 1
    pixel_ids = np.stack([ids, ids[::-1]], axis=-1)
    alpha = [0.1, 0.2, 0.3, 0.4, 0.5]
    first, last = FocalLoss(alpha=alpha, axis=1, from_logits=True), FocalLoss(alpha=alpha, from_logits=True)
    wanted = float(last(pixel_ids, np.moveaxis(images, 1, -1)))
    assert float(first(pixel_ids, images)) == pytest.approx(wanted, rel=1e-6)


def test_per_class_alpha_weights_the_true_class(batch):
    logits, ids = batch
    alpha = np.array([0.1, 0.5, 1.0, 2.0, 3.0])
    weighted = FocalLoss(alpha=alpha, from_logits=True, reduction=None)(ids, logits)
    plain = FocalLoss(from_logits=True, reduction=None)(ids, logits)
    np.testing.assert_allclose(np.asarray(weighted), alpha[ids] * np.asarray(plain), rtol=1e-6)


def test_probabilities_and_their_logits_agree(batch):
    logits, ids = batch
    from_logits = float(FocalLoss(from_logits=True)(ids, logits))
    assert float(FocalLoss()(ids, softmax(logits))) == pytest.approx(from_logits, rel=1e-5)
    labels = np.eye(5, dtype="float32")[ids]
    from_logits = float(FocalLoss(exclusive=False, from_logits=True)(labels, logits))
    assert float(FocalLoss(exclusive=False)(labels, sigmoid(logits))) == pytest.approx(from_logits, rel=1e-5)


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("labels", ["ids", "one_hot"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_value_and_gradient_match_float64_at_every_margin(gamma, labels, compiled):
    # For comparison: keras.losses.CategoricalFocalCrossentropy(from_logits=True) has the gradient 0 from a margin of
    # -16 on, where it should be -0.25 (benchmarks/losses/accuracy.py prints both).
    logits, ids = logits_of_margins(MARGINS), np.full(len(MARGINS), 2)
    y_true = ids if labels == "ids" else np.eye(5, dtype="float32")[ids]
    got = values_and_gradients(FocalLoss(gamma, from_logits=True), y_true, logits, compiled)
    for got_part, wanted_part in zip(got, exclusive_focal(logits, ids, gamma), strict=True):
        assert_match(got_part.reshape(len(MARGINS), -1), wanted_part.reshape(len(MARGINS), -1), MARGINS)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_independent_value_and_gradient_match_float64_at_every_margin(gamma, compiled):
    logits, labels = MARGINS[:, None], np.ones((len(MARGINS), 1), "float32")
    loss = FocalLoss(gamma, alpha=0.25, exclusive=False, from_logits=True)
    got = values_and_gradients(loss, labels, logits, compiled)
    for got_part, wanted_part in zip(got, independent_focal(logits, labels, gamma, 0.25), strict=True):
        assert_match(got_part.reshape(len(MARGINS), -1), wanted_part.reshape(len(MARGINS), -1), MARGINS)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_through_a_softmax_layer_is_alive_to_a_margin_of_80(gamma):
    # The model as it stands: the loss sees probabilities, here down to 2e-35.
    margins = np.array([-80, -50, -20, -5, 5], "float32")
    logits, ids = logits_of_margins(margins), np.full(5, 2)
    _, gradient = values_and_gradients(FocalLoss(gamma), ids, logits, through=ops.softmax)
    assert_match(gradient, exclusive_focal(logits, ids, gamma)[1], margins)


@pytest.mark.parametrize("magnitude", [0.0, 1.0, 300.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3])
def test_ties_between_the_two_largest_classes_match_float64(classes, magnitude):
    logits = np.array([[magnitude, magnitude, -magnitude][:classes]], "float32")
    for label in range(2):
        loss = FocalLoss(from_logits=True)
        got = values_and_gradients(loss, np.eye(classes, dtype="float32")[[label]], logits)
        for got_part, wanted in zip(got, exclusive_focal(logits, np.array([label]), 2.0), strict=True):
            np.testing.assert_allclose(got_part, wanted, rtol=1e-6, atol=1e-30)


def test_soft_labels_match_float64(batch):
    logits, _ = batch
    labels = softmax(np.random.default_rng(5).normal(size=logits.shape)).astype("float32")
    wanted = sum(labels[:, c] * exclusive_focal(logits, np.full(12, c), 2.0)[0] for c in range(5))
    got = FocalLoss(from_logits=True, reduction=None)(labels, logits)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-5)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients_are_finite_at_the_ends_of_the_number_range(gamma, from_logits, exclusive):
    rows = [[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0], [0.0, 0.0, 0.0], [1e4, -1e4, 1e4]]
    y_pred = np.array(rows if from_logits else [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]], "float32")
    labels = np.eye(3, dtype="float32")[[0, 0, 0, 1]]
    loss = FocalLoss(gamma, exclusive=exclusive, from_logits=from_logits)
    value, gradient = value_and_gradient(lambda z: loss(labels, z), y_pred)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


# Golden numbers


def test_worked_example_of_the_paper():
    # Lin et al. 2017, section 3.2: at gamma = 2 a sample with p_t = 0.9 counts 100 times less than in cross-entropy,
    # one with p_t = 0.968 about 1000 times less.
    probs = np.array([[0.9, 0.1], [0.968, 0.032]], "float32")
    focal = np.asarray(FocalLoss(2.0, reduction=None)(np.array([0, 0]), probs))
    np.testing.assert_allclose(-np.log([0.9, 0.968]) / focal, [100, 976.6], rtol=1e-4)


# The contract


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"alpha": 0.25, "gamma": 0.5},
        {"alpha": [0.1, 0.2, 0.3, 0.4, 0.5], "label_smoothing": 0.1},
        {"exclusive": False, "alpha": 0.25, "from_logits": True},
        {"exclusive": False, "alpha": {0: 0.5, 1: 2.0}, "from_logits": True},
        {"alpha": {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5}},
    ],
)
def test_keeps_the_contract(batch, arguments):
    logits, ids = batch
    loss = FocalLoss(**arguments)
    labels = ids if loss.exclusive else np.eye(5, dtype="float32")[ids]
    check_loss(loss, labels, logits if loss.from_logits else softmax(logits))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_compiles_into_a_model_as_it_stands(activation, tmp_path):
    ids = np.random.default_rng(0).integers(0, 3, 64)
    if activation == "softmax":
        check_trains_in_a_plain_model(FocalLoss(), ids, 3, activation, tmp_path)
    else:
        check_trains_in_a_plain_model(FocalLoss(exclusive=False), np.eye(3)[ids], 3, activation, tmp_path)


def test_trains_under_mixed_float16():
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, dtype="mixed_float16")])
    model.compile(keras.optimizers.Adam(0.05), loss=FocalLoss(from_logits=True))
    history = model.fit(x, (x[:, 0] > 0).astype("int32"), epochs=10, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.5 * history[0]


# What counts


def test_ignored_samples_count_neither_in_the_sum_nor_in_the_mean(batch):
    logits, ids = batch
    marked = np.where(np.arange(12) % 3 == 0, -1, ids)
    loss = FocalLoss(from_logits=True, ignore_class=-1)
    assert float(loss(marked, logits)) == pytest.approx(float(loss(ids[marked >= 0], logits[marked >= 0])), rel=1e-6)
    _, gradient = value_and_gradient(lambda z: loss(marked, z), logits)
    assert (gradient[marked < 0] == 0).all()
    assert (gradient[marked >= 0] != 0).any()


def test_a_batch_without_any_label_has_no_loss_and_no_gradient(batch):
    logits, _ = batch
    loss = FocalLoss(from_logits=True, ignore_class=-1)
    value, gradient = value_and_gradient(lambda z: loss(np.full(12, -1), z), logits)
    assert value == 0
    assert (gradient == 0).all()


def test_masked_timesteps_do_not_count():
    x = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    inputs = keras.Input((4,), dtype="int32")
    outputs = keras.layers.Dense(3)(keras.layers.Embedding(4, 8, mask_zero=True)(inputs))
    model = keras.Model(inputs, outputs)
    y_pred, ids = model(x), np.array([[0, 1, 2, 2], [2, 1, 0, 1]])
    kept = x != 0
    wanted, _ = exclusive_focal(ops.convert_to_numpy(y_pred)[kept], ids[kept], 2.0)
    got = ops.convert_to_numpy(FocalLoss(from_logits=True)(ids, y_pred))
    assert float(got) == pytest.approx(wanted.mean(), rel=1e-5)


# Errors


def test_class_ids_out_of_range_are_an_error_where_they_can_be_seen(batch):
    logits, ids = batch
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"integers in \[0, 5\)\. Received: {wrong} \(1 of 12 are wrong\)"):
            FocalLoss(from_logits=True)(np.where(np.arange(12) == 7, wrong, ids), logits)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("wrong", [2.0, -1.0, np.nan])
def test_labels_outside_0_to_1_are_an_error_where_they_can_be_seen(batch, exclusive, wrong):
    logits, ids = batch
    labels = np.eye(5, dtype="float32")[ids]
    labels[3, 1] = wrong
    with pytest.raises(ValueError, match=r"Labels must be in \[0, 1\]\. Received: .* \(1 of 60 are wrong\)"):
        FocalLoss(exclusive=exclusive, from_logits=True)(labels, logits)


def test_class_ids_out_of_range_give_nan_where_they_cannot_be_seen(batch):
    logits, ids = batch
    wrong = ops.convert_to_tensor(np.where(np.arange(12) == 7, 5, ids))
    values = np.asarray(FocalLoss(from_logits=True, reduction=None)(wrong, logits))
    assert np.isnan(values[7])
    assert np.isfinite(np.delete(values, 7)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"gamma": -1}, ValueError, "`gamma` must be >= 0. Received: gamma=-1."),
        ({"gamma": float("nan")}, ValueError, "`gamma` must be finite. Received: gamma=nan."),
        ({"gamma": "2"}, TypeError, "`gamma` must be a number. Received: gamma='2'."),
        ({"alpha": "x"}, TypeError, "`alpha` must be a number. Received: alpha='x'."),
        ({"alpha": 5}, ValueError, r"`alpha` must be in \[0, 1\]. Received: alpha=5."),
        ({"alpha": [0.5, -0.5]}, ValueError, "`alpha` must be >= 0. Received: alpha=-0.5."),
        ({"alpha": [0.5, 2.0], "exclusive": False}, ValueError, r"`alpha` must be in \[0, 1\]"),
        ({"alpha": 1.9, "exclusive": False}, ValueError, r"alpha=dict\(enumerate\(class_balanced_alpha\(counts\)\)\)"),
        ({"alpha": {0: 0.1, 2: 0.9}}, ValueError, "each class id from 0 on"),
        ({"alpha": {"cat": 0.1}}, ValueError, "each class id from 0 on"),
        ({"alpha": {1: 0.9}, "exclusive": False}, ValueError, "must have a weight for 0 .* and 1"),
        ({"alpha": [[0.5]]}, ValueError, "`alpha` must be a number or a flat sequence"),
        ({"label_smoothing": 1.0}, ValueError, "`label_smoothing` must be < 1"),
        ({"ignore_class": 0.5}, TypeError, "`ignore_class` must be an integer"),
        ({"ignore_class": -1, "exclusive": False}, ValueError, "`ignore_class` must be None when `exclusive=False`"),
        ({"dtype": "float16"}, ValueError, "`dtype` must be float32 or float64"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        FocalLoss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "y_true_shape", "y_pred_shape", "message"),
    [
        ({}, (4, 3), (4, 5), r"one label per class of shape \(4, 5\). Received: y_true of shape \(4, 3\)"),
        ({}, (3,), (4, 5), r"class ids of shape \(4,\)"),
        ({}, (4,), (4, 1), "at least two classes"),
        ({"exclusive": False}, (4,), (4, 5), "must have the same shape"),
        ({"alpha": [0.5, 0.5]}, (4,), (4, 5), "Received: 2 weights for 5 classes"),
        ({"axis": 3}, (4,), (4, 5), "`axis` must be an axis of y_pred"),
        ({"ignore_class": -1}, (4, 5), (4, 5), "`ignore_class` must be None unless y_true holds class ids"),
    ],
)
def test_shapes_that_do_not_fit_are_errors_and_never_broadcast(arguments, y_true_shape, y_pred_shape, message):
    with pytest.raises(ValueError, match=message):
        FocalLoss(from_logits=True, **arguments)(np.zeros(y_true_shape), np.zeros(y_pred_shape, "float32"))


# Weights in the form of `class_weight`


def test_a_dictionary_of_weights_is_the_list_of_them(batch):
    logits, ids = batch
    weights = [0.1, 0.5, 1.0, 2.0, 3.0]
    by_list, by_id = (
        FocalLoss(alpha=alpha, from_logits=True)(ids, logits) for alpha in (weights, dict(enumerate(weights)))
    )
    assert float(by_list) == float(by_id)


def test_a_dictionary_weights_the_two_values_of_a_label():
    labels, logits = np.array([[1.0], [0.0]]), np.array([[0.3], [-0.7]], "float32")
    plain = FocalLoss(exclusive=False, from_logits=True, reduction=None)(labels, logits)
    weights = dict(enumerate(class_balanced_alpha([950, 50], 0.999)))
    weighted = FocalLoss(alpha=weights, exclusive=False, from_logits=True, reduction=None)(labels, logits)
    np.testing.assert_allclose(np.asarray(weighted), np.asarray(plain) * [weights[1], weights[0]], rtol=1e-6)
    share = FocalLoss(alpha=0.75, exclusive=False, from_logits=True)(labels, logits)
    both = FocalLoss(alpha={0: 0.25, 1: 0.75}, exclusive=False, from_logits=True)(labels, logits)
    assert float(share) == pytest.approx(float(both), rel=1e-6)
