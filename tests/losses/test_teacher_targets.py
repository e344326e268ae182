"""What a teacher may hand over: top-k targets with a tail, probabilities, log-probabilities, labels."""

import keras
import numpy as np
import pytest

from keras_notes.losses import DecoupledDistillationLoss, DistillationLoss, top_k_targets, with_labels
from tests.losses.contract import (
    check_loss,
    check_no_gradient_reaches_the_teacher,
    check_trains_in_a_plain_model,
    copy_of,
)
from tests.losses.logit_checks import gradient_of, logits_pair
from tests.losses.references import distillation, log_softmax, sigmoid, softmax

pytestmark = pytest.mark.any_backend

# Probabilities and log-probabilities in float32 say the same as the logits to a few roundings (6e-8 each) of a log p.
SAME_TEACHER = 3e-6
# A probability near 1 leaves 1 - p only to 6e-8 / (1 - p), here 1 - p >= 2e-3.
SAME_LABELS = 5e-5
CLASSES = 10


def top_k_loss(temperature=1.0, reduction="sum"):
    return DistillationLoss(temperature, teacher="top_k", teacher_temperature=temperature, reduction=reduction)


def top_k_divergence(teacher, student, k, temperature):
    """tau^2 KL over k + 1 outcomes per sample in float64, and its gradient by complex steps."""
    order = np.argsort(-teacher, axis=-1)

    def outcomes(logits):
        probs = np.take_along_axis(softmax(logits / temperature), order, -1)
        return np.concatenate([probs[..., :k], probs[..., k:].sum(-1, keepdims=True)], -1)

    def value(s):
        p, q = outcomes(np.float64(teacher)), outcomes(s)
        is_possible = p > 0
        p, q = np.where(is_possible, p, 1), np.where(is_possible, q, 1)
        return temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1)

    gradient = [value(student + step).imag / 1e-30 for step in 1e-30j * np.eye(student.shape[-1])]
    return value(np.float64(student)), np.stack(gradient, -1)


def assert_same_loss(loss, teacher, other_loss, other_teacher, student, tolerance=SAME_TEACHER):
    """Value per sample and gradient agree."""
    values = [
        np.asarray(copy_of(x, reduction=None)(t, student)) for x, t in ((loss, teacher), (other_loss, other_teacher))
    ]
    np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance)
    sums = (copy_of(loss, reduction="sum"), teacher), (copy_of(other_loss, reduction="sum"), other_teacher)
    gradients = [gradient_of(x, t, student)[1] for x, t in sums]
    np.testing.assert_allclose(*gradients, atol=tolerance * np.abs(gradients[1]).max())


# Identities: top-k


@pytest.mark.parametrize("k", [CLASSES - 1, CLASSES])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_all_classes_or_all_but_one_are_the_dense_loss(temperature, k):
    teacher, student = logits_pair()
    targets = top_k_targets(teacher, k, temperature)
    assert_same_loss(top_k_loss(temperature), targets, DistillationLoss(temperature), teacher, student)


def test_the_targets_are_a_distribution_in_falling_order():
    teacher, _ = logits_pair()
    targets = np.asarray(top_k_targets(teacher, 3, 2.0))
    assert targets.shape == (16, 4, 2)
    assert (targets[:, :-1, 0] == np.argsort(-teacher, axis=-1)[:, :3]).all()
    assert (targets[:, -1, 0] == -1).all()
    assert (np.diff(targets[:, :-1, 1]) <= 0).all()
    np.testing.assert_allclose(np.exp(targets[..., 1]).sum(-1), 1, rtol=1e-6)


def test_the_loss_rises_with_k_and_never_above_the_dense_one():
    teacher, student = logits_pair()
    dense = np.asarray(DistillationLoss(1.0, reduction=None)(teacher, student))
    by_k = [np.asarray(top_k_loss(reduction=None)(top_k_targets(teacher, k), student)) for k in (1, 3, 9, 10)]
    steps = np.diff([*by_k, dense], axis=0)
    assert (steps > -SAME_TEACHER * dense.max()).all()
    assert (by_k[1] < 0.99 * dense).any()
    assert (by_k[0] >= 0).all()


def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient():
    teacher, _ = logits_pair()
    value, gradient = gradient_of(top_k_loss(4.0), top_k_targets(teacher, 3, 4.0), teacher)
    assert abs(value) < 1e-6
    assert np.abs(gradient).max() < 4.0 * 1e-6


def test_the_tail_leaves_the_student_free_among_the_other_classes():
    teacher, student = logits_pair()
    targets = top_k_targets(teacher, 3)
    _, gradient = gradient_of(top_k_loss(), targets, student)
    others = np.argsort(-teacher, axis=-1)[:, 3:]
    relative = np.take_along_axis(gradient / softmax(np.float64(student)), others, -1)
    np.testing.assert_allclose(relative, relative.mean(-1, keepdims=True) * np.ones(7), rtol=1e-4, atol=1e-5)


