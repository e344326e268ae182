"""Distiller: the objective against a second implementation, what reaches it, what it leaves alone, errors."""

import functools

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import DistillationLoss, FocalLoss
from tests.distillation import training
from tests.distillation.training import (
    crossentropy,
    same,
    weights_of,
)
from tests.losses.references import distillation, log_softmax

pytestmark = pytest.mark.any_backend

CLASSES, FEATURES, SAMPLES = 4, 6, 32
# One step of SGD in float32 against float64 sums over 32 samples.
FLOAT32_SUMS = 1e-5


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)


linear = functools.partial(training.linear, features=FEATURES, classes=CLASSES)


class Subclassed(keras.Model):
    """A linear model whose output shape only a call tells."""

    def __init__(self, classes):
        super().__init__()
        self.dense = keras.layers.Dense(classes)

    def call(self, inputs):
        return self.dense(inputs)


compiled = functools.partial(training.compiled, rate=0.1, run_eagerly=False, jit_compile="auto")


fitted = training.fitted


# The objective


def test_one_step_is_gradient_descent_on_the_stated_objective(data):
    x, y = data
    teacher, student = linear("teacher"), linear("student")
    (kernel, bias), teacher_logits = weights_of(student), teacher.predict(x, verbose=0)
    logits = x.astype("float64") @ kernel + bias
    weights = np.linspace(0, 2, SAMPLES)
    distiller = compiled(kn.Distiller(teacher, student, DistillationLoss(2.0), student_loss_weight=0.3))

    logs = fitted(distiller, x, y, sample_weight=weights)

    soft, soft_gradient = distillation(teacher_logits, logits, 2.0)
    hard_gradient = np.exp(log_softmax(logits)) - np.eye(CLASSES)[y]
    gradient = weights[:, None] * (0.3 * hard_gradient + 0.7 * soft_gradient) / SAMPLES
    np.testing.assert_allclose(weights_of(student)[0], kernel - 0.1 * x.T @ gradient, atol=FLOAT32_SUMS)
    np.testing.assert_allclose(weights_of(student)[1], bias - 0.1 * gradient.sum(0), atol=FLOAT32_SUMS)
    hard = -log_softmax(logits)[np.arange(SAMPLES), y]
    assert logs["student_loss"] == pytest.approx((weights * hard).mean(), rel=FLOAT32_SUMS)
    assert logs["distillation_loss"] == pytest.approx((weights * soft).mean(), rel=FLOAT32_SUMS)
    assert logs["loss"] == pytest.approx((weights * (0.3 * hard + 0.7 * soft)).mean(), rel=FLOAT32_SUMS)
    assert logs["total_loss"] == pytest.approx(logs["loss"], rel=1e-6)


