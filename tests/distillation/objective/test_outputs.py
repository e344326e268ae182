"""Several outputs, sample weights, masks, metrics: each output against NumPy, and what reaches which term."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import DecoupledDistillationLoss, DistillationLoss, HintLoss, with_labels
from tests.distillation.training import (
    FLOAT32_STEP,
    FLOAT32_SUMS,
    RATE,
    SAMPLES,
    X,
    compiled,
    crossentropy,
    evaluated,
    fitted,
    same,
    weights_of,
)
from tests.losses.references import distillation, log_softmax, softmax

pytestmark = pytest.mark.any_backend

WIDTHS = {"a": 4, "b": 3}
KINDS = ["list", "tuple", "dict"]
# Eager steps start fastest, but for JAX, which compiles each operation on shapes that are new to it.
NEW_SHAPES = {"run_eagerly": False, "jit_compile": True} if keras.backend.backend() == "jax" else {}


def as_kind(kind, a, b, names=("a", "b")):
    """Two things as a model of this kind returns its outputs."""
    return {"list": [b, a], "tuple": (b, a), "dict": {names[1]: b, names[0]: a}}[kind]


def heads(kind, seed=0, names=("a", "b"), **dense):
    """A model whose outputs on X are the kernels of its two heads, so a step of SGD shows their gradients."""
    inputs = keras.Input((SAMPLES,))
    layers = [
        keras.layers.Dense(width, use_bias=False, name=name, **dense)
        for name, width in zip(names, WIDTHS.values(), strict=True)
    ]
    model = keras.Model(inputs, as_kind(kind, *(layer(inputs) for layer in layers), names=names))
    rng = np.random.default_rng(seed)
    for layer in layers:
        layer.set_weights([rng.normal(size=(SAMPLES, layer.units))])
    return model


def kernel(model, name):
    return np.float64(model.get_layer(name).get_weights()[0])


def labels():
    rng = np.random.default_rng(7)
    return [rng.integers(0, width, SAMPLES) for width in WIDTHS.values()]


def hard(logits, ids):
    """Cross-entropy per sample, and its gradient."""
    rows = np.arange(len(ids))
    return -log_softmax(logits)[rows, ids], softmax(logits) - np.eye(logits.shape[-1])[ids]


# Several outputs


@pytest.mark.parametrize("kind", KINDS)
def test_each_output_is_trained_with_its_own_losses_and_its_own_sample_weights(kind):
    teacher, student, (y_a, y_b) = heads(kind, 1), heads(kind, 2), labels()
    (t_a, t_b), (s_a, s_b) = ([kernel(model, name) for name in WIDTHS] for model in (teacher, student))
    weights = np.linspace(0, 2, SAMPLES), np.linspace(1, 0, SAMPLES)
    losses = as_kind(kind, DistillationLoss(2.0), keras.losses.MeanSquaredError())
    distiller = kn.Distiller(teacher, student, [losses], student_loss_weight=0.3)
    compiled(distiller, as_kind(kind, crossentropy(), crossentropy()))

    logs = fitted(distiller, X, as_kind(kind, y_a, y_b), sample_weight=as_kind(kind, *weights))

    (hard_a, hard_gradient_a), (hard_b, hard_gradient_b) = hard(s_a, y_a), hard(s_b, y_b)
    soft_a, soft_gradient_a = distillation(t_a, s_a, 2.0)
    soft_b, soft_gradient_b = ((s_b - t_b) ** 2).mean(-1), 2 * (s_b - t_b) / WIDTHS["b"]
    student_loss = (weights[0] * hard_a).mean() + (weights[1] * hard_b).mean()
    distillation_loss = (weights[0] * soft_a).mean() + (weights[1] * soft_b).mean()
    assert logs["student_loss"] == pytest.approx(student_loss, rel=FLOAT32_SUMS)
    assert logs["distillation_loss"] == pytest.approx(distillation_loss, rel=FLOAT32_SUMS)
    assert logs["loss"] == pytest.approx(0.3 * student_loss + 0.7 * distillation_loss, rel=FLOAT32_SUMS)
    for name, weight, start, gradient in (
        ("a", weights[0], s_a, 0.3 * hard_gradient_a + 0.7 * soft_gradient_a),
        ("b", weights[1], s_b, 0.3 * hard_gradient_b + 0.7 * soft_gradient_b),
    ):
        wanted = start - RATE * weight[:, None] * gradient / SAMPLES
        np.testing.assert_allclose(kernel(student, name), wanted, atol=FLOAT32_STEP)


@pytest.mark.parametrize("kind", KINDS)
def test_one_loss_serves_every_output_and_one_array_of_weights_too(kind):
    teacher, student = heads(kind, 1), heads(kind, 2)
    weights = np.linspace(0, 2, SAMPLES)
    distiller = compiled(kn.Distiller(teacher, student, DistillationLoss(3.0)))
    logs = evaluated(distiller, X, as_kind(kind, *labels()), sample_weight=weights)
    soft = [distillation(kernel(teacher, name), kernel(student, name), 3.0)[0] for name in WIDTHS]
    wanted = sum((weights * values).mean() for values in soft)
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of the output that is left out
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_whose_loss_is_none_is_left_out_to_the_last_bit(kind):
    teacher, student = heads(kind, 1), heads(kind, 2)
    before, soft = kernel(student, "b"), distillation(kernel(teacher, "a"), kernel(student, "a"), 2.0)[0]
    losses = as_kind(kind, DistillationLoss(2.0), None)
    distiller = kn.Distiller(teacher, student, [losses], student_loss_weight=0.0)
    logs = fitted(compiled(distiller), X, as_kind(kind, *labels()))
    assert logs["distillation_loss"] == pytest.approx(soft.mean(), rel=FLOAT32_SUMS)
    assert np.array_equal(kernel(student, "b"), before)


def test_a_subclassed_model_may_have_several_outputs():
    class TwoHeads(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = (keras.layers.Dense(width, use_bias=False) for width in WIDTHS.values())

        def call(self, inputs):
            return {"a": self.a(inputs), "b": self.b(inputs)}

    teacher, student = TwoHeads(), TwoHeads()
    distiller = compiled(kn.Distiller(teacher, student, {"b": DistillationLoss(2.0)}, student_loss_weight=0.0))
    logs = evaluated(distiller, X, dict(zip("ab", labels(), strict=True)))
    soft, _ = distillation(*(np.float64(model.b.get_weights()[0]) for model in (teacher, student)), 2.0)
    assert logs["distillation_loss"] == pytest.approx(soft.mean(), rel=FLOAT32_SUMS)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_a_single_output_may_stand_in_a_structure_and_so_may_its_loss(kind):
    def model(seed):
        inputs = keras.Input((SAMPLES,))
        layer = keras.layers.Dense(4, use_bias=False, name="a")
        output = layer(inputs)
        result = keras.Model(inputs, {"a": output} if kind == "dict" else [output])
        layer.set_weights([np.random.default_rng(seed).normal(size=(SAMPLES, 4))])
        return result

    teacher, student, y = model(1), model(2), labels()[0]
    losses = {"a": DistillationLoss(2.0)} if kind == "dict" else [[DistillationLoss(2.0)]]
    distiller = compiled(kn.Distiller(teacher, student, losses))
    logs = evaluated(distiller, X, {"a": y} if kind == "dict" else [y])
    soft, _ = distillation(kernel(teacher, "a"), kernel(student, "a"), 2.0)
    assert logs["distillation_loss"] == pytest.approx(soft.mean(), rel=FLOAT32_SUMS)


def test_outputs_in_a_nested_structure_have_losses_in_that_structure():
    def model(seed):
        inputs = keras.Input((SAMPLES,))
        layers = [keras.layers.Dense(4, use_bias=False, name=name) for name in ("first", "second", "third")]
        first, second, third = (layer(inputs) for layer in layers)
        result = keras.Model(inputs, {"pair": [first, second], "single": third})
        for i, layer in enumerate(layers):
            layer.set_weights([np.random.default_rng((seed, i)).normal(size=(SAMPLES, 4))])
        return result

    teacher, student, y = model(1), model(2), labels()[0]
    losses = {"pair": [None, DistillationLoss(2.0)], "single": None}
    distiller = compiled(kn.Distiller(teacher, student, losses))
    logs = evaluated(distiller, X, {"pair": [y, y], "single": y})
    soft, _ = distillation(kernel(teacher, "second"), kernel(student, "second"), 2.0)
    assert logs["distillation_loss"] == pytest.approx(soft.mean(), rel=FLOAT32_SUMS)


def test_labels_of_some_outputs_reach_the_losses_that_need_them():
    teacher, student, (_, y_b) = heads("dict", 1), heads("dict", 2), labels()
    loss = DecoupledDistillationLoss(temperature=2.0)
    wanted = float(loss(with_labels(kernel(teacher, "b"), y_b), np.float32(kernel(student, "b"))))
    distiller = compiled(kn.Distiller(teacher, student, {"b": loss}), {"b": crossentropy()})
    logs = evaluated(distiller, X, {"b": y_b})
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_metrics_of_outputs_have_the_names_that_the_student_alone_gives_them(kind):
    y = as_kind(kind, *labels())
    loss = as_kind(kind, crossentropy(), crossentropy())
    metrics = as_kind(kind, ["accuracy"], [keras.metrics.SparseCategoricalAccuracy(name="right")])
    alone = evaluated(compiled(heads(kind, 2), loss, metrics=metrics), X, y)
    student = heads(kind, 2)
    logs = evaluated(compiled(kn.Distiller(heads(kind, 1), student), loss, metrics=metrics), X, y)
    assert logs["student_loss"] == pytest.approx(alone["loss"], rel=FLOAT32_SUMS)
    for name in set(alone) - {"loss"}:
        assert logs[name] == pytest.approx(alone[name], rel=FLOAT32_SUMS)


def test_losses_by_the_names_of_the_outputs_serve_a_student_that_returns_a_list():
    y_a, y_b = labels()
    student = heads("list", 2)
    distiller = compiled(kn.Distiller(heads("list", 1), student), {"a": crossentropy(), "b": crossentropy()})
    logs = evaluated(distiller, X, {"a": y_a, "b": y_b})
    wanted = sum(hard(kernel(student, name), ids)[0].mean() for name, ids in (("a", y_a), ("b", y_b)))
    assert logs["student_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


@pytest.mark.parametrize("as_dictionary", [True, False])
def test_metrics_of_one_output_may_be_a_list_or_a_dictionary_of_names_or_objects(as_dictionary):
    def model(seed):
        inputs = keras.Input((SAMPLES,))
        layer = keras.layers.Dense(4, use_bias=False, name="scores")
        result = keras.Model(inputs, {"scores": layer(inputs)} if as_dictionary else layer(inputs))
        layer.set_weights([np.random.default_rng(seed).normal(size=(SAMPLES, 4))])
        return result

    student, y = model(2), labels()[0]
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="two")]
    weighted = [keras.metrics.SparseCategoricalAccuracy(name="weighted")]
    both = ({"scores": metrics}, {"scores": weighted}) if as_dictionary else (metrics, weighted)
    distiller = compiled(kn.Distiller(model(1), student), metrics=both[0], weighted_metrics=both[1])
    y_true = {"scores": y} if as_dictionary else y
    weights = np.linspace(0, 2, SAMPLES)
    logs = evaluated(distiller, X, y_true, sample_weight={"scores": weights} if as_dictionary else weights)
    ranks = np.argsort(-kernel(student, "scores"), axis=-1)
    is_right = ranks[:, 0] == y
    assert logs["accuracy"] == pytest.approx(is_right.mean())
    assert logs["two"] == pytest.approx((ranks[:, :2] == y[:, None]).any(-1).mean())
    assert logs["weighted"] == pytest.approx((weights * is_right).sum() / weights.sum(), rel=1e-6)


def test_penalties_count_once_whatever_the_outputs_and_features():
    penalties = {"kernel_regularizer": keras.regularizers.L2(0.01), "activity_regularizer": keras.regularizers.L1(0.02)}
    student = heads("dict", 2, **penalties)
    match = kn.FeatureMatch("a", "a", HintLoss())
    distiller = compiled(kn.Distiller(heads("dict", 1, **penalties), student, features=match, student_loss_weight=0.3))
    logs = evaluated(distiller, X, dict(zip("ab", labels(), strict=True)))
    # Keras divides an activity penalty by the batch size. The activities on X are the kernels.
    penalty = sum(0.01 * (w**2).sum() + 0.02 * np.abs(w).sum() / SAMPLES for w in weights_of(student))
    mixed = 0.3 * logs["student_loss"] + 0.7 * logs["distillation_loss"]
    assert logs["loss"] == pytest.approx(mixed + penalty, rel=FLOAT32_SUMS)


# Errors


def test_outputs_of_other_names_are_an_error_and_not_matched_by_their_order():
    with pytest.raises(ValueError, match="outputs"):
        kn.Distiller(heads("dict", 1, names=("a", "b")), heads("dict", 2, names=("c", "d")))


def test_a_dictionary_of_outputs_does_not_match_a_list_in_another_order():
    # The dictionary is in the order a, b, the list in the order b, a: the widths alone would not tell.
    def model(kind):
        inputs = keras.Input((SAMPLES,))
        return keras.Model(inputs, as_kind(kind, *(keras.layers.Dense(3, name=name)(inputs) for name in "ab")))

    with pytest.raises(ValueError, match="outputs"):
        kn.Distiller(model("dict"), model("list"))


@pytest.mark.parametrize(
    ("kind", "losses", "message"),
    [
        ("list", [[DistillationLoss()]], "1 losses in a list for 2 outputs in a list"),
        ("tuple", [(DistillationLoss(), None, None)], "3 losses in a tuple for 2 outputs in a tuple"),
        ("list", {"a": DistillationLoss(), "b": None}, "2 losses in a dict for 2 outputs in a list"),
        ("dict", {"c": DistillationLoss()}, r"must name outputs of the student\. Received: \['c'\]"),
        ("list", [[None, None]], "`distillation_losses` must hold a loss"),
        ("dict", {"a": "mse"}, "`distillation_losses` must hold loss objects"),
    ],
)
def test_losses_that_do_not_fit_the_outputs_are_errors_at_once(kind, losses, message):
    with pytest.raises((TypeError, ValueError), match=message):
        kn.Distiller(heads(kind, 1), heads(kind, 2), losses)


def test_sample_weights_for_another_number_of_outputs_are_an_error():
    inputs = keras.Input((SAMPLES,))
    models = [keras.Model(inputs, [keras.layers.Dense(3)(inputs) for _ in range(3)]) for _ in range(2)]
    distiller = kn.Distiller(*models, student_loss_weight=0.0)
    with pytest.raises(ValueError, match=r"one array, or one for each output\. Received: 2 for 3 outputs"):
        distiller.compute_loss(
            keras.ops.convert_to_tensor(X), y_pred=distiller(X), sample_weight=[np.ones(SAMPLES)] * 2, training=False
        )


# Sample weights and class weights


@pytest.mark.parametrize("one_for_each_output", [True, False])
def test_weights_of_zero_move_nothing_to_the_last_bit(one_for_each_output):
    student = heads("dict", 2)
    before = weights_of(student)
    features = [kn.FeatureMatch("a", "a", HintLoss()), kn.FeatureMatch("b", "b", "mse")]
    distiller = compiled(kn.Distiller(heads("dict", 1), student, features=features))
    zeros = np.zeros(SAMPLES)
    weights = {"a": zeros, "b": zeros} if one_for_each_output else zeros
    logs = fitted(distiller, X, dict(zip("ab", labels(), strict=True)), sample_weight=weights)
    assert logs["loss"] == 0
    assert same(weights_of(student), before)


def test_features_of_models_with_weights_for_each_output_take_their_mean():
    teacher, student = heads("dict", 1), heads("dict", 2)
    match = kn.FeatureMatch("a", "a", HintLoss())
    distiller = compiled(kn.Distiller(teacher, student, [], features=match, student_loss_weight=0.0))
    weights = {"a": np.linspace(0, 2, SAMPLES), "b": np.linspace(1, 0, SAMPLES)}
    logs = evaluated(distiller, X, dict(zip("ab", labels(), strict=True)), sample_weight=weights)
    values = ((kernel(teacher, "a") - kernel(student, "a")) ** 2).mean(-1)
    wanted = (0.5 * (weights["a"] + weights["b"]) * values).mean()
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)


@pytest.mark.parametrize("one_hot", [True, False])
def test_class_weights_reach_labels_outputs_and_features(one_hot):
    def model(seed):
        layer = keras.layers.Dense(4, use_bias=False, name="a")
        result = keras.Sequential([keras.Input((SAMPLES,)), layer])
        layer.set_weights([np.random.default_rng(seed).normal(size=(SAMPLES, 4))])
        return result

    teacher, student, ids = model(1), model(2), labels()[0]
    distiller = kn.Distiller(teacher, student, DistillationLoss(2.0), features=kn.FeatureMatch("a", "a", HintLoss()))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if one_hot else crossentropy()
    class_weight = {0: 0.0, 1: 1.0, 2: 2.5, 3: 0.5}
    y = np.eye(4, dtype="float32")[ids] if one_hot else ids
    t, s = kernel(teacher, "a"), kernel(student, "a")
    logs = fitted(compiled(distiller, loss), X, y, class_weight=class_weight)
    weights = np.array([class_weight[i] for i in ids])
    both = distillation(t, s, 2.0)[0] + ((t - s) ** 2).mean(-1)
    assert logs["student_loss"] == pytest.approx((weights * hard(s, ids)[0]).mean(), rel=FLOAT32_SUMS)
    assert logs["distillation_loss"] == pytest.approx((weights * both).mean(), rel=FLOAT32_SUMS)


HEIGHT, WIDTH = 3, 2


def segmenters():
    return [keras.Sequential([keras.Input((HEIGHT, WIDTH, 3)), keras.layers.Conv2D(4, 1, name="c")]) for _ in range(2)]


def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(SAMPLES, HEIGHT, WIDTH, 3)).astype("float32"), rng.integers(0, 4, (SAMPLES, HEIGHT, WIDTH))


def pixels(model, x):
    weight, bias = map(np.float64, model.layers[-1].get_weights())
    return x.astype("float64") @ weight[0, 0] + bias


@pytest.mark.parametrize("shape", [(SAMPLES,), (SAMPLES, 1, 1), (SAMPLES, HEIGHT, WIDTH), (SAMPLES, HEIGHT, WIDTH, 1)])
def test_one_weight_an_image_or_a_pixel_weighs_outputs_and_features(shape):
    (teacher, student), (x, y) = segmenters(), images()
    weights = np.random.default_rng(1).uniform(size=shape)
    features = kn.FeatureMatch("c", "c", HintLoss())
    distiller = kn.Distiller(teacher, student, DistillationLoss(2.0), student_loss_weight=0.0, features=features)
    logs = evaluated(compiled(distiller, **NEW_SHAPES), x, y, sample_weight=weights)
    t, s = pixels(teacher, x), pixels(student, x)
    values = distillation(t, s, 2.0)[0] + ((t - s) ** 2).mean(-1)
    rank_3 = weights.reshape((SAMPLES, *shape[1:3], *[1] * (3 - len(shape[:3]))))
    assert logs["distillation_loss"] == pytest.approx((rank_3 * values).mean(), rel=FLOAT32_SUMS)


@pytest.mark.parametrize("shape", [(SAMPLES,), (SAMPLES, 1, 1), (SAMPLES, HEIGHT, WIDTH)])
def test_weights_of_images_or_pixels_mean_the_same_to_both_terms(shape):
    (teacher, student), (x, y) = segmenters(), images()
    weights = np.random.default_rng(1).uniform(size=shape)
    distiller = compiled(kn.Distiller(teacher, student, DistillationLoss(2.0)), **NEW_SHAPES)
    logs = evaluated(distiller, x, y, sample_weight=weights)
    t, s = pixels(teacher, x), pixels(student, x)
    ids = np.take_along_axis(-log_softmax(s), y[..., None], -1)[..., 0]
    rank_3 = weights.reshape((SAMPLES, *shape[1:], *[1] * (3 - len(shape))))
    assert logs["student_loss"] == pytest.approx((rank_3 * ids).mean(), rel=FLOAT32_SUMS)
    assert logs["distillation_loss"] == pytest.approx((rank_3 * distillation(t, s, 2.0)[0]).mean(), rel=FLOAT32_SUMS)


# Masks and weights of tokens

TOKENS = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 1, 2, 0]])
IS_TOKEN = TOKENS > 0
TOKEN_LABELS = np.where(IS_TOKEN, TOKENS % 3, 0)


def tagger(seed, padding=0.0):
    """Embedding with mask, a hidden layer, logits; the row of the padding is given."""
    rng = np.random.default_rng(seed)
    layers = [
        keras.layers.Embedding(4, 5, mask_zero=True),
        keras.layers.Dense(6, use_bias=False, name="hidden"),
        keras.layers.Dense(3, use_bias=False, name="logits"),
    ]
    model = keras.Sequential([keras.Input((5,), dtype="int32"), *layers])
    table = rng.normal(size=(4, 5))
    table[0] = padding
    for layer, value in zip(layers, (table, rng.normal(size=(5, 6)), rng.normal(size=(6, 3))), strict=True):
        layer.set_weights([value])
    return model


def hidden_and_logits(model):
    table, hidden, logits = map(np.float64, model.get_weights())
    return table[TOKENS] @ hidden, table[TOKENS] @ hidden @ logits


def token_distiller(teacher, student, w=0.4, **arguments):
    match = kn.FeatureMatch("hidden", "hidden", HintLoss())
    distiller = kn.Distiller(
        teacher, student, DistillationLoss(2.0), student_loss_weight=w, features=match, **arguments
    )
    return compiled(distiller, **NEW_SHAPES)


def token_values(teacher, student):
    (t_hidden, t), (s_hidden, s) = hidden_and_logits(teacher), hidden_and_logits(student)
    hard_values = np.take_along_axis(-log_softmax(s), TOKEN_LABELS[..., None], -1)[..., 0]
    return hard_values, distillation(t, s, 2.0)[0] + ((t_hidden - s_hidden) ** 2).mean(-1)


@pytest.mark.parametrize("w", [0.0, 0.4])
@pytest.mark.parametrize("weights", [None, np.random.default_rng(3).uniform(size=TOKENS.shape)])
def test_a_mask_and_weights_of_tokens_count_once_in_every_term(w, weights):
    teacher, student = tagger(1), tagger(2)
    hard_values, soft_values = token_values(teacher, student)
    logs = evaluated(token_distiller(teacher, student, w), TOKENS, TOKEN_LABELS, sample_weight=weights)
    # The mean is over the tokens; weights do not change their number.
    share = IS_TOKEN * (1.0 if weights is None else weights) / IS_TOKEN.sum()
    assert logs["distillation_loss"] == pytest.approx((share * soft_values).sum(), rel=FLOAT32_SUMS)
    if w > 0:
        assert logs["student_loss"] == pytest.approx((share * hard_values).sum(), rel=FLOAT32_SUMS)


def test_a_model_with_a_mask_and_weights_of_tokens_trains():
    student = tagger(2)
    before = weights_of(student)
    weights = np.random.default_rng(3).uniform(size=TOKENS.shape)
    distiller = token_distiller(tagger(1), student)
    history = distiller.fit(TOKENS, TOKEN_LABELS, sample_weight=weights, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert not same(weights_of(student), before)


def test_one_weight_a_sequence_and_a_mask_go_together():
    teacher, student = tagger(1), tagger(2)
    weights = np.array([2.0, 0.0, 0.5])
    logs = evaluated(token_distiller(teacher, student, 0.0), TOKENS, TOKEN_LABELS, sample_weight=weights)
    share = IS_TOKEN * weights[:, None] / IS_TOKEN.sum()
    assert logs["distillation_loss"] == pytest.approx(
        (share * token_values(teacher, student)[1]).sum(), rel=FLOAT32_SUMS
    )


def test_padding_moves_nothing_in_outputs_and_features():
    moved = []
    for padding in (0.0, 50.0):
        student = tagger(2)
        fitted(token_distiller(tagger(1, padding), student, temperature=3.0), TOKENS, TOKEN_LABELS)
        moved.append(weights_of(student))
    for first, second in zip(*moved, strict=True):
        np.testing.assert_allclose(first, second, atol=FLOAT32_STEP)


# Weight one


def stateful(kind):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SAMPLES,))
    hidden = keras.layers.Dense(6, activation="relu", kernel_regularizer="l2", name="hidden")(inputs)
    hidden = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(hidden))
    return keras.Model(
        inputs, as_kind(kind, *(keras.layers.Dense(width, name=n)(hidden) for n, width in WIDTHS.items()))
    )


def test_weight_one_is_fit_of_the_student_step_for_step_to_the_last_bit():
    histories, students = [], [stateful("dict") for _ in range(2)]
    # A feature between layers of one width, so that nothing but the student is trained.
    match = kn.FeatureMatch("hidden", "hidden", HintLoss())
    distiller = kn.Distiller(stateful("dict"), students[1], student_loss_weight=1.0, features=match)
    for model in (students[0], distiller):
        keras.utils.set_random_seed(4)
        model.compile(keras.optimizers.Adam(0.05), crossentropy(), weighted_metrics=[["accuracy"], ["accuracy"]])
        y, weights = dict(zip("ab", labels(), strict=True)), np.linspace(0, 2, SAMPLES)
        fit = model.fit(X, y, sample_weight=weights, batch_size=SAMPLES // 2, epochs=4, shuffle=False, verbose=0)
        histories.append(fit.history)
    assert same(*map(weights_of, students))
    for name, values in histories[0].items():
        assert histories[1][name] == values
