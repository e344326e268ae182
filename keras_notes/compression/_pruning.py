"""`prune`: weights that are 0, stay 0 in training, and are 0 in the file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.models.layer_patterns import check_skip, last_match
from keras_notes._shared.types import Config, Tensor
from keras_notes.compression._compressed_model import CompressedModel, copy_float_parts
from keras_notes.compression._prunable_kernels import Kernel, kernels_of
from keras_notes.compression._sparsity_schedules import ConstantSparsity, SparsitySchedule, check_sparsity
from keras_notes.compression._weight_transform import WeightTransform
from keras_notes.compression.channels._prune_channels import prune_channels

__all__ = ["Pruning", "prune"]

# "unstructured", "channels", or (n, m): of each m weights in a row, n are 0.
_Structure: TypeAlias = str | Sequence[int]
_Schedule: TypeAlias = float | SparsitySchedule


def prune(
    model: keras.Model,
    schedule: _Schedule | Mapping[str, _Schedule],
    *,
    scope: str = "layer",
    structure: str | tuple[int, int] = "unstructured",
    skip: Sequence[str] = (),
) -> keras.Model:
    """Returns a model whose kernels are 0 at their weights of smallest magnitude, and train without these weights.

    A mask sets the pruned weights of a kernel to 0 wherever the kernel is used: they get no gradient, and neither
    momentum nor weight decay changes the zeros. The variable keeps their values behind the mask, and a later pruning of
    the schedule restores a weight whose magnitude is no longer among the smallest. The number of zeros is exact:
    sparsity times size, rounded (halves to even); of equal magnitudes the first are pruned. No callback is needed: the
    steps of the schedule are the batches on which the model trains.

    `strip` returns the plain model, with zeros in its weights; `convert` writes the zeros to the file, where they are
    exact in any number format.

    Args:
        model: Built model, which is not changed; or a result of `prune` or `cluster`, to whose clusters 0 is added. Its
            trainable kernels are pruned, those of recurrent cells included; embeddings, biases and normalizations are
            not.
        schedule: Share of weights that are 0: a number in [0, 1), which stands for its `ConstantSparsity`; or a
            `ConstantSparsity` or `PolynomialSparsity`, which gives the share by training step. Or a dict of these by
            pattern of layer names or paths, of which the last match counts: `{"conv*": 0.5, "head": 0.8}`; layers
            that match none are not pruned.
        scope: "layer": each kernel loses that share. "global": all kernels together lose it, by one ranking of their
            magnitudes, so that layers of small weights lose more; with a dict, those of each pattern.
        structure: "unstructured"; (n, m): of each m weights in a row along the inputs, n are 0, as sparse matrix units
            require. `schedule` must then be n / m, and depthwise convolutions are not pruned. Or "channels":
            `prune_channels` removes whole filters and units at once, which makes the file smaller and the device
            faster; `schedule` must then be a number.
        skip: Patterns of the names or paths ("block/*") of layers that are not pruned.

    Returns:
        A `CompressedModel` with the inputs and outputs of the model; with "channels" a smaller model of its class.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or m does not divide the inputs of a layer; names the layer.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import strip
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> kernel = strip(prune(model, 0.75)).get_weights()[0]
        >>> int(np.sum(kernel == 0)), kernel.size
        (24, 32)

    References:
        Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878. Mishra et al., "Accelerating Sparse Deep
        Neural Networks", 2021, arXiv:2104.08378, section 3, for 2 of 4.
    """
    check_choice("scope", scope, ("layer", "global"))
    if structure == "channels":
        return prune_channels(_check_plain(model), check_sparsity("schedule", schedule), scope=scope, skip=skip)
    network, transforms, specs = copy_float_parts(model, "prune")
    kernels = kernels_of(network, skip, only_trainable=True)
    prunings = [
        _make_pruning(group, _parse_schedule(group_schedule, scope, structure), scope, structure, network)
        for group_schedule, group in _group_kernels(kernels, schedule)
    ]
    pruned = CompressedModel(network, [*transforms, *prunings], input_specs=specs, name=model.name)
    for pruning in prunings:
        if pruning.schedule.begin_step == 0:
            pruning.start(pruned.values_before(pruning))
    return pruned


def _group_kernels(
    kernels: list[Kernel], schedule: _Schedule | Mapping[str, _Schedule]
) -> list[tuple[_Schedule, list[Kernel]]]:
    """Returns the kernels that have a schedule, grouped by it."""
    if not isinstance(schedule, Mapping):
        return [(schedule, kernels)]
    if not schedule or not all(isinstance(pattern, str) for pattern in schedule):
        raise TypeError(
            f"`schedule` must be a dict of schedules by pattern of layer names. {received(schedule=schedule)}"
        )
    check_skip(list(schedule), [path for kernel in kernels for path in kernel.paths], "layers with kernels", "schedule")
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if (pattern := last_match(schedule, *kernel.paths)) is not None:
            groups.setdefault(pattern, []).append(kernel)
    return [(schedule[pattern], group) for pattern, group in groups.items()]


def _make_pruning(
    kernels: list[Kernel], schedule: SparsitySchedule, scope: str, structure: _Structure, network: keras.Model
) -> Pruning:
    axes: list[int] = []
    if not isinstance(structure, str):
        kernels = [kernel for kernel in kernels if kernel.input_axis is not None]
        axes = [_group_axis(kernel, structure[1]) for kernel in kernels]
        if not kernels:
            raise ValueError(
                f"`model` must have kernels that run over inputs for structure={tuple(structure)}. Received: "
                f"{network.name!r}, which has depthwise convolutions only."
            )
    return Pruning(
        [kernel.variable_index for kernel in kernels],
        shapes=[tuple(kernel.variable.shape) for kernel in kernels],
        schedule=schedule,
        scope=scope,
        structure=structure,
        axes=axes,
        dtype=network.variable_dtype,  # also where layers compute in half precision
    )


@keras.saving.register_keras_serializable(package="keras_notes")
class Pruning(WeightTransform):
    """Masks of kernels.

    Args:
        variable_indices: Indices of the kernels in `network.variables`.
        shapes: Shapes of the kernels.
        schedule: Sparsity by training step.
        scope: "layer" or "global".
        structure: "unstructured", or (n, m).
        axes: Axis of each kernel along which its groups of m weights lie, for (n, m).

    Attributes:
        masks: Boolean variables, one for each kernel, in their order; False where the kernel is 0.
        step: Number of training steps so far.
    """

    def __init__(
        self,
        variable_indices: Sequence[int],
        *,
        shapes: Sequence[Sequence[int]],
        schedule: SparsitySchedule,
        scope: str,
        structure: _Structure,
        axes: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(variable_indices, **kwargs)
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.schedule = schedule
        self.scope = scope
        self.structure = structure if isinstance(structure, str) else tuple(structure)
        self.axes = tuple(axes)
        self.masks = [
            self.add_weight(shape=shape, initializer="ones", dtype="bool", trainable=False, name=f"mask_{index}")
            for index, shape in zip(self.variable_indices, self.shapes, strict=True)
        ]
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="step")
        self.built = True

    def start(self, values: Mapping[int, Tensor]) -> None:
        """Prunes for the first time."""
        for variable, mask in zip(self.masks, self._compute_masks(values, 0), strict=True):
            variable.assign(mask)

    def call(self, values: Mapping[int, Tensor], training: bool = False) -> dict[int, Tensor]:
        """Returns the kernels with zeros; in training, updates the masks by the schedule and counts a step."""
        masks = [ops.convert_to_tensor(mask) for mask in self.masks]
        if training:
            step = ops.convert_to_tensor(self.step)
            constants = {index: ops.stop_gradient(value) for index, value in values.items()}
            masks = ops.cond(self.schedule.prunes_at(step), lambda: self._compute_masks(constants, step), lambda: masks)
            for variable, mask in zip(self.masks, masks, strict=True):
                variable.assign(mask)
            self.step.assign(step + 1)
        return {
            index: ops.where(mask, values[index], 0.0) for index, mask in zip(self.variable_indices, masks, strict=True)
        }

    def get_config(self) -> Config:
        """Returns the arguments."""
        return {
            **super().get_config(),
            "shapes": [list(shape) for shape in self.shapes],
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "scope": self.scope,
            "structure": self.structure if isinstance(self.structure, str) else list(self.structure),
            "axes": list(self.axes),
        }

    @classmethod
    def from_config(cls, config: Config) -> WeightTransform:
        """Returns the transform of a configuration."""
        return super().from_config({**config, "schedule": keras.saving.deserialize_keras_object(config["schedule"])})

    def _compute_masks(self, values: Mapping[int, Tensor], step: Tensor) -> list[Tensor]:
        magnitudes = [ops.abs(values[index]) for index in self.variable_indices]
        if isinstance(self.structure, tuple):
            zeros, size = self.structure
            return [_mask_groups(values, axis, zeros, size) for values, axis in zip(magnitudes, self.axes, strict=True)]
        sizes = [math.prod(shape) for shape in self.shapes]
        if self.scope == "layer":
            return [
                _mask_smallest(values, self.schedule.zeros_at(step, size))
                for values, size in zip(magnitudes, sizes, strict=True)
            ]
        together = ops.concatenate([ops.reshape(values, (-1,)) for values in magnitudes])
        mask = _mask_smallest(together, self.schedule.zeros_at(step, sum(sizes)))
        ends = itertools.accumulate(sizes)
        return [
            ops.reshape(mask[end - size : end], shape)
            for end, size, shape in zip(ends, sizes, self.shapes, strict=True)
        ]


def _mask_smallest(magnitudes: Tensor, zeros: Tensor) -> Tensor:
    """Returns False for the `zeros` smallest magnitudes; by ranks, which are exact where magnitudes are equal."""
    ranks = ops.argsort(ops.argsort(ops.reshape(magnitudes, (-1,))))
    return ops.reshape(ranks >= zeros, magnitudes.shape)


def _mask_groups(magnitudes: Tensor, axis: int, zeros: int, size: int) -> Tensor:
    """Returns False for the `zeros` smallest magnitudes of each `size` in a row along an axis."""
    moved = ops.moveaxis(magnitudes, axis, -1)
    groups = ops.reshape(moved, (*moved.shape[:-1], moved.shape[-1] // size, size))
    ranks = ops.argsort(ops.argsort(groups, axis=-1), axis=-1)
    return ops.moveaxis(ops.reshape(ranks >= zeros, moved.shape), -1, axis)


def _check_plain(model: keras.Model) -> keras.Model:
    if isinstance(model, CompressedModel):
        raise ValueError(
            f"`model` must be a plain one for structure='channels': remove channels first. Received: "
            f"{model.name!r}, which is pruned, clustered or quantization-aware. Start from `strip(model)`."
        )
    return model


def _parse_schedule(schedule: _Schedule, scope: str, structure: _Structure) -> SparsitySchedule:
    """Returns the schedule, which must fit the scope and the structure."""
    if isinstance(schedule, SparsitySchedule):
        parsed = schedule
    else:
        parsed = ConstantSparsity(check_sparsity("schedule", schedule))
    if structure == "unstructured":
        return parsed
    if not isinstance(structure, (tuple, list)) or not _is_ratio(structure):
        raise ValueError(
            f"`structure` must be 'unstructured', 'channels', or (n, m) with 0 < n < m. {received(structure=structure)}"
        )
    share = structure[0] / structure[1]
    if not isinstance(parsed, ConstantSparsity) or not math.isclose(parsed.sparsity, share):
        raise ValueError(
            f"`schedule` must be {share:g}, or a ConstantSparsity of it, for structure={tuple(structure)}: n of m "
            f"weights are 0. {received(schedule=schedule)}"
        )
    if scope != "layer":
        raise ValueError(
            f"`scope` must be 'layer' for structure={tuple(structure)}, which gives each layer the same share. "
            f"{received(scope=scope)}"
        )
    return parsed


def _is_ratio(pair: Sequence[int]) -> bool:
    return len(pair) == 2 and all(isinstance(count, int) for count in pair) and 0 < pair[0] < pair[1]


def _group_axis(kernel: Kernel, size: int) -> int:
    """Returns the axis along which the groups of a kernel lie; `size` must divide it."""
    axis, shape = kernel.input_axis, tuple(kernel.variable.shape)
    if axis is None:
        raise ValueError(
            f"A kernel must run over inputs for groups of {size} weights. Received: the depthwise kernel of "
            f"{kernel.layer!r}. Give it in `skip`."
        )
    if shape[axis] % size:
        raise ValueError(
            f"The inputs of a layer must be a multiple of {size} for groups of {size} weights. Received: "
            f"{kernel.layer!r} with a kernel of shape {shape}, of whose inputs {shape[axis]} lie in a row. Give it in "
            f"`skip`."
        )
    return axis
