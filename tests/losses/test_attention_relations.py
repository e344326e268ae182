"""AttentionRelationLoss: identities, padding, a float64 reference, the Keras contract, errors."""

import keras
import numpy as np
import pytest

from keras_notes.losses import AttentionRelationLoss
from tests.losses.contract import check_loss, check_no_gradient_reaches_the_teacher, check_trains, copy_of
from tests.losses.feature_checks import (
    FLOAT32_TOLERANCE,
    KeepsMask,
    assert_finite,
    assert_matches,
    features,
    half_precision_extremes,
    rotation,
)
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

JIT = keras.backend.backend() != "torch"  # torch.compile needs a C++ toolchain at run time
BATCH, POSITIONS, WIDTH, STUDENT_WIDTH = 3, 5, 8, 4
MASK = np.arange(POSITIONS) < np.array([[5], [3], [1]])


def sequences(scale=1.0):
    """Features of a teacher and of a narrower student."""
    shapes = (BATCH, POSITIONS, WIDTH), (BATCH, POSITIONS, STUDENT_WIDTH)
    return features(*shapes[0], scale=scale), features(*shapes[1], seed=1, scale=scale)


def relation(head, temperature):
    """Softmax over positions of A A^T / (sqrt(d) T), for one head of one sample, written out."""
    exps = np.exp(head @ head.T / np.sqrt(head.shape[-1]) / temperature)
    return exps / exps.sum(-1, keepdims=True)


def attention_relation(teacher, student, heads=1, temperature=1.0):
    losses = np.zeros(teacher.shape[:2])
    for sample, pair in enumerate(zip(teacher, student, strict=True)):
        for head in range(heads):
            p, q = (relation(np.split(x, heads, axis=-1)[head], temperature) for x in pair)
            losses[sample] += temperature**2 * (p * np.log(p / q)).sum(-1) / heads
    return losses


def padded_to(value, x):
    return np.where(MASK[..., None], x, value).astype(x.dtype)


# Identities


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_equal_to_the_teacher_has_no_loss_and_no_gradient(temperature):
    _, student = sequences()
    loss = AttentionRelationLoss(2, temperature=temperature)
    value, gradient = value_and_gradient(lambda z: loss(student, z), student)
    assert value == 0
    assert (gradient == 0).all()


def test_rotating_the_features_of_a_head_changes_nothing():
    teacher, student = sequences()
    wanted = pytest.approx(float(AttentionRelationLoss(2)(teacher, student)), rel=FLOAT32_TOLERANCE)
    turned = np.concatenate([student[..., :2] @ rotation(2), student[..., 2:] @ rotation(2, seed=8)], -1)
    assert float(AttentionRelationLoss(2)(teacher, turned)) == wanted
    assert float(AttentionRelationLoss(2)(teacher, student @ rotation(4))) != wanted  # across the heads
    wanted = pytest.approx(float(AttentionRelationLoss()(teacher, student)), rel=FLOAT32_TOLERANCE)
    assert float(AttentionRelationLoss()(teacher @ rotation(8), student @ rotation(4))) == wanted


def test_heads_are_slices_of_the_width_and_count_equally():
    teacher, student = sequences()
    halves = [
        np.asarray(
            AttentionRelationLoss(reduction=None)(teacher[..., 4 * h :][..., :4], student[..., 2 * h :][..., :2])
        )
        for h in range(2)
    ]
    got = np.asarray(AttentionRelationLoss(2, reduction=None)(teacher, student))
    np.testing.assert_allclose(got, np.mean(halves, axis=0), rtol=FLOAT32_TOLERANCE)


def test_the_temperature_divides_the_relations_and_multiplies_the_loss_by_its_square():
    teacher, student = sequences()
    softened = AttentionRelationLoss(temperature=4.0)(teacher, student)
    assert float(softened) == pytest.approx(
        16 * float(AttentionRelationLoss()(teacher / 2, student / 2)), rel=FLOAT32_TOLERANCE
    )


# Padding


@pytest.mark.parametrize("heads", [1, 2])
def test_masked_sequences_have_the_loss_of_sequences_cut_to_their_length(heads):
    teacher, student = sequences()
    wanted = np.concatenate(
        [
            attention_relation(np.float64(t[None, :length]), np.float64(s[None, :length]), heads)[0]
            for t, s, length in zip(teacher, student, MASK.sum(1), strict=True)
        ]
    )
    loss = AttentionRelationLoss(heads)
    for padding in (0.0, 33.0):
        values = np.asarray(copy_of(loss, reduction=None)(teacher, KeepsMask(MASK)(padded_to(padding, student))))
        np.testing.assert_allclose(values[MASK], wanted, rtol=FLOAT32_TOLERANCE, atol=1e-7)
        assert (values[~MASK] == 0).all()
        value = loss(padded_to(-padding, teacher), KeepsMask(MASK)(padded_to(padding, student)))
        assert float(value) == pytest.approx(wanted.mean(), rel=FLOAT32_TOLERANCE)


def test_masked_positions_get_no_gradient():
    teacher, student = sequences()
    _, gradient = value_and_gradient(lambda z: AttentionRelationLoss()(teacher, KeepsMask(MASK)(z)), student)
    assert (gradient[~MASK] == 0).all()
    assert (gradient[:2][MASK[:2]] != 0).all()  # the one position of the last sequence is all that it looks at


