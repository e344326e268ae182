"""Several teachers, preprocessing, labels for the losses that need them, logits or probabilities, the first batch."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import (
    CorrelationDistillationLoss,
    DecoupledDistillationLoss,
    DistillationLoss,
    HintLoss,
    JensenShannonDistillationLoss,
    with_labels,
)
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
    crossentropy,
    fitted,
    kernel,
    random_logits,
    table,
)
from tests.losses.references import distillation, log_softmax, sigmoid, softmax

pytestmark = pytest.mark.any_backend


def by_the_teacher_alone(teacher, student, losses=None, **arguments):
    return compiled(kn.Distiller(teacher, student, losses, student_loss_weight=0.0, **arguments))


def distillation_loss(distiller, x=X, y=Y):
    return distiller.evaluate(x, y, batch_size=len(x), return_dict=True, verbose=0)["distillation_loss"]


# Several teachers


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_the_mean_of_the_losses_has_the_gradient_of_the_mean_of_the_probabilities(weights):
    logits, start = [random_logits(1), random_logits(2)], random_logits(3)
    student = table(start)
    distiller = by_the_teacher_alone(
        [table(z) for z in logits], student, DistillationLoss(2.0), teacher_weights=weights
    )
    logs = fitted(distiller)
    shares = np.array(weights or [1.0, 1.0]) / sum(weights or [1.0, 1.0])
    wanted = sum(share * distillation(z, start, 2.0)[0] for share, z in zip(shares, logits, strict=True))
    assert logs["distillation_loss"] == pytest.approx(wanted.mean(), rel=FLOAT32_SUMS)
    mean = sum(share * softmax(z / 2.0) for share, z in zip(shares, logits, strict=True))
    gradient = 2.0 * (softmax(start / 2.0) - mean)
    np.testing.assert_allclose(kernel(student), start - RATE * gradient / SAMPLES, atol=FLOAT32_STEP)


def test_a_teacher_of_weight_zero_is_not_heard():
    first, student = random_logits(1), random_logits(3)
    with_nan = table(np.full((SAMPLES, CLASSES), 1e38))
    distiller = by_the_teacher_alone([table(first), with_nan], table(student), teacher_weights=[1.0, 0.0])
    wanted = distillation(first, student, 4.0)[0].mean()
    assert distillation_loss(distiller) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def best_of(logits, y):
    """For each sample the logits of the teacher with the least cross-entropy, or entropy where the label is -1."""
    logits = np.float64(logits)
    log_probs = log_softmax(logits)
    entropies = -(np.exp(log_probs) * log_probs).sum(-1)
    costs = np.where(y >= 0, -np.take_along_axis(log_probs, np.maximum(y, 0)[None, :, None], -1)[..., 0], entropies)
    best = costs.argmin(0)
    assert len(set(best)) == len(logits)  # each of them is the best for some
    return logits[best, np.arange(len(y))]


@pytest.mark.parametrize("labels", ["all", "some", "none", "column", "one_hot", "some_one_hot", "no_y"])
def test_the_best_teacher_of_each_sample_is_by_its_label_or_else_the_surest(labels):
    logits, start = [random_logits(i) for i in range(3)], random_logits(9)
    y = np.where(np.arange(SAMPLES) % 2 == 0, Y, -1) if labels.startswith("some") else Y
    y = np.full(SAMPLES, -1) if labels.startswith("no") else y
    one_hot = np.eye(CLASSES, dtype="float32")[np.maximum(y, 0)] * (y >= 0)[:, None]
    given = {"one_hot": one_hot, "some_one_hot": one_hot, "column": y[:, None], "no_y": None}.get(labels, y)
    student = table(start)
    distiller = by_the_teacher_alone([table(z) for z in logits], student, DistillationLoss(2.0), teacher_weights="best")
    logs = fitted(distiller, y=given)
    values, gradient = distillation(best_of(logits, y), start, 2.0)
    assert logs["distillation_loss"] == pytest.approx(values.mean(), rel=FLOAT32_SUMS)
    np.testing.assert_allclose(kernel(student), start - RATE * gradient / SAMPLES, atol=FLOAT32_STEP)


def test_the_best_teacher_is_told_from_probabilities_as_from_logits():
    logits, start = [random_logits(i) for i in range(3)], random_logits(9)
    teachers = [table(z, "softmax") for z in logits]
    distiller = by_the_teacher_alone(
        teachers, table(start), DistillationLoss(2.0, teacher="probs"), teacher_weights="best"
    )
    wanted = distillation(best_of(logits, Y), start, 2.0)[0].mean()
    assert distillation_loss(distiller) == pytest.approx(wanted, rel=FLOAT32_PROBABILITIES)


def test_the_best_teacher_of_several_outputs_is_best_in_their_sum():
    def model(first, second):
        inputs = keras.Input((SAMPLES,))
        layers = [keras.layers.Dense(CLASSES, use_bias=False) for _ in range(2)]
        network = keras.Model(inputs, [layer(inputs) for layer in layers])
        network.set_weights([first, second])
        return network

    pairs = [(random_logits(2 * i), random_logits(2 * i + 1)) for i in range(2)]
    starts, labels = (random_logits(8), random_logits(9)), (Y, (Y + 1) % CLASSES)
    costs = np.array(
        [sum(-log_softmax(z)[np.arange(SAMPLES), y] for z, y in zip(pair, labels, strict=True)) for pair in pairs]
    )
    best = costs.argmin(0)
    assert set(best) == {0, 1}
    chosen = [np.array([pair[i] for pair in pairs])[best, np.arange(SAMPLES)] for i in range(2)]
    wanted = sum(distillation(z, start, 2.0)[0].mean() for z, start in zip(chosen, starts, strict=True))
    teachers = [model(*pair) for pair in pairs]
    distiller = by_the_teacher_alone(teachers, model(*starts), DistillationLoss(2.0), teacher_weights="best")
    assert distillation_loss(distiller, y=list(labels)) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_the_best_teacher_of_independent_labels_is_by_the_binary_crossentropy():
    logits, start = [random_logits(i) for i in range(2)], random_logits(9)
    y = np.random.default_rng(5).integers(0, 2, (SAMPLES, CLASSES)).astype("float32")
    costs = np.array([(np.logaddexp(0, z) - y * z).mean(-1) for z in logits])
    best = costs.argmin(0)
    assert set(best) == {0, 1}
    p, q = (sigmoid(z / 2.0) for z in (np.array(logits)[best, np.arange(SAMPLES)], start))
    wanted = 4.0 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(-1).mean()
    loss = DistillationLoss(2.0, exclusive=False)
    distiller = by_the_teacher_alone([table(z) for z in logits], table(start), loss, teacher_weights="best")
    assert distillation_loss(distiller, y=y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_padding_has_no_say_in_which_teacher_is_best():
    tokens = np.array([[1, 2, 0, 0]] * 3)

    def tagger(of_padding, of_tokens):
        layer = keras.layers.Embedding(3, CLASSES, mask_zero=True)
        network = keras.Sequential([keras.Input((4,), dtype="int32"), layer])
        layer.set_weights([np.array([of_padding, of_tokens, of_tokens])])
        return network

    right, padding, wrong = [3.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]
    # All labels are 0. The first teacher knows the tokens, the second the padding.
    teachers = [tagger(wrong, right), tagger(padding, wrong)]
    distiller = by_the_teacher_alone(teachers, tagger(wrong, wrong), DistillationLoss(2.0), teacher_weights="best")
    wanted = distillation(np.array([right]), np.array([wrong]), 2.0)[0][0]
    got = distiller.evaluate(tokens, np.zeros_like(tokens), return_dict=True, verbose=0)["distillation_loss"]
    assert got == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_features_are_of_the_teacher_that_is_named():
    def model(seed, width):
        rng = np.random.default_rng(seed)
        layers = [keras.layers.Dense(width, use_bias=False, name="hidden"), keras.layers.Dense(CLASSES, use_bias=False)]
        network = keras.Sequential([keras.Input((SAMPLES,)), *layers])
        network.set_weights([rng.normal(size=(SAMPLES, width)), rng.normal(size=(width, CLASSES))])
        return network

    teachers, student = [model(1, 5), model(2, 5)], model(3, 5)
    matches = [
        kn.FeatureMatch("hidden", "hidden", HintLoss(), weight=2.0, teacher=1),
        kn.FeatureMatch(None, None, HintLoss(), weight=0.5, teacher=1),
        kn.FeatureMatch("hidden", "hidden", "mae", teacher=0),
    ]
    distiller = by_the_teacher_alone(teachers, student, [], features=matches)
    first, second, own = (kernel(network) for network in (*teachers, student))
    outputs = [np.linalg.multi_dot(list(map(np.float64, network.get_weights()))) for network in (teachers[1], student)]
    wanted = 2.0 * ((second - own) ** 2).mean() + 0.5 * np.square(outputs[0] - outputs[1]).mean()
    wanted += np.abs(first - own).mean()
    assert distillation_loss(distiller) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_every_teacher_is_frozen_to_the_last_bit():
    teachers = [table(random_logits(i)) for i in range(2)]
    before = [kernel(teacher) for teacher in teachers]
    distiller = compiled(kn.Distiller(teachers, table(random_logits(3)), teacher_weights=[1, 2]))
    fitted(distiller, epochs=2)
    assert len(distiller.trainable_variables) == 1
    for teacher, kernel_before in zip(teachers, before, strict=True):
        np.testing.assert_array_equal(kernel(teacher), kernel_before)


@pytest.mark.parametrize(
    ("teachers", "weights", "message"),
    [
        (2, [1.0], r"one weight for each teacher, not all of them 0\. Received: \[1\.0\] for 2 teachers"),
        (2, [1, 2, 3], "for 2 teachers"),
        (1, [1, 2], "for 1 teachers"),
        (2, [0, 0], "not all of them 0"),
        (2, [-1, 2], "`teacher_weights` must be >= 0"),
        (2, [float("nan"), 1], "`teacher_weights` must be finite"),
        (2, "worst", '`teacher_weights` must be a list of numbers or "best"'),
        (2, 3.0, '`teacher_weights` must be a list of numbers or "best"'),
        (0, None, "`teacher` must be a model, or a list with at least one"),
    ],
)
def test_weights_that_do_not_fit_the_teachers_are_errors_at_once(teachers, weights, message):
    models = [table(random_logits(i)) for i in range(teachers)]
    with pytest.raises((TypeError, ValueError), match=message):
        kn.Distiller(models, table(random_logits(9)), teacher_weights=weights)


def test_each_teacher_must_fit_the_student():
    good, student = table(random_logits(1)), table(random_logits(2))
    with pytest.raises(ValueError, match=r"classes included\. Received: teacher \(5,\), student \(4,\)"):
        kn.Distiller([good, table(random_logits(3, 5))], student)
    with pytest.raises(TypeError, match=r"`teacher` must be a keras\.Model\. Received: teacher='Dense'"):
        kn.Distiller([good, keras.layers.Dense(4)], student)
    with pytest.raises(ValueError, match="must be two models"):
        kn.Distiller([good, student], student)


def test_a_teacher_that_contains_the_student_is_an_error_for_it_would_freeze_it():
    student = table(random_logits(1))
    inputs = keras.Input((SAMPLES,))
    teacher = keras.Model(inputs, keras.layers.Dense(CLASSES)(student(inputs)))
    with pytest.raises(ValueError, match="student"):
        kn.Distiller(teacher, student)


# Preprocessing


@pytest.mark.parametrize("preprocess", [keras.layers.Rescaling(-0.5), lambda x: -0.5 * x])
def test_the_teacher_sees_what_preprocess_makes_and_the_student_does_not(preprocess):
    logits, start = random_logits(1), random_logits(2)
    distiller = by_the_teacher_alone(table(logits), table(start), DistillationLoss(2.0), preprocess=preprocess)
    wanted = distillation(-0.5 * logits, start, 2.0)[0].mean()
    assert distillation_loss(distiller) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_preprocess_bridges_models_of_two_input_sizes():
    images = np.random.default_rng(0).normal(size=(SAMPLES, 2, 2, 1)).astype("float32")
    weight, start = (
        np.random.default_rng(1).normal(size=(16, CLASSES)),
        np.random.default_rng(2).normal(size=(4, CLASSES)),
    )

    def model(size, values):
        layers = [keras.layers.Flatten(), keras.layers.Dense(CLASSES, use_bias=False)]
        network = keras.Sequential([keras.Input((size, size, 1)), *layers])
        network.set_weights([values])
        return network

    with pytest.raises(
        ValueError, match=r"Received: teacher \[\(4, 4, 1\)\], student \[\(2, 2, 1\)\].*Give `preprocess`"
    ):
        kn.Distiller(model(4, weight), model(2, start))
    resizing = keras.layers.UpSampling2D(2)
    distiller = by_the_teacher_alone(model(4, weight), model(2, start), DistillationLoss(2.0), preprocess=resizing)
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    answers = large.reshape(SAMPLES, -1) @ weight, images.reshape(SAMPLES, -1) @ start
    wanted = distillation(*answers, 2.0)[0].mean()
    assert distillation_loss(distiller, x=images) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_weights_of_preprocess_are_frozen_like_the_teachers():
    layer = keras.layers.Dense(SAMPLES, use_bias=False)
    distiller = compiled(kn.Distiller(table(random_logits(1)), table(random_logits(2)), preprocess=layer))
    fitted(distiller)
    before = layer.get_weights()[0]
    fitted(distiller)
    np.testing.assert_array_equal(layer.get_weights()[0], before)
    assert len(distiller.trainable_variables) == 1


def test_preprocess_must_be_callable():
    with pytest.raises(TypeError, match="`preprocess`"):
        kn.Distiller(table(random_logits(1)), table(random_logits(2)), preprocess="resize")


# Losses that need the labels


@pytest.mark.parametrize("labels", ["ids", "column", "one_hot", "some", "some_one_hot", "no_y"])
def test_decoupled_distillation_gets_the_true_labels_and_else_the_teachers_class(labels):
    logits, start = random_logits(1), random_logits(2)
    is_known = np.arange(SAMPLES) % 2 == 0 if labels.startswith("some") else np.full(SAMPLES, labels != "no_y")
    one_hot = np.eye(CLASSES, dtype="float32")[Y] * is_known[:, None]
    given = {
        "ids": Y,
        "column": Y[:, None],
        "one_hot": one_hot,
        "some": np.where(is_known, Y, -1),
        "some_one_hot": one_hot,
        "no_y": None,
    }[labels]
    loss = DecoupledDistillationLoss(temperature=2.0)
    ids = np.where(is_known, Y, logits.argmax(-1))
    wanted = float(loss(with_labels(logits, ids), np.float32(start)))
    distiller = by_the_teacher_alone(table(logits), table(start), loss)
    got = fitted(distiller, y=given)["distillation_loss"]
    assert got == pytest.approx(wanted, rel=FLOAT32_SUMS)
    plain = float(loss(np.float32(logits), np.float32(start)))
    assert (got == pytest.approx(plain, rel=FLOAT32_SUMS)) == (labels == "no_y")


@pytest.mark.parametrize("loss", [DistillationLoss(2.0), DecoupledDistillationLoss(temperature=2.0)])
def test_a_batch_without_any_label_has_the_teachers_term_alone(loss):
    logits, start = random_logits(1), random_logits(2)
    student = table(start)
    distiller = compiled(
        kn.Distiller(table(logits), student, loss, student_loss_weight=0.3), crossentropy(ignore_class=-1)
    )
    logs = fitted(distiller, y=np.full(SAMPLES, -1))
    wanted = float(loss(np.float32(logits), np.float32(start)))
    assert logs["student_loss"] == 0
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=FLOAT32_SUMS)
    assert logs["loss"] == pytest.approx(0.7 * wanted, rel=FLOAT32_SUMS)
    assert np.isfinite(kernel(student)).all()
    assert (kernel(student) != np.float32(start)).all()


# Logits or probabilities


def softmax_layer(x):
    return keras.layers.Softmax()(keras.layers.Dense(CLASSES)(x))


ENDINGS = {
    "argument": keras.layers.Dense(CLASSES, activation="softmax"),
    "Softmax": softmax_layer,
    "Activation": lambda x: keras.layers.Activation("softmax")(keras.layers.Dense(CLASSES)(x)),
    "function": lambda x: keras.ops.softmax(keras.layers.Dense(CLASSES)(x)),
    "nested Sequential": keras.Sequential([keras.Input((SAMPLES,)), keras.layers.Dense(CLASSES, activation="softmax")]),
    "twice nested": keras.Sequential(
        [
            keras.Input((SAMPLES,)),
            keras.Sequential([keras.Input((SAMPLES,)), keras.layers.Dense(4, activation="softmax")]),
        ]
    ),
    "sigmoid": keras.layers.Dense(CLASSES, activation="sigmoid"),
    "behind Identity": lambda x: keras.layers.Identity()(softmax_layer(x)),
    "behind a cast": lambda x: keras.layers.Activation("linear", dtype="float32")(softmax_layer(x)),
    "behind Reshape": lambda x: keras.layers.Reshape((CLASSES,))(softmax_layer(x)),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_that_ends_in_probabilities_is_an_error_where_logits_are_told(ending):
    inputs = keras.Input((SAMPLES,))
    model, linear = keras.Model(inputs, ENDINGS[ending](inputs)), table(random_logits(1))
    with pytest.raises(ValueError, match=r'The teacher must give logits to DistillationLoss.*teacher="probs"'):
        kn.Distiller(model, linear)
    with pytest.raises(ValueError, match=r"The student must give logits to DistillationLoss.*from_logits=False"):
        kn.Distiller(linear, model)


def test_a_softmax_at_each_step_of_a_sequence_is_found():
    def model(activation):
        dense = keras.layers.TimeDistributed(keras.layers.Dense(CLASSES, activation=activation))
        return keras.Sequential([keras.Input((3, 5)), dense])

    with pytest.raises(ValueError, match="The teacher must give logits"):
        kn.Distiller(model("softmax"), model(None))


@pytest.mark.parametrize(
    "loss", [DecoupledDistillationLoss(), JensenShannonDistillationLoss(), CorrelationDistillationLoss()]
)
def test_every_loss_on_logits_refuses_probabilities(loss):
    values = random_logits(1)
    with pytest.raises(ValueError, match=f"The teacher must give logits to {type(loss).__name__}"):
        kn.Distiller(table(values, "softmax"), table(values), loss)
    with pytest.raises(ValueError, match=f"The student must give logits to {type(loss).__name__}"):
        kn.Distiller(table(values), table(values, "softmax"), loss)


def test_the_second_teacher_output_or_loss_is_looked_at_too():
    good, bad, student = table(random_logits(1)), table(random_logits(2), "softmax"), table(random_logits(3))
    with pytest.raises(ValueError, match="The teacher must give logits"):
        kn.Distiller([good, bad], student)
    with pytest.raises(ValueError, match="The teacher must give logits"):
        kn.Distiller(bad, student, [keras.losses.MeanSquaredError(), DistillationLoss()])
    inputs = keras.Input((SAMPLES,))
    two = [
        keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3, activation=activation)(inputs)])
        for activation in ("softmax", None)
    ]
    with pytest.raises(ValueError, match="The teacher must give logits"):
        kn.Distiller(*two)
    kn.Distiller(*two, [[DistillationLoss(), DistillationLoss(teacher="probs")]])


@pytest.mark.parametrize(
    ("loss", "which"),
    [(DistillationLoss(teacher="probs"), "teacher"), (DistillationLoss(from_logits=False), "student")],
)
def test_logits_are_an_error_where_probabilities_are_told(loss, which):
    with pytest.raises(ValueError, match=f"(?i)the {which} must give probabilities"):
        kn.Distiller(table(random_logits(1)), table(random_logits(2)), loss)


def test_losses_that_take_anything_take_probabilities():
    p, q = softmax(random_logits(1)), softmax(random_logits(2))
    models = [table(random_logits(i), "softmax") for i in (1, 2)]
    distiller = by_the_teacher_alone(*models, keras.losses.MeanSquaredError())
    assert distillation_loss(distiller) == pytest.approx(np.square(p - q).mean(), rel=FLOAT32_PROBABILITIES)


@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_on_either_side_give_the_numbers_of_the_logits(exclusive):
    activation = "softmax" if exclusive else "sigmoid"
    logits, start = random_logits(1), random_logits(2)
    logs, gradients = [], []
    for of_teacher, of_student in ((None, None), (activation, None), (None, activation), (activation, activation)):
        student = table(start, of_student)
        teacher = "probs" if of_teacher else "logits"
        loss = DistillationLoss(2.0, exclusive=exclusive, teacher=teacher, from_logits=not of_student)
        logs.append(fitted(by_the_teacher_alone(table(logits, of_teacher), student, loss))["distillation_loss"])
        gradients.append(start - kernel(student))
    if exclusive:
        assert logs[0] == pytest.approx(distillation(logits, start, 2.0)[0].mean(), rel=FLOAT32_SUMS)
    for value, gradient in zip(logs[1:], gradients[1:], strict=True):
        assert value == pytest.approx(logs[0], rel=FLOAT32_PROBABILITIES)
        np.testing.assert_allclose(gradient, gradients[0], atol=FLOAT32_PROBABILITIES)


# The first batch


class Probabilities(keras.Model):
    """A softmax that no graph shows."""

    def __init__(self, bad=False):
        super().__init__()
        self.dense = keras.layers.Dense(CLASSES)
        self.bad = bad

    def call(self, inputs):
        return keras.ops.softmax(self.dense(inputs)) * (float("nan") if self.bad else 1.0)


def test_a_softmax_that_no_graph_shows_is_found_at_the_first_batch():
    distiller = compiled(kn.Distiller(Probabilities(), table(random_logits(1))))
    before = kernel(distiller.student)
    with pytest.raises(
        ValueError, match=r'>= 0 and sum to 1, as probabilities do\. Use `kn\.losses\.DistillationLoss\(teacher="probs"'
    ):
        fitted(distiller)
    np.testing.assert_array_equal(kernel(distiller.student), before)
    fitted(compiled(kn.Distiller(Probabilities(), distiller.student, DistillationLoss(teacher="probs"))))
    fitted(compiled(kn.Distiller(Probabilities(), distiller.student, keras.losses.MeanSquaredError())))


def test_logits_that_happen_to_be_positive_or_rule_classes_out_are_no_error():
    positive = table(np.abs(random_logits(1)))
    fitted(compiled(kn.Distiller(positive, table(random_logits(2)))))
    ruled_out = keras.Sequential([positive, keras.layers.Lambda(lambda z: keras.ops.where(z < 1.0, -float("inf"), z))])
    assert np.isfinite(fitted(compiled(kn.Distiller(ruled_out, table(random_logits(2)))))["loss"])


def nan_teacher(samples=SAMPLES):
    """Gives NaN for the last samples."""
    logits = random_logits(1)
    logits[SAMPLES - samples :] = np.nan
    return keras.Sequential([keras.Input((SAMPLES,)), Lookup(logits)])


class Lookup(keras.layers.Layer):
    """Rows of a table by one-hot inputs; unlike a matrix product, NaN stays in its row."""

    def __init__(self, values):
        super().__init__()
        self.values = np.float32(values)

    def call(self, inputs):
        return keras.ops.take(keras.ops.convert_to_tensor(self.values), keras.ops.argmax(inputs, axis=-1), axis=0)


def test_a_teacher_that_gives_nan_is_found_before_the_student_moves():
    student = table(random_logits(2))
    before = kernel(student)
    message = r"The teacher must give finite numbers\. Received: NaN or inf for 2 of 8 samples.*such as sample 6"
    with pytest.raises(ValueError, match=message):
        fitted(compiled(kn.Distiller(nan_teacher(2), student)))
    with pytest.raises(ValueError, match="must give finite numbers"):
        fitted(compiled(kn.Distiller([table(random_logits(1)), nan_teacher(1)], student)))
    np.testing.assert_array_equal(kernel(student), before)


def test_the_losses_of_the_first_batch_tell_where_the_data_can_be_read_but_once():
    def batches():
        while True:
            yield X, Y

    distiller = compiled(kn.Distiller(nan_teacher(), table(random_logits(2))))
    with pytest.raises(ValueError, match=r"`distillation_loss` must be a number after the first batch.*the teacher's"):
        distiller.fit(batches(), steps_per_epoch=3, shuffle=False, verbose=0)
    distiller = compiled(kn.Distiller(table(random_logits(1)), nan_table()))
    with pytest.raises(ValueError, match="`student_loss` must be a number after the first batch"):
        distiller.fit(batches(), steps_per_epoch=3, shuffle=False, verbose=0)


def nan_table():
    return table(np.full((SAMPLES, CLASSES), np.nan))


def test_a_data_set_of_tensorflow_is_read_from_its_first_batch_on():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(SAMPLES)
    distiller = compiled(kn.Distiller(nan_teacher(), table(random_logits(2))))
    with pytest.raises(ValueError, match="`distillation_loss` must be a number after the first batch"):
        distiller.fit(data, shuffle=False, verbose=0)


def test_a_teacher_that_is_not_asked_may_give_anything():
    distiller = compiled(kn.Distiller(nan_teacher(), table(random_logits(2)), student_loss_weight=1.0))
    assert np.isfinite(fitted(distiller)["loss"])


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": 0}, ValueError, "`temperature` must be > 0. Received: temperature=0"),
        ({"temperature": -1.0}, ValueError, "`temperature` must be > 0"),
        ({"temperature": float("nan")}, ValueError, "`temperature` must be finite"),
        ({"temperature": "2"}, TypeError, "`temperature` must be a number"),
        ({"student_loss_weight": float("nan")}, ValueError, "`student_loss_weight` must be finite"),
        ({"student_loss_weight": None}, TypeError, "`student_loss_weight` must be a number"),
        ({"distillation_loss_weights": [1.0, 1.0]}, ValueError, "2 weights for 1 losses"),
        ({"distillation_losses": DistillationLoss}, TypeError, "must hold loss objects"),
        ({"distillation_losses": [], "features": []}, ValueError, "`distillation_losses` must not be empty"),
    ],
)
def test_wrong_arguments_are_errors_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        kn.Distiller(table(random_logits(1)), table(random_logits(2)), **arguments)


def test_a_loss_of_one_output_by_name_says_nothing_of_the_form_of_another():
    def model(seed):
        inputs = keras.Input((SAMPLES,))
        probabilities = keras.layers.Dense(CLASSES, "softmax", name="a")(inputs)
        return keras.Model(inputs, {"a": probabilities, "b": keras.layers.Dense(CLASSES, name="b")(inputs)})

    distiller = kn.Distiller(model(1), model(2), {"b": DistillationLoss(2.0)})
    compiled(distiller, {"a": keras.losses.SparseCategoricalCrossentropy(), "b": crossentropy()})
    assert np.isfinite(distiller.fit(X, {"a": Y, "b": Y}, verbose=0).history["loss"][0])


def test_every_loss_must_take_what_a_cache_holds(tmp_path):
    teacher = table(random_logits(1))
    cache = kn.TeacherCache.build(teacher, X, tmp_path, verbose=0)
    losses = [DistillationLoss(2.0), DistillationLoss(2.0, teacher="top_k", teacher_temperature=2.0)]
    distiller = kn.Distiller(teacher, table(random_logits(2)), losses)
    distiller.compile("sgd", crossentropy(), run_eagerly=True, jit_compile=False)
    joined = cache.join((X, Y))
    with pytest.raises(ValueError, match="The losses must take what the cache holds"):
        distiller.fit(joined, verbose=0)
    with pytest.raises(ValueError, match="The losses must take what the cache holds"):
        distiller.fit(X, Y, None, 1, 0, None, 0.0, joined)
