"""Losses of the relations between samples: identities, a float64 reference, the Keras contract, errors."""

import keras
import numpy as np
import pytest

from keras_notes.losses import ProbabilisticTransferLoss, RelationalLoss, SimilarityPreservingLoss
from tests.losses.contract import FLOAT32_ROUNDING, check_loss, check_no_gradient_reaches_the_teacher, check_trains
from tests.losses.feature_checks import (
    FLOAT32_TOLERANCE,
    assert_finite,
    assert_matches,
    features,
    half_precision_extremes,
    rotation,
)
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

JIT = keras.backend.backend() != "torch"  # torch.compile needs a C++ toolchain at run time
SIMILARITY, RELATIONAL, PROBABILISTIC = SimilarityPreservingLoss(), RelationalLoss(), ProbabilisticTransferLoss()
DISTANCES, ANGLES = RelationalLoss(1.0, 0.0), RelationalLoss(0.0, 1.0)
LOSSES = [SIMILARITY, RELATIONAL, PROBABILISTIC]
SAMPLES = 6


def batch():
    """Features of a teacher and of a narrower student."""
    return features(SAMPLES, 5), features(SAMPLES, 4, seed=1)


def similarity_preserving(teacher, student):
    rows = []
    for x in (teacher, student):
        products = np.array([[(a * b).sum() for b in x] for a in x])
        rows.append(products / np.sqrt((products**2).sum(1))[:, None])
    return ((rows[0] - rows[1]) ** 2).sum(1) / len(teacher)


def huber(d):
    return 0.5 * d * d if abs(d) <= 1 else abs(d) - 0.5