def test_a_fully_masked_sequence_is_finite_and_counts_nothing():
    teacher, student = sequences()
    mask = MASK & np.array([[True], [True], [False]])
    loss = AttentionRelationLoss(temperature=0.5)
    value, gradient = value_and_gradient(lambda z: loss(teacher, KeepsMask(mask)(z)), student)
    wanted = np.asarray(copy_of(loss, reduction=None)(teacher, KeepsMask(mask)(student)))[mask].mean()
    assert float(value) == pytest.approx(wanted, rel=FLOAT32_TOLERANCE)
    assert (gradient[2] == 0).all()
    assert np.isfinite(gradient).all()
    value, gradient = value_and_gradient(lambda z: loss(teacher, KeepsMask(np.zeros_like(MASK))(z)), student)
    assert value == 0
    assert (gradient == 0).all()


# The reference


@pytest.mark.parametrize(("heads", "temperature"), [(1, 1.0), (4, 0.5), (2, 3.0)])
def test_value_and_gradient_match_float64(heads, temperature):
    loss = AttentionRelationLoss(heads, temperature=temperature)
    assert_matches(loss, lambda t, s: attention_relation(t, s, heads, temperature), *sequences())


@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_small_and_large_features_match_float64(scale):
    # Relations that are almost uniform, and almost one-hot with logits up to 60 or so.
    assert_matches(AttentionRelationLoss(), attention_relation, *sequences(scale))


def test_float16_features_of_size_1e4_are_finite():
    teacher, student = (half_precision_extremes(*x.shape, seed=i) for i, x in enumerate(sequences()))
    for loss in (AttentionRelationLoss(), AttentionRelationLoss(2, temperature=0.5)):
        value, _ = assert_finite(loss, teacher, student)
        assert value > 0
        assert_finite(loss, student, student)


# Golden numbers, worked by hand


def test_features_of_zeros_have_uniform_relations():
    # One teacher's position of width 1 is sqrt(ln 3), the other 0: relations (3/4, 1/4) and (1/2, 1/2).
    teacher, student = np.array([[[np.log(3) ** 0.5], [0.0]]], "float32"), np.zeros((1, 2, 1), "float32")
    values = np.asarray(AttentionRelationLoss(reduction=None)(teacher, student))
    np.testing.assert_allclose(values, [[0.75 * np.log(3) - np.log(2), 0]], rtol=1e-5, atol=1e-7)
    # The division is by the square root of the width: with four such features, twice the logit.
    values = np.asarray(AttentionRelationLoss(reduction=None)(np.repeat(teacher, 4, axis=-1), student))
    np.testing.assert_allclose(values, [[0.9 * np.log(9) - np.log(5), 0]], rtol=1e-5, atol=1e-7)


# The contract


@pytest.mark.parametrize("loss", [AttentionRelationLoss(), AttentionRelationLoss(2, temperature=2.0)])
def test_keeps_the_contract(loss):
    check_loss(loss, *sequences(), positions=2)
    check_no_gradient_reaches_the_teacher(loss, *sequences())


def test_an_lstm_learns_relations_of_its_hidden_states_and_comes_back_from_its_file(tmp_path):
    tokens = np.random.default_rng(0).integers(1, 6, (32, 5))
    tokens[np.arange(5) >= np.random.default_rng(1).integers(2, 6, (32, 1))] = 0
    teacher = 3 * features(6, 8, seed=2)[tokens]  # of a teacher that likens equal tokens
    layers = [
        keras.layers.Embedding(6, 8, mask_zero=True),
        keras.layers.LSTM(4, return_sequences=True, dtype="mixed_float16"),
    ]
    model = keras.Sequential([keras.Input((5,), dtype="int32"), *layers])
    check_trains(model, AttentionRelationLoss(2), tokens, teacher, tmp_path, jit_compile=JIT)
    teacher[tokens == 0] = 1e3
    evaluated = model.evaluate(tokens, teacher, verbose=0)
    mask = tokens != 0
    hidden = np.float64(keras.ops.convert_to_numpy(model(tokens)))
    cut = [
        attention_relation(np.float64(t[None, m]), h[None, m], 2)[0]
        for t, h, m in zip(teacher, hidden, mask, strict=True)
    ]
    wanted = np.concatenate(cut).mean()
    assert evaluated == pytest.approx(wanted, rel=1e-3)  # hidden states of 16 bits


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"relation_heads": 0}, ValueError, "`relation_heads` must be >= 1. Received: relation_heads=0."),
        ({"relation_heads": 2.0}, TypeError, "`relation_heads` must be an integer"),
        ({"relation_heads": True}, TypeError, "`relation_heads` must be an integer"),
        ({"temperature": 0}, ValueError, "`temperature` must be > 0. Received: temperature=0."),
        ({"temperature": float("inf")}, ValueError, "`temperature` must be finite"),
        ({"dtype": "float16"}, ValueError, "`dtype` must be float32 or float64"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        AttentionRelationLoss(**arguments)


@pytest.mark.parametrize(
    ("heads", "teacher_shape", "student_shape", "message"),
    [
        (1, (2, 5, 8), (2, 6, 8), r"same positions. Received: shapes \(2, 5, 8\) and \(2, 6, 8\)"),
        (1, (2, 1, 8), (2, 6, 8), "same positions"),
        (1, (1, 6, 8), (2, 6, 8), "same positions"),
        (1, (2, 8), (2, 8), r"shape \(batch, positions, width\)"),
        (1, (2, 4, 5, 8), (2, 4, 5, 8), r"shape \(batch, positions, width\)"),
        (4, (2, 5, 8), (2, 5, 6), r"`relation_heads` must divide .* Received: relation_heads=4. Widths: 8, 6."),
        (3, (2, 5, 8), (2, 5, 6), "`relation_heads` must divide"),
    ],
)
def test_shapes_that_do_not_fit_are_errors_and_never_broadcast(heads, teacher_shape, student_shape, message):
    with pytest.raises(ValueError, match=message):
        AttentionRelationLoss(heads)(np.zeros(teacher_shape, "float32"), np.zeros(student_shape, "float32"))
