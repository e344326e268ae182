"""FeatureMatch: which layer is read, what is compared with what, the connectors, and what stays as it was."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import (
    AttentionRelationLoss,
    AttentionTransferLoss,
    DistillationLoss,
    HintLoss,
    ProbabilisticTransferLoss,
    RelationalLoss,
    SimilarityPreservingLoss,
)
from tests.distillation.training import (
    crossentropy,
    same,
    weights_of,
)
from tests.losses.references import distillation

pytestmark = pytest.mark.any_backend

SAMPLES, FEATURES, CLASSES, STEPS = 8, 6, 4, 3
# Two matrix products and a mean in float32 against float64.
FLOAT32_SUMS = 1e-5
# Eager steps start fastest, but for JAX, which compiles each operation on shapes that are new to it.
NEW_SHAPES = {"run_eagerly": False, "jit_compile": True} if keras.backend.backend() == "jax" else {}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, STEPS, FEATURES)).astype("float32"), rng.integers(0, CLASSES, (SAMPLES, STEPS))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, 4, 2, 3)).astype("float32"), rng.integers(0, CLASSES, SAMPLES)


def perceptron(width, name=None):
    layers = [keras.layers.Dense(width, "relu", name="hidden"), keras.layers.Dense(CLASSES, name="logits")]
    return keras.Sequential([keras.Input((FEATURES,)), *layers], name=name)


def hidden(model, x):
    weight, bias = map(np.float64, model.get_layer("hidden").get_weights())
    return np.maximum(x.astype("float64") @ weight + bias, 0)


def logits(model, x):
    weight, bias = map(np.float64, model.get_layer("logits").get_weights())
    return hidden(model, x) @ weight + bias


def compiled(distiller, loss=None, **arguments):
    arguments = {"optimizer": keras.optimizers.SGD(0.1), "run_eagerly": True, "jit_compile": False, **arguments}
    distiller.compile(loss=loss or crossentropy(), **arguments)
    return distiller


def features_alone(teacher, student, *matches, **arguments):
    """Nothing but the features counts. The weight of 0 spares Keras's warning of layers without a gradient."""
    outputs = [keras.losses.MeanSquaredError()], [0.0]
    return compiled(kn.Distiller(teacher, student, *outputs, student_loss_weight=0.0, features=matches), **arguments)


def fitted(distiller, x, y, **arguments):
    arguments = {"batch_size": len(x), "shuffle": False, "verbose": 0, **arguments}
    return {name: values[-1] for name, values in distiller.fit(x, y, **arguments).history.items()}


def feature_loss(distiller, x, y):
    return distiller.evaluate(x, y, batch_size=len(x), return_dict=True, verbose=0)["distillation_loss"]


def mean_square(teacher, student):
    return ((np.float64(teacher) - np.float64(student)) ** 2).mean()


# Which layer is read


def test_layers_by_name_and_outputs_by_none_add_to_the_losses_of_the_outputs(data):
    x, y = data
    teacher, student = perceptron(5), perceptron(5)
    matches = [
        kn.FeatureMatch("hidden", "hidden", HintLoss(), weight=2.5),
        kn.FeatureMatch("hidden", "hidden", "mae", weight=0.7),
        kn.FeatureMatch(None, None, "mse"),
    ]
    distiller = compiled(kn.Distiller(teacher, student, [DistillationLoss(2.0)], [0.5], features=matches))
    (t_hidden, t), (s_hidden, s) = ((hidden(model, x), logits(model, x)) for model in (teacher, student))
    wanted = 0.5 * distillation(t, s, 2.0)[0].mean() + 2.5 * mean_square(t_hidden, s_hidden)
    wanted += 0.7 * np.abs(t_hidden - s_hidden).mean() + mean_square(t, s)
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def with_inner_model():
    """A functional model around a Sequential one around another."""
    inmost = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, name="deep")], name="inmost")
    inner = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(7, name="first"), inmost], name="inner")
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(inner(inputs)))


