"""CorrelationDistillationLoss: what it is blind to and what not, a float64 reference, the Keras contract, errors."""

import numpy as np
import pytest

from keras_notes.losses import CorrelationDistillationLoss
from tests.losses.contract import (
    check_loss,
    check_no_gradient_reaches_the_teacher,
    check_trains_in_a_plain_model,
)
from tests.losses.logit_checks import values_of
from tests.losses.references import softmax
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

# The vectors have length 1, their entries a few roundings (6e-8 each).
TOLERANCE = 1e-5
# At T = 1000 the logits differ by 1e-3, of which float32 keeps 6e-8 / 1e-3.
AT_HIGH_TEMPERATURE = 1e-4
# Half the squared distance of two unit vectors that differ by rounding only.
ZERO = 1e-10
INTER, INTRA = {"gamma": 0.0}, {"beta": 0.0}


def logits_pair(scale=1.0, shape=(16, 10), seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=scale, size=shape).astype("float32") for _ in range(2))


def gradient_of(loss, teacher, student, compiled=False):
    return value_and_gradient(lambda s: loss(teacher, s), student, compiled=compiled)[1]


def correlation(x, y, axis):
    """Pearson's, as written."""
    x, y = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
    return (x * y).sum(axis) / np.sqrt((x * x).sum(axis) * (y * y).sum(axis))


def correlation_loss(teacher, student, beta, gamma, temperature):
    """tau^2 (beta inter + gamma intra) per sample in float64, and the gradient of the mean by complex steps."""
    p = softmax(np.float64(teacher) / temperature)

    def value(s):
        q = softmax(s / temperature)
        inter, intra = 1 - correlation(p, q, 1), (1 - correlation(p, q, 0)).mean()
        return temperature**2 * (beta * inter + gamma * intra)

    steps = 1e-30j * np.eye(student.size).reshape(-1, *student.shape)
    gradient = [value(student + step).mean().imag / 1e-30 for step in steps]
    return value(np.float64(student)), np.reshape(gradient, student.shape)


# Identities


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_constant_added_to_a_row_of_logits_costs_nothing(temperature):
    teacher, _ = logits_pair()
    loss = CorrelationDistillationLoss(temperature=temperature)
    student = teacher + np.linspace(-4, 4, 16, dtype="float32")[:, None]
    assert np.abs(values_of(loss, teacher, student)).max() < temperature**2 * ZERO
    assert np.abs(gradient_of(loss, teacher, student)).max() < temperature * 1e-6


@pytest.mark.parametrize("slope", [0.05, 0.5, 0.95])
def test_a_positive_affine_function_of_the_probabilities_costs_nothing(slope):
    teacher, _ = logits_pair()
    probs = slope * softmax(np.float64(teacher)) + (1 - slope) / 10
    student = np.log(probs).astype("float32")
    # The student's probabilities are rounded by 6e-8, of a spread that the slope makes small.
    assert np.abs(values_of(CorrelationDistillationLoss(), teacher, student)).max() < ZERO / slope**2


def test_a_negative_affine_function_of_the_probabilities_costs_the_most():
    teacher, _ = logits_pair()
    probs = softmax(np.float64(teacher))
    student = np.log((1.1 - probs) / 10).astype("float32")  # ten classes: they sum to 1
    np.testing.assert_allclose(values_of(CorrelationDistillationLoss(**INTER), teacher, student), 2, rtol=1e-6)


def test_equal_rankings_with_other_spacing_are_not_enough():
    teacher, _ = logits_pair()
    ranked = np.argsort(np.argsort(teacher, axis=-1), axis=-1).astype("float32") / 3
    for student in (ranked, 0.3 * teacher, 3 * teacher):
        for term in (INTER, INTRA):
            assert (values_of(CorrelationDistillationLoss(**term), teacher, student) > 1e-3).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_lies_between_zero_and_four_squared_temperatures(temperature):
    loss = CorrelationDistillationLoss(temperature=temperature)
    for scale in (0.1, 1.0, 30.0):
        teacher, student = logits_pair(scale)
        values = np.concatenate([values_of(loss, teacher, s) for s in (student, -teacher)])
        assert (values >= 0).all()
        assert (values <= 4 * temperature**2 * (1 + TOLERANCE)).all()
    opposite = np.tile(np.float32([[1, -1], [-1, 1]]), (8, 5))
    np.testing.assert_allclose(values_of(loss, opposite, -opposite), 4 * temperature**2, rtol=TOLERANCE)


def test_its_terms_are_the_rows_and_the_columns():
    teacher, student = logits_pair()
    inter, intra, both = (values_of(CorrelationDistillationLoss(**x), teacher, student) for x in (INTER, INTRA, {}))
    np.testing.assert_allclose(both, inter + intra, rtol=1e-6)
    assert np.ptp(intra) == 0
    assert np.ptp(inter) > 0.1


