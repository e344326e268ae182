"""HintLoss and AttentionTransferLoss: identities, a float64 reference, the Keras contract, errors."""

import keras
import numpy as np
import pytest

from keras_notes.losses import AttentionTransferLoss, HintLoss
from tests.losses.contract import check_loss, check_no_gradient_reaches_the_teacher, check_trains
from tests.losses.feature_checks import (
    FLOAT32_TOLERANCE,
    KeepsMask,
    assert_finite,
    assert_matches,
    features,
    half_precision_extremes,
)
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

JIT = keras.backend.backend() != "torch"  # torch.compile needs a C++ toolchain at run time
SEQUENCES, MAPS, STUDENT_MAPS, SMALL_MAPS = (3, 4, 8), (2, 8, 8, 5), (2, 8, 8, 4), (2, 4, 4, 4)


def hint(teacher, student, normalize=False):
    if normalize:
        teacher, student = (x / np.sqrt((x**2).sum(-1, keepdims=True)) for x in (teacher, student))
    return ((teacher - student) ** 2).mean(-1)


def attention_vectors(maps, power, grid):
    """One vector a sample: |F|^power summed over channels at each position of a grid of block means, of length 1."""
    samples, height, width, channels = maps.shape
    blocks = maps.reshape(samples, grid[0], height // grid[0], grid[1], width // grid[1], channels).mean((2, 4))
    energies = (np.abs(blocks) ** power).sum(-1).reshape(samples, -1)
    return energies / np.sqrt((energies**2).sum(-1, keepdims=True))


def attention_transfer(teacher, student, power=2.0):
    grid = np.minimum(teacher.shape[1:3], student.shape[1:3])
    return ((attention_vectors(teacher, power, grid) - attention_vectors(student, power, grid)) ** 2).mean(-1)


# Identities


@pytest.mark.parametrize(
    ("loss", "shape"),
    [(HintLoss(), SEQUENCES), (HintLoss(normalize=True), SEQUENCES), (AttentionTransferLoss(), STUDENT_MAPS)],
)
def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient(loss, shape):
    teacher = features(*shape)
    value, gradient = value_and_gradient(lambda z: loss(teacher, z), teacher)
    assert value == 0
    assert (gradient == 0).all()


def test_a_hint_is_the_mean_of_squares():
    teacher, student = features(*SEQUENCES), features(*SEQUENCES, seed=1)
    assert float(HintLoss()(teacher, student)) == pytest.approx(np.square(teacher - student).mean(), rel=1e-6)


def test_a_normalized_hint_is_2_minus_2_cos_over_the_width_whatever_the_lengths():
    teacher, student = features(*SEQUENCES), features(*SEQUENCES, seed=1)
    lengths = [np.linalg.norm(x, axis=-1) for x in (teacher, student)]
    cos = (teacher * student).sum(-1) / (lengths[0] * lengths[1])
    loss = HintLoss(normalize=True, reduction=None)
    np.testing.assert_allclose(np.asarray(loss(teacher, student)), (2 - 2 * cos) / 8, rtol=FLOAT32_TOLERANCE)
    np.testing.assert_allclose(np.asarray(loss(1e20 * teacher, 1e-20 * student)), (2 - 2 * cos) / 8, rtol=1e-5)


def test_attention_transfer_is_2_minus_2_cos_over_the_positions():
    teacher, student = features(*MAPS), features(*STUDENT_MAPS, seed=1)
    energies = [np.square(x).sum(-1).reshape(2, 64) for x in (teacher, student)]
    cos = (energies[0] * energies[1]).sum(-1) / np.prod([np.linalg.norm(e, axis=-1) for e in energies], axis=0)
    got = AttentionTransferLoss(reduction=None)(teacher, student)
    np.testing.assert_allclose(np.asarray(got), (2 - 2 * cos) / 64, rtol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_scale_signs_and_order_of_the_channels_do_not_change_attention(power):
    teacher, student = features(*MAPS), features(*STUDENT_MAPS, seed=1)
    loss = AttentionTransferLoss(power)
    wanted = pytest.approx(float(loss(teacher, student)), rel=FLOAT32_TOLERANCE)
    scales = np.array([3e-20, 7e20], "float32").reshape(2, 1, 1, 1)  # one a sample
    signs = np.array([1, -1, -1, 1], "float32")
    assert float(loss(teacher, scales * student)) == wanted
    assert float(loss(teacher * scales, signs * student[..., [2, 0, 3, 1]])) == wanted
    assert float(loss(teacher, student[:, ::-1])) != pytest.approx(float(loss(teacher, student)), rel=0.01)


def test_the_channel_axis_may_be_the_first():
    teacher, student = features(*MAPS), features(*STUDENT_MAPS, seed=1)
    first = AttentionTransferLoss(axis=1)(np.moveaxis(teacher, -1, 1), np.moveaxis(student, -1, 1))
    assert float(first) == pytest.approx(float(AttentionTransferLoss()(teacher, student)), rel=1e-6)
    teacher, student = features(*SEQUENCES), features(*SEQUENCES, seed=1)
    for normalize in (False, True):
        first = HintLoss(axis=1, normalize=normalize)(teacher.swapaxes(1, 2), student.swapaxes(1, 2))
        wanted = float(HintLoss(normalize=normalize)(teacher, student))
        assert float(first) == pytest.approx(wanted, rel=1e-6)


def test_padding_neither_counts_in_a_hint_nor_gets_a_gradient():
    teacher, student = features(*SEQUENCES), features(*SEQUENCES, seed=1)
    mask = np.arange(4) < np.array([[4], [2], [1]])
    wanted = pytest.approx(hint(teacher, student)[mask].mean(), rel=FLOAT32_TOLERANCE)
    padded = np.where(mask[..., None], student, 77.0).astype("float32")
    for teacher_padding in (0.0, 55.0):
        padded_teacher = np.where(mask[..., None], teacher, teacher_padding).astype("float32")
        value, gradient = value_and_gradient(lambda z, t=padded_teacher: HintLoss()(t, KeepsMask(mask)(z)), padded)
        assert float(value) == wanted
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).all()


# The reference


@pytest.mark.parametrize("normalize", [False, True])
def test_a_hint_matches_float64(normalize):
    loss = HintLoss(normalize=normalize)
    assert_matches(loss, lambda t, s: hint(t, s, normalize), features(*SEQUENCES), features(*SEQUENCES, seed=1))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_transfer_matches_float64(power):
    loss = AttentionTransferLoss(power)
    teacher, student = features(*MAPS), features(*STUDENT_MAPS, seed=1)
    assert_matches(loss, lambda t, s: attention_transfer(t, s, power), teacher, student)


@pytest.mark.parametrize("is_teacher_larger", [True, False])
def test_attention_on_grids_of_8_and_4_matches_float64_on_averaged_features(is_teacher_larger):
    large, small = features(*MAPS), features(*SMALL_MAPS, seed=1)
    pair = (large, small) if is_teacher_larger else (small, large)
    assert_matches(AttentionTransferLoss(), attention_transfer, *pair)


# The ends of the number range


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
def test_a_feature_map_of_zeros_has_a_finite_loss_and_no_gradient(power):
    teacher, student = features(*MAPS), features(*STUDENT_MAPS, seed=1)
    student[1] = 0
    values = np.asarray(AttentionTransferLoss(power, reduction=None)(teacher, student))
    assert values[1] == pytest.approx(1 / 64, rel=1e-6)  # the teacher's vector has length 1
    _, gradient = assert_finite(AttentionTransferLoss(power), teacher, student)
    assert (gradient[1] == 0).all()
    teacher[1] = 0
    assert np.asarray(AttentionTransferLoss(power, reduction=None)(teacher, student))[1] == 0


def test_features_of_zeros_have_a_finite_normalized_hint():
    teacher, student = features(*SEQUENCES), features(*SEQUENCES, seed=1)
    student[1] = teacher[2] = 0
    _, gradient = assert_finite(HintLoss(normalize=True), teacher, student)
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_features_of_size_1e20_have_a_finite_attention(power):
    teacher, student = 1e20 * features(*MAPS), 1e20 * features(*STUDENT_MAPS, seed=1)
    value, _ = assert_finite(AttentionTransferLoss(power), teacher, student)
    assert value == pytest.approx(attention_transfer(np.float64(teacher), np.float64(student), power).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", [HintLoss(), HintLoss(normalize=True), AttentionTransferLoss(4.0)])
def test_float16_features_of_size_1e4_are_finite(loss):
    teacher, student = half_precision_extremes(*SEQUENCES), half_precision_extremes(*SEQUENCES, seed=1)
    value, gradient = assert_finite(loss, teacher, student)
    assert value > 0
    assert (gradient != 0).any()


# Golden numbers, worked by hand


def test_strong_positions_that_do_not_meet_cost_2_over_the_positions():
    teacher = np.array([[[3.0, 4.0], [0.0, 0.0]]], "float32")  # one sample, two positions, two channels
    student = np.array([[[0.0, 0.0], [-5.0, 0.0]]], "float32")
    assert float(AttentionTransferLoss()(teacher, student)) == pytest.approx(1.0, rel=1e-6)
    # Positions of energy 1 and 1 against 1 and 0: cos = 1 / sqrt(2).
    assert float(AttentionTransferLoss()(student, np.ones_like(student))) == pytest.approx(1 - 0.5**0.5, rel=1e-6)


# The contract


@pytest.mark.parametrize(
    ("loss", "teacher_shape", "student_shape"),
    [
        (HintLoss(), SEQUENCES, SEQUENCES),
        (HintLoss(normalize=True), SEQUENCES, SEQUENCES),
        (AttentionTransferLoss(), MAPS, STUDENT_MAPS),
        (AttentionTransferLoss(4.0), MAPS, SMALL_MAPS),
    ],
)
def test_keeps_the_contract(loss, teacher_shape, student_shape):
    teacher, student = features(*teacher_shape), features(*student_shape, seed=1)
    check_loss(loss, teacher, student, positions=2 if isinstance(loss, HintLoss) else 1)
    check_no_gradient_reaches_the_teacher(loss, teacher, student)


@pytest.mark.parametrize("loss", [HintLoss(), AttentionTransferLoss()])
def test_trains_a_plain_model_in_mixed_float16_and_comes_back_from_its_file(loss, tmp_path):
    x = features(64, 4, 4, 3)
    teacher = np.maximum(x @ features(3, 6, seed=1), 0)
    layers = [keras.layers.Dense(units, activation="relu", dtype="mixed_float16") for units in (12, 6)]
    check_trains(keras.Sequential([keras.Input((4, 4, 3)), *layers]), loss, x, teacher, tmp_path, jit_compile=JIT)


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"power": 0.5}, ValueError, "`power` must be >= 1. Received: power=0.5."),
        ({"power": -1}, ValueError, "`power` must be > 0. Received: power=-1."),
        ({"power": float("inf")}, ValueError, "`power` must be finite"),
        ({"power": "2"}, TypeError, "`power` must be a number"),
        ({"axis": 1.0}, TypeError, "`axis` must be an integer. Received: axis=1.0."),
        ({"dtype": "float16"}, ValueError, "`dtype` must be float32 or float64"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        AttentionTransferLoss(**arguments)


@pytest.mark.parametrize(
    ("loss", "teacher_shape", "student_shape", "message"),
    [
        (HintLoss(), (4, 32), (4, 1), r"same shape. Received: shapes \(4, 32\) and \(4, 1\). Put a dense layer"),
        (HintLoss(), (4, 1), (4, 32), "same shape"),
        (HintLoss(), (1, 32), (4, 32), "same shape"),
        (HintLoss(), (4, 32), (4, 6, 32), "same shape"),
        (AttentionTransferLoss(), (4, 8, 8, 5), (4, 3, 3, 5), r"whole factors. Received: shapes \(4, 8, 8, 5\)"),
        (AttentionTransferLoss(), (4, 8, 5), (4, 8, 8, 5), r"shape \(batch, positions..., channels\)"),
        (AttentionTransferLoss(), (4, 8), (4, 8), r"shape \(batch, positions..., channels\)"),
        (AttentionTransferLoss(), (4, 8, 8, 5), (1, 8, 8, 5), r"Received: shapes \(4, 8, 8, 5\) and \(1, 8, 8, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_errors_and_never_broadcast(loss, teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        loss(np.zeros(teacher_shape, "float32"), np.zeros(student_shape, "float32"))
