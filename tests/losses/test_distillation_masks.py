"""DistillationLoss: padding, precision across batches of every kind, 16-bit logits, independent labels in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_notes.losses import DistillationLoss
from tests.losses.logit_checks import gradient_of, logits_pair, values_of
from tests.losses.references import distillation, sigmoid
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend

# Which formula is taken depends on the batch; between them values differ by this, relative or absolute.
RELATIVE, ABSOLUTE = 1e-5, 4e-7
FLOAT32_TOLERANCE = 3e-6
# A term of one label is within 4e-6 where the two ways to compute it meet.
AT_THE_SWITCH = 5e-6
IDS = np.array([[3, 1, 2, 0], [2, 0, 0, 0], [1, 3, 1, 2]])
CLASSES = 10


def independent(teacher, student, temperature):
    """tau^2 KL per sample of independent labels in float64, and its gradient with respect to the student's logits."""
    t, s = np.float64(teacher) / temperature, np.float64(student) / temperature
    p = sigmoid(t)
    set_terms, not_terms = np.logaddexp(0, -s) - np.logaddexp(0, -t), np.logaddexp(0, s) - np.logaddexp(0, t)
    value = (p * set_terms + sigmoid(-t) * not_terms).sum(-1)
    return temperature**2 * value, temperature * (sigmoid(s) - p)


def masking_model(padding):
    """A model whose logits carry a Keras mask: an embedding whose row 0, the padding, holds `padding`, and a kernel."""
    table = np.random.default_rng(3).normal(size=(4, 6)).astype("float32")
    table[0] = padding
    embedding, dense = keras.layers.Embedding(4, 6, mask_zero=True), keras.layers.Dense(CLASSES, use_bias=False)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), embedding, dense])
    embedding.set_weights([table])
    embedding.trainable = False
    dense.set_weights([np.random.default_rng(4).normal(size=(6, CLASSES)).astype("float32")])
    return model


def array(x):
    return ops.convert_to_numpy(x)


# Masks


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_what_padding_holds_changes_neither_value_nor_gradient(scale, exclusive):
    # Near-equal batches and others: the padding must not decide how the rest is computed.
    student = array(masking_model(0.0)(IDS))
    teacher = student + scale * logits_pair(shape=(3, 4, CLASSES))[0]
    results = []
    for padding in (0.0, 30.0):
        model, y_true = masking_model(padding), np.where(IDS[..., None] == 0, -padding, teacher).astype("float32")
        loss = DistillationLoss(2.0, exclusive=exclusive)
        value = float(array(loss(y_true, model(IDS))))
        model.compile(keras.optimizers.SGD(1.0), loss=loss)
        before = model.get_weights()[1]
        model.train_on_batch(IDS, y_true)
        results.append((value, before - model.get_weights()[1]))
    wanted = values_of(DistillationLoss(2.0, exclusive=exclusive), teacher, student)[IDS != 0].mean()
    for value, gradient in results:
        assert value == pytest.approx(wanted, rel=RELATIVE, abs=ABSOLUTE)
        np.testing.assert_allclose(gradient, results[0][1], rtol=RELATIVE, atol=ABSOLUTE)
    assert np.abs(results[0][1]).max() > 100 * ABSOLUTE


def test_the_mean_is_over_the_positions_that_count_and_weights_multiply():
    teacher, _ = logits_pair(shape=(3, 4, CLASSES))
    student = masking_model(1.0)(IDS)
    loss, total = DistillationLoss(2.0), DistillationLoss(2.0, reduction="sum")
    values, counts = values_of(loss, teacher, array(student)), IDS != 0
    assert array(loss(teacher, student)) == pytest.approx(values[counts].mean(), rel=1e-6)
    assert array(total(teacher, student)) == pytest.approx(values[counts].sum(), rel=1e-6)
    weights = np.linspace(0, 3, 12, dtype="float32").reshape(3, 4)
    weighted = array(loss(teacher, student, sample_weight=weights))
    assert weighted == pytest.approx((weights * values)[counts].mean(), rel=1e-6)
    assert array(loss(teacher, array(student))) != pytest.approx(values[counts].mean(), rel=1e-3)


def test_without_any_position_that_counts_the_loss_is_zero():
    student = masking_model(1.0)(np.zeros_like(IDS))
    assert array(DistillationLoss(2.0)(logits_pair(shape=(3, 4, CLASSES))[0], student)) == 0


# One batch, many sizes


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("largest", [1e-3, 30.0])
def test_rows_of_very_different_divergences_agree_whichever_formula_is_taken(largest, exclusive):
    teacher, noise = logits_pair(1.0)
    student = teacher + noise * np.geomspace(1e-4, largest, 16, dtype="float32")[:, None]
    reference = distillation if exclusive else independent
    wanted, wanted_gradient = reference(teacher, student, 1.0)
    assert wanted.min() < 2e-8
    loss = DistillationLoss(1.0, exclusive=exclusive, reduction="sum")
    np.testing.assert_allclose(values_of(loss, teacher, student), wanted, rtol=RELATIVE, atol=ABSOLUTE)
    _, gradient = gradient_of(loss, teacher, student)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("distance", [1e-3, 0.3, 10.0])