def test_a_path_leads_into_nested_models(data):
    x, y = data
    teacher, student = with_inner_model(), with_inner_model()

    def after(model, layers):
        values = np.float64(x)
        for weight, bias in [model.get_weights()[:2], model.get_weights()[2:4]][:layers]:
            values = values @ np.float64(weight) + bias
        return values

    paths = {"inner/first": (1, 1.0), "inner": (2, 0.7), "inner/inmost": (2, 0.4), "inner/inmost/deep": (2, 1.6)}
    matches = [kn.FeatureMatch(path, path, HintLoss(), weight) for path, (_, weight) in paths.items()]
    wanted = sum(w * mean_square(after(teacher, n), after(student, n)) for n, w in paths.values())
    assert feature_loss(features_alone(teacher, student, *matches), x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def recurrent(units):
    inputs = keras.Input((STEPS, FEATURES))
    both = keras.layers.Bidirectional(keras.layers.SimpleRNN(units, return_sequences=True), name="both")(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(both))


def test_a_path_leads_into_the_layers_that_a_bidirectional_layer_holds(sequences):
    x, y = sequences
    teacher, student = recurrent(3), recurrent(3)
    outputs = [keras.Model(m.input, m.get_layer("both").output).predict(x, verbose=0) for m in (teacher, student)]
    distiller = features_alone(
        teacher, student, kn.FeatureMatch("both/forward_layer", "both/forward_layer", HintLoss()), **NEW_SHAPES
    )
    wanted = mean_square(*(values[..., :3] for values in outputs))
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def attentive(heads, width):
    inputs = keras.Input((STEPS, FEATURES))
    attention = keras.layers.MultiHeadAttention(heads, width, name="attention")(inputs, inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(attention))


def queries(model, x):
    weight, bias = map(np.float64, model.get_layer("attention").get_weights()[:2])
    return np.einsum("btf,fhd->bthd", np.float64(x), weight) + bias


def test_a_path_leads_to_the_queries_of_an_attention_layer(sequences):
    x, y = sequences
    teacher, student = attentive(2, 3), attentive(2, 3)
    distiller = features_alone(
        teacher, student, kn.FeatureMatch("attention/query", "attention/query", HintLoss()), **NEW_SHAPES
    )
    wanted = mean_square(queries(teacher, x), queries(student, x))
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_relations_of_the_queries_of_attention_layers_of_other_heads_can_be_matched(sequences):
    x, y = sequences
    teacher, student = attentive(2, 4), attentive(3, 2)
    relations = []
    for model in (teacher, student):
        of_relation_heads = queries(model, x).reshape(SAMPLES, STEPS, 2, -1)
        products = np.einsum("blhd,bmhd->bhlm", of_relation_heads, of_relation_heads)
        relations.append(products / np.sqrt(of_relation_heads.shape[-1]))
    match = kn.FeatureMatch("attention/query", "attention/query", AttentionRelationLoss(2))
    distiller = features_alone(teacher, student, match, **NEW_SHAPES)
    wanted = distillation(*relations, 1.0)[0].mean()
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


class Encoder(keras.layers.Layer):
    """Two layers, which only a call builds."""

    def __init__(self, width):
        super().__init__()
        self.first = keras.layers.Dense(width)
        self.blocks = [keras.layers.Dense(width, name=f"block_{i}") for i in range(2)]

    def call(self, inputs):
        return self.blocks[1](self.blocks[0](self.first(inputs)))


class Subclassed(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.encoder = Encoder(width)
        self.head = keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.head(self.encoder(inputs))


def first_block(model):
    return model.encoder.blocks[0]


def test_attributes_and_functions_lead_into_subclassed_models(data):
    x, y = data
    teacher, student = Subclassed(5), Subclassed(5)
    teacher(x)
    ways = {"encoder/first": 1.0, first_block: 0.7, "encoder/block_1": 1.3, "encoder": 0.4, "head": 0.6}
    matches = [kn.FeatureMatch(where, where, HintLoss(), weight) for where, weight in ways.items()]
    got = feature_loss(features_alone(teacher, student, *matches), x, y)

    def after(model, layers):
        values, weights = np.float64(x), model.get_weights()
        for i in range(layers):
            values = values @ np.float64(weights[2 * i]) + weights[2 * i + 1]
        return values

    layers = zip((1, 2, 3, 3, 4), ways.values(), strict=True)
    wanted = sum(weight * mean_square(after(teacher, n), after(student, n)) for n, weight in layers)
    assert got == pytest.approx(wanted, rel=FLOAT32_SUMS)


@pytest.mark.parametrize(
    "by_name",
    [lambda name: lambda m: m.get_layer(name), lambda name: functools.partial(keras.Model.get_layer, name=name)],
)
def test_functions_of_one_name_or_of_none_lead_each_to_its_own_layer(data, by_name):
    x, y = data
    teacher, student = perceptron(CLASSES), perceptron(CLASSES)
    matches = [kn.FeatureMatch(by_name(name), by_name(name), HintLoss()) for name in ("hidden", "logits")]
    got = feature_loss(features_alone(teacher, student, *matches), x, y)
    wanted = sum(mean_square(layer(teacher, x), layer(student, x)) for layer in (hidden, logits))
    assert got == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_models_may_take_a_dictionary_of_inputs_with_integers_among_them():
    def model(width):
        inputs = {"ids": keras.Input((2,), dtype="int32", name="ids"), "u": keras.Input((FEATURES,), name="u")}
        embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 3)(inputs["ids"]))
        joined = keras.layers.Concatenate()([embedded, inputs["u"]])
        hidden_layer = keras.layers.Dense(width, use_bias=False, name="hidden")
        return keras.Model(inputs, keras.layers.Dense(CLASSES, use_bias=False)(hidden_layer(joined)))

    def feature(network, x):
        table, weight = map(np.float64, network.get_weights()[:2])
        return np.concatenate([table[x["ids"]].reshape(SAMPLES, -1), x["u"]], axis=-1) @ weight

    rng = np.random.default_rng(0)
    x = {"u": rng.normal(size=(SAMPLES, FEATURES)).astype("float32"), "ids": rng.integers(0, 5, (SAMPLES, 2))}
    teacher, student = model(5), model(3)
    distiller = features_alone(teacher, student, kn.FeatureMatch("hidden", "hidden", HintLoss()))
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    wanted = mean_square(feature(teacher, x), feature(student, x) @ weight + bias)
    got = distiller.evaluate(x, np.zeros(SAMPLES), batch_size=SAMPLES, return_dict=True, verbose=0)
    assert got["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


# Connectors


def test_features_of_two_widths_meet_behind_a_dense_layer_that_is_trained_along(data):
    x, y = data
    teacher, student = perceptron(5), perceptron(3)
    count = student.count_params()
    distiller = features_alone(teacher, student, kn.FeatureMatch("hidden", "hidden", HintLoss()))
    (connector,) = distiller.connectors
    weight, bias = map(np.float64, connector.get_weights())
    own = {variable.path for variable in connector.trainable_variables}
    assert own <= {variable.path for variable in distiller.trainable_variables}
    assert not own & {variable.path for variable in student.variables}

    h = hidden(student, x)
    difference = h @ weight + bias - hidden(teacher, x)
    logs = fitted(distiller, x, y)

    assert logs["distillation_loss"] == pytest.approx((difference**2).mean(), rel=FLOAT32_SUMS)
    gradient = 2 * h.T @ difference / difference.size
    np.testing.assert_allclose(connector.get_weights()[0], weight - 0.1 * gradient, atol=1e-6)
    assert student.count_params() == count


def test_a_connector_of_images_is_a_convolution_of_size_1(images):
    x, y = images

    def model(channels):
        layers = [keras.layers.Conv2D(channels, 1, name="c"), keras.layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(CLASSES)])

    def feature(network):
        weight, bias = map(np.float64, network.get_layer("c").get_weights())
        return np.float64(x) @ weight[0, 0] + bias

    teacher, student = model(5), model(3)
    distiller = features_alone(teacher, student, kn.FeatureMatch("c", "c", HintLoss()), **NEW_SHAPES)
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    wanted = mean_square(feature(teacher), feature(student) @ weight + bias)
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_a_connector_works_on_the_axis_of_the_loss(images):
    x, y = images
    x = np.moveaxis(x, -1, 1)

    def model(channels):
        layers = [keras.layers.EinsumDense("bchw,cd->bdhw", (channels, 4, 2), name="c"), keras.layers.Flatten()]
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(CLASSES)])

    def feature(network):
        return np.einsum("bchw,cd->bdhw", np.float64(x), np.float64(network.get_layer("c").get_weights()[0]))

    teacher, student = model(5), model(3)
    distiller = features_alone(teacher, student, kn.FeatureMatch("c", "c", HintLoss(axis=1)), **NEW_SHAPES)
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    assert weight.shape == (3, 5)
    projected = np.einsum("bchw,cd->bdhw", feature(student), weight) + bias[:, None, None]
    wanted = mean_square(feature(teacher), projected)
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_a_given_layer_is_the_connector(data):
    x, y = data
    teacher, student = perceptron(5), perceptron(3)
    projection = keras.layers.Dense(5, "tanh")
    distiller = features_alone(teacher, student, kn.FeatureMatch("hidden", "hidden", "mse", projection=projection))
    weight, bias = map(np.float64, projection.get_weights())
    wanted = mean_square(hidden(teacher, x), np.tanh(hidden(student, x) @ weight + bias))
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)
    fitted(distiller, x, y)
    assert not np.array_equal(projection.get_weights()[0], np.float32(weight))


