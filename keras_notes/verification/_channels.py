"""Channels of an output that vary in the trained model and are lost in the file.

The grid of an output has one step for all of its channels. If their sizes are unlike, as those of boxes in pixels and
of scores in one output are, the small channels lie within a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["LostChannels", "find_lost_channels", "varies_with_samples"]

# A channel varies if its standard deviation is a hundredth of its largest value: below, it is a constant with noise.
_SPREAD = 0.01
# A channel that has less of the variation than this is a constant: it holds 1 % of the variance.
_FLAT = 0.1
# Channels are unlike from this ratio of their largest values: 4 of the 8 bits are left for the smaller one.
_UNLIKE = 16.0
# Few channels are quantities of their own; many may be units of one layer, of which some hardly ever answer.
_FEW_CHANNELS = 16
# The share of the largest value below which no single-precision sum of both shows the channel.
_VANISHING = 1e-6
# How far the sum of a sample's probabilities may be from 1: steps of 1/256, over up to a few classes.
_SUM_OF_PROBABILITIES = 0.01


@dataclass(frozen=True)
class LostChannels:
    """Channels of an output that are lost in the file.

    Attributes:
        axis: The axis of the channels; the batch is axis 0.
        channels: Their indices.
        others: Indices of the channels whose values are unlike theirs; () if all channels are lost.
        size: Their largest absolute value in the trained model.
        other_size: The smallest of the largest absolute values of the other channels; 0.0 without others.
    """

    axis: int
    channels: tuple[int, ...]
    others: tuple[int, ...]
    size: float
    other_size: float

    def describe(self, output: str, step: float | None) -> str:
        """Returns the failure as a sentence with its remedy.

        Args:
            output: Name of the output.
            step: The step of the output's grid; None without a grid.
        """
        grid = "" if step is None else f", whose step is {step:.3g},"
        if not self.others:
            return (
                f"the output {output!r} must follow the trained model, where it varies. Received: a file{grid} that "
                f"gives almost the same values for all samples"
            )
        lost, others = format_indices(self.channels), format_indices(self.others)
        return (
            f"the channels {lost} (axis {self.axis}) of the output {output!r} must follow the trained model, where "
            f"they vary within +-{self.size:.3g}. Received: a file{grid} in which they are almost constant, since the "
            f"channels {others} are at least {self.other_size / self.size:.0f} times as large. Make them outputs of "
            f"their own, each with its own grid: one output of the channels {others}, another of {lost}"
        )


def format_indices(indices: tuple[int, ...]) -> str:
    """Returns indices with ranges, "0-3, 7"; at most five parts."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    texts = [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


def find_lost_channels(
    expected: np.ndarray, actual: np.ndarray, axes: tuple[int, ...], *, has_classes: bool
) -> LostChannels | None:
    """Returns the channels that vary in the trained model and are almost constant in the file; None without any.

    Args:
        expected: Outputs of the trained model, of shape (samples, ...).
        actual: Outputs of the file.
        axes: Axes that may be those of channels, the likeliest first.
        has_classes: Whether the channels are classes, of which only the largest counts.
    """
    if len(expected) < 2 or not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return None
    if not varies_with_samples(expected):
        return None
    if _is_flat(expected, actual):
        return LostChannels(expected.ndim - 1, (), (), float(np.abs(expected).max()), 0.0)
    if has_classes or _are_probabilities(expected):
        return None
    return next((lost for axis in axes for lost in _lost_along(expected, actual, axis)), None)


def varies_with_samples(values: np.ndarray) -> bool:
    """Returns whether an output differs from sample to sample by more than noise."""
    largest = float(np.abs(values).max())
    return largest > 0 and float(np.sqrt(values.var(axis=0).mean())) > _SPREAD * largest


def _is_flat(expected: np.ndarray, actual: np.ndarray) -> bool:
    """Whether the file gives almost the same values for all samples, although the trained model does not."""
    return bool(actual.var(axis=0).sum() <= _FLAT**2 * expected.var(axis=0).sum())


def _are_probabilities(values: np.ndarray) -> bool:
    """Whether the last axis holds probabilities of classes, which are all of one kind."""
    if values.shape[-1] < 2 or values.ndim < 2 or (values < 0).any():
        return False
    return bool((np.abs(values.sum(axis=-1) - 1) <= _SUM_OF_PROBABILITIES).all())


def _lost_along(expected: np.ndarray, actual: np.ndarray, axis: int) -> Iterator[LostChannels]:
    channels = expected.shape[axis]
    rows = np.moveaxis(expected, axis, 0).reshape(channels, -1)
    file_rows = np.moveaxis(actual, axis, 0).reshape(channels, -1)
    sizes, spreads, file_spreads = np.abs(rows).max(axis=1), rows.std(axis=1), file_rows.std(axis=1)
    noise = (file_rows - rows).std(axis=1)
    largest = sizes.max()
    varies = (spreads > _SPREAD * sizes) & (sizes > _VANISHING * largest) & ~_is_rarely_active(rows)
    if rows.min() >= 0 and largest <= 1:
        varies &= sizes > 1 / 255  # a step of a grid over probabilities of single labels
    unlike = sizes * _UNLIKE <= largest
    lost = varies & unlike & ((file_spreads <= _FLAT * spreads) | (noise >= spreads))
    if not lost.any():
        return
    kept = ~lost & (sizes * _UNLIKE > largest)
    if channels > _FEW_CHANNELS and not _has_gap(sizes[varies | kept], float(sizes[lost].max())):
        return
    yield LostChannels(
        axis,
        tuple(np.flatnonzero(lost).tolist()),
        tuple(np.flatnonzero(kept).tolist()),
        float(sizes[lost].max()),
        float(sizes[kept].min()),
    )


def _is_rarely_active(rows: np.ndarray) -> np.ndarray:
    """Whether each channel is exactly 0 for most values, as a unit of a ReLU that hardly ever answers."""
    return np.equal(rows, 0.0).mean(axis=1) > 0.5


def _has_gap(sizes: np.ndarray, largest_lost: float) -> bool:
    """Whether channels of two kinds have unlike sizes, with none between: units of one layer have all sizes."""
    above = np.sort(sizes[sizes >= largest_lost])
    return bool((above[1:] >= _UNLIKE * above[:-1]).any())
