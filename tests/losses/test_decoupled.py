"""DecoupledDistillationLoss: its two terms, a float64 reference at the extremes, the Keras contract, errors."""

import numpy as np
import pytest
from keras import ops

from keras_notes.losses import DecoupledDistillationLoss, DistillationLoss, with_labels
from tests.losses.contract import (
    check_loss,
    check_no_gradient_reaches_the_teacher,
    check_trains_in_a_plain_model,
    copy_of,
)
from tests.losses.logit_checks import values_of
from tests.losses.references import softmax
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

# float32 holds 24 bits; an exponent of 50 leaves 50 * 2^-24 = 3e-6 of it, one of 100 twice that.
TO_MARGIN_50, TO_MARGIN_100 = 1e-5, 5e-5
ROUNDING = 6e-8
TEMPERATURES = (1.0, 4.0, 1000.0)
TCKD, NCKD = {"alpha": 1.0, "beta": 0.0}, {"alpha": 0.0, "beta": 1.0}


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    teacher, student = (rng.normal(scale=3, size=(12, 5)).astype("float32") for _ in range(2))
    return teacher, student, rng.integers(0, 5, 12)


def gradient_of(loss, y_true, student, compiled=False):
    """The gradient of the sum over the samples."""
    per_sample = copy_of(loss, reduction=None)
    return value_and_gradient(lambda s: ops.sum(per_sample(y_true, s)), student, compiled=compiled)[1]


def decoupled(teacher, student, ids, alpha, beta, temperature):
    """The loss per sample in float64, all in logarithms, and its gradient by complex steps."""
    is_true = np.eye(teacher.shape[-1], dtype=bool)[ids]

    def log_sum_exp(z):
        top = z.real.max(-1)
        return top + np.log(np.exp(z - top[:, None]).sum(-1))

    def logs(z):
        """The log of p_y, log(1 - p_y) and log p^_j."""
        total, others = log_sum_exp(z), np.where(is_true, -np.inf, z)
        rest = log_sum_exp(others)
        return z[is_true] - total, rest - total, others - rest[:, None]

    def value(s):
        (p_y, p_rest, p_others), (q_y, q_rest, q_others) = (
            logs(np.float64(teacher) / temperature),
            logs(s / temperature),
        )
        true_class = np.exp(p_y) * (p_y - q_y) + np.exp(p_rest) * (p_rest - q_rest)
        differences = np.where(is_true, 0, np.where(is_true, 0, p_others) - np.where(is_true, 0, q_others))
        return temperature**2 * (alpha * true_class + beta * (np.exp(p_others) * differences).sum(-1))

    gradient = [value(student + step).imag / 1e-30 for step in 1e-30j * np.eye(teacher.shape[-1])]
    return value(np.float64(student)), np.stack(gradient, -1)


# Identities


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_distillation_is_the_true_class_term_and_the_other_term_times_what_the_teacher_leaves_it(temperature, batch):
    teacher, student, ids = batch
    left = 1 - softmax(np.float64(teacher) / temperature)[np.arange(12), ids]
    y_true = with_labels(teacher, ids)
    terms = [DecoupledDistillationLoss(**weights, temperature=temperature) for weights in (TCKD, NCKD)]
    plain = DistillationLoss(temperature, reduction="sum")
    true_class, others = (values_of(loss, y_true, student) for loss in terms)
    np.testing.assert_allclose(true_class + left * others, values_of(plain, teacher, student), rtol=TO_MARGIN_50)
    true_class, others = (gradient_of(loss, y_true, student) for loss in terms)
    wanted = gradient_of(plain, teacher, student)
    assert np.abs(true_class + left[:, None] * others - wanted).max() < TO_MARGIN_50 * np.abs(wanted).max()


def test_with_beta_of_what_a_sample_leaves_it_is_distillation(batch):
    teacher, student, ids = batch
    plain = values_of(DistillationLoss(4.0), teacher, student)
    for row in range(3):
        beta = float(1 - softmax(np.float64(teacher) / 4)[row, ids[row]])
        got = values_of(DecoupledDistillationLoss(beta=beta), with_labels(teacher, ids), student)
        assert got[row] == pytest.approx(plain[row], rel=TO_MARGIN_50)


def test_of_two_classes_there_are_no_others_to_rank(batch):
    teacher, student = (np.ascontiguousarray(x[:, :2]) for x in batch[:2])
    y_true = with_labels(teacher, np.arange(12) % 2)
    assert (values_of(DecoupledDistillationLoss(**NCKD), y_true, student) == 0).all()
    assert (gradient_of(DecoupledDistillationLoss(**NCKD), y_true, student) == 0).all()
    got = values_of(DecoupledDistillationLoss(**TCKD), y_true, student)
    np.testing.assert_allclose(got, values_of(DistillationLoss(4.0), teacher, student), rtol=TO_MARGIN_50)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient(temperature, batch):
    teacher, _, ids = batch
    loss = DecoupledDistillationLoss(temperature=temperature)
    assert (values_of(loss, with_labels(teacher, ids), teacher) == 0).all()
    assert (gradient_of(loss, with_labels(teacher, ids), teacher) == 0).all()


