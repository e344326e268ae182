"""Checks of TF-MOT's pruning schedules: TF-MOT itself does not report a schedule that never ends."""

from __future__ import annotations

import math

from keras_notes._shared.checks import check_at_least, received
from keras_notes._shared.types import Config
from keras_notes.compression._sparsity_schedules import check_sparsity

__all__ = ["pruning_schedule"]


def pruning_schedule(
    steps: int,
    m_by_n: tuple[int, int] | None,
    sparsity: float,
    initial_sparsity: float,
    *,
    begin_step: int,
    end_step: int | None,
    frequency: int,
) -> Config:
    """Returns the settings of TF-MOT's pruning, as its process reads them from `job.json`.

    Raises:
        TypeError: If a step is not an integer, or a sparsity is not a number.
        ValueError: If an argument is out of its range, or TF-MOT would not reach the sparsity within the steps.
    """
    check_sparsity("sparsity", sparsity)
    check_sparsity("initial_sparsity", initial_sparsity)
    check_at_least("begin_step", begin_step, 0)
    check_at_least("frequency", frequency, 1)
    if end_step is not None:
        check_at_least("end_step", end_step, begin_step + 1)
        _check_end(steps, begin_step, end_step, frequency)
    elif initial_sparsity:
        raise ValueError(
            f"`end_step` must be given with an `initial_sparsity`. {received(end_step=None)} Give the step at which "
            f"the sparsity is {sparsity:g}."
        )
    elif max(begin_step, 0 if begin_step else frequency) > steps:
        raise ValueError(
            f"`begin_step`, or `frequency` if that is 0, must be <= `steps`, {steps}, or nothing is pruned. "
            f"{received(begin_step=begin_step, frequency=frequency)}"
        )
    if m_by_n is not None:
        _check_groups(m_by_n, sparsity, begin_step, end_step)
    arguments: Config = {"begin_step": begin_step, "frequency": frequency}
    if end_step is None:
        arguments.update(target_sparsity=sparsity)
    else:
        arguments.update(initial_sparsity=initial_sparsity, final_sparsity=sparsity, end_step=end_step)
    name = "ConstantSparsity" if end_step is None else "PolynomialDecay"
    return {"schedule": name, "schedule_arguments": arguments, "m_by_n": m_by_n}


def _check_end(steps: int, begin_step: int, end_step: int, frequency: int) -> None:
    if end_step > steps:
        raise ValueError(f"`end_step` must be <= `steps`, {steps}. {received(end_step=end_step)}")
    if (end_step - begin_step) % frequency:
        raise ValueError(
            f"`frequency` must divide the {end_step - begin_step} steps from `begin_step` to `end_step`, or TF-MOT "
            f"does not come to the sparsity. {received(frequency=frequency)}"
        )


def _check_groups(m_by_n: tuple[int, int], sparsity: float, begin_step: int, end_step: int | None) -> None:
    pair = tuple(m_by_n) if isinstance(m_by_n, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(count, int) for count in pair) or not 0 < pair[0] < pair[1]:
        raise ValueError(f"`m_by_n` must be (m, n) with 0 < m < n. {received(m_by_n=m_by_n)}")
    if not math.isclose(sparsity, pair[0] / pair[1]):
        raise ValueError(f"`sparsity` must be {pair[0] / pair[1]:g} for m_by_n={pair}. {received(sparsity=sparsity)}")
    if begin_step or end_step is not None:
        raise ValueError(
            f"`begin_step` must be 0 and `end_step` None for `m_by_n`: TF-MOT prunes once, at the first step. "
            f"{received(begin_step=begin_step, end_step=end_step)}"
        )
