"""Schedules of sparsity by training step."""

from __future__ import annotations

from numbers import Real

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_positive, received
from keras_notes._shared.types import Config, Tensor

__all__ = ["ConstantSparsity", "PolynomialSparsity", "SparsitySchedule", "check_sparsity"]


def check_sparsity(name: str, value: object) -> float:
    """Returns a sparsity as a float, which must be in [0, 1).

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of its range.
    """
    message = f"`{name}` must be a number in [0, 1), the share of zeros. {received(**{name: value})}"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(message)
    if not 0 <= (share := float(value)) < 1:
        raise ValueError(message)
    return share


class SparsitySchedule:
    """The share of weights that are 0, by training step.

    Args:
        begin_step: First step at which weights are pruned.
        end_step: Last step at which weights are pruned; its masks stay. None for no end.
        frequency: Number of steps between two prunings.
    """

    def __init__(self, begin_step: int, end_step: int | None, frequency: int) -> None:
        self.begin_step = check_at_least("begin_step", begin_step, 0)
        self.end_step = None if end_step is None else check_at_least("end_step", end_step, self.begin_step)
        self.frequency = check_at_least("frequency", frequency, 1)

    def sparsity_at(self, step: Tensor) -> Tensor:
        """Returns the sparsity at a step, a float32 scalar.

        Args:
            step: Training step, an integer or an integer scalar.

        Raises:
            NotImplementedError: If the class of the schedule does not implement it.

        Example:
            >>> schedule = PolynomialSparsity(0.0, 0.8, begin_step=0, end_step=1000)
            >>> [round(float(schedule.sparsity_at(step)), 2) for step in (0, 250, 500, 1000, 2000)]
            [0.0, 0.46, 0.7, 0.8, 0.8]
        """
        raise NotImplementedError

    def zeros_at(self, step: Tensor, size: int) -> Tensor:
        """Returns the number of weights that are 0 at a step: sparsity times size, rounded (halves to even).

        Args:
            step: Training step, an integer or an integer scalar.
            size: Number of weights.

        Returns:
            An int32 scalar, exact at both ends of the schedule for any size.

        Raises:
            NotImplementedError: If the class of the schedule does not implement it.

        Example:
            >>> schedule = PolynomialSparsity(0.0, 0.8, begin_step=0, end_step=1000)
            >>> [int(schedule.zeros_at(step, size=64)) for step in (0, 500, 1000)]
            [0, 45, 51]
        """
        raise NotImplementedError

    def prunes_at(self, step: Tensor) -> Tensor:
        """Returns whether weights are pruned at a step, a boolean scalar.

        Args:
            step: Training step, an integer or an integer scalar.

        Example:
            >>> schedule = ConstantSparsity(0.5, begin_step=100, end_step=350, frequency=100)
            >>> [step for step in range(0, 500, 50) if schedule.prunes_at(step)]
            [100, 200, 300, 350]
        """
        since = step - self.begin_step
        due = ops.logical_and(since >= 0, ops.equal(ops.mod(since, self.frequency), 0))
        if self.end_step is None:
            return due
        return ops.logical_or(ops.logical_and(due, step <= self.end_step), ops.equal(step, self.end_step))

    def get_config(self) -> Config:
        """Returns the arguments."""
        return {"begin_step": self.begin_step, "end_step": self.end_step, "frequency": self.frequency}

    @classmethod
    def from_config(cls, config: Config) -> SparsitySchedule:
        """Returns the schedule of a configuration."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_notes")
class ConstantSparsity(SparsitySchedule):
    """The same sparsity from the first step on.

    Args:
        sparsity: Share of weights that are 0, in [0, 1).
        begin_step: First step at which weights are pruned.
        end_step: Last step at which weights are pruned; its masks stay. None for no end: the weights of smallest
            magnitude are chosen again every `frequency` steps.
        frequency: Number of steps between two prunings.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> float(ConstantSparsity(0.5).sparsity_at(7))
        0.5

    References:
        Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, section 3, for
        pruning by magnitude. `tfmot.sparsity.keras.ConstantSparsity` is the schedule of TF-MOT.
    """

    def __init__(
        self, sparsity: float, *, begin_step: int = 0, end_step: int | None = None, frequency: int = 100
    ) -> None:
        super().__init__(begin_step, end_step, frequency)
        self.sparsity = check_sparsity("sparsity", sparsity)

    def sparsity_at(self, step: Tensor) -> Tensor:
        return ops.convert_to_tensor(self.sparsity, "float32")

    def zeros_at(self, step: Tensor, size: int) -> Tensor:
        return ops.convert_to_tensor(round(self.sparsity * size), "int32")

    def get_config(self) -> Config:
        """Returns the arguments."""
        return {"sparsity": self.sparsity, **super().get_config()}


@keras.saving.register_keras_serializable(package="keras_notes")
class PolynomialSparsity(SparsitySchedule):
    """A sparsity that changes fast at first, and slowly at the end.

        sparsity(step) = final + (initial - final) * (1 - (step - begin_step) / (end_step - begin_step))^power

    Args:
        initial: Sparsity at `begin_step`, in [0, 1).
        final: Sparsity at `end_step`, in [0, 1).
        begin_step: First step at which weights are pruned.
        end_step: Last step at which weights are pruned, also if it is not a multiple of `frequency` later; its masks
            stay. It must be greater than `begin_step`.
        power: Exponent of the polynomial, greater than 0; the larger, the faster the sparsity changes at first.
        frequency: Number of steps between two prunings.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = PolynomialSparsity(0.0, 0.8, begin_step=0, end_step=100)
        >>> round(float(schedule.sparsity_at(50)), 3)
        0.7

    References:
        Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878, equation 1.
    """

    def __init__(
        self,
        initial: float,
        final: float,
        *,
        begin_step: int,
        end_step: int,
        power: float = 3.0,
        frequency: int = 100,
    ) -> None:
        super().__init__(begin_step, check_at_least("end_step", end_step, begin_step + 1), frequency)
        self.initial = check_sparsity("initial", initial)
        self.final = check_sparsity("final", final)
        self.power = check_positive("power", power)
        self._duration = end_step - self.begin_step

    def sparsity_at(self, step: Tensor) -> Tensor:
        return self.final + (self.initial - self.final) * self._decay(step)

    def zeros_at(self, step: Tensor, size: int) -> Tensor:
        first, last = round(self.initial * size), round(self.final * size)
        decay = self._decay(step)
        between = last + ops.cast(ops.round((first - last) * decay), "int32")
        return ops.where(decay < 1.0, between, first)  # float32 has no more than 24 bits

    def get_config(self) -> Config:
        """Returns the arguments."""
        return {"initial": self.initial, "final": self.final, "power": self.power, **super().get_config()}

    def _decay(self, step: Tensor) -> Tensor:
        """Returns the factor of the difference from `final`: 1 at the first step, 0 at the last one."""
        progress = ops.cast(step - self.begin_step, "float32") / self._duration
        return (1.0 - ops.clip(progress, 0.0, 1.0)) ** self.power
