"""JensenShannonDistillationLoss: identities, bounds, a float64 reference, the Keras contract, errors."""

import numpy as np
import pytest

from keras_notes.losses import DistillationLoss, JensenShannonDistillationLoss
from tests.losses.contract import (
    check_loss,
    check_no_gradient_reaches_the_teacher,
    check_trains_in_a_plain_model,
)
from tests.losses.logit_checks import gradient_of, logits_pair, values_of
from tests.losses.references import log_softmax

pytestmark = pytest.mark.any_backend

# Of the largest entry: the logits are rounded when divided by T, 6e-8 of up to 400, and so are their exponentials.
TOLERANCE = 1e-5
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
SCALES = (0.01, 1.0, 10.0, 100.0)


def kl_terms(p, q, log_p, log_q):
    """The terms p log(p / q) - p + q >= 0 per class; where p and q are close, by log1p of their distance."""
    ratio = np.expm1(np.clip(log_q - log_p, -1, 1))
    near = p * (ratio - np.log1p(ratio))
    with np.errstate(invalid="ignore"):
        far = np.where(p > 0, p * (log_p - log_q), 0) - p + q
    return np.where(np.abs(log_q - log_p) < 1, near, far)


def jensen_shannon(teacher, student, beta, temperature):
    """tau^2 times the divergence per sample in float64, and its gradient with respect to the student's logits."""
    log_p, log_q = (log_softmax(np.float64(x) / temperature) for x in (teacher, student))
    p, q = np.exp(log_p), np.exp(log_q)
    if beta == 0:
        terms, gradient = kl_terms(p, q, log_p, log_q), q - p
    elif beta == 1:
        terms = kl_terms(q, p, log_q, log_p)
        gradient = q * (log_q - log_p - (q * (log_q - log_p)).sum(-1, keepdims=True))
    else:
        log_m = np.logaddexp(np.log(beta) + log_p, np.log1p(-beta) + log_q)
        m = np.exp(log_m)
        terms = beta * kl_terms(p, m, log_p, log_m) + (1 - beta) * kl_terms(q, m, log_q, log_m)
        slope = (1 - beta) * (log_q - log_m)
        gradient = q * (slope - (q * slope).sum(-1, keepdims=True))
    return temperature**2 * terms.sum(-1), temperature * gradient


# Identities


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_beta_zero_is_the_distillation_loss(temperature):
    teacher, student = logits_pair()
    got = gradient_of(JensenShannonDistillationLoss(0.0, temperature), teacher, student)
    wanted = gradient_of(DistillationLoss(temperature), teacher, student)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_beta_one_is_the_divergence_with_teacher_and_student_exchanged():
    teacher, student = logits_pair()
    got = values_of(JensenShannonDistillationLoss(1.0, 2.0), teacher, student)
    np.testing.assert_allclose(got, values_of(DistillationLoss(2.0), student, teacher), rtol=TOLERANCE)


@pytest.mark.parametrize(("beta", "share", "end"), [(1e-4, 1e-4, 0.0), (1 - 1e-4, 1e-4, 1.0)])
def test_towards_its_ends_it_is_the_share_of_the_divergence_there(beta, share, end):
    teacher, student = logits_pair(1.0)
    got = gradient_of(JensenShannonDistillationLoss(beta), teacher, student)
    wanted = gradient_of(JensenShannonDistillationLoss(end), teacher, student)
    for a, b in zip(got, wanted, strict=True):
        # The next term of the expansion is of order beta, times how far p and q are apart.
        assert np.abs(a / share - b).max() < 0.01 * np.abs(b).max()


def test_at_one_half_teacher_and_student_may_be_exchanged():
    teacher, student = logits_pair()
    loss = JensenShannonDistillationLoss(0.5, 2.0)
    np.testing.assert_allclose(values_of(loss, teacher, student), values_of(loss, student, teacher), rtol=TOLERANCE)
    skewed = JensenShannonDistillationLoss(0.1)
    np.testing.assert_allclose(
        values_of(skewed, teacher, student),
        values_of(JensenShannonDistillationLoss(0.9), student, teacher),
        rtol=TOLERANCE,
    )
    assert (values_of(skewed, teacher, student) != values_of(skewed, student, teacher)).any()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_it_is_bounded_by_the_entropy_of_beta_which_disjoint_distributions_reach(beta):
    entropy = -(beta * np.log(beta) + (1 - beta) * np.log1p(-beta))
    for scale in SCALES:
        values = values_of(JensenShannonDistillationLoss(beta, 2.0), *logits_pair(scale))
        assert (values >= 0).all()
        assert (values <= 4 * entropy * (1 + TOLERANCE)).all()
    ids = np.arange(16) % 10
    teacher, student = (np.where(np.eye(10)[x] == 1, 0.0, -np.inf).astype("float32") for x in (ids, 9 - ids))
    np.testing.assert_allclose(values_of(JensenShannonDistillationLoss(beta), teacher, student), entropy, rtol=1e-6)
    np.testing.assert_allclose(
        values_of(JensenShannonDistillationLoss(beta, 2.0), teacher, student), 4 * entropy, rtol=1e-6
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [0.5, 1000.0])
def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient(temperature, beta):
    teacher, _ = logits_pair()
    value, gradient = gradient_of(JensenShannonDistillationLoss(beta, temperature), teacher, teacher)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("beta", BETAS)
def test_a_constant_added_to_the_logits_changes_nothing(beta):
    teacher, student = logits_pair()
    loss = JensenShannonDistillationLoss(beta, 2.0)
    shifted = gradient_of(loss, teacher + 8, student - 8)
    for a, b in zip(shifted, gradient_of(loss, teacher, student), strict=True):
        # The logits themselves are rounded by 5e-7 when the constant is added.
        np.testing.assert_allclose(a, b, atol=TOLERANCE * np.abs(b).max())


