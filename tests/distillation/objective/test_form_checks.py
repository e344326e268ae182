"""Losses that do not take what the models give, and the call of a loss that does, which each message holds."""

import functools
import re

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import AsymmetricLoss, DistillationLoss, FocalLoss, HintLoss
from tests.distillation.training import CLASSES, SAMPLES, X, compiled, fitted, linear, random_logits, table

pytestmark = pytest.mark.any_backend
losses = keras.losses


def call_in(message):
    """The loss, or losses, whose call a message gives."""
    return eval(re.search(r"Use `(.*?)`", str(message)).group(1), {"kn": kn})


def pair(activation=None, of_student=None, classes=CLASSES):
    return linear("teacher", classes=classes, activation=activation), linear(
        "student", classes=classes, activation=of_student
    )


class Hidden(keras.Model):
    """A model whose graph tells nothing."""

    def __init__(self, activation, name=None):
        super().__init__(name=name)
        self.scores = keras.layers.Dense(CLASSES, activation=activation, kernel_initializer="random_normal")

    def call(self, inputs):
        return self.scores(4.0 * inputs) * 1.0


OF_PROBABILITIES = {
    "KLDivergence": losses.KLDivergence(),
    "CategoricalCrossentropy": losses.CategoricalCrossentropy(),
    "of student's logits": losses.CategoricalCrossentropy(from_logits=True),
    "CategoricalFocalCrossentropy": losses.CategoricalFocalCrossentropy(),
    "BinaryCrossentropy": losses.BinaryCrossentropy(),
    "BinaryFocalCrossentropy": losses.BinaryFocalCrossentropy(from_logits=True),
    "Dice": losses.Dice(),
    "Tversky": losses.Tversky(),
    "class ids": losses.SparseCategoricalCrossentropy(from_logits=True),
    "FocalLoss": FocalLoss(),
    "AsymmetricLoss": AsymmetricLoss(from_logits=True),
}


@pytest.mark.parametrize("which", OF_PROBABILITIES)
def test_a_loss_of_probabilities_on_logits_is_an_error_with_the_loss_that_is_meant(which):
    loss = OF_PROBABILITIES[which]
    teacher, student = pair()
    cases = [
        lambda item: kn.Distiller(teacher, student, item),
        lambda item: kn.distillation.MutualDistiller([teacher, student], item),
        lambda item: kn.Distiller(teacher, student, [], features=kn.FeatureMatch("scores", "scores", item)),
        lambda item: kn.Distiller(teacher, student, [], features=kn.FeatureMatch(None, None, item)),
    ]
    for layer in (teacher.layers[-1], student.layers[-1]):
        layer.name = "scores"
    for construct in cases:
        with pytest.raises(ValueError, match=f"must give .* to {type(loss).__name__}") as error:
            construct(loss)
        construct(call_in(error.value))


@pytest.mark.parametrize(
    "loss",
    [
        losses.MeanSquaredError(),
        losses.MeanAbsoluteError(),
        losses.Huber(),
        losses.LogCosh(),
        losses.CosineSimilarity(),
        losses.Poisson(),
        HintLoss(),
    ],
)
def test_losses_of_any_numbers_take_logits_and_probabilities(loss):
    for models in (pair(), pair("softmax", "softmax"), pair("sigmoid", None)):
        kn.Distiller(*models, loss)
    kn.distillation.MutualDistiller(pair(), loss)


def test_losses_of_probabilities_take_probabilities():
    for loss in (losses.KLDivergence(), losses.CategoricalCrossentropy(), FocalLoss(), losses.Dice()):
        kn.Distiller(*pair("softmax", "softmax"), loss)
    for loss in (losses.BinaryCrossentropy(), AsymmetricLoss(), losses.BinaryFocalCrossentropy()):
        kn.Distiller(*pair("sigmoid", "sigmoid", classes=1), loss)
    kn.Distiller(*pair("softmax"), losses.CategoricalCrossentropy(from_logits=True))
    kn.distillation.MutualDistiller(pair("softmax", "softmax"), losses.KLDivergence())


