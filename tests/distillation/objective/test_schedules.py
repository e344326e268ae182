"""Schedules of weights and temperature: closed forms, the step that they go by, files, every loss that has one."""

import functools

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import (
    AttentionRelationLoss,
    CorrelationDistillationLoss,
    DecoupledDistillationLoss,
    DistillationLoss,
    HintLoss,
    JensenShannonDistillationLoss,
)
from tests.distillation import training
from tests.distillation.training import (
    CLASSES,
    FLOAT32_SUMS,
    RATE,
    SAMPLES,
    X,
    Y,
    crossentropy,
    kernel,
    random_logits,
    table,
)
from tests.losses.references import distillation, log_softmax, softmax

pytestmark = pytest.mark.any_backend

# A few steps of SGD in float32 against float64: some roundings of 6e-8 on logits of size 3.
FLOAT32_STEPS = 5e-6
Decay = keras.optimizers.schedules.PolynomialDecay


@keras.saving.register_keras_serializable(package="tests")
def rising(step):
    return 1.0 + 0.5 * keras.ops.cast(step, "float32")


compiled = functools.partial(training.compiled, run_eagerly=False, jit_compile="auto")


eager = training.compiled


def history(distiller, x=X, y=Y, **arguments):
    arguments = {"batch_size": SAMPLES, "shuffle": False, "verbose": 0, **arguments}
    return distiller.fit(x, y, **arguments).history


def hard(logits):
    return -log_softmax(logits)[np.arange(SAMPLES), Y], softmax(logits) - np.eye(CLASSES)[Y]


# Closed forms


def test_weights_and_temperature_follow_their_schedules_step_for_step():
    teacher, logits = random_logits(1), random_logits(2)
    student = table(logits)
    distiller = kn.Distiller(
        table(teacher),
        student,
        DistillationLoss(9.0),
        rising,
        student_loss_weight=Decay(0.9, 3, 0.3),
        features=kn.FeatureMatch(None, None, HintLoss(), weight=Decay(2.0, 4, 0.0)),
        temperature=Decay(4.0, 3, 1.0),
    )
    logs = history(compiled(distiller), epochs=3)
    steps = zip((0.9, 0.7, 0.5), (1.0, 1.5, 2.0), (2.0, 1.5, 1.0), (4.0, 3.0, 2.0), strict=True)
    for step, (w, loss_weight, feature_weight, temperature) in enumerate(steps):
        labels, label_gradient = hard(logits)
        soft, soft_gradient = distillation(teacher, logits, temperature)
        distance, distance_gradient = np.square(logits - teacher).mean(-1), 2 * (logits - teacher) / CLASSES
        taught = (loss_weight * soft + feature_weight * distance).mean()
        assert logs["student_loss"][step] == pytest.approx(labels.mean(), rel=FLOAT32_SUMS)
        assert logs["distillation_loss"][step] == pytest.approx(taught, rel=FLOAT32_SUMS)
        assert logs["loss"][step] == pytest.approx(w * labels.mean() + (1 - w) * taught, rel=FLOAT32_SUMS)
        taught_gradient = loss_weight * soft_gradient + feature_weight * distance_gradient
        logits = logits - RATE * (w * label_gradient + (1 - w) * taught_gradient) / SAMPLES
    np.testing.assert_allclose(kernel(student), logits, atol=FLOAT32_STEPS)


def test_constant_schedules_are_constants():
    def result(as_given):
        student = table(random_logits(2))
        distiller = kn.Distiller(
            table(random_logits(1)),
            student,
            DistillationLoss(3.0),
            as_given(0.5),
            student_loss_weight=as_given(0.3),
            features=kn.FeatureMatch("scores", "scores", HintLoss(), weight=as_given(0.25)),
            temperature=as_given(3.0),
        )
        return history(eager(distiller), epochs=2), kernel(student)

    (logs, weights), (wanted, wanted_weights) = result(lambda value: lambda step: value), result(lambda value: value)
    for name, values in wanted.items():
        assert logs[name] == pytest.approx(values, rel=FLOAT32_SUMS)
    np.testing.assert_allclose(weights, wanted_weights, atol=FLOAT32_STEPS)


