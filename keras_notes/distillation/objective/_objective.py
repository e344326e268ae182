"""The distillation loss of a batch: every term, with its weight, over every teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_notes.distillation.objective._feature_match import FeatureMatch
from keras_notes.distillation.objective._output_term import OutputTerm, weighted_feature_loss
from keras_notes.distillation.objective._schedules import is_schedule, value_at
from keras_notes.distillation.recording._teachers import best_outputs, feature_of
from keras_notes.losses._labels import mask_of

__all__ = ["Objective"]


class Objective:
    """The sum of weight * term over the terms.

    Args:
        terms: Pairs (OutputTerm or FeatureMatch, weight or schedule).
        shares: The share of each teacher in the mean of an OutputTerm, or "best".
        temperature: None, a number or a schedule, in place of the losses' own.
    """

    def __init__(self, terms: list[tuple], shares: list[float] | str, temperature) -> None:
        self.terms, self.shares, self.temperature = terms, shares, temperature

    @property
    def schedules(self) -> list:
        """What changes with the step."""
        return [number for number in (self.temperature, *(weight for _, weight in self.terms)) if is_schedule(number)]

    @property
    def output_losses(self) -> list:
        """The losses of all terms on outputs."""
        terms = [term for term, _ in self.terms if isinstance(term, OutputTerm) and term.custom is None]
        return [loss for term in terms for loss in keras.tree.flatten(term.losses) if loss is not None]

    def losses_by_output(self, outputs, count: int) -> list[list]:
        """For each term on outputs its losses, one or None for each of `count` outputs.

        Which output a loss of a dictionary is for only `outputs` tells; without them (None) nothing is said of it.
        """
        found = [[None] * count]
        for term, _ in self.terms:
            if not isinstance(term, OutputTerm) or term.custom is not None:
                continue
            if outputs is not None:
                found.append(term.for_outputs(outputs))
            elif isinstance(term.losses, keras.losses.Loss):
                found.append([term.losses] * count)
        return found

    def value(self, record: dict, y, y_pred, features: list, sample_weight, step):
        """The distillation loss.

        Args:
            record: What the teachers say, of `Teachers.record` or of a cache.
            y: The labels, or None.
            y_pred: The student's outputs.
            features: The student's features behind their connectors, one for each FeatureMatch.
            sample_weight: Weights of the samples, or None.
            step: A scalar tensor where there are schedules.
        """
        total = ops.zeros((), dtype=keras.backend.floatx())
        remaining = iter(features)
        for term, weight in self.terms:
            if isinstance(term, FeatureMatch):
                teacher = feature_of(record, term.teacher, term.teacher_layer)
                value = weighted_feature_loss(term.loss, teacher, next(remaining), sample_weight)
            else:
                value = self._output_value(term, record["outputs"], y, y_pred, sample_weight, step)
            total = total + value_at(weight, step) * ops.cast(value, total.dtype)
        return total

    def _output_value(self, term, outputs, y, y_pred, sample_weight, step):
        shares: Any = self.shares
        if shares == "best":
            losses = term.for_outputs(y_pred) if term.custom is None else [None] * len(outputs[0])
            masks = [mask_of(leaf) for leaf in keras.tree.flatten(y_pred)]
            outputs, shares = [best_outputs(outputs, losses, term.labels(y, y_pred), masks)], [1.0]
        temperature = None if self.temperature is None else value_at(self.temperature, step)
        values = [
            share * term(leaves, y_pred, y, sample_weight, temperature)
            for share, leaves in zip(shares, outputs, strict=True)
            if share != 0
        ]
        return sum(values[1:], values[0])