def test_functions_names_and_partial_functions_are_known_and_subclasses_are_not():
    for loss in (
        "kl_divergence",
        losses.binary_crossentropy,
        functools.partial(losses.categorical_crossentropy, from_logits=True),
    ):
        match = kn.FeatureMatch(None, None, loss)
        with pytest.raises(ValueError, match="must give probabilities"):
            kn.Distiller(*pair(), [], features=match)

    class Softened(losses.KLDivergence):
        def call(self, y_true, y_pred):
            return super().call(keras.ops.softmax(y_true), keras.ops.softmax(y_pred))

    kn.Distiller(*pair(), Softened())


ENDINGS = {
    "one sigmoid": ("sigmoid", "sigmoid", 1),
    "one sigmoid from logits": (None, "sigmoid", 1),
    "one logit": (None, None, 1),
    "softmax": ("softmax", "softmax", CLASSES),
    "softmax to logits": ("softmax", None, CLASSES),
    "labels": ("sigmoid", "sigmoid", CLASSES),
    "log-probabilities": ("log_softmax", "softmax", CLASSES),
}
WRONG = {
    "default": None,
    "set": DistillationLoss(2.0, standardize=True, name="soft"),
    "probabilities": DistillationLoss(3.0, teacher="probs", teacher_temperature=2.0, from_logits=False),
    "KLDivergence": losses.KLDivergence(),
    "decoupled": kn.losses.DecoupledDistillationLoss(temperature=2.0),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_call_in_the_first_message_is_right_at_once(ending, wrong):
    *activations, classes = ENDINGS[ending]
    models = pair(*activations, classes=classes)
    try:
        kn.Distiller(*models, WRONG[wrong])
    except ValueError as error:
        loss = call_in(error)
    else:
        return
    kn.Distiller(*models, loss)
    if WRONG[wrong] is not None and hasattr(WRONG[wrong], "temperature"):
        assert loss.temperature == WRONG[wrong].temperature
    rng = np.random.default_rng(0)
    p, q = (
        keras.activations.get(name or "linear")(keras.ops.array(rng.normal(size=(SAMPLES, classes)), "float32"))
        for name in activations
    )
    assert np.isfinite(float(loss(p, q)))


def test_one_sigmoid_distils_with_the_pasted_call():
    teacher, student = pair("sigmoid", "sigmoid", classes=1)
    with pytest.raises(ValueError, match="teacher that ends in an output behind a sigmoid, a student") as error:
        kn.Distiller(teacher, student)
    loss = call_in(error.value)
    assert (loss.teacher, loss.from_logits, loss.exclusive) == ("probs", False, False)
    y = np.arange(SAMPLES) % 2
    logs = fitted(compiled(kn.Distiller(teacher, student, loss), "binary_crossentropy"), X, y)
    assert logs["distillation_loss"] > 0


def test_models_with_several_outputs_get_the_losses_of_all():
    inputs = keras.Input((SAMPLES,))

    def model(kind):
        names = {"classes": ("softmax", 3), "alarm": ("sigmoid", 1), "score": (None, 3)}
        outputs = {name: keras.layers.Dense(n, activation=a, name=name)(inputs) for name, (a, n) in names.items()}
        return keras.Model(inputs, outputs if kind is dict else list(outputs.values()))

    for kind in (list, dict):
        with pytest.raises(ValueError, match="must give logits") as error:
            kn.Distiller(model(kind), model(kind))
        kn.Distiller(model(kind), model(kind), call_in(error.value))


def test_teachers_of_unlike_forms_are_told_to_end_in_logits():
    with pytest.raises(ValueError, match="Let all teachers end in logits"):
        kn.Distiller([linear(), linear(activation="softmax")], linear())


HIDDEN = {
    "teacher of logits": (Hidden, None, "softmax", losses.KLDivergence()),
    "student of logits": (linear, "softmax", None, losses.KLDivergence()),
    "both": (Hidden, None, None, losses.CategoricalCrossentropy()),
    "student of probabilities": (linear, None, "softmax", None),
    "told probabilities": (Hidden, None, None, DistillationLoss(teacher="probs")),
}


@pytest.mark.parametrize("which", HIDDEN)
def test_what_no_graph_shows_is_found_at_the_first_batch(which):
    kind, of_teacher, of_student, loss = HIDDEN[which]
    teacher = kind(activation=of_teacher)
    student = Hidden(of_student) if "student" in which or which == "both" else linear(activation=of_student)
    label_loss = losses.SparseCategoricalCrossentropy(from_logits=of_student is None)
    x, y = np.random.default_rng(0).normal(size=(SAMPLES, SAMPLES)).astype("float32"), np.zeros(SAMPLES, int)
    with pytest.raises(ValueError, match=r"must give .* Received: a first batch whose values") as error:
        fitted(compiled(kn.Distiller(teacher, student, loss), label_loss), x, y)
    fitted(compiled(kn.Distiller(teacher, student, call_in(error.value)), label_loss), x, y)


def test_students_that_learn_from_each_other_are_looked_at_too():
    students = [Hidden(None, "first"), Hidden(None, "second")]
    with pytest.raises(ValueError, match="must give probabilities to KLDivergence") as error:
        fitted(compiled(kn.distillation.MutualDistiller(students, losses.KLDivergence())))
    fitted(compiled(kn.distillation.MutualDistiller(students, call_in(error.value))))


def test_a_cache_is_looked_at_as_its_teacher_would_be(tmp_path):
    teacher, student = table(random_logits(1)), Hidden("softmax")
    cache = kn.TeacherCache.build(teacher, X, tmp_path / "logits", verbose=0)
    batches = cache.join((X, np.zeros(SAMPLES, int)), batch_size=SAMPLES)
    for source in (cache, Hidden(None)):
        if source is not cache:
            source(X)
            other = kn.TeacherCache.build(source, X, tmp_path / "hidden", verbose=0)
            batches = other.join((X, np.zeros(SAMPLES, int)), batch_size=SAMPLES)
        distiller = compiled(
            kn.Distiller(source, student, losses.KLDivergence()), losses.SparseCategoricalCrossentropy()
        )
        with pytest.raises(ValueError, match="The teacher must give probabilities to KLDivergence"):
            distiller.fit(batches, verbose=0)
    with pytest.raises(ValueError, match="The student must give probabilities to KLDivergence"):
        kn.Distiller(cache, linear(), losses.KLDivergence())


def test_the_top_k_are_taken_from_the_form_that_the_teacher_has(tmp_path):
    teacher = table(random_logits(1), "softmax")
    with pytest.raises(ValueError, match="use `form='probs'`"):
        kn.TeacherCache.build(teacher, X, tmp_path / "logits", top_k=2, verbose=0)
    kn.TeacherCache.build(teacher, X, tmp_path / "probs", top_k=2, form="probs", verbose=0)


def test_a_binary_cross_entropy_of_keras_is_distilled_label_for_label():
    theirs = keras.distillation.LogitsDistillation(2.0, loss="binary_crossentropy")
    teacher, student = table(random_logits(1)), table(random_logits(2))
    logs = [
        fitted(compiled(kn.Distiller(teacher, keras.models.clone_model(student), loss, student_loss_weight=0.0)))
        for loss in (theirs, DistillationLoss(2.0, exclusive=False))
    ]
    assert logs[0]["distillation_loss"] > 0
    with pytest.raises(ValueError, match="must give probabilities to Dice"):
        kn.Distiller(teacher, student, keras.distillation.LogitsDistillation(2.0, loss=losses.Dice()))