@pytest.mark.parametrize("shape", [(1, 10), (16, 10)])
def test_without_spread_values_and_gradients_are_finite(shape):
    teacher, student = logits_pair(shape=shape)
    constant = np.ones(shape, "float32")
    for pair in ((teacher, student), (constant, student), (teacher, constant), (constant, constant)):
        assert np.isfinite(values_of(CorrelationDistillationLoss(), *pair)).all()
        assert np.isfinite(gradient_of(CorrelationDistillationLoss(), *pair)).all()
    assert (values_of(CorrelationDistillationLoss(), constant, constant) == 0).all()
    assert (gradient_of(CorrelationDistillationLoss(), constant, constant) == 0).all()


def test_one_sample_has_no_relation_between_samples():
    teacher, student = logits_pair(shape=(1, 10))
    assert (values_of(CorrelationDistillationLoss(**INTRA), teacher, student) == 0).all()
    assert (gradient_of(CorrelationDistillationLoss(**INTRA), teacher, student) == 0).all()


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 1000.0])
@pytest.mark.parametrize("term", [INTER, INTRA, {"beta": 2.0}], ids=["inter", "intra", "both"])
def test_value_and_gradient_match_float64(term, temperature, compiled):
    teacher, student = logits_pair()
    loss = CorrelationDistillationLoss(**term, temperature=temperature)
    wanted_value, wanted_gradient = correlation_loss(teacher, student, loss.beta, loss.gamma, temperature)
    tolerance = AT_HIGH_TEMPERATURE if temperature == 1000 else TOLERANCE
    np.testing.assert_allclose(values_of(loss, teacher, student), wanted_value, rtol=tolerance)
    gradient = gradient_of(loss, teacher, student, compiled)
    assert np.abs(gradient - wanted_gradient).max() < tolerance * np.abs(wanted_gradient).max()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_class_improbable_in_all_samples_is_correlated_as_any_other(compiled):
    teacher, student = logits_pair()
    teacher[:, 0] -= 69  # probabilities of about 1e-31, whose squares are no float32 numbers
    student[:, 0] -= 69
    wanted_value, wanted_gradient = correlation_loss(teacher, student, 0.0, 1.0, 1.0)
    loss = CorrelationDistillationLoss(**INTRA)
    np.testing.assert_allclose(values_of(loss, teacher, student), wanted_value, rtol=TOLERANCE)
    gradient = gradient_of(loss, teacher, student, compiled)
    # Logits near 69 are rounded by 4e-6 when their maximum is taken away.
    assert np.abs(gradient - wanted_gradient)[:, 0].max() < 2 * TOLERANCE * np.abs(wanted_gradient[:, 0]).max()
    assert np.abs(wanted_gradient[:, 0]).max() > 0.1 * np.abs(wanted_gradient).max()


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_finite_at_the_ends_of_the_number_range(compiled):
    teacher, student = (np.clip(x, -1e4, 1e4).astype("float16") for x in logits_pair(1e4))
    assert np.isfinite(values_of(CorrelationDistillationLoss(), teacher, student)).all()
    assert np.isfinite(gradient_of(CorrelationDistillationLoss(), teacher, student, compiled)).all()


def test_golden_values():
    # By hand, two samples of (0.75, 0.25) and (0.25, 0.75), the student's first one turned over to (0.25, 0.75):
    # inter = (2, 0); the student's columns are constant, so each counts 1/2.
    teacher, student = (np.log(np.float32(x)) for x in ([[3, 1], [1, 3]], [[1, 3], [1, 3]]))
    np.testing.assert_allclose(values_of(CorrelationDistillationLoss(), teacher, student), [2.5, 0.5], rtol=1e-5)


# The contract


@pytest.mark.parametrize("arguments", [{}, {"beta": 2.0, "gamma": 0.5, "temperature": 4.0}])
def test_keeps_the_contract(arguments):
    teacher, student = logits_pair()
    check_loss(CorrelationDistillationLoss(**arguments), teacher, student)
    check_no_gradient_reaches_the_teacher(CorrelationDistillationLoss(**arguments), teacher, student)


def test_a_plain_model_learns_from_stored_teacher_logits(tmp_path):
    teacher = np.random.default_rng(0).normal(size=(32, 6)).astype("float32") @ np.eye(6, 4, dtype="float32")
    check_trains_in_a_plain_model(CorrelationDistillationLoss(), 3 * teacher, 4, None, tmp_path)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"beta": -1.0}, ValueError, "`beta` must be >= 0. Received: beta=-1.0"),
        ({"gamma": -1.0}, ValueError, "`gamma` must be >= 0. Received: gamma=-1.0"),
        ({"gamma": True}, TypeError, "`gamma` must be a number"),
        ({"temperature": -4.0}, ValueError, "`temperature` must be > 0"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        CorrelationDistillationLoss(**arguments)


@pytest.mark.parametrize(
    ("teacher_shape", "student_shape", "message"),
    [
        ((4, 10), (4, 9), r"same shape. Received: shapes \(4, 10\) and \(4, 9\)"),
        ((4, 1), (4, 9), "same shape"),
        ((4, 1), (4, 1), "at least two classes"),
        ((4, 3, 9), (4, 3, 9), r"shape \(batch, classes\). Received: shape \(4, 3, 9\). Flatten the positions"),
        ((9,), (9,), r"shape \(batch, classes\)"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        CorrelationDistillationLoss()(np.zeros(teacher_shape, "float32"), np.zeros(student_shape, "float32"))