def relative_distances(x):
    distances = [[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x]
    apart = [d for row in distances for d in row if d > 0]
    return np.array(distances) / (sum(apart) / len(apart))


def cosine(x, i, j, k):
    """Of the angle at sample i between the samples j and k; 0 where one of them is sample i."""
    if i in (j, k):
        return 0.0
    first, second = (x[j] - x[i]).tolist(), (x[k] - x[i]).tolist()
    lengths = [sum(a * a for a in v) ** 0.5 for v in (first, second)]
    return sum(a * b for a, b in zip(first, second, strict=True)) / (lengths[0] * lengths[1])


def relational(teacher, student, distance_weight=1.0, angle_weight=2.0, partners=64):
    n, m = len(teacher), min(partners, len(teacher))
    losses = np.zeros(n)
    teacher_distances, student_distances = relative_distances(teacher), relative_distances(student)
    for i in range(n):
        distance = angle = 0.0
        for j in range(n):
            distance += huber(teacher_distances[i, j] - student_distances[i, j])
        for j in range(m if angle_weight else 0):
            for k in range(m):
                angle += huber(cosine(teacher, i, j, k) - cosine(student, i, j, k))
        losses[i] = distance_weight * distance / n + angle_weight * angle / m**2
    return losses


def neighbour_probs(x):
    lengths = np.sqrt((x**2).sum(1))
    affinities = np.maximum((x @ x.T / lengths / lengths[:, None] + 1) / 2, 1e-7)
    return affinities / affinities.sum(1, keepdims=True)


def probabilistic_transfer(teacher, student):
    p, q = neighbour_probs(teacher), neighbour_probs(student)
    return (p * np.log(p / q)).mean(1)


REFERENCES = {SIMILARITY: similarity_preserving, RELATIONAL: relational, PROBABILISTIC: probabilistic_transfer}


# Identities


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient(loss):
    _, student = batch()
    value, gradient = value_and_gradient(lambda z: loss(student, z), student)
    # The two sides may be summed in different orders.
    assert 0 <= value < FLOAT32_ROUNDING**2
    assert np.abs(gradient).max() < FLOAT32_ROUNDING


@pytest.mark.parametrize("loss", LOSSES)
def test_rotations_and_a_common_scale_change_nothing(loss):
    teacher, student = batch()
    wanted = pytest.approx(float(loss(teacher, student)), rel=FLOAT32_TOLERANCE)
    for scale in (1e-20, 3.0, 1e20):
        assert float(loss(teacher @ rotation(5), scale * student)) == wanted
        assert float(loss(scale * teacher, student @ rotation(4))) == wanted


def test_a_scale_of_each_sample_changes_nothing_in_probabilistic_transfer_only():
    teacher, student = batch()
    scales = np.geomspace(1e-3, 1e3, SAMPLES, dtype="float32")[:, None]
    for loss in LOSSES:
        wanted = pytest.approx(float(loss(teacher, student)), rel=FLOAT32_TOLERANCE)
        assert (float(loss(teacher, scales * student)) == wanted) == (loss is PROBABILISTIC)
        assert (float(loss(scales * teacher, student)) == wanted) == (loss is PROBABILISTIC)


def test_a_shift_changes_nothing_in_the_relational_loss_only():
    teacher, student = batch()
    for loss in LOSSES:
        wanted = pytest.approx(float(loss(teacher, student)), rel=FLOAT32_TOLERANCE)
        assert (float(loss(teacher, student + features(4, seed=2))) == wanted) == (loss is RELATIONAL)


def test_the_similarity_loss_of_a_sample_is_at_most_4_over_the_batch_size_and_comes_close():
    # The small sample 0 points the same way as the others to the teacher, and the opposite way to the student.
    teacher, student = np.zeros((SAMPLES, 5), "float32"), np.zeros((SAMPLES, 4), "float32")
    teacher[:, 0] = student[:, 0] = [1e-3, 1, 1, 1, 1, 1]
    student[0] *= -1
    values = np.asarray(SimilarityPreservingLoss(reduction=None)(teacher, student))
    assert values[0] == pytest.approx(4 / SAMPLES, rel=1e-5)
    assert (values <= 4 / SAMPLES).all()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_probabilistic_transfer_is_never_negative(seed):
    values = ProbabilisticTransferLoss(reduction=None)(features(SAMPLES, 5), features(SAMPLES, 4, seed=seed))
    assert (np.asarray(values) > 0).all()


def test_features_of_any_shape_are_vectors():
    teacher, student = batch()
    for loss in LOSSES:
        wanted = pytest.approx(float(loss(teacher, student)), rel=1e-6)
        assert float(loss(teacher.reshape(SAMPLES, 1, 5), student.reshape(SAMPLES, 2, 2))) == wanted


# The reference


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_match_float64(loss):
    assert_matches(loss, REFERENCES[loss], *batch())


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_distances_and_angles_can_be_left_out(weights):
    teacher, student = batch()
    wanted = relational(np.float64(teacher), np.float64(student), *weights)
    got = np.asarray(RelationalLoss(*weights, reduction=None)(teacher, student))
    np.testing.assert_allclose(got, wanted, rtol=FLOAT32_TOLERANCE)


def test_angles_with_the_first_samples_only_match_float64():
    loss = RelationalLoss(0.5, 3.0, angle_partners=3)
    assert_matches(loss, lambda t, s: relational(t, s, 0.5, 3.0, partners=3), *batch())
    assert float(loss(*batch())) != pytest.approx(float(RelationalLoss(0.5, 3.0)(*batch())), rel=1e-3)


def test_the_linear_part_of_huber_matches_float64():
    teacher, student = batch()
    student[0] *= 30  # its distances are 3 mean distances and more, those of the teacher about one
    gaps = np.abs(relative_distances(np.float64(teacher)) - relative_distances(np.float64(student)))
    assert (gaps > 1.2).sum() >= 4
    assert_matches(DISTANCES, lambda t, s: relational(t, s, 1.0, 0.0), teacher, student)
    turned = np.concatenate([student[:1], -student[1:]])
    gaps = [abs(cosine(teacher, i, 0, k) - cosine(turned, i, 0, k)) for i in range(1, 6) for k in range(1, 6) if k != i]
    assert max(gaps) > 1.2
    assert_matches(ANGLES, lambda t, s: relational(t, s, 0.0, 1.0), teacher, turned)


def test_probabilistic_transfer_of_almost_opposite_samples_matches_float64():
    teacher, student = batch()
    student[1] = -2 * student[0] + [0.5, 0, 0, -0.5]
    # 1 + cos is known to 1e-7, and so such a probability to 1e-4 of itself: 2e-6 of the gradient.
    assert neighbour_probs(np.float64(student)).min() < 3e-3
    assert_matches(PROBABILISTIC, probabilistic_transfer, teacher, student)


def test_probabilistic_transfer_near_equality_matches_float64():
    _, student = batch()
    teacher = student + 1e-3 * features(SAMPLES, 4, seed=2)
    wanted = probabilistic_transfer(np.float64(teacher), np.float64(student))
    got = np.asarray(ProbabilisticTransferLoss(reduction=None)(teacher, student))
    # The ratios are 1 + 1e-4 or so, of which float32 keeps three digits; the formula as it stands loses them all.
    np.testing.assert_allclose(got, wanted, rtol=1e-2)
    p, q = (neighbour_probs(x).astype("float32") for x in (teacher, student))
    assert np.abs((p * np.log(p / q)).mean(1) / wanted - 1).max() > 0.1


# Golden numbers


def test_similarities_are_divided_by_the_euclidean_length_of_their_row():
    # By hand: rows (1, 0) and (1, 1) / sqrt(2). torchdistill passes 1 for the order of the norm where the paper's
    # equation 2 has the L2 norm: rows (1/2, 1/2) would give 0.25, and larger batches less and less of our value.
    teacher, student = np.eye(2, dtype="float32"), np.array([[2.0], [2.0]], "float32")
    assert float(SIMILARITY(teacher, student)) == pytest.approx(1 - 0.5**0.5, rel=1e-6)
    teacher, student = np.maximum(features(64, 16), 0), np.maximum(features(64, 16, seed=1), 0)
    products = [np.float64(x) @ np.float64(x).T for x in (teacher, student)]
    by_l1 = np.square(np.subtract(*(g / np.abs(g).sum(1, keepdims=True) for g in products))).mean()
    assert float(SIMILARITY(teacher, student)) > 8 * by_l1


def test_a_right_triangle_and_an_equilateral_one_have_the_relational_loss_worked_by_hand():
    teacher = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], "float32")  # distances 3/4, 1, 5/4; cos 0, 3/5, 4/5
    student = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], "float32")  # distances 1; cos 1/2
    assert float(DISTANCES(teacher, student)) == pytest.approx(4 / 9 / 32, rel=1e-5)
    assert float(ANGLES(teacher, student)) == pytest.approx(0.35 / 27, rel=1e-5)


