"""`equalize`: a model of the same function, whose channels have similar ranges."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops, tree

from keras_notes._shared.checks import received
from keras_notes._shared.keras_internals import is_keras_class
from keras_notes._shared.models.layer_patterns import check_skip, matches_any, skip_patterns
from keras_notes._shared.samples import read_for_model
from keras_notes._shared.types import Operation, Tree
from keras_notes.compression._compressed_model import CompressedModel
from keras_notes.compression._copies import copy_model, input_arrays, inputs_of, spec_like
from keras_notes.compression.channels._scaling_rules import (
    ChannelWeights,
    consuming_weights,
    is_activation,
    is_homogeneous,
    producing_weights,
)
from keras_notes.compression.quantization._calibrator import Calibrator
from keras_notes.compression.quantization._interpreter import interpret
from keras_notes.compression.quantization._tracer import Program, Ref, Step, trace

__all__ = ["equalize"]

_BATCH = 64
# A factor of 2^10 between channels exceeds what 8 bits hold; a channel that is still smaller hardly counts.
_LARGEST_EXPONENT = 10


def equalize(model: keras.Model, calibration: Tree, *, skip: Sequence[str] = ()) -> keras.Model:
    """Returns a model that computes the same, whose channels have similar ranges, so that one grid fits all of them.

    A tensor in int8 has one scale for all of its channels: where one channel is a hundred times another, the smaller
    one has two or three of the 256 values. Behind a layer that produces channels (dense, convolution, normalization),
    through ReLU, pooling and the like, channel c is divided by s_c, and the weights of the next layers are multiplied
    by it:

        s_c = sqrt(max|x_c| / max|w_c|), or max|x_c| where the next layer does not mix channels (depthwise),

    each rounded to a power of 2, so that the outputs stay the same to the last bit. w_c is relative to the largest
    weight of each output channel, which has its own scale.

    Use it before `quantize_aware`, or before `convert` with the recipe "static_int8".

    Args:
        model: Built model: functional, sequential, nested, or subclassed of layers and `keras.ops`. It is not changed.
        calibration: Typical inputs, about 250 from the training set, on which max|x_c| is measured: arrays or a
            dataset, as for `quantize_aware`.
        skip: Patterns of the names or paths ("block/*") of layers that keep their weights.

    Returns:
        A model of the same class with other weights, not compiled.

    Raises:
        TypeError: If `model` is not a Keras model, or another argument has a wrong type.
        ValueError: If `model` is not built or is a `CompressedModel`, the samples do not fit its inputs, a pattern
            matches no layer, or there is nothing to equalize: every layer with channels leads into a sum, a bounded
            activation such as ReLU6, an output, or a layer whose weights are used twice.

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
    copy = copy_model(model)
    calibration = read_for_model("calibration", calibration, model)
    structure = inputs_of(copy)
    structure = tree.map_structure(spec_like, calibration) if structure is None else structure
    program = trace(
        copy, tree.flatten(structure), structure, has_rule=_is_step, is_float=lambda path: matches_any(patterns, path)
    )
    check_skip(patterns, [step.path for step in program.steps])
    links = _LinkFinder(program).links()
    if not links:
        raise ValueError(
            f"`model` must have a layer whose channels lead, through ReLU or pooling at most, into layers with weights "
            f"of their own. {received(model=model.name)} Quantize it as it is: behind bounded activations, such as "
            f"ReLU6, channels have similar ranges anyway."
        )
    for link, largest in zip(links, _largest(program, links, input_arrays(structure, calibration)), strict=True):
        _apply(link, _factors(link, largest))
    return copy


@dataclass(frozen=True)
class _Link:
    """Layers that produce channels, and the layers that consume them.

    Attributes:
        producing: The weights that are divided.
        consuming: The weights that are multiplied.
        tensor: The index of the tensor on whose grid the channels are rounded.
        channels: The number of channels.
    """

    producing: tuple[ChannelWeights, ...]
    consuming: tuple[ChannelWeights, ...]
    tensor: int
    channels: int


