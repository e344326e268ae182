"""In the place of keras.distillation: its objects, its arguments, and what they are to compute."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.distillation import FeatureDistillation, LogitsDistillation

import keras_notes as kn
from tests.distillation.training import (
    CLASSES,
    FLOAT32_PROBABILITIES,
    FLOAT32_STEP,
    FLOAT32_SUMS,
    RATE,
    SAMPLES,
    X,
    Y,
    compiled,
    evaluated,
    fitted,
    kernel,
    random_logits,
    same,
    table,
    weights_of,
)
from tests.losses.references import distillation, sigmoid, softmax

pytestmark = pytest.mark.any_backend

ROOT = Path(__file__).resolve().parent.parent.parent


def perceptron(width, seed=0, **arguments):
    rng = np.random.default_rng(seed)
    layers = [
        keras.layers.Dense(width, use_bias=False, name="hidden", **arguments),
        keras.layers.Dense(CLASSES, use_bias=False),
    ]
    model = keras.Sequential([keras.Input((SAMPLES,)), *layers])
    model.set_weights([rng.normal(size=(SAMPLES, width)), rng.normal(size=(width, CLASSES))])
    return model


def by_the_teacher_alone(teacher, student, losses, weights=None):
    return compiled(kn.Distiller(teacher, student, losses, weights, student_loss_weight=0.0))


# What LogitsDistillation is to compute


@pytest.mark.parametrize(
    "loss",
    [
        None,
        "categorical_crossentropy",
        keras.losses.KLDivergence(),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ],
)
def test_its_losses_of_probabilities_are_distillation_by_value_and_gradient(loss):
    logits, start = random_logits(1, 10, scale=3.0), random_logits(2, 10, scale=3.0)
    student = table(start)
    theirs = LogitsDistillation(3.0) if loss is None else LogitsDistillation(3.0, loss)
    logs = fitted(by_the_teacher_alone(table(logits), student, theirs))
    values, gradient = distillation(logits, start, 3.0)
    assert logs["distillation_loss"] == pytest.approx(values.mean(), rel=FLOAT32_SUMS)
    np.testing.assert_allclose(kernel(student), start - RATE * gradient / SAMPLES, atol=FLOAT32_STEP)


def test_large_logits_keep_their_whole_gradient():
    logits, start = random_logits(1, 100, scale=10.0), random_logits(2, 100, scale=10.0)
    student = table(start)
    fitted(by_the_teacher_alone(table(logits), student, LogitsDistillation(1.0)))
    got = (np.float32(start) - kernel(student)) * SAMPLES / RATE
    wanted = softmax(start) - softmax(logits)
    assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(wanted), rel=1e-4)
    # Gradients are read from differences of kernels of size 30.
    np.testing.assert_allclose(got, wanted, atol=SAMPLES / RATE * 30 * 6e-8)


def test_its_other_losses_are_computed_on_the_outputs_over_the_temperature():
    logits, start = random_logits(1), random_logits(2)
    distiller = by_the_teacher_alone(table(logits), table(start), LogitsDistillation(4.0, "mse"))
    wanted = np.square((logits - start) / 4.0).mean()
    assert evaluated(distiller)["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_models_that_end_in_a_softmax_give_the_numbers_of_their_logits():
    logits, start = random_logits(1), random_logits(2)
    results = []
    for of_teacher, of_student in ((None, None), ("softmax", None), (None, "softmax"), ("softmax", "softmax")):
        student = table(start, of_student)
        distiller = by_the_teacher_alone(table(logits, of_teacher), student, LogitsDistillation(2.0))
        results.append((fitted(distiller)["distillation_loss"], kernel(student)))
    assert results[0][0] == pytest.approx(distillation(logits, start, 2.0)[0].mean(), rel=FLOAT32_SUMS)
    for value, moved in results[1:]:
        assert value == pytest.approx(results[0][0], rel=FLOAT32_PROBABILITIES)
        np.testing.assert_allclose(moved, results[0][1], atol=FLOAT32_PROBABILITIES)


def test_models_that_end_in_sigmoids_are_distilled_label_for_label():
    logits, start = random_logits(1), random_logits(2)
    models = [table(values, "sigmoid") for values in (logits, start)]
    p, q = sigmoid(logits / 2.0), sigmoid(start / 2.0)
    wanted = 4.0 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    got = evaluated(by_the_teacher_alone(*models, LogitsDistillation(2.0)))["distillation_loss"]
    assert got == pytest.approx(wanted, rel=FLOAT32_PROBABILITIES)


@pytest.mark.parametrize("endings", [("softmax", None), (None, "softmax")])
def test_one_object_serves_outputs_of_logits_and_of_probabilities(endings):
    values = [[random_logits(2 * i + j) for j in range(2)] for i in range(2)]

    def model(kernels):
        inputs = keras.Input((SAMPLES,))
        layers = [keras.layers.Dense(CLASSES, use_bias=False, activation=ending) for ending in endings]
        network = keras.Model(inputs, [layer(inputs) for layer in layers])
        network.set_weights(kernels)
        return network

    distiller = by_the_teacher_alone(*map(model, values), LogitsDistillation(2.0))
    wanted = sum(distillation(*pair, 2.0)[0].mean() for pair in zip(*values, strict=True))
    assert evaluated(distiller, y=[Y, Y])["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_PROBABILITIES)


def test_a_teacher_in_half_precision_teaches_a_student_in_float32():
    logits, start = random_logits(1), random_logits(2)
    student = table(start)
    logs = fitted(by_the_teacher_alone(table(logits, dtype="float16"), student, LogitsDistillation(2.0)))
    wanted = distillation(np.float16(logits), start, 2.0)[0].mean()
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


# Several outputs


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_its_objects_train_models_with_several_outputs(kind):
    def as_kind(first, second):
        return {"list": [first, second], "tuple": (first, second), "dict": {"u": first, "v": second}}[kind]

    values = [[random_logits(2 * i + j) for j in range(2)] for i in range(2)]

    def model(kernels):
        inputs = keras.Input((SAMPLES,))
        layers = [keras.layers.Dense(CLASSES, use_bias=False, name=name) for name in "uv"]
        network = keras.Model(inputs, as_kind(*(layer(inputs) for layer in layers)))
        for layer, weights in zip(layers, kernels, strict=True):
            layer.set_weights([weights])
        return network

    losses = [
        LogitsDistillation(2.0, loss=as_kind("kl_divergence", None)),
        FeatureDistillation(loss=as_kind(None, "mse")),
    ]
    teacher, student = map(model, values)
    distiller = by_the_teacher_alone(teacher, student, losses, [0.5, 2.0])
    logs = fitted(distiller, y=as_kind(Y, Y))
    (t_u, t_v), (s_u, s_v) = values
    soft, gradient = distillation(t_u, s_u, 2.0)
    wanted = 0.5 * soft.mean() + 2.0 * np.square(t_v - s_v).mean()
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)
    u, v = (np.float64(student.get_layer(name).get_weights()[0]) for name in "uv")
    np.testing.assert_allclose(u, s_u - RATE * 0.5 * gradient / SAMPLES, atol=FLOAT32_STEP)
    np.testing.assert_allclose(v, s_v - RATE * 2.0 * 2 * (s_v - t_v) / s_v.size, atol=FLOAT32_STEP)


# What reaches its objects


BOTH = [LogitsDistillation(2.0), FeatureDistillation("mse", "hidden", "hidden")]


def both_values(teacher, student):
    """Per sample: the losses that BOTH stand for."""
    (t_hidden, t), (s_hidden, s) = (
        (first, first @ second) for first, second in (map(np.float64, m.get_weights()) for m in (teacher, student))
    )
    return distillation(t, s, 2.0)[0] + np.square(t_hidden - s_hidden).mean(-1)


def test_sample_weights_and_class_weights_reach_them():
    teacher, student = perceptron(5, 1), perceptron(5, 2)
    values, weights = both_values(teacher, student), np.linspace(0, 2, SAMPLES)
    logs = evaluated(by_the_teacher_alone(teacher, student, BOTH), sample_weight=weights)
    assert logs["distillation_loss"] == pytest.approx((weights * values).mean(), rel=FLOAT32_SUMS)
    before = weights_of(student)
    distiller = compiled(kn.Distiller(teacher, student, BOTH))
    fitted(distiller, sample_weight=np.zeros(SAMPLES))
    fitted(distiller, class_weight=dict.fromkeys(range(CLASSES), 0.0))
    assert same(weights_of(student), before)


def test_padding_counts_nothing():
    tokens = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0]])
    rows = [np.random.default_rng(seed).normal(size=(4, 3)) for seed in (1, 2)]

    def tagger(values, padding):
        layer = keras.layers.Embedding(4, 3, mask_zero=True, name="scores")
        model = keras.Sequential([keras.Input((5,), dtype="int32"), layer])
        layer.set_weights([np.concatenate([np.full((1, 3), padding), values[1:]])])
        return model

    losses = [LogitsDistillation(2.0), FeatureDistillation("mse", "scores", "scores")]
    distiller = by_the_teacher_alone(tagger(rows[0], 50.0), tagger(rows[1], 0.0), losses)
    logs = evaluated(distiller, tokens, np.zeros_like(tokens))
    t, s = (values[tokens[tokens > 0]] for values in rows)
    wanted = distillation(t, s, 2.0)[0].mean() + np.square(t - s).mean()
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_penalties_of_the_student_count_beside_them():
    penalty = {"kernel_regularizer": keras.regularizers.L2(0.01), "activity_regularizer": keras.regularizers.L1(0.02)}
    student = perceptron(5, 2, **penalty)
    logs = evaluated(compiled(kn.Distiller(perceptron(5, 1, **penalty), student, BOTH)))
    hidden = kernel(student)  # on X these are the activities, too
    wanted = 0.01 * np.square(hidden).sum() + 0.02 * np.abs(hidden).sum() / SAMPLES
    extra = logs["loss"] - 0.5 * (logs["student_loss"] + logs["distillation_loss"])
    assert extra == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("weight", [[0.25], 0.25])
def test_the_weight_of_a_single_loss_counts(weight):
    logits, start = random_logits(1), random_logits(2)
    distiller = by_the_teacher_alone(table(logits), table(start), LogitsDistillation(2.0), weight)
    wanted = 0.25 * distillation(logits, start, 2.0)[0].mean()
    assert evaluated(distiller)["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_metrics_may_be_a_dictionary():
    start = random_logits(2)

    def model(values):
        inputs = keras.Input((SAMPLES,))
        layer = keras.layers.Dense(CLASSES, use_bias=False)
        network = keras.Model(inputs, {"scores": layer(inputs)})
        network.set_weights([values])
        return network

    distiller = kn.Distiller(model(random_logits(1)), model(start), LogitsDistillation(2.0))
    logs = evaluated(compiled(distiller, metrics={"scores": ["accuracy"]}), y={"scores": Y})
    assert logs["accuracy"] == pytest.approx((start.argmax(-1) == Y).mean())


# Features


def test_features_of_two_widths_are_matched_behind_a_connector():
    teacher, student = perceptron(5, 1), perceptron(3, 2)
    distiller = by_the_teacher_alone(teacher, student, FeatureDistillation("mse", "hidden", "hidden"))
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    wanted = np.square(kernel(teacher) - kernel(student) @ weight - bias).mean()
    assert evaluated(distiller)["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_a_feature_of_width_one_is_never_broadcast():
    teacher, student = perceptron(5, 1), perceptron(1, 2)
    distiller = by_the_teacher_alone(teacher, student, FeatureDistillation("mse", "hidden", "hidden"))
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    wanted = np.square(kernel(teacher) - kernel(student) @ weight - bias).mean()
    assert evaluated(distiller)["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_features_of_nested_and_subclassed_models_are_matched():
    class Outer(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, inputs):
            return self.inner(inputs)

    teacher, student = perceptron(5, 1), perceptron(5, 2)
    inputs = keras.Input((SAMPLES,))
    nested = keras.Model(inputs, teacher(inputs))
    match = FeatureDistillation("mse", f"{teacher.name}/hidden", "inner/hidden")
    distiller = by_the_teacher_alone(nested, Outer(student), match)
    wanted = np.square(kernel(teacher) - kernel(student)).mean()
    assert evaluated(distiller)["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_with_features_the_student_runs_once_a_step_and_evaluate_leaves_its_statistics_alone():
    calls = []

    class Counted(keras.layers.BatchNormalization):
        def call(self, inputs, training=None, **arguments):
            calls.append(bool(training))
            return super().call(inputs, training=training, **arguments)

    layers = [keras.layers.Dense(5, name="hidden"), Counted(name="norm"), keras.layers.Dense(CLASSES)]
    student = keras.Sequential([keras.Input((SAMPLES,)), *layers])
    losses = [LogitsDistillation(2.0), FeatureDistillation("mse", "hidden", "norm")]
    distiller = compiled(kn.Distiller(perceptron(5, 1), student, losses))
    before = weights_of(student)
    evaluated(distiller)  # some backends call the models once more at first
    assert same(weights_of(student), before)
    calls.clear()
    fitted(distiller, epochs=3)
    assert calls.count(True) == 3
    assert not same(weights_of(student.get_layer("norm")), before[2:6])


def test_an_unknown_layer_is_an_error_that_offers_the_nearest():
    with pytest.raises(ValueError, match=r"`student_layer` must be a layer of .*'hidden'"):
        kn.Distiller(perceptron(5), perceptron(5), FeatureDistillation("mse", "hidden", "hiden"))


# Around it


def test_its_arguments_may_be_given_by_their_places():
    teacher, student = table(random_logits(1)), table(random_logits(2))
    distiller = kn.Distiller(teacher, student, [LogitsDistillation()], [0.5], 0.3, "named")
    assert distiller.name == "named"
    assert distiller.teacher is teacher
    assert distiller.student is student


def test_a_reloaded_distiller_is_compiled_and_goes_on(tmp_path):
    distiller = compiled(kn.Distiller(perceptron(5, 1), perceptron(3, 2), BOTH), metrics=["accuracy"])
    fitted(distiller)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras", safe_mode=True)
    assert again.compiled
    assert fitted(again) == pytest.approx(fitted(distiller), rel=FLOAT32_SUMS)


def test_fit_takes_its_arguments_by_their_places_and_callbacks_in_any_form():
    class Count(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1
            self.names = set(logs)

    distiller = compiled(kn.Distiller(table(random_logits(1)), table(random_logits(2)), LogitsDistillation()))
    count = Count()
    history = distiller.fit(X, Y, 2, 2, 0, [count], 0.25).history
    names = {"loss", "student_loss", "distillation_loss", "total_loss"}
    assert count.names == set(history) == names | {f"val_{name}" for name in names}
    for callbacks in (count, (count,), [[count]]):
        fitted(distiller, callbacks=callbacks, batch_size=2)
    assert count.epochs == 5
    given = []
    fitted(distiller, callbacks=given, batch_size=2)
    assert given == []


def test_a_list_of_callbacks_of_keras_is_taken_and_given_back_as_it_was():
    distiller = compiled(kn.Distiller(table(random_logits(1)), table(random_logits(2)), LogitsDistillation()))
    callbacks = keras.callbacks.CallbackList([keras.callbacks.TerminateOnNaN()], add_history=True, model=distiller)
    count = len(callbacks.callbacks)
    fitted(distiller, callbacks=callbacks)
    assert len(callbacks.callbacks) == count


PROGRAM = """
import json
import keras, numpy as np, tensorflow as tf
from keras.distillation import FeatureDistillation, LogitsDistillation
import keras_notes as kn

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
results = []
for strategy in (tf.distribute.get_strategy(), two):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        def model(width):
            layers = [keras.layers.Dense(width, name="hidden"), keras.layers.Dense(4, activation="softmax")]
            return keras.Sequential([keras.Input((6,)), *layers])
        student = model(5)
        losses = [
            LogitsDistillation(loss="kl_divergence"),
            LogitsDistillation(loss="mse"),
            FeatureDistillation("mae", "hidden", "hidden"),
        ]
        distiller = kn.Distiller(model(8), student, losses)
        distiller.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(0, 4, 32)
    distiller.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    results.append(np.concatenate([weight.ravel() for weight in student.get_weights()]).tolist())
print(json.dumps(results))
"""


def test_losses_by_their_names_take_the_same_step_on_two_replicas():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("replicas of tf.distribute")
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = json.loads(result.stdout.splitlines()[-1])
    assert two == pytest.approx(one, abs=1e-6)
