"""`equalize`: a model of the same function, whose channels have like ranges."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_notes._shared.checks import received
from keras_notes.compression._compressed_model import CompressedModel
from keras_notes.compression._copies import copied
from keras_notes.compression._inputs import input_arrays, inputs_of, spec_like
from keras_notes.compression._layer_patterns import check_skip, is_skipped, skip_patterns
from keras_notes.compression.channels._scaling_rules import (
    ChannelWeights,
    is_activation,
    is_homogeneous,
    made_by,
    taken_by,
)
from keras_notes.compression.quantization._calibrator import Calibrator
from keras_notes.compression.quantization._interpreter import interpret
from keras_notes.compression.quantization._tracer import Program, Ref, Step, trace

__all__ = ["equalize"]

_BATCH = 64
# 2^10 between channels is more than 8 bits can hold; what lies further apart is next to nothing.
_LARGEST_EXPONENT = 10


def equalize(model: keras.Model, calibration: Any, *, skip: Sequence[str] = ()) -> keras.Model:
    """Returns a model that computes the same, whose channels have like ranges, so that one grid serves them all.

    A tensor in int8 has one scale for all of its channels: where one of them is a hundred times another, the smaller
    has two or three of the 256 values. Behind a layer that makes channels (dense, convolution, normalization), through
    ReLU, pooling and the like, channel c is divided by s_c, and the weights of the next layers are multiplied by it:

        s_c = sqrt(max|x_c| / max|w_c|), or max|x_c| where the next layer mixes no channels (depthwise),

    each rounded to a power of 2, so that the outputs stay the same to the last bit. w_c is relative to the largest
    weight of each output channel, which has a scale of its own.

    Use it before `quantize_aware`, or before `convert` with the recipe "static_int8".

    Args:
        model: A built model; functional, sequential, nested, or subclassed of layers and `keras.ops`. It stays as it
            is.
        calibration: Typical inputs, some 250, of the training set: max|x_c| is theirs.
        skip: Patterns of layer names, or of paths ("block/*"), that keep their weights.

    Returns:
        A model of the same class with other weights, not compiled.

    Raises:
        ValueError: If there is nothing to equalize: every layer with channels leads into a sum, an activation that is
            not ReLU or the like (ReLU6 is bounded), an output, or a layer whose weights are used twice.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> bool((equalize(model, x).predict(x, verbose=0) == model.predict(x, verbose=0)).all())
        True

    References:
        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1.
        Xiao et al., "SmoothQuant", ICML 2023, equation 4, for ranges of activations from samples.
    """
    if isinstance(model, CompressedModel):
        raise ValueError(
            f"`model` must be a plain one: equalize it before it is pruned, clustered or quantized. Received: "
            f"{model.name!r}, a CompressedModel. Start from `strip(model)`."
        )
    patterns = skip_patterns(skip)
    copy = copied(model)
    structure = inputs_of(copy)
    structure = tree.map_structure(spec_like, calibration) if structure is None else structure
    program = trace(
        copy, tree.flatten(structure), structure, has_rule=_is_step, is_float=lambda path: is_skipped(path, patterns)
    )
    check_skip(patterns, [step.path for step in program.steps])
    links = _Links(program).found
    if not links:
        raise ValueError(
            f"`model` must have a layer whose channels lead, through ReLU or pooling at most, into layers with weights "
            f"of their own. {received(model=model.name)} Quantize it as it is: behind bounded activations, such as "
            f"ReLU6, channels have like ranges anyway."
        )
    for link, largest in zip(links, _largest(program, links, input_arrays(structure, calibration)), strict=True):
        _apply(link, _factors(link, largest))
    return copy


@dataclass(frozen=True)
class _Link:
    """Layers that make channels and those that take them.

    Attributes:
        made: The weights that are divided.
        taken: Those that are multiplied.
        tensor: The number of the tensor on whose grid the channels are rounded.
        channels: How many there are.
    """

    made: tuple[ChannelWeights, ...]
    taken: tuple[ChannelWeights, ...]
    tensor: int
    channels: int


class _Links:
    """Finds the links of a program."""

    def __init__(self, program: Program) -> None:
        self._users: dict[int, list[Step]] = {}
        for step in program.steps:
            for leaf in tree.flatten((step.args, step.kwargs)):
                if isinstance(leaf, Ref):
                    self._users.setdefault(leaf.index, []).append(step)
        self._outputs = {leaf.index for leaf in tree.flatten(program.outputs)}
        self._calls = Counter(id(step.operation) for step in program.steps)
        self.found = [link for step in program.steps if (link := self._from(step)) is not None]

    def _from(self, step: Step) -> _Link | None:
        made = made_by(step.operation) if self._is_free(step) else ()
        taken = self._taken(step.outputs[0]) if made else None
        if not taken:
            return None
        first = made[0]
        channels = math.prod(first.variable.shape[axis] for axis in first.axes)
        return _Link(made, taken, self._rounded(step.outputs[0]), channels)

    def _is_free(self, step: Step) -> bool:
        """Whether its weights may change: it is in no `skip`, and used once."""
        return step.computes_integers and self._calls[id(step.operation)] == 1

    def _taken(self, tensor: int) -> tuple[ChannelWeights, ...] | None:
        """What takes a tensor; None if something does that cannot be scaled."""
        if tensor in self._outputs:
            return None
        found: list[ChannelWeights] = []
        for step in self._users.get(tensor, ()):
            if is_homogeneous(step.operation) and step.computes_integers:
                more = self._taken(step.outputs[0])
            else:
                more = taken_by(step.operation) if self._is_free(step) else None
            if more is None:
                return None
            found.extend(more)
        return tuple(found)

    def _rounded(self, tensor: int) -> int:
        """The tensor behind the activation that is fused to the layer, if there is one."""
        users = self._users[tensor]
        if len(users) == 1 and is_activation(users[0].operation):
            return users[0].outputs[0]
        return tensor


def _largest(program: Program, links: Sequence[_Link], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The largest magnitude of each channel of each link over the samples."""
    steps = tuple(dataclasses.replace(step, computes_integers=False) for step in program.steps)
    tensors = [Ref(link.tensor) for link in links]
    plain = dataclasses.replace(program, steps=steps, outputs=tensors)
    found = [np.zeros(link.channels) for link in links]
    names = [""] * len(arrays)
    for start in range(0, len(arrays[0]), _BATCH):
        inputs = [ops.convert_to_tensor(array[start : start + _BATCH]) for array in arrays]
        results = interpret(plain, Calibrator(None, 8), inputs, names)
        for number, (link, result) in enumerate(zip(links, results, strict=True)):
            values = np.abs(ops.convert_to_numpy(result)).reshape(-1, link.channels).max(0)
            found[number] = np.maximum(found[number], values)
    return found


def _factors(link: _Link, largest: np.ndarray) -> np.ndarray:
    """What each channel is divided by: powers of 2, around 1."""
    wanted = np.array(largest)
    mixing = [weights.largest(link.channels) for weights in link.taken if weights.mixes]
    if mixing:
        across = np.max(mixing, axis=0)
        wanted = np.sqrt(np.divide(largest, across, out=np.zeros_like(largest), where=across > 0))
    counts = wanted > 0
    if not counts.any():
        return np.ones(link.channels)
    exponents = np.log2(np.where(counts, wanted, 1.0))
    exponents = np.where(counts, exponents - exponents[counts].mean(), 0.0)
    return 2.0 ** np.clip(np.round(exponents), -_LARGEST_EXPONENT, _LARGEST_EXPONENT)


def _apply(link: _Link, factors: np.ndarray) -> None:
    for weights in link.made:
        weights.scale(1.0 / factors)
    for weights in link.taken:
        weights.scale(factors)


def _is_step(operation: Any) -> bool:
    """Whether an operation is one of Keras's; what is made of several is opened."""
    is_layer = isinstance(operation, keras.Layer)
    return not is_layer or (type(operation).__module__.startswith("keras.") and not isinstance(operation, keras.Model))