def test_weight_one_is_training_without_a_teacher(data):
    x, y = data
    alone, student = linear("alone"), linear("student")
    student.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.1), crossentropy())
    fitted(alone, x, y, epochs=3)
    fitted(compiled(kn.Distiller(linear("teacher"), student, student_loss_weight=1.0)), x, y, epochs=3)
    for got, wanted in zip(weights_of(student), weights_of(alone), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_weight_zero_is_training_on_the_teachers_logits_and_needs_no_labels(data):
    x, _ = data
    teacher, alone, student = linear("teacher"), linear("alone"), linear("student")
    student.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.1), DistillationLoss(3.0))
    fitted(alone, x, teacher.predict(x, verbose=0), epochs=3)
    distiller = kn.Distiller(teacher, student, DistillationLoss(3.0), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.1))
    fitted(distiller, x, None, epochs=3)
    for got, wanted in zip(weights_of(student), weights_of(alone), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_several_distillation_losses_are_weighted_and_summed(data):
    x, y = data
    teacher, student = linear("teacher"), linear("student")
    pair = (teacher.predict(x, verbose=0), student.predict(x, verbose=0))
    wanted = 0.5 * float(DistillationLoss(2.0)(*pair)) + 2.0 * float(keras.losses.MeanSquaredError()(*pair))
    losses = [DistillationLoss(2.0), keras.losses.MeanSquaredError()]
    logs = compiled(kn.Distiller(teacher, student, losses, [0.5, 2.0])).evaluate(x, y, return_dict=True, verbose=0)
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_an_object_of_keras_distillation_is_taken(data):
    x, y = data
    theirs = keras.distillation.LogitsDistillation(2.0, loss=keras.losses.KLDivergence())
    teacher, student = linear("teacher"), linear("student")
    first = compiled(kn.Distiller(teacher, student, theirs)).evaluate(x, y, return_dict=True, verbose=0)
    ours = compiled(kn.Distiller(teacher, student, DistillationLoss(2.0))).evaluate(x, y, return_dict=True, verbose=0)
    assert first == pytest.approx(ours, rel=1e-4)


# What reaches the objective


def test_samples_of_weight_zero_do_not_move_the_student(data):
    x, y = data
    student = linear("student")
    before = weights_of(student)
    distiller = compiled(kn.Distiller(linear("teacher"), student))
    fitted(distiller, x, y, sample_weight=np.zeros(SAMPLES))
    assert same(weights_of(student), before)
    fitted(distiller, x, y, class_weight=dict.fromkeys(range(CLASSES), 0.0))
    assert same(weights_of(student), before)


def test_class_weights_are_sample_weights(data):
    x, y = data
    teacher, first, second = linear("teacher"), linear("first"), linear("second")
    second.set_weights(first.get_weights())
    weights = {0: 0.0, 1: 1.0, 2: 2.0, 3: 0.5}
    fitted(compiled(kn.Distiller(teacher, first)), x, y, class_weight=weights)
    fitted(compiled(kn.Distiller(teacher, second)), x, y, sample_weight=np.array([weights[label] for label in y]))
    for got, wanted in zip(weights_of(first), weights_of(second), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_regularizers_count_once_and_in_full(data, weight):
    x, y = data
    student = linear("student", kernel_regularizer=keras.regularizers.L2(0.01))
    penalty = 0.01 * (weights_of(student)[0] ** 2).sum()
    distiller = compiled(kn.Distiller(linear("teacher"), student, student_loss_weight=weight))
    logs = distiller.evaluate(x, y, return_dict=True, verbose=0)
    mixed = weight * logs["student_loss"] + (1 - weight) * logs["distillation_loss"]
    assert logs["loss"] == pytest.approx(mixed + penalty, rel=FLOAT32_SUMS)


def test_losses_added_by_layers_count_for_the_student_and_not_for_the_teacher(data):
    x, y = data
    add_loss = {"activity_regularizer": keras.regularizers.L2(0.5)}
    for teacher, student, counts in (
        (linear("teacher"), linear("student", **add_loss), True),
        (linear("teacher", kernel_regularizer=keras.regularizers.L2(9.0), **add_loss), linear("student"), False),
    ):
        distiller = compiled(kn.Distiller(teacher, student))
        for _ in range(2):  # what the teacher adds in one step must not turn up in the next
            logs = fitted(distiller, x, y)
            extra = logs["loss"] - 0.5 * (logs["student_loss"] + logs["distillation_loss"])
            assert (extra > 1e-3) == counts
            assert counts or abs(extra) < 1e-5


def test_masked_timesteps_count_in_no_term():
    tokens = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0]] * 4)
    labels = np.where(tokens > 0, tokens % 3, 0)

    def tagger(name, table):
        inputs = keras.Input((5,), dtype="int32")
        embedded = keras.layers.Embedding(4, 8, mask_zero=True, embeddings_initializer=table)(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(embedded), name=name)

    student = tagger("student", "uniform")
    logs = []
    for padding in (0.0, 50.0):
        rows = np.random.default_rng(0).normal(size=(4, 8))
        rows[0] = padding
        teacher = tagger("teacher", keras.initializers.Constant(rows.tolist()))
        teacher.layers[-1].set_weights([np.eye(8, 3), np.zeros(3)])
        distiller = compiled(kn.Distiller(teacher, student))
        logs.append(distiller.evaluate(tokens, labels, return_dict=True, verbose=0))
    assert logs[0]["distillation_loss"] > 0.01
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


def test_samples_without_a_label_take_part_through_the_teacher_alone(data):
    x, y = data
    teacher, student = linear("teacher"), linear("student")
    labelled = np.arange(SAMPLES) < 8
    distiller = compiled(kn.Distiller(teacher, student), crossentropy(ignore_class=-1))
    some = distiller.evaluate(x, np.where(labelled, y, -1), batch_size=SAMPLES, return_dict=True, verbose=0)
    every = distiller.evaluate(x, y, batch_size=SAMPLES, return_dict=True, verbose=0)
    only = distiller.evaluate(x[labelled], y[labelled], batch_size=SAMPLES, return_dict=True, verbose=0)
    assert some["distillation_loss"] == pytest.approx(every["distillation_loss"], rel=1e-6)
    assert some["student_loss"] == pytest.approx(only["student_loss"], rel=1e-5)
    ours = compiled(kn.Distiller(teacher, student), FocalLoss(0.0, from_logits=True, ignore_class=-1))
    again = ours.evaluate(x, np.where(labelled, y, -1), batch_size=SAMPLES, return_dict=True, verbose=0)
    assert again["student_loss"] == pytest.approx(some["student_loss"], rel=1e-5)


