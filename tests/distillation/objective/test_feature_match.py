"""FeatureMatch: what stays as it was, ways to train, and errors."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import (
    HintLoss,
)
from tests.distillation.features import (
    CLASSES,
    FEATURES,
    FLOAT32_SUMS,
    NEW_SHAPES,
    compiled,
    feature_loss,
    features_alone,
    fitted,
    perceptron,
    with_inner_model,
)
from tests.distillation.training import (
    same,
    weights_of,
)

pytestmark = pytest.mark.any_backend


def with_state():
    layers = [keras.layers.Dense(5, name="hidden"), keras.layers.BatchNormalization(name="norm")]
    rest = [keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input((FEATURES,)), *layers, *rest])


def test_the_teacher_keeps_every_bit_and_evaluate_changes_none_of_the_student(data):
    x, y = data
    teacher, student = with_state(), with_state()
    matches = [kn.FeatureMatch(name, name, HintLoss()) for name in ("hidden", "norm")]
    distiller = compiled(kn.Distiller(teacher, student, features=matches), **NEW_SHAPES)
    before = [weights_of(teacher), weights_of(student)]
    distiller.evaluate(x, y, verbose=0)
    assert same(weights_of(student), before[1])
    fitted(distiller, x, y, epochs=3)
    assert same(weights_of(teacher), before[0])
    moved, started = (
        dict(zip([w.path for w in student.weights], w, strict=True)) for w in (weights_of(student), before[1])
    )
    assert all((moved[path] != started[path]).any() for path in moved)


def test_whatever_is_matched_the_student_runs_once_a_step_and_no_layer_keeps_another_call(data):
    calls = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs, training=None):
            calls.append((self.name, bool(training)))
            return inputs

    def model(name):
        layers = [Recorder(name=name), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(CLASSES)]
        return keras.Sequential([keras.Input((FEATURES,)), *layers])

    teacher, student = model("teacher"), model("student")
    matches = [kn.FeatureMatch("hidden", "hidden", HintLoss()), kn.FeatureMatch("teacher", "student", "mse")]
    distiller = compiled(kn.Distiller(teacher, student, features=matches))
    feature_loss(distiller, *data)  # some backends call the models once more at first
    calls.clear()
    fitted(distiller, *data, epochs=3)
    assert [training for name, training in calls if name == "student"] == [True] * 3
    assert ("teacher", True) not in calls
    calls.clear()
    feature_loss(distiller, *data)
    assert calls == [("student", False), ("teacher", False)]
    for layer in [*teacher.layers, *student.layers]:
        assert "call" not in vars(layer)


def test_a_forward_pass_that_fails_leaves_the_layers_as_they_were(data):
    class Fails(keras.layers.Layer):
        fails = False

        def call(self, inputs):
            if self.fails:
                raise RuntimeError("in the middle")
            return inputs

    student = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(5, name="hidden"), Fails(), keras.layers.Dense(CLASSES)]
    )
    distiller = features_alone(perceptron(5), student, kn.FeatureMatch("hidden", "hidden", HintLoss()))
    student.layers[1].fails = True
    with pytest.raises(RuntimeError, match="in the middle"):
        fitted(distiller, *data)
    assert "call" not in vars(student.get_layer("hidden"))
    student.layers[1].fails = False
    assert np.isfinite(fitted(distiller, *data)["loss"])


PROGRAM = """
import sys
# Any import of the package is an error.
sys.modules["keras_notes"] = None
import keras, numpy as np
student = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[2], student.predict(np.load(sys.argv[3]), verbose=0))
"""


def test_the_students_file_needs_nothing_of_this_package(data, tmp_path):
    x, y = data
    student = perceptron(3)
    matches = [
        kn.FeatureMatch("hidden", "hidden", HintLoss()),
        kn.FeatureMatch("hidden", "hidden", "mse", projection=keras.layers.Dense(5)),
    ]
    distiller = compiled(kn.Distiller(perceptron(5), student, features=matches, temperature=lambda step: 2.0))
    fitted(distiller, x, y)
    paths = [str(tmp_path / name) for name in ("student.keras", "answers.npy", "x.npy")]
    distiller.student.save(paths[0])
    np.save(paths[2], x)
    # In an empty folder, so that the package is not found beside the program either.
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    np.testing.assert_array_equal(np.load(paths[1]), student.predict(x, verbose=0))


def test_compiled_steps_are_the_eager_ones(data):
    x, y = data
    # torch.compile needs a C++ toolchain at run time.
    jit_compile = keras.backend.backend() != "torch"
    results = []
    for jit in (False, jit_compile):
        arguments = {"run_eagerly": not jit, "jit_compile": jit}
        keras.utils.set_random_seed(0)
        student = perceptron(3)
        distiller = kn.Distiller(perceptron(5), student, features=kn.FeatureMatch("hidden", "hidden", HintLoss()))
        results.append((fitted(compiled(distiller, **arguments), x, y, epochs=3), weights_of(student)))
    assert results[1][0] == pytest.approx(results[0][0], rel=FLOAT32_SUMS)
    for compiled_weights, eager in zip(results[1][1], results[0][1], strict=True):
        np.testing.assert_allclose(compiled_weights, eager, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_students_of_mixed_precision_train_with_features(data, policy):
    x, y = data
    layers = [
        keras.layers.Dense(3, "relu", name="hidden", dtype=policy),
        keras.layers.Dense(CLASSES, dtype=policy),
    ]
    student = keras.Sequential([keras.Input((FEATURES,)), *layers])
    teacher = perceptron(5)
    match = kn.FeatureMatch("hidden", "hidden", HintLoss())
    optimizer = keras.optimizers.Adam(0.05)
    distiller = compiled(
        kn.Distiller(teacher, student, features=match),
        optimizer=keras.optimizers.LossScaleOptimizer(optimizer) if policy == "mixed_float16" else optimizer,
        **NEW_SHAPES,
    )
    history = distiller.fit(x, y, epochs=15, verbose=0).history["distillation_loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, "hidden", "mse"), TypeError, "`teacher_layer` must be a name, a path, a function of the model, or None"),
        (("hidden", ["hidden"], "mse"), TypeError, "`student_layer` must be a name"),
        (("hidden", "hidden", None), TypeError, "`loss` must hold loss objects"),
        (("hidden", "hidden", [HintLoss()]), TypeError, "`loss` must hold loss objects"),
        (("hidden", "hidden", "mse", -1.0), ValueError, "`weight` must be >= 0"),
        (("hidden", "hidden", "mse", float("nan")), ValueError, "`weight` must be finite"),
        (("hidden", "hidden", "mse", 1.0, "dense"), TypeError, '`projection` must be "auto", None or a layer'),
    ],
)
def test_wrong_arguments_of_a_match_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        kn.FeatureMatch(*arguments)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ("hidden", TypeError, r"`features` must hold FeatureMatch objects. Received: features='hidden'"),
        ([("hidden", "hidden")], TypeError, "`features` must hold FeatureMatch objects"),
        (kn.FeatureMatch("hidden", "hidden", "mse", teacher=1), ValueError, r"`teacher` must be .* in \[0, 1\)"),
        (kn.FeatureMatch(lambda m: m.name, "hidden", "mse"), TypeError, "`teacher_layer` must return a layer"),
        (kn.FeatureMatch("hidden", "hidden", "mse", projection=None), ValueError, r"\(None, 5\) and \(None, 3\)"),
    ],
)
def test_features_that_cannot_be_matched_are_errors_at_once(features, error, message):
    with pytest.raises(error, match=message):
        kn.Distiller(perceptron(5), perceptron(3), features=features)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_unknown_layer_offers_the_nearest_and_no_name_of_kerass_own(role):
    names = {"teacher": "hidden", "student": "hidden", role: "hiden"}
    with pytest.raises(ValueError, match=f"`{role}_layer` must be a layer of 'it'") as error:
        kn.Distiller(
            perceptron(5, "it"),
            perceptron(5, "it"),
            features=kn.FeatureMatch(names["teacher"], names["student"], HintLoss()),
        )
    assert "'hidden'" in str(error.value)
    assert "functional" not in str(error.value)


def test_an_unknown_path_offers_the_nearest():
    with pytest.raises(ValueError, match="'inner/first'"):
        kn.Distiller(perceptron(7), with_inner_model(), features=kn.FeatureMatch("hidden", "iner/frst", HintLoss()))


def test_a_layer_that_runs_twice_or_not_at_all_is_an_error(data):
    inputs = keras.Input((FEATURES,))
    shared = keras.layers.Dense(FEATURES, name="shared")
    twice = keras.Model(inputs, keras.layers.Dense(CLASSES)(shared(shared(inputs))))
    with pytest.raises(ValueError, match=r"must run once in a forward pass\. Received: 'shared', which ran 2 times"):
        fitted(features_alone(perceptron(FEATURES), twice, kn.FeatureMatch("hidden", "shared", HintLoss())), *data)

    class Unused(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="outer")
            self.unused = keras.layers.Dense(FEATURES, name="unused")

        def build(self, input_shape):
            self.unused.build(input_shape)

        def call(self, inputs):
            return inputs

    never = keras.Model(inputs, keras.layers.Dense(CLASSES)(Unused()(inputs)))
    with pytest.raises(ValueError, match="Received: 'unused', which ran 0 times"):
        fitted(features_alone(perceptron(FEATURES), never, kn.FeatureMatch("hidden", "outer/unused", "mse")), *data)


def test_a_layer_with_several_outputs_is_an_error(data):
    class Pair(keras.layers.Layer):
        def call(self, inputs):
            return inputs, -inputs

    def model():
        inputs = keras.Input((FEATURES,))
        first, _ = Pair(name="pair")(inputs)
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(first))

    with pytest.raises(ValueError, match=r"must return one tensor\. Received: 'pair', which returns 2"):
        fitted(features_alone(model(), model(), kn.FeatureMatch("pair", "pair", HintLoss())), *data)


def test_features_of_other_positions_or_rank_are_an_error(images):
    def model(strides, pooled):
        convolution = keras.layers.Conv2D(3, 1, strides=strides, name="other" if pooled else "c")
        pooling = keras.layers.GlobalAveragePooling2D(name="c" if pooled else "pool")
        return keras.Sequential([keras.Input((4, 2, 3)), convolution, pooling, keras.layers.Dense(CLASSES)])

    match = kn.FeatureMatch("c", "c", HintLoss())
    with pytest.raises(ValueError, match=r"\(None, 4, 2, 3\) and \(None, 2, 1, 3\).*give `projection` a layer"):
        kn.Distiller(model(1, False), model(2, False), features=match)
    with pytest.raises(ValueError, match=r"\(None, 4, 2, 3\) and \(None, 3\)"):
        kn.Distiller(model(1, False), model(1, True), features=match)