def test_compiled_and_eager_agree_on_both_sides_of_the_switch(distance, exclusive):
    teacher, noise = logits_pair(1.0)
    student = teacher + distance * noise
    loss = DistillationLoss(1.0, exclusive=exclusive, reduction="sum")
    wanted = (distillation if exclusive else independent)(teacher, student, 1.0)
    for compiled in (False, True):
        value, gradient = gradient_of(loss, teacher, student, compiled)
        assert float(value) == pytest.approx(wanted[0].sum(), rel=RELATIVE)
        assert np.abs(gradient - wanted[1]).max() < RELATIVE * np.abs(wanted[1]).max()


# 16-bit logits


def test_bfloat16_logits_cost_no_more_than_their_own_rounding():
    teacher, student = logits_pair()
    wanted = distillation(teacher, student, 2.0)
    rounded = ops.cast(student, "bfloat16")
    assert float(DistillationLoss(2.0)(teacher, rounded)) == pytest.approx(wanted[0].mean(), rel=2**-8)

    def through_bfloat16(s):
        return DistillationLoss(2.0, reduction="sum")(teacher, ops.cast(s, "bfloat16"))

    _, gradient = value_and_gradient(through_bfloat16, student)
    # The logits are rounded by up to 2^-9 of 8, and the gradient itself to 2^-9.
    assert np.abs(gradient - wanted[1]).max() < 2**-6 * np.abs(wanted[1]).max()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_float16_logits_are_finite_to_ten_thousand(temperature, exclusive):
    teacher, student = (np.clip(x, -1e4, 1e4).astype("float16") for x in logits_pair(1e4))
    loss = DistillationLoss(temperature, exclusive=exclusive)
    assert np.isfinite(values_of(loss, teacher, student)).all()
    reference = distillation if exclusive else independent
    np.testing.assert_allclose(
        values_of(loss, teacher, student), reference(teacher, student, temperature)[0], rtol=RELATIVE
    )
    value, gradient = gradient_of(loss, teacher, student)
    assert np.isfinite(value) or value > 60000  # the mean itself may be beyond float16
    assert np.isfinite(gradient).all()


# Independent labels


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 2.0, 1000.0])
def test_independent_labels_match_float64(temperature, compiled):
    # One batch for all sizes: the labels do not depend on each other.
    pairs = [logits_pair(scale, (4, CLASSES), seed) for seed, scale in enumerate((0.01, 1.0, 10.0, 100.0))]
    teacher, student = (np.concatenate(x) for x in zip(*pairs, strict=True))
    wanted_value, wanted_gradient = independent(teacher, student, temperature)
    loss = DistillationLoss(temperature, exclusive=False, reduction="sum")
    # The smallest values cancel in the reference, which is written as the formula is.
    np.testing.assert_allclose(values_of(loss, teacher, student)[4:], wanted_value[4:], rtol=AT_THE_SWITCH)
    _, gradient = gradient_of(loss, teacher, student, compiled)
    for rows in np.arange(16).reshape(4, 4):
        wanted = wanted_gradient[rows]
        assert np.abs(gradient[rows] - wanted).max() < FLOAT32_TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("certainty", [30.0, 1e4, 1e30])
def test_a_teacher_that_is_certain_of_a_label_leaves_the_students_logit_as_it_is(certainty):
    teacher, student = logits_pair()
    teacher = np.where(teacher > 0, certainty, -certainty).astype("float32")
    wanted_value, wanted_gradient = independent(teacher, student, 1.0)
    loss = DistillationLoss(1.0, exclusive=False, reduction="sum")
    np.testing.assert_allclose(values_of(loss, teacher, student), wanted_value, rtol=RELATIVE)
    _, gradient = gradient_of(loss, teacher, student)
    assert np.abs(gradient - wanted_gradient).max() < RELATIVE * np.abs(wanted_gradient).max()


def test_at_a_high_temperature_independent_labels_are_an_eighth_of_the_squared_difference():
    teacher, student = logits_pair()
    difference = np.float64(student) - teacher
    # The limit is approached as 1 / temperature: 0.003 here.
    loss = DistillationLoss(1000.0, exclusive=False, reduction="sum")
    np.testing.assert_allclose(values_of(loss, teacher, student), (difference**2 / 8).sum(-1), rtol=1e-3)
    _, gradient = gradient_of(loss, teacher, student)
    np.testing.assert_allclose(gradient, difference / 4, atol=1e-3 * np.abs(difference).max())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs float64 throughout, as on TensorFlow")
@pytest.mark.parametrize("distance", [1.0, 0.1, 0.02])
def test_float64_is_exact_on_both_sides_of_where_the_formulas_meet(distance):
    rng = np.random.default_rng(0)
    teacher = rng.normal(scale=3, size=(16, CLASSES))
    student = teacher + rng.normal(scale=distance, size=teacher.shape)
    for exclusive, reference in ((True, distillation), (False, independent)):
        values = values_of(DistillationLoss(1.0, exclusive=exclusive, dtype="float64"), teacher, student)
        # Where they meet both are within 3e-11; the reference itself loses 1e-16 / distance^2.
        np.testing.assert_allclose(values, reference(teacher, student, 1.0)[0], rtol=1e-10)