def test_a_teacher_with_all_its_mass_in_the_top_k_rules_the_others_out():
    teacher, student = logits_pair()
    teacher[:, 3:] = -np.inf
    targets = np.asarray(top_k_targets(teacher, 3))
    assert (targets[:, -1, 1] == -np.inf).all()
    assert_same_loss(top_k_loss(), targets, DistillationLoss(1.0), teacher, student)


def test_a_confident_teacher_keeps_the_size_of_its_tail():
    teacher = np.float32([[80.0, 1.0, 0.0, 0.0]])
    targets = np.asarray(top_k_targets(teacher, 1))
    assert targets[0, 1, 1] == pytest.approx(np.log(np.e + 2) - 80, rel=1e-6)


# Identities: probabilities and labels


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_probabilities_at_temperature_one_serve_every_temperature(temperature, exclusive):
    teacher, student = logits_pair(2.0)
    probs = softmax(np.float64(teacher)) if exclusive else sigmoid(np.float64(teacher))
    dense = DistillationLoss(temperature, exclusive=exclusive)
    for form, values in (("probs", probs), ("log_probs", np.log(probs))):
        loss = copy_of(dense, teacher=form)
        tolerance = SAME_TEACHER if exclusive else SAME_LABELS
        assert_same_loss(loss, values.astype("float32"), dense, teacher, student, tolerance * max(1, temperature**-2))


@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_at_the_temperature_of_the_loss_are_taken_as_they_are(exclusive):
    teacher, student = logits_pair(2.0)
    probs = softmax(np.float64(teacher) / 4) if exclusive else sigmoid(np.float64(teacher) / 4)
    dense = DistillationLoss(4.0, exclusive=exclusive)
    for form, values in (("probs", probs), ("log_probs", np.log(probs))):
        loss = copy_of(dense, teacher=form, teacher_temperature=4.0)
        assert_same_loss(loss, values.astype("float32"), dense, teacher, student, 4 * SAME_TEACHER)


def test_the_temperature_of_the_teacher_matters():
    teacher, student = logits_pair()
    probs = softmax(teacher)
    at_one, at_four = (
        DistillationLoss(4.0, teacher="probs", teacher_temperature=t)(probs, student) for t in (1.0, 4.0)
    )
    assert float(at_one) != pytest.approx(float(at_four), rel=0.1)


def test_a_probability_of_zero_rules_a_class_out():
    _, student = logits_pair()
    ids = np.arange(16) % CLASSES
    one_hot = np.eye(CLASSES, dtype="float32")[ids]
    loss = DistillationLoss(1.0, teacher="probs")
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    assert_same_loss(loss, one_hot, crossentropy, one_hot, student)
    assert_same_loss(copy_of(loss, teacher="log_probs"), np.where(one_hot, 0, -np.inf), loss, one_hot, student)


def test_certain_labels_give_binary_crossentropy():
    _, student = logits_pair()
    labels = np.random.default_rng(2).integers(0, 2, (16, CLASSES)).astype("float32")
    logits = np.float64(student)
    wanted = np.logaddexp(0, np.where(labels == 1, -logits, logits)).sum(-1).mean()
    with np.errstate(divide="ignore"):
        forms = {"probs": labels, "log_probs": np.log(labels), "logits": np.log(labels) - np.log(1 - labels)}
    for form, values in forms.items():
        value, gradient = gradient_of(DistillationLoss(1.0, exclusive=False, teacher=form), values, student)
        assert float(value) == pytest.approx(wanted, rel=1e-6)
        np.testing.assert_allclose(gradient, (sigmoid(logits) - labels) / 16, atol=1e-7)


def test_standardized_log_probabilities_are_standardized_logits():
    teacher, student = logits_pair()
    loss = DistillationLoss(2.0, standardize=True)
    probs = softmax(np.float64(teacher)).astype("float32")
    assert_same_loss(copy_of(loss, teacher="probs"), probs, loss, teacher, student, 2 * SAME_TEACHER)


def test_labels_are_appended_as_one_more_column():
    teacher, _ = logits_pair(shape=(4, 4, CLASSES))
    labels = np.arange(16).reshape(4, 4) % CLASSES
    rows = np.asarray(with_labels(teacher, labels))
    assert rows.shape == (4, 4, CLASSES + 1)
    assert (rows[..., :-1] == teacher).all()
    assert (rows[..., -1] == labels).all()
    assert (np.asarray(with_labels(teacher, labels[..., None])) == rows).all()


def test_a_loss_takes_the_labels_for_the_true_classes():
    teacher, student = logits_pair()
    loss = DecoupledDistillationLoss()
    value = float(loss(with_labels(teacher, np.arange(16) % CLASSES), student))
    assert value != pytest.approx(float(loss(teacher, student)), rel=0.1)
    assert float(loss(with_labels(teacher, teacher.argmax(-1)), student)) == float(loss(teacher, student))