@pytest.mark.parametrize("width", [1, 7])
def test_a_given_layer_of_another_width_is_an_error_and_never_broadcasts(data, width):
    match = kn.FeatureMatch("hidden", "hidden", "mse", projection=keras.layers.Dense(width))
    with pytest.raises(ValueError, match="same shape"):
        fitted(features_alone(perceptron(5), perceptron(3), match), *data)


def test_no_connector_where_the_loss_or_the_widths_need_none(images):
    x, y = images

    def model(channels):
        layers = [keras.layers.Conv2D(channels, 1, name="c"), keras.layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(CLASSES)])

    teacher, student, loss = model(5), model(3), AttentionTransferLoss()
    others = [RelationalLoss(), SimilarityPreservingLoss(), ProbabilisticTransferLoss()]
    matches = [kn.FeatureMatch("c", "c", each) for each in (loss, *others)]
    assert features_alone(teacher, student, *matches).connectors == []
    assert features_alone(model(3), student, kn.FeatureMatch("c", "c", HintLoss())).connectors == []
    weights = [np.float64(network.get_layer("c").get_weights()[0])[0, 0] for network in (teacher, student)]
    wanted = float(loss(*(np.float32(x @ weight) for weight in weights)))
    assert feature_loss(features_alone(teacher, student, matches[0], **NEW_SHAPES), x, y) == pytest.approx(
        wanted, rel=FLOAT32_SUMS
    )