def test_without_labels_the_true_class_is_the_one_that_the_teacher_finds_most_probable(batch):
    teacher, student, ids = batch
    loss = DecoupledDistillationLoss()
    same = values_of(loss, with_labels(teacher, teacher.argmax(-1)), student)
    np.testing.assert_array_equal(values_of(loss, teacher, student), same)
    assert (ids != teacher.argmax(-1)).any()
    assert (values_of(loss, with_labels(teacher, ids), student) != same).any()


def test_a_constant_added_to_the_logits_changes_nothing(batch):
    teacher, student, ids = batch
    loss = DecoupledDistillationLoss()
    got = values_of(loss, with_labels(teacher + 8, ids), student - 8)
    wanted = values_of(loss, with_labels(teacher, ids), student)
    # The logits themselves are rounded by 5e-7 when the constant is added.
    np.testing.assert_allclose(got, wanted, rtol=TO_MARGIN_50, atol=TO_MARGIN_50 * wanted.max())
    assert np.abs(gradient_of(loss, with_labels(teacher, ids), student).sum(-1)).max() < 1e-4


def test_standardized_logits_match_float64(batch):
    teacher, student, ids = batch
    z = [(x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) for x in map(np.float64, batch[:2])]
    loss = DecoupledDistillationLoss(1.0, 2.0, 2.0, standardize=True)
    wanted = decoupled(*z, ids, 1.0, 2.0, 2.0)[0]
    np.testing.assert_allclose(values_of(loss, with_labels(teacher, ids), student), wanted, rtol=TO_MARGIN_50)
    np.testing.assert_allclose(values_of(loss, with_labels(teacher, ids), 7 * student + 3), wanted, rtol=TO_MARGIN_50)


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("weights", [TCKD, NCKD, {}], ids=["tckd", "nckd", "both"])
def test_value_and_gradient_match_float64(weights, temperature, compiled, batch):
    teacher, student, ids = batch
    loss = DecoupledDistillationLoss(**weights, temperature=temperature)
    value, gradient = decoupled(teacher, student, ids, loss.alpha, loss.beta, temperature)
    np.testing.assert_allclose(values_of(loss, with_labels(teacher, ids), student), value, rtol=TO_MARGIN_50)
    got = gradient_of(loss, with_labels(teacher, ids), student, compiled)
    assert np.abs(got - gradient).max() < TO_MARGIN_50 * np.abs(gradient).max()


@pytest.mark.parametrize(("margin", "tolerance"), [(50, TO_MARGIN_50), (100, TO_MARGIN_100)])
@pytest.mark.parametrize("weights", [TCKD, NCKD, {}], ids=["tckd", "nckd", "both"])
def test_each_sample_matches_float64_at_large_margins(weights, margin, tolerance):
    # The teacher leads with the true class 1, or another, or none; the student so too, or with a third.
    sides = np.float32(
        [[0, margin, 0.5, -1, 1], [margin, 0, 0.5, -1, 1], [0, -0.3, 0.5, -1, 1], [0, 0.5, -1, 1, margin]]
    )
    teacher, student = np.repeat(sides[:3], 4, 0), np.tile(sides[:, [0, 1, 4, 2, 3]], (3, 1))
    y_true = with_labels(teacher, np.ones(12, "int32"))
    loss = DecoupledDistillationLoss(**weights, temperature=1.0)
    wanted_value, wanted_gradient = decoupled(teacher, student, np.ones(12, int), loss.alpha, loss.beta, 1.0)
    value, gradient = values_of(loss, y_true, student), gradient_of(loss, y_true, student)
    # Where both sides are sure of one class, or agree, value and gradient are below the rounding of 1.
    assert (np.abs(value - wanted_value) <= tolerance * wanted_value + ROUNDING).all()
    errors = np.abs(gradient - wanted_gradient).max(-1)
    assert (errors <= tolerance * np.abs(wanted_gradient).max(-1) + ROUNDING).all()


def test_golden_where_a_masked_softmax_underflows():
    # By hand: log q_1 = -200, where log(softmax) in float32 is -inf, and log(1 - q_1) = 0. With p = 1/5 everywhere,
    # TCKD = 1/5 * (200 - log 5) + 4/5 * log(4/5); with p^ = 1/4, NCKD = 3/4 * 200 - log 4.
    student, y_true = np.tile(np.float32([200, 0, 0, 0, 0]), (12, 1)), with_labels(np.zeros((12, 5)), np.ones(12))
    for weights, term in ((TCKD, 40 - np.log(5) / 5 + np.log(0.8) * 0.8), (NCKD, 150 - np.log(4))):
        loss = DecoupledDistillationLoss(**weights, temperature=1.0)
        assert float(loss(y_true, student)) == pytest.approx(term, rel=1e-6)
        assert np.isfinite(gradient_of(loss, y_true, student)).all()


