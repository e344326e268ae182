"""AsymmetricLoss and class_balanced_alpha: identities, float64 references, golden numbers, the contract, errors."""

from decimal import Decimal, localcontext

import keras
import numpy as np
import pytest

from keras_notes.losses import AsymmetricLoss, FocalLoss, class_balanced_alpha
from tests.losses.contract import check_loss, check_trains_in_a_plain_model
from tests.losses.references import asymmetric, sigmoid
from tests.support.gradients import values_and_gradients

pytestmark = pytest.mark.any_backend

# float32 holds 24 bits; an exponent of 50 leaves 50 * 2^-24 = 3e-6 of it, one of 100 twice that.
TO_LOGIT_50, TO_LOGIT_100 = 1e-5, 5e-5
# Below this float32 loses bits to gradual underflow; results there are compared with zero.
LEAST_NORMAL = 1e-36
# bfloat16 holds 8 bits.
BFLOAT16_ROUNDING = 2.0**-8
MAGNITUDES = np.array([0.1, 1, 3, 5, 8, 12, 15, 16, 17, 20, 35, 50, 75, 100], "float32")
# Steps of the last bit, from the float32 nearest to the threshold.
STEPS = (-8, -1, 0, 1, 2, 3, 8, 64, 1024, 100_000)
GAMMAS = [(0.0, 0.0), (0.0, 4.0), (1.0, 4.0), (0.5, 0.3)]


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=3, size=(12, 5)).astype("float32")
    return (rng.random(logits.shape) < 0.3).astype("float32"), logits


def threshold_of(margin):
    """The logit whose probability is the margin."""
    return np.log(margin) - np.log1p(-margin)


def one_label_a_sample(margin):
    """Every logit once as a negative and once as a positive: magnitudes of both signs, and around the threshold."""
    nearest = np.float32(threshold_of(margin)) if margin else np.float32(-1.0)
    around = nearest + np.abs(np.spacing(nearest)) * np.array(STEPS, "float32")
    logits = np.concatenate([-MAGNITUDES, MAGNITUDES, around]).astype("float32")
    return np.repeat([[0.0], [1.0]], len(logits), axis=0).astype("float32"), np.tile(logits, 2)[:, None]


def mismatches(got, wanted, labels, logits):
    """Says where the two differ by more than float32 has to."""
    labels, logits, got, wanted = (np.asarray(a, np.float64).ravel() for a in (labels, logits, got, wanted))
    tolerance = np.where(np.abs(logits) <= 50, TO_LOGIT_50, TO_LOGIT_100)
    is_wrong = ~(np.abs(got - wanted) <= tolerance * np.abs(wanted) + 2 * LEAST_NORMAL)
    return [f"y={labels[i]:g}, z={logits[i]:.9g}: {got[i]:.7g}, not {wanted[i]:.7g}" for i in np.flatnonzero(is_wrong)]


# Identities


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_equal_gammas_without_margin_are_the_focal_loss(batch, gamma):
    got = values_and_gradients(AsymmetricLoss(gamma, gamma, margin=0, from_logits=True), *batch)
    wanted = values_and_gradients(FocalLoss(gamma, exclusive=False, from_logits=True), *batch)
    for got_part, wanted_part in zip(got, wanted, strict=True):
        np.testing.assert_allclose(got_part, wanted_part, rtol=TO_LOGIT_50)


def test_without_gammas_and_margin_it_is_the_sum_of_logistic_losses(batch):
    labels, logits = batch
    logistic = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits)
    plain = AsymmetricLoss(0, 0, margin=0, from_logits=True)(labels, logits)
    assert float(plain) == pytest.approx(5 * float(logistic), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5])
