"""MutualDistiller: the objective against a second implementation, logs by student, errors."""

import functools

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import DistillationLoss
from tests.distillation import training
from tests.distillation.training import (
    crossentropy,
)
from tests.losses.references import distillation, log_softmax

pytestmark = pytest.mark.any_backend

CLASSES, FEATURES, SAMPLES = 3, 5, 16
FLOAT32_SUMS = 1e-5


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)


linear = functools.partial(training.linear, features=FEATURES, classes=CLASSES)


fitted = training.fitted


def test_one_step_is_gradient_descent_on_the_stated_objective(data):
    x, y = data
    students = [linear(name) for name in "abc"]
    kernels = [np.array(student.get_weights()[0], "float64") for student in students]
    logits = [x.astype("float64") @ kernel for kernel in kernels]
    weights = np.linspace(0, 2, SAMPLES)
    distiller = kn.distillation.MutualDistiller(students, DistillationLoss(2.0), student_loss_weight=0.3)
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy())

    logs = fitted(distiller, x, y, sample_weight=weights)

    total = 0.0
    for k, student in enumerate(students):
        hard = np.exp(log_softmax(logits[k])) - np.eye(CLASSES)[y]
        pairs = [distillation(logits[j], logits[k], 2.0) for j in range(3) if j != k]
        soft_gradient = sum(pair[1] for pair in pairs) / 2
        gradient = weights[:, None] * (0.3 * hard + 0.7 * soft_gradient) / SAMPLES
        np.testing.assert_allclose(student.get_weights()[0], kernels[k] - 0.1 * x.T @ gradient, atol=FLOAT32_SUMS)
        values = 0.3 * -log_softmax(logits[k])[np.arange(SAMPLES), y] + 0.7 * sum(pair[0] for pair in pairs) / 2
        total += (weights * values).mean()
    assert logs["loss"] == pytest.approx(total, rel=FLOAT32_SUMS)
    assert logs["loss"] == pytest.approx(0.3 * logs["student_loss"] + 0.7 * logs["distillation_loss"], rel=1e-5)


def test_no_gradient_passes_into_another_student_whatever_the_loss(data):
    x, y = data
    students = [linear("a"), linear("b")]
    kernels = [np.float64(student.get_weights()[0]) for student in students]
    distiller = kn.distillation.MutualDistiller(students, keras.losses.MeanSquaredError(), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.1))
    fitted(distiller, x, y)
    difference = x.astype("float64") @ (kernels[0] - kernels[1])
    step = 0.1 * x.T @ (2.0 * difference / (SAMPLES * CLASSES))
    # The gradient through both sides would make each step twice as long.
    np.testing.assert_allclose(students[0].get_weights()[0], kernels[0] - step, atol=FLOAT32_SUMS)
    np.testing.assert_allclose(students[1].get_weights()[0], kernels[1] + step, atol=FLOAT32_SUMS)


def test_weight_one_is_training_each_student_alone(data):
    x, y = data
    alone, first, second = linear("alone"), linear("first"), linear("second")
    first.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.1), crossentropy())
    alone.fit(x, y, batch_size=SAMPLES, epochs=3, verbose=0)
    distiller = kn.distillation.MutualDistiller([first, second], student_loss_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy())
    fitted(distiller, x, y, epochs=3)
    for got, wanted in zip(first.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_each_student_has_its_own_logs_and_regularizers_count_once(data):
    x, y = data
    students = [linear("wide", kernel_regularizer=keras.regularizers.L2(0.1)), linear("narrow")]
    penalty = 0.1 * (np.array(students[0].get_weights()[0]) ** 2).sum()
    distiller = kn.distillation.MutualDistiller(students)
    distiller.compile(
        "sgd",
        crossentropy(),
        metrics=["accuracy", keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="nll")],
    )
    logs = distiller.evaluate(x, y, batch_size=SAMPLES, return_dict=True, verbose=0)
    for student in students:
        predictions = student.predict(x, verbose=0)
        assert logs[f"{student.name}_accuracy"] == pytest.approx((predictions.argmax(-1) == y).mean())
        nll = -log_softmax(predictions.astype("float64"))[np.arange(SAMPLES), y].mean()
        assert logs[f"{student.name}_nll"] == pytest.approx(nll, rel=FLOAT32_SUMS)
    assert logs["loss"] == pytest.approx(0.5 * (logs["student_loss"] + logs["distillation_loss"]) + penalty, rel=1e-5)


def test_unlabelled_samples_take_part_through_the_peers_alone(data):
    x, _ = data
    distiller = kn.distillation.MutualDistiller([linear("a"), linear("b")])
    distiller.compile("sgd", crossentropy(ignore_class=-1))
    logs = fitted(distiller, x, np.full(SAMPLES, -1))
    assert logs["student_loss"] == 0
    assert logs["distillation_loss"] > 0
    assert np.isfinite(logs["loss"])


def test_survives_a_round_trip_and_goes_on(data, tmp_path):
    x, y = data
    distiller = kn.distillation.MutualDistiller([linear("a"), linear("b")], DistillationLoss(3.0), 0.4)
    distiller.compile("adam", crossentropy(), metrics=["accuracy"])
    fitted(distiller, x, y)
    distiller.save(tmp_path / "mutual.keras")
    again = keras.saving.load_model(tmp_path / "mutual.keras", safe_mode=True)
    assert fitted(again, x, y) == pytest.approx(fitted(distiller, x, y), rel=1e-6)
    for one, other in zip(again.get_weights(), distiller.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("students", "error", "message"),
    [
        (lambda: [linear("a")], ValueError, "`students` must be two models or more"),
        (lambda: [linear("a"), "b"], TypeError, "must hold keras.Model objects. Received: students='str'"),
        (lambda: [linear("a"), linear("a")], ValueError, "must have names of their own"),
        (lambda: [linear("a"), linear("b", classes=4)], ValueError, "must have the same shape"),
    ],
)
def test_wrong_students_are_errors_at_once(students, error, message):
    with pytest.raises(error, match=message):
        kn.distillation.MutualDistiller(students())


def test_a_missing_loss_and_a_wrong_one_are_errors():
    with pytest.raises(TypeError, match="`distillation_loss` must be a loss object"):
        kn.distillation.MutualDistiller([linear("a"), linear("b")], "kl_divergence")
    with pytest.raises(ValueError, match="`loss` must be given unless `student_loss_weight` is 0"):
        kn.distillation.MutualDistiller([linear("a"), linear("b")]).compile("sgd")
