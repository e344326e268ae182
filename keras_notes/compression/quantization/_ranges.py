"""The ranges of activations: their start, their updates in training, and their freeze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
from keras import ops

from keras_notes._shared.types import ArrayLike, Config, Tensor, Tree

__all__ = ["NEVER", "Ranges"]

# A training step that is never reached.
NEVER = 2**31 - 1


@keras.saving.register_keras_serializable(package="keras_notes")
class Ranges(keras.Layer):
    """The smallest and the largest value at each point where a model rounds.

    Args:
        points: Names of the points.
        learned: Whether ranges are trained by gradient; otherwise they are moving averages.
        momentum: Part of the old range that stays at each step of the moving average.
        freeze_after: Number of training steps after which the ranges stay; None for never.
        calibrated: Whether the ranges start from calibration data; otherwise from the first batch of training.

    Attributes:
        limits: Variable of shape (points, 2) with the smallest and the largest value at each point.
        seen: Variable of shape (points,), 1 where a batch of training has passed the point.
        step: Variable with the number of training steps so far.
        last_step: Variable with the step at which the ranges freeze.
    """

    def __init__(
        self,
        points: Sequence[str],
        *,
        learned: bool,
        momentum: float,
        freeze_after: int | None,
        calibrated: bool,
        **kwargs: Tree,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.points = tuple(points)
        self.calibrated = calibrated
        self.learned = learned
        self.momentum = momentum
        self.freeze_after = freeze_after
        self.build()

    def build(self, input_shape: Tree = None) -> None:
        """Creates the variables."""
        size = len(self.points)
        self.limits = self.add_weight(
            shape=(size, 2), initializer="zeros", trainable=self.learned, name="limits", autocast=False
        )
        self.seen = self.add_weight(shape=(size,), initializer="zeros", trainable=False, name="seen")
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="step")
        self.last_step = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(NEVER if self.freeze_after is None else self.freeze_after),
            dtype="int32",
            trainable=False,
            name="last_step",
        )
        self.built = True

    @property
    def is_frozen(self) -> Tensor:
        """Whether ranges and statistics stay, as a scalar tensor."""
        return self.step >= self.last_step

    def start(self, limits: ArrayLike) -> None:
        """Sets all ranges to those of calibration data, of shape (points, 2)."""
        self.limits.assign(limits)

    def follow(self, visited: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Moves the ranges towards those of a batch, and counts a step.

        Args:
            visited: Smallest and largest value at each point that the batch passed, by number of the point.
        """
        numbers = sorted(visited)
        moving = ops.logical_not(self.is_frozen)
        if numbers and not self.learned:
            batch = ops.stop_gradient(ops.stack([ops.stack(visited[number]) for number in numbers]))
            old = ops.take(self.limits, numbers, axis=0)
            followed = self.momentum * old + (1.0 - self.momentum) * batch
            if not self.calibrated:
                followed = ops.where(ops.take(self.seen, numbers)[:, None] > 0, followed, batch)
            new = ops.where(moving, followed, old)
            if len(numbers) < len(self.points):
                new = ops.scatter_update(ops.convert_to_tensor(self.limits), [[n] for n in numbers], new)
            self.limits.assign(new)
        if numbers and not self.calibrated:
            ones = ops.ones((len(numbers),))
            self.seen.assign(ops.scatter_update(ops.convert_to_tensor(self.seen), [[n] for n in numbers], ones))
        self.step.assign(self.step + ops.cast(moving, "int32"))

    def get_config(self) -> Config:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "points": list(self.points),
            "learned": self.learned,
            "momentum": self.momentum,
            "freeze_after": self.freeze_after,
            "calibrated": self.calibrated,
        }
