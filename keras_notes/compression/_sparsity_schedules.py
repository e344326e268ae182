"""How sparsity goes with the steps of training."""

from __future__ import annotations

from numbers import Real
from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_at_least, check_positive, received

__all__ = ["ConstantSparsity", "PolynomialSparsity", "SparsitySchedule", "checked_sparsity"]


def checked_sparsity(name: str, value: Any) -> float:
    """Returns a sparsity as a float, which must be in [0, 1)."""
    wanted = f"`{name}` must be a number in [0, 1), the share of zeros. {received(**{name: value})}"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(wanted)
    if not 0 <= (share := float(value)) < 1:
        raise ValueError(wanted)
    return share


class SparsitySchedule:
    """The share of weights that are 0, by training step.

    Args:
        begin_step: The first step at which weights are pruned.
        end_step: The last one; the masks of that step stay. None for no end.
        frequency: The number of steps between two prunings.
    """

    def __init__(self, begin_step: int, end_step: int | None, frequency: int) -> None:
        self.begin_step = check_at_least("begin_step", begin_step, 0)
        self.end_step = None if end_step is None else check_at_least("end_step", end_step, self.begin_step)
        self.frequency = check_at_least("frequency", frequency, 1)

    def sparsity_at(self, step: Any) -> Any:
        """The sparsity at a step, as a tensor."""
        raise NotImplementedError

    def zeros_at(self, step: Any, size: int) -> Any:
        """How many of `size` weights are 0 at a step: the sparsity of them, rounded, halves to even."""
        raise NotImplementedError

    def prunes_at(self, step: Any) -> Any:
        """Whether weights are pruned at a step, as a tensor."""
        since = step - self.begin_step
        due = ops.logical_and(since >= 0, ops.equal(ops.mod(since, self.frequency), 0))
        if self.end_step is None:
            return due
        return ops.logical_or(ops.logical_and(due, step <= self.end_step), ops.equal(step, self.end_step))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"begin_step": self.begin_step, "end_step": self.end_step, "frequency": self.frequency}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SparsitySchedule:
        """The schedule of a configuration."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_notes")
class ConstantSparsity(SparsitySchedule):
    """The same sparsity from the first step on.

    Args:
        sparsity: The share of weights that are 0, in [0, 1).
        begin_step: The first step at which weights are pruned.
        end_step: The last one; the masks of that step stay. None for no end: the weights of least magnitude are chosen
            anew every `frequency` steps.
        frequency: The number of steps between two prunings.

    Example:
        >>> float(ConstantSparsity(0.5).sparsity_at(7))
        0.5
    """

    def __init__(
        self, sparsity: float, *, begin_step: int = 0, end_step: int | None = None, frequency: int = 100
    ) -> None:
        super().__init__(begin_step, end_step, frequency)
        self.sparsity = checked_sparsity("sparsity", sparsity)

    def sparsity_at(self, step: Any) -> Any:
        """The sparsity."""
        return ops.convert_to_tensor(self.sparsity, "float32")

    def zeros_at(self, step: Any, size: int) -> Any:
        """How many of `size` weights are 0."""
        return ops.convert_to_tensor(round(self.sparsity * size), "int32")

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"sparsity": self.sparsity, **super().get_config()}


@keras.saving.register_keras_serializable(package="keras_notes")
class PolynomialSparsity(SparsitySchedule):
    """A sparsity that grows fast at first, and slowly in the end.

    final + (initial - final) * (1 - (step - begin_step) / (end_step - begin_step))^power

    Args:
        initial: The sparsity at `begin_step`, in [0, 1).
        final: The sparsity at `end_step`, in [0, 1).
        begin_step: The first step at which weights are pruned.
        end_step: The last one, whether or not it is a multiple of `frequency` later; its masks stay.
        power: How fast it grows at first.
        frequency: The number of steps between two prunings.

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
        self.initial = checked_sparsity("initial", initial)
        self.final = checked_sparsity("final", final)
        self.power = check_positive("power", power)

    def sparsity_at(self, step: Any) -> Any:
        """The sparsity at a step."""
        return self.final + (self.initial - self.final) * self._ahead(step)

    def zeros_at(self, step: Any, size: int) -> Any:
        """How many of `size` weights are 0 at a step: exact at both ends, for any size."""
        first, last = round(self.initial * size), round(self.final * size)
        ahead = self._ahead(step)
        between = last + ops.cast(ops.round((first - last) * ahead), "int32")
        return ops.where(ahead < 1.0, between, first)  # float32 has no more than 24 bits

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"initial": self.initial, "final": self.final, "power": self.power, **super().get_config()}

    def _ahead(self, step: Any) -> Any:
        """How much of the way is ahead: 1 at the first step, 0 at the last one."""
        assert self.end_step is not None
        done = ops.cast(step - self.begin_step, "float32") / (self.end_step - self.begin_step)
        return (1.0 - ops.clip(done, 0.0, 1.0)) ** self.power