def test_negatives_up_to_the_margin_have_exactly_no_loss_and_no_gradient(margin, gamma):
    highest = np.float32(threshold_of(margin))
    if sigmoid(np.float64(highest)) > margin:
        highest = np.nextafter(highest, np.float32(-np.inf))
    logits = np.array([[-1e4], [-20.0], [highest - 1.0], [np.nextafter(highest, np.float32(-9))], [highest]], "float32")
    loss = AsymmetricLoss(1.0, gamma, margin=margin, from_logits=True)
    for part in values_and_gradients(loss, np.zeros_like(logits), logits):
        assert (part == 0).all()
    for part in values_and_gradients(loss, np.ones_like(logits), logits):
        assert (part != 0).all()  # the margin is for negatives only


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_loss_is_continuous_at_the_margin(margin):
    steps = np.array([-1e-2, -1e-3, -1e-4, 1e-4, 1e-3, 1e-2], "float32")[:, None]
    logits = np.float32(threshold_of(margin)) + steps
    values, _ = values_and_gradients(AsymmetricLoss(0, 0, margin=margin, from_logits=True), 0 * logits, logits)
    # No steeper than the logistic loss, whose slope is p.
    assert (values <= 1.1 * margin * np.maximum(steps[:, 0], 0)).all()
    assert (np.diff(values[3:]) > 0).all()


def test_larger_gamma_negative_takes_more_from_negatives_and_nothing_from_positives(batch):
    _, logits = batch
    probs = sigmoid(logits.astype("float64"))
    easy_negatives = ((probs > 0.06) & (probs < 0.5)).any(-1)
    losses = [AsymmetricLoss(0.5, gamma, from_logits=True, reduction=None) for gamma in (0.0, 0.5, 1.0, 2.0, 4.0)]
    negatives = np.stack([np.asarray(loss(np.zeros_like(logits), logits)) for loss in losses])
    positives = np.stack([np.asarray(loss(np.ones_like(logits), logits)) for loss in losses])
    assert easy_negatives.sum() >= 6
    assert (np.diff(negatives[:, easy_negatives], axis=0) < 0).all()
    assert (positives == positives[0]).all()


def test_probabilities_and_their_logits_agree(batch):
    labels, logits = batch
    wanted = float(AsymmetricLoss(1.0, from_logits=True)(labels, logits))
    assert float(AsymmetricLoss(1.0)(labels, sigmoid(logits))) == pytest.approx(wanted, rel=1e-5)


def test_label_axis_can_stand_anywhere(batch):
    labels, logits = batch
    wanted = AsymmetricLoss(from_logits=True, reduction=None)(labels, logits)
    got = AsymmetricLoss(from_logits=True, reduction=None, axis=0)(labels.T, logits.T)
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-6)


def test_one_class_may_leave_the_label_axis_out(batch):
    labels, logits = batch[0][:, :1], batch[1][:, :1]
    loss = AsymmetricLoss(from_logits=True)
    assert float(loss(labels[:, 0], logits)) == float(loss(labels, logits))


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("gammas", GAMMAS)
def test_value_and_gradient_match_float64(gammas, margin, compiled):
    labels, logits = one_label_a_sample(margin)
    got = values_and_gradients(AsymmetricLoss(*gammas, margin=margin, from_logits=True), labels, logits, compiled)
    value, gradient = asymmetric(logits, labels, *gammas, margin)
    assert mismatches(got[0], value, labels, logits) == []
    assert mismatches(got[1], gradient, labels, logits) == []


def test_soft_labels_match_float64(batch):
    _, logits = batch
    labels = np.random.default_rng(5).random(logits.shape).astype("float32")
    got = values_and_gradients(AsymmetricLoss(1.0, 2.0, from_logits=True), labels, logits)
    for got_part, wanted in zip(got, asymmetric(logits, labels, 1.0, 2.0, 0.05), strict=True):
        np.testing.assert_allclose(got_part, wanted, rtol=1e-5, atol=1e-6)  # the halves of the gradient cancel


def test_bfloat16_logits_cost_no_more_than_their_own_rounding(batch):
    labels, logits = batch
    values, _ = values_and_gradients(AsymmetricLoss(1.0, from_logits=True), labels, logits, dtype="bfloat16")
    wanted, slopes = asymmetric(logits, labels, 1.0, 4.0, 0.05)
    assert values.mean() == pytest.approx(wanted.mean(), rel=BFLOAT16_ROUNDING)
    # The rounding of a logit moves the loss by its slope; half of 2^-8 is the most a logit is rounded by.
    assert (np.abs(values - wanted) <= BFLOAT16_ROUNDING * (np.abs(slopes * logits).sum(-1) + 1e-3 * wanted)).all()