def test_probabilistic_transfer_of_two_samples_worked_by_hand():
    teacher, student = np.eye(2, dtype="float32"), np.array([[2.0], [2.0]], "float32")
    wanted = (2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)) / 2  # P = (2/3, 1/3) and (1/2, 1/2)
    assert float(PROBABILISTIC(teacher, student)) == pytest.approx(wanted, rel=FLOAT32_TOLERANCE)


# Degenerate batches


@pytest.mark.parametrize("loss", LOSSES)
def test_one_sample_alone_has_no_loss(loss):
    value, gradient = value_and_gradient(lambda z: loss(features(1, 4), z), features(1, 4, seed=1))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_duplicates_equal_samples_and_zeros_have_finite_losses(loss):
    teacher, student = batch()
    twice = student.copy()
    twice[1] = twice[0]
    zero_rows = student.copy()
    zero_rows[2:4] = 0
    for x in (twice, zero_rows, np.broadcast_to(student[:1], student.shape).copy(), np.zeros_like(student)):
        assert_finite(loss, teacher, x)
        value, _ = assert_finite(loss, x, student)
        assert value > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_float16_features_of_size_1e4_are_finite(loss):
    value, _ = assert_finite(loss, half_precision_extremes(SAMPLES, 5), half_precision_extremes(SAMPLES, 4, seed=1))
    assert value > 0


def test_opposite_vectors_have_a_finite_probabilistic_transfer():
    # Sample 0 is with sample 1 to the teacher, and with all the others to the student.
    teacher, student = -np.ones((12, 1), "float32"), np.ones((12, 1), "float32")
    teacher[:2], student[1] = 1, -1
    assert_finite(PROBABILISTIC, teacher, student)
    values = np.asarray(ProbabilisticTransferLoss(reduction=None)(teacher, student))
    np.testing.assert_allclose(values, probabilistic_transfer(np.float64(teacher), np.float64(student)), rtol=1e-5)


# The contract


@pytest.mark.parametrize("loss", [*LOSSES, RelationalLoss(0.5, 3.0, angle_partners=3)])
def test_keeps_the_contract(loss):
    check_loss(loss, *batch())
    check_no_gradient_reaches_the_teacher(loss, *batch())


@pytest.mark.parametrize("loss", LOSSES)
def test_trains_a_plain_model_in_mixed_float16_and_comes_back_from_its_file(loss, tmp_path):
    x = features(64, 6)
    teacher = np.tanh(x @ features(6, 5, seed=1))
    layers = [keras.layers.Dense(units, activation="tanh", dtype="mixed_float16") for units in (12, 4)]
    check_trains(keras.Sequential([keras.Input((6,)), *layers]), loss, x, teacher, tmp_path, jit_compile=JIT)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"distance_weight": -1}, ValueError, "`distance_weight` must be >= 0. Received: distance_weight=-1."),
        ({"angle_weight": -0.5}, ValueError, "`angle_weight` must be >= 0. Received: angle_weight=-0.5."),
        ({"angle_weight": float("nan")}, ValueError, "`angle_weight` must be finite"),
        ({"angle_partners": 1}, ValueError, "`angle_partners` must be >= 2. Received: angle_partners=1."),
        ({"angle_partners": 8.0}, TypeError, "`angle_partners` must be an integer"),
        ({"dtype": "float16"}, ValueError, "`dtype` must be float32 or float64"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        RelationalLoss(**arguments)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shapes", [((4, 3), (1, 3)), ((1, 3), (4, 3)), ((4, 3), (5, 3)), ((4,), (4, 3))])
def test_shapes_that_do_not_fit_are_errors_and_never_broadcast(loss, shapes):
    with pytest.raises(ValueError, match=r"shape \(batch, ...\) with one batch size. Received: shapes \("):
        loss(*(np.zeros(shape, "float32") for shape in shapes))
