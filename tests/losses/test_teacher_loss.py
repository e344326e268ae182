"""The base classes of losses on a teacher: their defaults, another temperature, and losses of one's own."""

import numpy as np
import pytest
from keras import ops

from keras_notes.losses import (
    AttentionRelationLoss,
    CorrelationDistillationLoss,
    DecoupledDistillationLoss,
    DistillationLoss,
    HintLoss,
    JensenShannonDistillationLoss,
    RelationalLoss,
    TeacherLoss,
    WholeSampleLoss,
    with_labels,
)

pytestmark = pytest.mark.any_backend

# Two ways to scale the same logits in float32: a few roundings of 6e-8, enlarged by T^2 = 6.25 and sums of 5 terms.
FLOAT32_SCALING = 2e-5
TEMPERATURE = 2.5


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(scale=2.0, size=(2, 6, 5)).astype("float32")


class AbsoluteDifference(TeacherLoss):
    """A loss of one's own, with the defaults of its base class."""

    def compare(self, teacher, student):
        """The mean over the last axis."""
        return ops.mean(ops.abs(teacher - student), axis=self.axis)


@pytest.mark.parametrize(
    "loss_class",
    [DistillationLoss, DecoupledDistillationLoss, JensenShannonDistillationLoss, CorrelationDistillationLoss],
)
def test_another_temperature_is_that_of_a_loss_made_for_it(loss_class, logits):
    teacher, student = logits
    expected = loss_class(temperature=TEMPERATURE)(teacher, student)
    for temperature in (TEMPERATURE, ops.convert_to_tensor(TEMPERATURE)):
        actual = loss_class(temperature=1.0).at_temperature(teacher, student, temperature)
        np.testing.assert_allclose(float(actual), float(expected), rtol=FLOAT32_SCALING)
    assert abs(float(loss_class(temperature=1.0)(teacher, student)) - float(expected)) > 100 * FLOAT32_SCALING


def test_another_temperature_of_labelled_and_of_relation_losses(logits):
    teacher, student = logits
    labelled = ops.convert_to_numpy(with_labels(teacher, np.arange(6) % 5))
    sequences = logits[:, None]
    for loss_class, arguments in (
        (DecoupledDistillationLoss, (labelled, student)),
        (AttentionRelationLoss, tuple(sequences)),
    ):
        expected = loss_class(temperature=TEMPERATURE)(*arguments)
        actual = loss_class(temperature=1.0).at_temperature(*arguments, TEMPERATURE)
        np.testing.assert_allclose(float(actual), float(expected), rtol=FLOAT32_SCALING)


def test_another_temperature_keeps_sample_weights(logits):
    teacher, student = logits
    weights = np.arange(6, dtype="float32")
    expected = DistillationLoss(TEMPERATURE)(teacher, student, weights)
    actual = DistillationLoss(1.0).at_temperature(teacher, student, TEMPERATURE, weights)
    np.testing.assert_allclose(float(actual), float(expected), rtol=FLOAT32_SCALING)


class ScaledProbabilities(TeacherLoss):
    """A loss of one's own that fixes a form of its inputs in its class."""

    teacher = "probs"

    def __init__(self, temperature=4.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def get_config(self):
        """The config, with the temperature."""
        return {"temperature": self.temperature}

    def compare(self, teacher, student):
        """The mean over the last axis."""
        return self.temperature**2 * ops.mean(ops.abs(teacher - student), axis=self.axis)


def test_no_other_temperature_where_the_class_fixes_the_form_of_its_inputs(logits):
    with pytest.raises(ValueError, match="`teacher` must be an argument of ScaledProbabilities"):
        ScaledProbabilities().at_temperature(np.abs(logits[0]), logits[1], TEMPERATURE)


def test_top_k_targets_have_no_other_temperature(logits):
    loss = DistillationLoss(1.0, teacher="top_k")
    with pytest.raises(ValueError, match="`temperature` must be a constant with `teacher='top_k'`"):
        loss.at_temperature(logits[0], logits[1], TEMPERATURE)


def test_a_loss_of_ones_own_compares_and_has_the_defaults(logits):
    loss = AbsoluteDifference(name="absolute")
    np.testing.assert_allclose(float(loss(*logits)), np.abs(logits[0] - logits[1]).mean(), rtol=FLOAT32_SCALING)
    assert loss.get_config() == {"name": "absolute", "reduction": "sum_over_batch_size", "dtype": "float32"}
    assert (loss.temperature, loss.teacher, loss.exclusive, loss.axis) == (None, "logits", True, -1)


def test_a_loss_that_compares_nothing_says_so(logits):
    with pytest.raises(NotImplementedError, match="TeacherLoss must implement `compare"):
        TeacherLoss()(*logits)


def test_losses_of_whole_samples_or_relations_do_not_compare_entries():
    assert HintLoss().compares_entries
    assert not any(loss.compares_entries for loss in (RelationalLoss(), AttentionRelationLoss(), WholeSampleLoss()))