class _LinkFinder:
    """Finds the links of a program."""

    def __init__(self, program: Program) -> None:
        self._steps = program.steps
        self._users: dict[int, list[Step]] = {}
        for step in program.steps:
            for leaf in tree.flatten((step.args, step.kwargs)):
                if isinstance(leaf, Ref):
                    self._users.setdefault(leaf.index, []).append(step)
        self._outputs = {leaf.index for leaf in tree.flatten(program.outputs)}
        self._calls = Counter(id(step.operation) for step in program.steps)

    def links(self) -> list[_Link]:
        """Returns the links, in the order of the steps that produce channels."""
        return [link for step in self._steps if (link := self._link_from(step)) is not None]

    def _link_from(self, step: Step) -> _Link | None:
        producing = producing_weights(step.operation) if self._can_change(step) else ()
        consuming = self._consumers_of(step.outputs[0]) if producing else None
        if not consuming:
            return None
        kernel = producing[0]
        channels = math.prod(kernel.variable.shape[axis] for axis in kernel.axes)
        return _Link(producing, consuming, self._rounded_tensor(step.outputs[0]), channels)

    def _can_change(self, step: Step) -> bool:
        """Returns whether the weights of a step may change: it is not skipped, and used once."""
        return step.computes_integers and self._calls[id(step.operation)] == 1

    def _consumers_of(self, tensor: int) -> tuple[ChannelWeights, ...] | None:
        """Returns the weights that consume a tensor; None if it reaches an operation that cannot be scaled."""
        if tensor in self._outputs:
            return None
        consumers: list[ChannelWeights] = []
        for step in self._users.get(tensor, ()):
            if is_homogeneous(step.operation) and step.computes_integers:
                weights = self._consumers_of(step.outputs[0])
            else:
                weights = consuming_weights(step.operation) if self._can_change(step) else None
            if weights is None:
                return None
            consumers.extend(weights)
        return tuple(consumers)

    def _rounded_tensor(self, tensor: int) -> int:
        """Returns the tensor behind the activation that is fused to the layer; the tensor itself without one."""
        users = self._users[tensor]
        if len(users) == 1 and is_activation(users[0].operation):
            return users[0].outputs[0]
        return tensor


def _largest(program: Program, links: Sequence[_Link], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the largest magnitude of each channel of each link over the samples."""
    steps = tuple(dataclasses.replace(step, computes_integers=False) for step in program.steps)
    tensors = [Ref(link.tensor) for link in links]
    float_program = dataclasses.replace(program, steps=steps, outputs=tensors)
    largest = [np.zeros(link.channels) for link in links]
    names = [""] * len(arrays)
    for start in range(0, len(arrays[0]), _BATCH):
        inputs = [ops.convert_to_tensor(array[start : start + _BATCH]) for array in arrays]
        results = interpret(float_program, Calibrator(None, 8), inputs, names)
        for index, (link, result) in enumerate(zip(links, results, strict=True)):
            values = np.abs(ops.convert_to_numpy(result)).reshape(-1, link.channels).max(0)
            largest[index] = np.maximum(largest[index], values)
    return largest


def _factors(link: _Link, largest: np.ndarray) -> np.ndarray:
    """Returns the divisor of each channel: powers of 2, around 1."""
    factors = np.array(largest)
    mixing = [weights.largest(link.channels) for weights in link.consuming if weights.mixes]
    if mixing:
        largest_weights = np.max(mixing, axis=0)
        ratios = np.divide(largest, largest_weights, out=np.zeros_like(largest), where=largest_weights > 0)
        factors = np.sqrt(ratios)
    is_used = factors > 0
    if not is_used.any():
        return np.ones(link.channels)
    exponents = np.log2(np.where(is_used, factors, 1.0))
    exponents = np.where(is_used, exponents - exponents[is_used].mean(), 0.0)
    return 2.0 ** np.clip(np.round(exponents), -_LARGEST_EXPONENT, _LARGEST_EXPONENT)


def _apply(link: _Link, factors: np.ndarray) -> None:
    for weights in link.producing:
        weights.scale(1.0 / factors)
    for weights in link.consuming:
        weights.scale(factors)


def _is_step(operation: Operation) -> bool:
    """Returns whether an operation is one of Keras's own; a model or a custom layer is traced into its operations."""
    is_layer = isinstance(operation, keras.Layer)
    return not is_layer or (is_keras_class(type(operation)) and not isinstance(operation, keras.Model))