def test_logs_are_means_over_samples_and_not_over_batches(data):
    x, y = data
    distiller = compiled(kn.Distiller(linear("teacher"), linear("student")))
    whole = distiller.evaluate(x, y, batch_size=SAMPLES, return_dict=True, verbose=0)
    uneven = distiller.evaluate(x, y, batch_size=20, return_dict=True, verbose=0)
    assert whole == pytest.approx(uneven, rel=FLOAT32_SUMS)


# What it leaves alone


def with_state(name):
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(CLASSES)], name=name)


def test_the_teacher_is_frozen_to_the_last_bit(data):
    x, y = data
    teacher = with_state("teacher")
    before, answers = weights_of(teacher), teacher.predict(x, verbose=0)
    fitted(compiled(kn.Distiller(teacher, with_state("student"))), x, y, epochs=3)
    assert same(weights_of(teacher), before)
    np.testing.assert_array_equal(teacher.predict(x, verbose=0), answers)


def test_evaluate_leaves_the_student_to_the_last_bit(data):
    x, y = data
    student = with_state("student")
    distiller = compiled(kn.Distiller(with_state("teacher"), student))
    before = weights_of(student)
    first = distiller.evaluate(x, y, return_dict=True, verbose=0)
    assert same(weights_of(student), before)
    assert first == pytest.approx(distiller.evaluate(x, y, return_dict=True, verbose=0), rel=1e-6)


