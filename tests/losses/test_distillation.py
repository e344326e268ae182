"""DistillationLoss: identities, a float64 reference at the extremes, the Keras contract, errors."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_notes.losses import DistillationLoss
from tests.losses.contract import check_loss
from tests.losses.logit_checks import gradient_of, logits_pair
from tests.losses.references import distillation, softmax
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

# A few roundings of float32 (6e-8 each); values near zero are sums of classes terms.
FLOAT32_TOLERANCE = 3e-6
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 20.0, 1000.0)


# Identities


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient(temperature, exclusive):
    teacher, _ = logits_pair()
    value, gradient = gradient_of(DistillationLoss(temperature, exclusive=exclusive), teacher, teacher)
    assert value == 0
    assert (gradient == 0).all()


def test_at_a_high_temperature_the_gradient_is_the_centred_logit_difference_over_classes():
    teacher, student = logits_pair()
    _, gradient = gradient_of(DistillationLoss(1000.0, reduction="sum"), teacher, student)
    difference = (student - student.mean(-1, keepdims=True)) - (teacher - teacher.mean(-1, keepdims=True))
    # The limit is approached as 1 / temperature: 0.003 of the gradient's size here.
    assert np.abs(gradient - difference / 10).max() < 0.01 * np.abs(difference / 10).max()
    _, closer = gradient_of(DistillationLoss(10000.0, reduction="sum"), teacher, student)
    assert np.abs(closer - difference / 10).max() < 0.11 * np.abs(gradient - difference / 10).max()


def test_the_temperature_keeps_the_size_of_the_gradient():
    teacher, student = logits_pair()
    norms = [np.linalg.norm(gradient_of(DistillationLoss(t), teacher, student)[1]) for t in (4.0, 100.0)]
    assert 0.8 < norms[1] / norms[0] < 1.25  # without tau^2 the ratio would be about 1 / 625


def test_a_constant_added_to_the_logits_changes_nothing_for_exclusive_classes_only():
    teacher, student = logits_pair()
    loss, per_label = DistillationLoss(2.0), DistillationLoss(2.0, exclusive=False)
    assert float(loss(teacher + 8, student - 8)) == pytest.approx(float(loss(teacher, student)), rel=1e-5)
    assert float(per_label(teacher + 8, student)) != pytest.approx(float(per_label(teacher, student)), rel=0.1)


def test_independent_labels_are_two_class_softmaxes_of_the_logit_and_zero():
    teacher, student = logits_pair()
    pairs = [np.stack([z, np.zeros_like(z)], -1).reshape(-1, 2) for z in (teacher, student)]
    wanted = distillation(*pairs, 3.0)[0].reshape(16, 10).sum(-1)
    got = DistillationLoss(3.0, exclusive=False, reduction=None)(teacher, student)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_of_the_student_are_as_good_as_its_logits(temperature, exclusive):
    teacher, student = logits_pair()
    activation = ops.softmax if exclusive else ops.sigmoid
    loss = DistillationLoss(temperature, exclusive=exclusive, from_logits=False)
    behind = value_and_gradient(lambda x: loss(teacher, activation(x)), student)
    value, gradient = gradient_of(DistillationLoss(temperature, exclusive=exclusive), teacher, student)
    # A probability near 1 has lost the last digits of its logit.
    assert behind[0] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(behind[1], gradient, atol=1e-5 * np.abs(gradient).max())


def test_a_certain_teacher_gives_crossentropy():
    _, student = logits_pair()
    ids = np.arange(16) % 10
    teacher = np.where(np.eye(10)[ids] == 1, 0.0, -np.inf).astype("float32")
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(ids, student)
    value, gradient = gradient_of(DistillationLoss(1.0), teacher, student)
    assert float(value) == pytest.approx(float(crossentropy), rel=1e-6)
    np.testing.assert_allclose(gradient, (softmax(student) - np.eye(10)[ids]) / 16, atol=1e-7)


def test_standardized_logits_make_scale_and_offset_of_the_student_irrelevant():
    teacher, student = logits_pair()
    loss = DistillationLoss(2.0, standardize=True)
    assert float(loss(teacher, 7 * student + 3)) == pytest.approx(float(loss(teacher, student)), rel=1e-5)
    assert float(loss(teacher, 0.5 * teacher - 1)) == pytest.approx(0, abs=1e-6)
    _, gradient = gradient_of(loss, teacher, student)
    assert np.abs((gradient * student).sum(-1)).max() < 1e-6
    assert np.abs(gradient.sum(-1)).max() < 1e-6


def test_standardized_logits_match_float64():
    teacher, student = logits_pair()
    z = [
        (x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) for x in map(np.float64, (teacher, student))
    ]
    got = DistillationLoss(2.0, standardize=True, reduction=None)(teacher, student)
    np.testing.assert_allclose(np.asarray(got), distillation(*z, 2.0)[0], rtol=1e-5)


def test_no_gradient_reaches_the_teacher():
    teacher, student = logits_pair()
    _, gradient = value_and_gradient(lambda t: DistillationLoss(2.0)(t, student), teacher)
    assert (gradient == 0).all()


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 200.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradient_match_float64(temperature, scale, compiled):
    teacher, student = logits_pair(scale)
    wanted_value, wanted_gradient = distillation(teacher, student, temperature)
    value, gradient = gradient_of(DistillationLoss(temperature, reduction="sum"), teacher, student, compiled)
    np.testing.assert_allclose(value, wanted_value.sum(), rtol=FLOAT32_TOLERANCE)
    assert np.abs(gradient - wanted_gradient).max() < FLOAT32_TOLERANCE * np.abs(wanted_gradient).max()


@pytest.mark.parametrize("exclusive", [True, False])
def test_gradients_are_finite_at_the_ends_of_the_number_range(exclusive):
    teacher = np.array([[200.0, -200.0, 0.0], [1e4, -1e4, 0.0], [0.0, 0.0, -np.inf]], "float32")
    student = np.array([[-200.0, 200.0, 0.0], [-1e4, 1e4, 0.0], [0.0, 1.0, -np.inf]], "float32")
    value, gradient = gradient_of(DistillationLoss(1.0, exclusive=exclusive), teacher, student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_agrees_with_keras_where_keras_is_right():
    # keras.distillation scales by tau^2 and softens both sides when it is given a KLDivergence object; the string
    # default "kl_divergence" does neither.
    teacher, student = logits_pair(1.0)
    theirs = keras.distillation.LogitsDistillation(3.0, loss=keras.losses.KLDivergence())
    wanted = float(theirs.compute_loss(ops.convert_to_tensor(teacher), ops.convert_to_tensor(student)))
    assert float(DistillationLoss(3.0)(teacher, student)) == pytest.approx(wanted, rel=1e-5)
    default = keras.distillation.LogitsDistillation(3.0)
    wrong = float(default.compute_loss(ops.convert_to_tensor(teacher), ops.convert_to_tensor(student)))
    assert wrong != pytest.approx(wanted, rel=0.1)


# The contract


@pytest.mark.parametrize("arguments", [{}, {"exclusive": False}, {"standardize": True, "temperature": 2.0}])
def test_keeps_the_contract(arguments):
    teacher, student = logits_pair()
    check_loss(DistillationLoss(**arguments), teacher, student)


def test_a_plain_model_learns_from_stored_teacher_logits():
    x = np.random.default_rng(0).normal(size=(256, 6)).astype("float32")
    teacher_logits = x @ np.random.default_rng(1).normal(size=(6, 3)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.05), loss=DistillationLoss(2.0))
    model.fit(x, teacher_logits, epochs=30, verbose=0)
    agreement = (model.predict(x, verbose=0).argmax(-1) == teacher_logits.argmax(-1)).mean()
    assert agreement > 0.97


def test_the_class_axis_can_stand_anywhere():
    teacher, student = logits_pair(shape=(4, 3, 5))
    first = DistillationLoss(2.0, axis=1)(np.moveaxis(teacher, -1, 1), np.moveaxis(student, -1, 1))
    assert float(first) == pytest.approx(float(DistillationLoss(2.0)(teacher, student)), rel=1e-6)
    first = DistillationLoss(2.0, axis=1, exclusive=False)(np.moveaxis(teacher, -1, 1), np.moveaxis(student, -1, 1))
    assert float(first) == pytest.approx(float(DistillationLoss(2.0, exclusive=False)(teacher, student)), rel=1e-6)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": -1.0}, ValueError, "`temperature` must be > 0. Received: temperature=-1.0."),
        ({"temperature": 0}, ValueError, "`temperature` must be > 0. Received: temperature=0."),
        ({"temperature": float("inf")}, ValueError, "`temperature` must be finite"),
        ({"temperature": True}, TypeError, "`temperature` must be a number"),
        ({"standardize": True, "exclusive": False}, ValueError, "`standardize` must be False when `exclusive=False`"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        DistillationLoss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "teacher_shape", "student_shape", "message"),
    [
        ({}, (4, 10), (4, 9), r"same shape. Received: shapes \(4, 10\) and \(4, 9\)"),
        ({}, (4, 1), (4, 9), "same shape"),
        ({}, (4,), (4, 9), "same shape"),
        ({}, (4, 1), (4, 1), "at least two classes"),
        ({"standardize": True}, (4, 2), (4, 2), "needs at least three classes"),
    ],
)
def test_shapes_that_do_not_fit_are_errors_and_never_broadcast(arguments, teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        DistillationLoss(**arguments)(np.zeros(teacher_shape, "float32"), np.zeros(student_shape, "float32"))