def test_class_weights_match_plain_float64():
    counts, beta = np.array([1, 2, 17, 300, 5000]), 0.999
    weights = (1 - beta) / (1 - beta**counts)
    np.testing.assert_allclose(class_balanced_alpha(counts, beta), weights * len(counts) / weights.sum(), rtol=1e-12)


@pytest.mark.parametrize("beta", [0.9, 0.9999, 0.9999999, 1 - 2.0**-53])
def test_class_weights_stay_exact_for_large_counts(beta):
    counts = [1, 1000, 10**9, 10**15]
    with localcontext() as context:
        context.prec = 60
        weights = [1 / (1 - (Decimal(beta).ln() * n).exp()) for n in counts]
        wanted = [float(weight * len(counts) / sum(weights)) for weight in weights]
    np.testing.assert_allclose(class_balanced_alpha(counts, beta), wanted, rtol=1e-14)


def test_beta_zero_weights_all_classes_alike():
    assert class_balanced_alpha([1, 10, 10**9], beta=0) == [1.0, 1.0, 1.0]


def test_beta_near_one_weights_by_inverse_frequency():
    counts = np.array([1, 20, 300, 4000])
    np.testing.assert_allclose(class_balanced_alpha(counts, 1 - 1e-12), 1 / counts / (1 / counts).mean(), rtol=1e-8)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 0.9999999])
def test_class_weights_have_mean_one_and_fall_with_the_count(beta):
    weights = class_balanced_alpha([3, 50, 700, 10**9], beta)
    assert np.mean(weights) == pytest.approx(1, rel=1e-12)
    assert (np.diff(weights) <= 0).all()


def test_class_weights_serve_as_alpha_of_the_focal_loss(batch):
    _, logits = batch
    ids, alpha = np.arange(12) % 5, class_balanced_alpha([1000, 300, 100, 30, 10])
    weighted = FocalLoss(alpha=alpha, from_logits=True, reduction=None)(ids, logits)
    plain = FocalLoss(from_logits=True, reduction=None)(ids, logits)
    np.testing.assert_allclose(np.asarray(weighted) / np.asarray(plain), np.array(alpha)[ids], rtol=1e-6)


# Golden numbers


def test_negatives_of_even_odds_worked_by_hand():
    # p = 1/2. Equation 5 at gamma 2, no margin: 1/4 log 2. Equation 7 at margin 0.2, p_m = 0.3: -0.09 log 0.7.
    logits, labels = np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32")
    for margin, wanted in ((0.0, 0.1732867951), (0.2, 0.0321007450)):
        loss = AsymmetricLoss(1.0, 2.0, margin=margin, from_logits=True)
        assert float(loss(labels, logits)) == pytest.approx(wanted, rel=1e-6)


def test_certain_negative_costs_the_logarithm_of_the_margin():
    # p = 1, by hand: 0.95^4 * -log 0.05 = 0.81450625 * 2.99573227, and 0.9999^4 * log 10^4 = 0.99960006 * 9.21034037.
    for margin, wanted in ((0.05, 2.44004266), (1e-4, 9.20665679)):
        loss = AsymmetricLoss(margin=margin)
        assert float(loss(np.zeros((1, 1)), np.ones((1, 1), "float32"))) == pytest.approx(wanted, rel=1e-6)


def test_class_weights_worked_by_hand():
    # Cui et al. 2019, equation 2: E_1 = 1 and E_2 = 1 + beta = 1.5, so the weights are as 1 to 2/3.
    assert class_balanced_alpha([1, 2], beta=0.5) == pytest.approx([1.2, 0.8], rel=1e-15)


# The contract


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"gamma_positive": 1.0, "gamma_negative": 2.0, "margin": 0.2, "from_logits": True},
        {"gamma_positive": 0.5, "gamma_negative": 0.3, "margin": 0.0, "from_logits": True, "dtype": "float32"},
    ],
)
def test_keeps_the_contract(batch, arguments):
    labels, logits = batch
    loss = AsymmetricLoss(**arguments)
    check_loss(loss, labels, logits if loss.from_logits else sigmoid(logits).astype("float32"))