def test_with_gradient_accumulation_each_batch_has_the_weight_of_its_step():
    teacher, start = random_logits(1), random_logits(2)
    student, half = table(start), SAMPLES // 2
    distiller = kn.Distiller(table(teacher), student, DistillationLoss(2.0), student_loss_weight=Decay(0.9, 1, 0.3))
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    history(compiled(distiller, optimizer=optimizer), batch_size=half)
    w = np.where(np.arange(SAMPLES) < half, 0.9, 0.3)[:, None]
    gradient = w * hard(start)[1] + (1 - w) * distillation(teacher, start, 2.0)[1]
    # The mean over the samples of a batch, and over the two batches.
    np.testing.assert_allclose(kernel(student), start - RATE * gradient / half / 2, atol=FLOAT32_STEPS)


# The step


@pytest.mark.parametrize("way", ["plain", "accumulation", "steps_per_execution"])
def test_the_step_counts_the_batches_of_training_and_nothing_else(way):
    if way == "steps_per_execution" and keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    teacher, start = random_logits(1), random_logits(2)
    # Nothing moves, so the distillation loss is the step times a constant.
    distiller = kn.Distiller(table(teacher), table(start), DistillationLoss(2.0), lambda step: step)
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=2 if way == "accumulation" else None)
    if way == "steps_per_execution":
        compiled(distiller, optimizer=optimizer, steps_per_execution=2)
    else:
        eager(distiller, optimizer=optimizer)
    unit = distillation(teacher, start, 2.0)[0].mean()

    def step():
        logs = distiller.evaluate(X, Y, batch_size=SAMPLES // 4, return_dict=True, verbose=0)
        return logs["distillation_loss"] / unit

    assert step() == 0
    history(distiller, batch_size=SAMPLES // 4, epochs=2, validation_data=(X, Y))
    assert step() == pytest.approx(8, rel=FLOAT32_SUMS)
    distiller.predict(X, verbose=0)
    assert step() == pytest.approx(8, rel=FLOAT32_SUMS)
    if way == "plain":
        distiller.train_on_batch(X, Y)
        assert step() == pytest.approx(9, rel=FLOAT32_SUMS)


# Files


def perceptron(width):
    layers = [keras.layers.Dense(width, "relu", name="hidden"), keras.layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input((SAMPLES,)), *layers])


@keras.saving.register_keras_serializable(package="tests")
def first_layer(model):
    return model.layers[0]


def test_a_file_in_safe_mode_keeps_all_of_it_and_training_goes_on_as_if_nothing_had_been(tmp_path):
    distiller = kn.Distiller(
        [perceptron(6), perceptron(5)],
        perceptron(3),
        [DistillationLoss(2.0), keras.losses.MeanSquaredError()],
        [rising, Decay(1.0, 9, 0.5)],
        student_loss_weight=Decay(0.9, 9, 0.1),
        features=[
            kn.FeatureMatch("hidden", first_layer, HintLoss(), weight=rising),
            kn.FeatureMatch("hidden", "hidden", "mae", 0.5, keras.layers.Dense(5, "tanh"), teacher=1),
        ],
        temperature=Decay(4.0, 9, 1.0),
        preprocess=keras.layers.Rescaling(2.0),
        teacher_weights=[1.0, 3.0],
    )
    distiller.compile(keras.optimizers.Adam(0.05), crossentropy())
    history(distiller, batch_size=SAMPLES // 2)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras", safe_mode=True)
    ways = [model.evaluate(X, Y, batch_size=SAMPLES // 2, return_dict=True, verbose=0) for model in (distiller, again)]
    assert ways[1] == ways[0]
    ways = [history(model, batch_size=SAMPLES // 2, epochs=2) for model in (distiller, again)]
    assert ways[1] == ways[0]
    for got, wanted in zip(again.get_weights(), distiller.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


# Every loss that has a temperature

OTHER_TEMPERATURE, TEMPERATURE = 7.0, 2.5
LOSSES = {
    "logits": (DistillationLoss, {}),
    "probs": (DistillationLoss, {"teacher": "probs", "teacher_temperature": 2.0}),
    "log_probs": (DistillationLoss, {"teacher": "log_probs"}),
    "student's probs": (DistillationLoss, {"from_logits": False}),
    "standardized": (DistillationLoss, {"standardize": True}),
    "independent": (DistillationLoss, {"exclusive": False}),
    "independent probs": (DistillationLoss, {"exclusive": False, "teacher": "probs", "from_logits": False}),
    "decoupled": (DecoupledDistillationLoss, {"alpha": 0.5, "beta": 2.0}),
    "correlation": (CorrelationDistillationLoss, {"beta": 2.0}),
    "Jensen-Shannon": (JensenShannonDistillationLoss, {"beta": 0.3}),
    "reverse": (JensenShannonDistillationLoss, {"beta": 1.0, "standardize": True}),
    "of Keras": (keras.distillation.LogitsDistillation, {}),
    "of Keras, beyond its divergence": (keras.distillation.LogitsDistillation, {"loss": "mse"}),
}


@pytest.mark.parametrize("which", LOSSES)
def test_a_scheduled_temperature_is_that_temperature_in_value_and_gradient(which):
    loss, arguments = LOSSES[which]
    ending = "sigmoid" if not arguments.get("exclusive", True) else "softmax"
    of_teacher = {"probs": ending, "log_probs": "log_softmax"}.get(arguments.get("teacher"))
    of_student = None if arguments.get("from_logits", True) else ending
    teacher, start = table(random_logits(1), of_teacher), random_logits(2)
    results = []
    for temperature, schedule in ((TEMPERATURE, None), (OTHER_TEMPERATURE, lambda step: TEMPERATURE)):
        student = table(start, of_student)
        losses = loss(temperature=temperature, **arguments)
        distiller = kn.Distiller(teacher, student, losses, student_loss_weight=0.0, temperature=schedule)
        results.append((history(eager(distiller))["distillation_loss"][0], kernel(student)))
    (wanted, moved), (got, moved_by_schedule) = results
    # Probabilities round to 6e-8 before their logarithm is taken; all else is a few roundings.
    assert got == pytest.approx(wanted, rel=2e-5)
    np.testing.assert_allclose(moved_by_schedule, moved, atol=FLOAT32_STEPS)
    assert np.abs(moved - np.float32(start)).max() > 1e-3


def test_a_temperature_of_relations_between_positions_is_that_temperature():
    inputs = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("float32")
    models = [keras.Sequential([keras.Input((5, 6)), keras.layers.Dense(4)]) for _ in range(2)]
    values = []
    for loss, temperature in ((AttentionRelationLoss(temperature=3.0), None), (AttentionRelationLoss(), 3.0)):
        distiller = eager(kn.Distiller(*models, loss, student_loss_weight=0.0, temperature=temperature))
        logs = distiller.evaluate(inputs, np.zeros((3, 5)), return_dict=True, verbose=0)
        values.append(logs["distillation_loss"])
    assert values[1] == pytest.approx(values[0], rel=FLOAT32_SUMS)


def test_targets_that_were_taken_at_one_temperature_serve_no_other():
    loss = DistillationLoss(2.0, teacher="top_k", teacher_temperature=2.0)
    with pytest.raises(ValueError, match=r"`temperature` must be a constant with `teacher='top_k'`"):
        history(eager(kn.Distiller(table(random_logits(1)), table(random_logits(2)), loss, temperature=rising)))


class SquaredScores(keras.losses.Loss):
    """A Keras loss with a temperature that its config does not hold."""

    def __init__(self, temperature=4.0, name="squared_scores", reduction="sum_over_batch_size"):
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        """T^2 times the mean squared difference of the probabilities."""
        scores = [keras.ops.softmax(logits / self.temperature) for logits in (y_true, y_pred)]
        return self.temperature**2 * keras.ops.mean(keras.ops.square(scores[0] - scores[1]), axis=-1)


def test_a_keras_loss_whose_config_lacks_its_temperature_takes_another_one():
    teacher, logits = random_logits(1), random_logits(2)

    def value(own_temperature, temperature):
        losses = SquaredScores(own_temperature)
        distiller = kn.Distiller(table(teacher), table(logits), losses, temperature=temperature)
        return eager(distiller).evaluate(X, Y, return_dict=True, verbose=0)["distillation_loss"]

    assert value(OTHER_TEMPERATURE, TEMPERATURE) == pytest.approx(value(TEMPERATURE, None), rel=FLOAT32_SUMS)
    assert value(OTHER_TEMPERATURE, None) != pytest.approx(value(TEMPERATURE, None), rel=100 * FLOAT32_SUMS)