class Halves(keras.utils.PyDataset):
    """Two batches, by index."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        half = slice(index * SAMPLES // 2, (index + 1) * SAMPLES // 2)
        return self.x[half], self.y[half]


def test_the_student_runs_once_a_step_and_the_teacher_without_training(data):
    calls = []

    @keras.saving.register_keras_serializable(package="tests")
    class Recorder(keras.layers.Layer):
        def call(self, inputs, training=None):
            calls.append((self.name, bool(training)))
            return inputs

    def recorded(name):
        layers = [Recorder(name=name), keras.layers.Dense(CLASSES)]
        return keras.Sequential([keras.Input((FEATURES,)), *layers], name=f"{name}_model")

    distiller = kn.Distiller(recorded("teacher"), recorded("student"))
    compiled(distiller, run_eagerly=True, jit_compile=False)
    calls.clear()
    # As a data set: in arrays the teacher's first answers would be looked at once more, before the first batch.
    distiller.fit(Halves(*data), epochs=1, verbose=0)
    assert calls.count(("student", True)) == 2
    assert ("teacher", True) not in calls
    # Some backends call both once more, to build them.
    assert calls.count(("teacher", False)) == 2 + calls.count(("student", False))


# Keras around it


def test_predict_is_the_students(data):
    x, y = data
    student = linear("student")
    distiller = compiled(kn.Distiller(linear("teacher"), student), metrics=["accuracy"])
    logs = fitted(distiller, x, y, validation_data=(x, y))
    np.testing.assert_allclose(distiller.predict(x, verbose=0), student.predict(x, verbose=0), atol=1e-6)
    assert logs["val_accuracy"] == pytest.approx((student.predict(x, verbose=0).argmax(-1) == y).mean())
    names = {"loss", "student_loss", "distillation_loss", "total_loss", "accuracy"}
    assert set(logs) == names | {f"val_{name}" for name in names}


def test_survives_a_round_trip_through_a_keras_file_in_safe_mode(data, tmp_path):
    x, y = data
    distiller = compiled(kn.Distiller(linear("teacher"), linear("student"), [DistillationLoss(2.0)], [0.7], 0.3))
    fitted(distiller, x, y)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras", safe_mode=True)
    assert not again.teacher.trainable
    assert same(weights_of(again), weights_of(distiller))
    wanted = distiller.evaluate(x, y, return_dict=True, verbose=0)
    assert again.evaluate(x, y, return_dict=True, verbose=0) == pytest.approx(wanted, rel=1e-6)
    assert fitted(again, x, y) == pytest.approx(fitted(distiller, x, y), rel=1e-6)


def test_mixed_precision_and_gradient_accumulation_train(data):
    x, y = data
    student = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, dtype="mixed_bfloat16")])
    distiller = kn.Distiller(linear("teacher"), student)
    distiller.compile(keras.optimizers.Adam(0.05, gradient_accumulation_steps=2), crossentropy())
    history = distiller.fit(x, y, epochs=20, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.7 * history[0]


def test_unbuilt_models_are_built_by_the_first_batch(data):
    for teacher, student in (
        [keras.Sequential([keras.layers.Dense(CLASSES)]) for _ in range(2)],
        (linear("teacher"), Subclassed(CLASSES)),
    ):
        logs = fitted(compiled(kn.Distiller(teacher, student)), *data)
        assert np.isfinite(logs["loss"])
        assert student.built


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"student_loss_weight": 1.5}, ValueError, r"`student_loss_weight` must be in \[0, 1\]"),
        ({"distillation_losses": "kl_divergence"}, TypeError, "must hold loss objects"),
        (
            {"distillation_losses": [DistillationLoss()], "distillation_loss_weights": [1, 2]},
            ValueError,
            "2 weights for 1",
        ),
        ({"distillation_losses": []}, ValueError, "`distillation_losses` must not be empty"),
        ({"distillation_loss_weights": np.array([1.0, 2.0])}, ValueError, "2 weights for 1"),
        ({"distillation_loss_weights": [-1.0]}, ValueError, "`distillation_loss_weights` must be >= 0"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        kn.Distiller(linear("teacher"), linear("student"), **arguments)


def test_teacher_and_student_with_different_class_counts_are_an_error():
    other = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES + 1)])
    with pytest.raises(ValueError, match=r"classes included. Received: teacher \(4,\), student \(5,\)"):
        kn.Distiller(linear("teacher"), other)


def test_unknown_sizes_are_no_difference():
    sequences = [keras.Sequential([keras.Input((steps, FEATURES)), keras.layers.Dense(2)]) for steps in (None, 5)]
    kn.Distiller(*sequences)
    kn.Distiller(keras.Sequential([keras.Input((3,), batch_size=8), keras.layers.Dense(2)]), linear_of(3, 2))


def linear_of(features, classes):
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(classes)])


def test_subclassed_models_of_other_class_counts_never_broadcast(data):
    distiller = kn.Distiller(Subclassed(CLASSES), Subclassed(1), keras.losses.MeanSquaredError())
    compiled(distiller, keras.losses.MeanSquaredError(), run_eagerly=True, jit_compile=False)
    with pytest.raises(ValueError, match="The teacher's output and the student's must have the same shape"):
        fitted(distiller, *data)


def test_different_numbers_of_outputs_are_an_error():
    inputs = keras.Input((FEATURES,))
    two = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)])
    with pytest.raises(ValueError, match=r"as many outputs as each other\. Received: teacher 1, student 2"):
        kn.Distiller(linear("teacher"), two)


def test_an_own_class_of_keras_distillation_must_give_a_scalar_and_has_no_weights(data):
    x, y = data

    class Custom(keras.distillation.DistillationLoss):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return keras.ops.mean(keras.ops.square(teacher_outputs - student_outputs))

    distiller = compiled(
        kn.Distiller(linear("teacher"), linear("student"), Custom()), run_eagerly=True, jit_compile=False
    )
    fitted(distiller, x, y)
    with pytest.raises(ValueError, match="must be None with Custom, which cannot take them"):
        fitted(distiller, x, y, sample_weight=np.ones(SAMPLES))

    class PerSample(keras.distillation.LogitsDistillation):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return keras.ops.sum(student_outputs, axis=-1)

    distiller = compiled(kn.Distiller(linear("a"), linear("b"), PerSample()), run_eagerly=True, jit_compile=False)
    with pytest.raises(ValueError, match="PerSample must return a scalar"):
        fitted(distiller, x, y)


def test_the_loss_can_be_computed_without_predictions(data):
    x, y = map(keras.ops.convert_to_tensor, data)
    distiller = compiled(kn.Distiller(linear("teacher"), linear("student")))
    wanted = float(keras.ops.convert_to_numpy(distiller.compute_loss(x, y, distiller(x), training=False)))
    assert float(keras.ops.convert_to_numpy(distiller.compute_loss(x, y, training=False))) == pytest.approx(wanted)


def test_one_model_cannot_be_teacher_and_student():
    model = linear("both")
    with pytest.raises(ValueError, match=r"must be two models\. Received: 'both' for both"):
        kn.Distiller(model, model)
    with pytest.raises(TypeError, match=r"`student` must be a keras\.Model\. Received: student='str'"):
        kn.Distiller(model, "student")


def test_a_missing_loss_or_missing_labels_are_errors(data):
    x, _ = data
    distiller = kn.Distiller(linear("teacher"), linear("student"))
    with pytest.raises(ValueError, match="`loss` must be given unless `student_loss_weight` is 0"):
        distiller.compile("sgd")
    compiled(distiller, run_eagerly=True, jit_compile=False)
    with pytest.raises(ValueError, match="`y` must be given unless `student_loss_weight` is 0"):
        fitted(distiller, x, None)