def test_standardized_logits_match_float64():
    pair = logits_pair()
    z = [(x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) for x in map(np.float64, pair)]
    got = values_of(JensenShannonDistillationLoss(0.3, 2.0, standardize=True), *pair)
    np.testing.assert_allclose(got, jensen_shannon(*z, 0.3, 2.0)[0], rtol=TOLERANCE)


def test_the_class_axis_can_stand_anywhere():
    teacher, student = logits_pair(shape=(4, 3, 5))
    first = JensenShannonDistillationLoss(axis=1)(np.moveaxis(teacher, -1, 1), np.moveaxis(student, -1, 1))
    assert float(first) == pytest.approx(float(JensenShannonDistillationLoss()(teacher, student)), rel=1e-6)


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("beta", BETAS[1:])
def test_value_and_gradient_match_float64(beta, temperature, compiled):
    # One batch for all scales: every row is computed on its own.
    pairs = [logits_pair(scale, (4, 10), seed) for seed, scale in enumerate(SCALES)]
    teacher, student = (np.concatenate(x) for x in zip(*pairs, strict=True))
    wanted_value, wanted_gradient = jensen_shannon(teacher, student, beta, temperature)
    loss = JensenShannonDistillationLoss(beta, temperature, reduction="sum")
    np.testing.assert_allclose(values_of(loss, teacher, student), wanted_value, rtol=TOLERANCE)
    _, gradient = gradient_of(loss, teacher, student, compiled)
    for rows in np.arange(16).reshape(4, 4):
        wanted = wanted_gradient[rows]
        assert np.abs(gradient[rows] - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("temperature", [0.5, 4.0, 1000.0])
@pytest.mark.parametrize("scale", SCALES)
def test_forward_divergence_matches_float64(scale, temperature):
    # Its formula is chosen by the batch, so each scale is a batch of its own.
    teacher, student = logits_pair(scale)
    wanted_value, wanted_gradient = jensen_shannon(teacher, student, 0.0, temperature)
    loss = JensenShannonDistillationLoss(0.0, temperature, reduction="sum")
    value, gradient = gradient_of(loss, teacher, student)
    assert float(value) == pytest.approx(wanted_value.sum(), rel=TOLERANCE)
    assert np.abs(gradient - wanted_gradient).max() < TOLERANCE * np.abs(wanted_gradient).max()


@pytest.mark.parametrize("beta", BETAS)
def test_the_reference_is_the_derivative(beta):
    teacher, student = (np.float64(x) for x in logits_pair())
    step = 1e-5 * np.eye(10)[3]
    up, down = (jensen_shannon(teacher, student + sign * step, beta, 2.0)[0] for sign in (1, -1))
    np.testing.assert_allclose((up - down) / 2e-5, jensen_shannon(teacher, student, beta, 2.0)[1][:, 3], atol=1e-7)


@pytest.mark.parametrize("beta", BETAS)
def test_values_and_gradients_are_finite_at_the_ends_of_the_number_range(beta):
    teacher, student = (np.clip(x, -1e4, 1e4).astype("float16") for x in logits_pair(1e4))
    teacher[::2], student[::2] = teacher[::2] / 50, student[::2] / 50
    teacher[:4, :3] = student[:4, :3] = -np.inf
    for compiled in (False, True):
        value, gradient = gradient_of(JensenShannonDistillationLoss(beta), teacher, student, compiled)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_golden_values():
    # By hand: p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): KL(p || q) = log(3) / 2, JSD = log 2 - H(1/4).
    # Eight more classes are ruled out.
    teacher, student = np.full((2, 16, 10), -np.inf, "float32")
    teacher[:, :2], student[:, :2] = np.log([3, 1]), np.log([1, 3])
    for beta, wanted in ((0.0, np.log(3) / 2), (1.0, np.log(3) / 2), (0.5, 0.75 * np.log(3) - np.log(2))):
        assert float(JensenShannonDistillationLoss(beta)(teacher, student)) == pytest.approx(wanted, rel=1e-6)


# The contract


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_keeps_the_contract(beta):
    teacher, student = logits_pair()
    check_loss(JensenShannonDistillationLoss(beta, 2.0), teacher, student)
    check_no_gradient_reaches_the_teacher(JensenShannonDistillationLoss(beta, 2.0), teacher, student)


def test_a_plain_model_learns_from_stored_teacher_logits(tmp_path):
    teacher = np.random.default_rng(0).normal(size=(32, 6)).astype("float32") @ np.eye(6, 4, dtype="float32")
    check_trains_in_a_plain_model(JensenShannonDistillationLoss(), 3 * teacher, 4, None, tmp_path)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"beta": -0.1}, ValueError, r"`beta` must be in \[0, 1\]. Received: beta=-0.1"),
        ({"beta": 1.1}, ValueError, r"`beta` must be in \[0, 1\]"),
        ({"beta": float("nan")}, ValueError, "`beta` must be finite"),
        ({"beta": "half"}, TypeError, "`beta` must be a number"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be > 0"),
        ({"axis": 1.5}, TypeError, "`axis` must be an integer"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        JensenShannonDistillationLoss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "teacher_shape", "student_shape", "message"),
    [
        ({}, (4, 10), (4, 9), r"same shape. Received: shapes \(4, 10\) and \(4, 9\)"),
        ({}, (4, 1), (4, 1), "at least two classes"),
        ({"standardize": True}, (4, 2), (4, 2), "needs at least three classes"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(arguments, teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        JensenShannonDistillationLoss(**arguments)(
            np.zeros(teacher_shape, "float32"), np.zeros(student_shape, "float32")
        )