def test_compiles_into_a_model_as_it_stands(tmp_path):
    labels = np.eye(3, dtype="float32")[np.random.default_rng(0).integers(0, 3, 64)]
    check_trains_in_a_plain_model(AsymmetricLoss(), labels, 3, "sigmoid", tmp_path)


def test_trains_under_mixed_float16():
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, dtype="mixed_float16")])
    model.compile(keras.optimizers.Adam(0.05), loss=AsymmetricLoss(from_logits=True))
    history = model.fit(x, (x[:, :3] > 0.5).astype("float32"), epochs=10, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.5 * history[0]


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("gammas", GAMMAS)
def test_values_and_gradients_are_finite_at_the_ends_of_the_number_range(gammas, margin):
    labels = np.array([[0.0, 1.0, 0.5]] * 4, "float32")
    logits = np.repeat([[-1e4], [1e4], [-200.0], [0.0]], 3, axis=1)
    probs = np.repeat([[0.0], [1.0], [1e-38], [0.5]], 3, axis=1)
    for y_pred, dtype in ((logits, "float16"), (probs, "float32")):
        loss = AsymmetricLoss(*gammas, margin=margin, from_logits=dtype == "float16")
        for part in values_and_gradients(loss, labels, y_pred, dtype=dtype):
            assert np.isfinite(part).all()


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"gamma_positive": -1}, ValueError, "`gamma_positive` must be >= 0. Received: gamma_positive=-1."),
        ({"gamma_negative": np.nan}, ValueError, "`gamma_negative` must be finite. Received: gamma_negative=nan."),
        ({"margin": -0.1}, ValueError, "`margin` must be >= 0. Received: margin=-0.1."),
        ({"margin": 1.0}, ValueError, "`margin` must be < 1. Received: margin=1.0."),
        ({"margin": "x"}, TypeError, "`margin` must be a number. Received: margin='x'."),
        ({"axis": 0.5}, TypeError, "`axis` must be an integer. Received: axis=0.5."),
        ({"dtype": "float16"}, ValueError, "`dtype` must be float32 or float64"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        AsymmetricLoss(**arguments)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (5, 4), (4, 5, 1)])
def test_shapes_that_do_not_fit_are_errors_and_never_broadcast(shape):
    with pytest.raises(ValueError, match=r"Labels and predictions must have the same shape\. Received: shapes"):
        AsymmetricLoss(from_logits=True)(np.zeros(shape), np.zeros((4, 5), "float32"))


@pytest.mark.parametrize("wrong", [2.0, -1.0, np.nan])
def test_labels_outside_0_to_1_are_an_error_where_they_can_be_seen(batch, wrong):
    labels, logits = batch
    labels[3, 1] = wrong
    with pytest.raises(ValueError, match=r"Labels must be in \[0, 1\]\. Received: .* \(1 of 60 are wrong\)"):
        AsymmetricLoss(from_logits=True)(labels, logits)


@pytest.mark.parametrize(
    ("counts", "beta", "error", "message"),
    [
        ([3, 0], 0.9, ValueError, r"`counts` must be >= 1: .* Received: counts=\[3, 0\]\. Leave such classes out"),
        ([3, -2], 0.0, ValueError, "`counts` must be >= 1"),
        ([3, np.nan], 0.9, ValueError, "`counts` must be >= 1"),
        ([[3, 2]], 0.9, ValueError, r"`counts` must hold one number a class. Received: shape \(1, 2\)\."),
        ([], 0.9, ValueError, r"`counts` must hold one number a class. Received: shape \(0,\)\."),
        (7, 0.9, ValueError, r"`counts` must hold one number a class. Received: shape \(\)\."),
        ([3, 2], 1.0, ValueError, "`beta` must be < 1. Received: beta=1.0."),
        ([3, 2], -0.1, ValueError, "`beta` must be >= 0. Received: beta=-0.1."),
        ([3, 2], np.nan, ValueError, "`beta` must be finite"),
        ([3, 2], "x", TypeError, "`beta` must be a number"),
    ],
)
def test_wrong_counts_and_betas_are_errors(counts, beta, error, message):
    with pytest.raises(error, match=message):
        class_balanced_alpha(counts, beta)