def test_training_by_labels_alone_leaves_the_connectors_out(data):
    distiller = kn.Distiller(
        perceptron(5),
        perceptron(3),
        student_loss_weight=1.0,
        features=kn.FeatureMatch("hidden", "hidden", HintLoss()),
    )
    # Keras warns, here an error, of variables that no gradient reaches.
    fitted(compiled(distiller), *data)


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_connectors_of_unbuilt_models_are_made_with_the_first_batch(data, way):
    teacher, student = (
        keras.Sequential([keras.layers.Dense(width, name="hidden"), keras.layers.Dense(CLASSES)]) for width in (5, 3)
    )
    distiller = compiled(kn.Distiller(teacher, student, features=kn.FeatureMatch("hidden", "hidden", HintLoss())))
    getattr(distiller, way)(*data)
    before = weights_of(distiller.connectors[0])
    getattr(distiller, way)(*data)
    assert not same(weights_of(distiller.connectors[0]), before)


# Masks


def test_a_connector_keeps_the_mask_of_the_students_feature():
    tokens = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 1, 2, 0]])

    def model(width, seed):
        rng = np.random.default_rng(seed)
        layers = [keras.layers.Embedding(4, 5, mask_zero=True), keras.layers.Dense(width, name="h")]
        network = keras.Sequential([keras.Input((5,), dtype="int32"), *layers, keras.layers.Dense(3)])
        layers[0].set_weights([rng.normal(size=(4, 5))])
        return network

    def feature(network):
        table, weight, bias = map(np.float64, network.get_weights()[:3])
        return table[tokens] @ weight + bias

    teacher, student = model(6, 1), model(4, 2)
    distiller = features_alone(teacher, student, kn.FeatureMatch("h", "h", HintLoss()), **NEW_SHAPES)
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    squares = ((feature(teacher) - feature(student) @ weight - bias) ** 2).mean(-1)
    wanted = squares[tokens > 0].mean()
    assert feature_loss(distiller, tokens, np.zeros_like(tokens)) == pytest.approx(wanted, rel=FLOAT32_SUMS)


# What stays as it was


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


# Ways to train


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


# Errors


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
