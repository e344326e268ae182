"""The distillation loss of a batch: every term, with its weight, over every teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import keras
from keras import ops

from keras_notes._shared.keras_internals import get_mask
from keras_notes._shared.types import Tensor, Tree
from keras_notes.distillation._teacher_record import TeacherRecord, feature_of
from keras_notes.distillation.objective._feature_match import FeatureMatch
from keras_notes.distillation.objective._output_term import LossTerm, OutputTerm
from keras_notes.distillation.objective._schedules import Number, Schedule, is_schedule, value_at
from keras_notes.distillation.objective._teacher_selection import best_outputs
from keras_notes.distillation.objective._weighted_losses import as_teacher_loss, weighted_feature_loss
from keras_notes.losses import TeacherLoss

__all__ = ["Objective", "Term"]

Term: TypeAlias = OutputTerm | FeatureMatch


class Objective:
    """The sum of weight * term over the terms.

    Args:
        terms: Pairs (term, weight or schedule).
        shares: The share of each teacher in the mean of an OutputTerm, or "best".
        temperature: A number or a schedule in place of the losses' own temperatures; None leaves them.
    """

    def __init__(self, terms: list[tuple[Term, Number]], shares: list[float] | str, temperature: Number | None) -> None:
        self.terms, self.shares, self.temperature = terms, shares, temperature

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules among temperature and weights."""
        numbers = (self.temperature, *(weight for _, weight in self.terms))
        return [number for number in numbers if is_schedule(number)]

    @property
    def _loss_terms(self) -> list[LossTerm]:
        return [term for term, _ in self.terms if isinstance(term, LossTerm)]

    @property
    def output_losses(self) -> list[TeacherLoss]:
        """The losses of all terms on outputs."""
        return [loss for term in self._loss_terms for loss in term.flat_losses]

    def losses_by_output(self, outputs: Tree | None, count: int) -> list[list[TeacherLoss | None]]:
        """Returns, for each term on outputs, its losses: one or None for each of `count` outputs.

        A dict of losses can be matched to outputs only if `outputs` is given.
        """
        losses: list[list[TeacherLoss | None]] = [[None] * count]
        for term in self._loss_terms:
            if outputs is not None:
                losses.append(term.for_outputs(outputs))
            elif isinstance(term.losses, TeacherLoss):
                losses.append([term.losses] * count)
        return losses

    def value(
        self,
        record: TeacherRecord,
        y: Tree,
        y_pred: Tree,
        features: Iterable[Tensor],
        sample_weight: Tree,
        step: Tensor | None,
    ) -> Tensor:
        """Returns the distillation loss.

        Args:
            record: The teachers' record of the batch, live or from a cache.
            y: Labels, or None.
            y_pred: Outputs of the student.
            features: Features of the student behind their connectors, one for each FeatureMatch.
            sample_weight: Weights of the samples, or None.
            step: A scalar tensor where there are schedules.
        """
        total = ops.zeros((), dtype=keras.backend.floatx())
        remaining = iter(features)
        for term, weight in self.terms:
            if isinstance(term, FeatureMatch):
                teacher = feature_of(record, term.teacher, term.teacher_layer)
                loss = as_teacher_loss(term.loss)
                value = weighted_feature_loss(loss, teacher, next(remaining), sample_weight)
            else:
                value = self._output_value(term, record, y, y_pred, sample_weight, step)
            total = total + value_at(weight, step) * ops.cast(value, total.dtype)
        return total

    def _output_value(
        self,
        term: OutputTerm,
        record: TeacherRecord,
        y: Tree,
        y_pred: Tree,
        sample_weight: Tree,
        step: Tensor | None,
    ) -> Tensor:
        outputs = record["outputs"]
        if isinstance(self.shares, str):
            masks = [get_mask(leaf) for leaf in keras.tree.flatten(y_pred)]
            best = best_outputs(outputs, term.for_outputs(y_pred), term.labels(y, y_pred), masks)
            pairs = [(1.0, tuple(best))]
        else:
            pairs = list(zip(self.shares, outputs, strict=True))
        temperature = None if self.temperature is None else value_at(self.temperature, step)
        values = [
            share * term.value(leaves, y_pred, y, sample_weight, temperature) for share, leaves in pairs if share != 0
        ]
        return sum(values[1:], values[0])