# The reference


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 3, CLASSES])
def test_value_and_gradient_match_float64(k, temperature, compiled):
    teacher, student = logits_pair()
    wanted_value, wanted_gradient = top_k_divergence(teacher, student, k, temperature)
    targets = top_k_targets(teacher, k, temperature)
    value, gradient = gradient_of(top_k_loss(temperature), targets, student, compiled)
    np.testing.assert_allclose(value, wanted_value.sum(), rtol=SAME_TEACHER)
    assert np.abs(gradient - wanted_gradient).max() < SAME_TEACHER * np.abs(wanted_gradient).max()
    if k == CLASSES:
        np.testing.assert_allclose(wanted_gradient, distillation(teacher, student, temperature)[1], atol=1e-12)


def test_positions_of_a_sequence_match_float64():
    teacher, student = logits_pair()
    wanted = top_k_divergence(teacher, student, 3, 4.0)[0]
    targets = top_k_targets(teacher.reshape(4, 4, CLASSES), 3, 4.0)
    got = top_k_loss(4.0, reduction=None)(targets, student.reshape(4, 4, CLASSES))
    assert got.shape == (4, 4)
    np.testing.assert_allclose(np.asarray(got).reshape(-1), wanted, rtol=1e-5)


def test_golden_top_1():
    # By hand: p = (0.9, 0.1), q = (0.6, 0.4) over {top, rest}: 0.9 log 1.5 + 0.1 log 0.25.
    teacher = np.log(np.float32([[0.9, 0.06, 0.04]]))
    student = np.log(np.float32([[0.6, 0.1, 0.3]]))
    assert float(top_k_loss()(top_k_targets(teacher, 1), student)) == pytest.approx(0.2262892, abs=2e-7)


# The contract


@pytest.mark.parametrize(("form", "exclusive"), [("probs", False), ("log_probs", True), ("top_k", True)])
def test_keeps_the_contract(form, exclusive):
    teacher, student = logits_pair()
    values = {"probs": sigmoid(teacher), "log_probs": log_softmax(teacher), "top_k": top_k_targets(teacher, 3)}[form]
    loss = DistillationLoss(1.0, teacher=form, exclusive=exclusive)
    check_loss(loss, np.asarray(values), student)
    check_no_gradient_reaches_the_teacher(loss, np.asarray(values), student)


def test_a_plain_model_learns_from_stored_top_k_targets(tmp_path):
    teacher = np.random.default_rng(0).normal(size=(32, 6)).astype("float32") @ np.eye(6, 4, dtype="float32")
    targets = np.asarray(top_k_targets(3 * teacher, 2, 2.0))
    check_trains_in_a_plain_model(top_k_loss(2.0, "sum_over_batch_size"), targets, 4, None, tmp_path)


# Errors


@pytest.mark.parametrize("k", [0, -1, CLASSES + 1])
def test_k_must_fit_the_classes(k):
    with pytest.raises(ValueError, match=rf"`k` must be in \[1, 10\], the number of classes. Received: k={k}"):
        top_k_targets(logits_pair()[0], k)


def test_k_and_the_temperature_must_be_numbers():
    with pytest.raises(TypeError, match=r"`k` must be an integer. Received: k=2.0"):
        top_k_targets(logits_pair()[0], 2.0)
    with pytest.raises(ValueError, match="`temperature` must be > 0"):
        top_k_targets(logits_pair()[0], 2, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": "softmax"}, "`teacher` must be one of 'logits', 'probs', 'log_probs', 'top_k'"),
        ({"teacher_temperature": 2.0}, "`teacher_temperature` must be 1 when the teacher gives logits"),
        ({"teacher": "probs", "teacher_temperature": 0.0}, "`teacher_temperature` must be > 0"),
        ({"teacher": "top_k"}, "`teacher_temperature` must equal `temperature`"),
        (
            {"teacher": "top_k", "temperature": 1.0, "axis": 1},
            "needs `exclusive=True`, `standardize=False` and `axis=-1`",
        ),
        ({"teacher": "top_k", "temperature": 1.0, "exclusive": False}, "Received: exclusive=False"),
        ({"teacher": "top_k", "temperature": 1.0, "standardize": True}, "Received: .*standardize=True"),
    ],
)
def test_arguments_that_do_not_go_together_are_errors_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        DistillationLoss(**arguments)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3), (4, 1, 2), (4, 12, 2), (3, 4, 2), (2, 4, 4, 2)])
def test_targets_of_another_shape_are_errors(shape):
    with pytest.raises(ValueError, match=r"of shape \(\.\.\., k \+ 1, 2\) with 1 <= k <= classes. Received: shape"):
        top_k_loss()(np.zeros(shape, "float32"), np.zeros((4, CLASSES), "float32"))


@pytest.mark.parametrize("shape", [(3,), (4, 4), (4, 1, 1), ()])
def test_labels_of_another_shape_are_errors(shape):
    with pytest.raises(ValueError, match=r"`labels` must hold one class id a sample. Received: labels of shape"):
        with_labels(np.zeros((4, CLASSES), "float32"), np.zeros(shape, "int32"))


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_labels_that_are_no_classes_are_errors_where_they_can_be_seen(wrong):
    with pytest.raises(ValueError, match=rf"integers in \[0, {CLASSES}\)\. Received: {wrong} \(1 of 4 are wrong\)"):
        with_labels(np.zeros((4, CLASSES), "float32"), np.array([0, 1, wrong, 2]))