def test_values_and_gradients_are_finite_at_the_ends_of_the_number_range():
    rng = np.random.default_rng(2)
    teacher, student = (np.clip(rng.normal(scale=1e4, size=(12, 5)), -1e4, 1e4).astype("float16") for _ in range(2))
    teacher[:4, 1:3] = student[:4, 1:2] = -np.inf  # ruled out by both, and by the teacher alone
    for label in (0, 3, 4):
        y_true = with_labels(teacher, np.full(12, label))
        assert np.isfinite(values_of(DecoupledDistillationLoss(), y_true, student)).all()
        assert np.isfinite(gradient_of(DecoupledDistillationLoss(), y_true, student)).all()


def test_a_true_class_that_teacher_or_student_rules_out_leaves_value_and_gradient_finite():
    teacher = np.array([[0, -np.inf, 1, 5], [0, 2, 1, 5], [0, -np.inf, -np.inf, -np.inf]], "float32")
    student = np.array([[0, 2, 1, 5], [0, -np.inf, 1, 5], [0, 2, 1, 5]], "float32")
    loss = DecoupledDistillationLoss(1.0, 1.0, 1.0)
    targets = with_labels(teacher, np.array([1, 1, 0]))
    assert np.isfinite(values_of(loss, targets, student)).all()
    assert np.isfinite(gradient_of(loss, targets, student)).all()
    # Of a class with p_y = 0 the first term is -log(1 - q_y); the second compares the others, which are equal here.
    q = softmax(np.float64(student[0]))[1]
    assert values_of(loss, targets, student)[0] == pytest.approx(-np.log1p(-q), rel=1e-5)


def test_an_id_that_is_no_class_gives_nan_where_it_cannot_be_seen(batch):
    teacher, student, ids = batch
    targets = np.concatenate([teacher, np.where(np.arange(len(ids)) == 7, -1, ids)[:, None]], axis=-1).astype("float32")
    values = values_of(DecoupledDistillationLoss(), ops.convert_to_tensor(targets), student)
    assert np.isnan(values[7])
    assert np.isfinite(np.delete(values, 7)).all()


# The contract


@pytest.mark.parametrize("arguments", [{}, {"standardize": True, "beta": 1.0, "temperature": 2.0}])
def test_keeps_the_contract(arguments, batch):
    teacher, student, ids = batch
    y_true = np.asarray(with_labels(teacher, ids))
    check_loss(DecoupledDistillationLoss(**arguments), y_true, student)
    check_no_gradient_reaches_the_teacher(DecoupledDistillationLoss(**arguments), teacher, student)


def test_each_position_of_a_sequence_is_a_sample(batch):
    y_true = np.asarray(with_labels(batch[0], batch[2]))
    got = values_of(DecoupledDistillationLoss(), y_true.reshape(4, 3, 6), batch[1].reshape(4, 3, 5))
    np.testing.assert_allclose(got.reshape(-1), values_of(DecoupledDistillationLoss(), y_true, batch[1]), rtol=1e-6)


def test_a_plain_model_learns_from_stored_teacher_logits_and_labels(tmp_path):
    teacher = np.random.default_rng(0).normal(size=(32, 6)).astype("float32") @ np.eye(6, 4, dtype="float32")
    y_true = np.asarray(with_labels(3 * teacher, teacher.argmax(-1)))
    check_trains_in_a_plain_model(DecoupledDistillationLoss(beta=2.0), y_true, 4, None, tmp_path)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": -1.0}, ValueError, "`alpha` must be >= 0. Received: alpha=-1.0"),
        ({"beta": -1.0}, ValueError, "`beta` must be >= 0. Received: beta=-1.0"),
        ({"beta": None}, TypeError, "`beta` must be a number"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be > 0"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        DecoupledDistillationLoss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "teacher_shape", "student_shape", "message"),
    [
        ({}, (4, 10), (4, 11), r"same shape. Received: shapes \(4, 10\) and \(4, 11\)"),
        ({}, (4, 12), (4, 10), "same shape"),
        ({}, (3, 11), (4, 10), "same shape"),
        ({}, (4, 2, 11), (4, 10), "same shape"),
        ({}, (4, 1), (4, 1), "at least two classes"),
        ({"standardize": True}, (4, 3), (4, 2), "needs at least three classes"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(arguments, teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        DecoupledDistillationLoss(**arguments)(np.zeros(teacher_shape, "float32"), np.zeros(student_shape, "float32"))


def test_an_id_that_is_no_class_is_an_error_where_it_can_be_seen(batch):
    teacher, student, _ = batch
    with pytest.raises(
        ValueError, match=r"Class ids must be integers in \[0, 5\)\. Received: .* \(12 of 12 are wrong\)"
    ):
        DecoupledDistillationLoss()(np.concatenate([teacher, teacher[:, :1]], axis=-1), student)
