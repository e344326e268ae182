"""Which layer of a model is read: names, paths, attributes and functions."""

import functools

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import (
    AttentionRelationLoss,
    DistillationLoss,
    HintLoss,
)
from tests.distillation.features import (
    CLASSES,
    FEATURES,
    FLOAT32_SUMS,
    NEW_SHAPES,
    SAMPLES,
    STEPS,
    compiled,
    feature_loss,
    features_alone,
    hidden,
    mean_square,
    perceptron,
    with_inner_model,
)
from tests.losses.references import distillation

pytestmark = pytest.mark.any_backend


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, STEPS, FEATURES)).astype("float32"), rng.integers(0, CLASSES, (SAMPLES, STEPS))


def logits(model, x):
    weight, bias = map(np.float64, model.get_layer("logits").get_weights())
    return hidden(model, x) @ weight + bias


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
