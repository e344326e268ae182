"""`prune`: weights that are 0, and stay 0 through training, into the file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_notes._shared.checks import check_choice, received
from keras_notes.compression._compressed_model import CompressedModel, without_integers
from keras_notes.compression._prunable_kernels import Kernel, kernels_of
from keras_notes.compression._sparsity_schedules import ConstantSparsity, SparsitySchedule, checked_sparsity
from keras_notes.compression._weight_transform import WeightTransform
from keras_notes.compression.channels._prune_channels import prune_channels

__all__ = ["Pruning", "prune"]


def prune(
    model: keras.Model,
    schedule: float | SparsitySchedule,
    *,
    scope: str = "layer",
    structure: str | tuple[int, int] = "unstructured",
    skip: Sequence[str] = (),
) -> keras.Model:
    """Returns a model whose kernels lose their weights of least magnitude, and train without them.

    A kernel is 0 where its mask says so, wherever it is used: the weight there gets no gradient, and neither momentum
    nor weight decay brings it back. It keeps its value behind the mask, and comes back if it is not among the least at
    a later pruning of the schedule. The number of zeros is exact, sparsity times size rounded (halves to even); of
    equal magnitudes the first ones go. No callback is needed: steps are the batches that the model trains on.

    `strip` gives the plain model, zeros written into its weights; `convert` writes them to the file, where they are
    exact in any number format.

    Args:
        model: A built model, which stays as it is; or one that `prune` or `cluster` made, to whose clusters 0 is added.
            Its trainable kernels are pruned, those of recurrent cells too; no embeddings, biases and normalizations.
        schedule: The share of weights that are 0: a number in [0, 1), which is the `ConstantSparsity` of it, from now
            on; or a `ConstantSparsity` or `PolynomialSparsity` by training step.
        scope: "layer": each kernel loses that share. "global": all of them together do, by one ranking of magnitudes as
            they are, so that layers of small weights lose more.
        structure: "unstructured". Or (n, m): of each m weights in a row along the inputs, n are 0, as sparse matrix
            units want it; `schedule` must be n / m then, and depthwise convolutions stay as they are. Or "channels":
            whole filters and units are taken out, at once, by `prune_channels`, which needs a number for `schedule`,
            and makes the file smaller and the device faster.
        skip: Patterns of layer names, or of paths ("block/*"), that stay as they are.

    Returns:
        A `CompressedModel` with the inputs and outputs of the model; with "channels" a smaller model of its class.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of its range, or a layer's inputs cannot be divided by m; names it.

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
        return prune_channels(_plain(model), checked_sparsity("schedule", schedule), scope=scope, skip=skip)
    planned = _schedule(schedule, scope, structure)
    network, transforms, specs = without_integers(model, "prune")
    kernels = kernels_of(network, skip, only_trainable=True)
    axes = []
    if not isinstance(structure, str):
        kernels = [kernel for kernel in kernels if kernel.input_axis is not None]
        axes = [_axis_of_groups(kernel, structure[1]) for kernel in kernels]
        if not kernels:
            raise ValueError(
                f"`model` must have kernels that run over inputs for structure={tuple(structure)}. Received: "
                f"{model.name!r}, which has depthwise convolutions only."
            )
    numbers = [kernel.number for kernel in kernels]
    shapes = [tuple(kernel.variable.shape) for kernel in kernels]
    dtype = network.variable_dtype  # also where layers compute in half precision
    pruning = Pruning(
        numbers, shapes=shapes, schedule=planned, scope=scope, structure=structure, axes=axes, dtype=dtype
    )
    made = CompressedModel(network, [*transforms, pruning], input_specs=specs, name=model.name)
    if planned.begin_step == 0:
        pruning.start(made.values_before(pruning))
    return made


@keras.saving.register_keras_serializable(package="keras_notes")
class Pruning(WeightTransform):
    """Masks over kernels.

    Args:
        numbers: The kernels, by their number in `network.variables`.
        shapes: Their shapes.
        schedule: The sparsity by step.
        scope: "layer" or "global".
        structure: "unstructured", or (n, m).
        axes: The axis of each along which its groups lie, for (n, m).

    Attributes:
        masks: A boolean variable for each kernel, in their order: where it is not 0.
        step: The number of steps of training so far.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        *,
        shapes: Sequence[Sequence[int]],
        schedule: SparsitySchedule,
        scope: str,
        structure: Any,
        axes: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(numbers, **kwargs)
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.schedule = schedule
        self.scope = scope
        self.structure = structure if isinstance(structure, str) else tuple(structure)
        self.axes = tuple(axes)
        self.masks = [
            self.add_weight(shape=shape, initializer="ones", dtype="bool", trainable=False, name=f"mask_{number}")
            for number, shape in zip(self.numbers, self.shapes, strict=True)
        ]
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="step")
        self.built = True

    def start(self, values: Mapping[int, Any]) -> None:
        """Prunes for the first time."""
        for mask, new in zip(self.masks, self._masks(values, 0), strict=True):
            mask.assign(new)

    def call(self, values: Mapping[int, Any], training: bool = False) -> dict[int, Any]:
        """The kernels, with zeros; in training, the masks move by the schedule, and a step is counted."""
        masks = [ops.convert_to_tensor(mask) for mask in self.masks]
        if training:
            step = ops.convert_to_tensor(self.step)
            held = {number: ops.stop_gradient(value) for number, value in values.items()}
            masks = ops.cond(self.schedule.prunes_at(step), lambda: self._masks(held, step), lambda: masks)
            for mask, new in zip(self.masks, masks, strict=True):
                mask.assign(new)
            self.step.assign(step + 1)
        return {number: ops.where(mask, values[number], 0.0) for number, mask in zip(self.numbers, masks, strict=True)}

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            **super().get_config(),
            "shapes": [list(shape) for shape in self.shapes],
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "scope": self.scope,
            "structure": self.structure if isinstance(self.structure, str) else list(self.structure),
            "axes": list(self.axes),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pruning:
        """The transform of a configuration."""
        return cls(**{**config, "schedule": keras.saving.deserialize_keras_object(config["schedule"])})

    def _masks(self, values: Mapping[int, Any], step: Any) -> list[Any]:
        magnitudes = [ops.abs(values[number]) for number in self.numbers]
        if isinstance(self.structure, tuple):
            return [
                _mask_of_groups(one, axis, *self.structure) for one, axis in zip(magnitudes, self.axes, strict=True)
            ]
        sizes = [math.prod(shape) for shape in self.shapes]
        if self.scope == "layer":
            return [_mask(one, self.schedule.zeros_at(step, size)) for one, size in zip(magnitudes, sizes, strict=True)]
        together = ops.concatenate([ops.reshape(one, (-1,)) for one in magnitudes])
        mask = _mask(together, self.schedule.zeros_at(step, sum(sizes)))
        ends = itertools.accumulate(sizes)
        return [
            ops.reshape(mask[end - size : end], shape)
            for end, size, shape in zip(ends, sizes, self.shapes, strict=True)
        ]


def _mask(magnitudes: Any, zeros: Any) -> Any:
    """False for the `zeros` of least magnitude; by ranks, which are exact where magnitudes are equal."""
    ranks = ops.argsort(ops.argsort(ops.reshape(magnitudes, (-1,))))
    return ops.reshape(ranks >= zeros, magnitudes.shape)


def _mask_of_groups(magnitudes: Any, axis: int, zeros: int, size: int) -> Any:
    """False for the `zeros` of least magnitude of each `size` in a row along an axis."""
    moved = ops.moveaxis(magnitudes, axis, -1)
    groups = ops.reshape(moved, (*moved.shape[:-1], moved.shape[-1] // size, size))
    ranks = ops.argsort(ops.argsort(groups, axis=-1), axis=-1)
    return ops.moveaxis(ops.reshape(ranks >= zeros, moved.shape), -1, axis)


def _plain(model: keras.Model) -> keras.Model:
    if isinstance(model, CompressedModel):
        raise ValueError(
            f"`model` must be a plain one for structure='channels': other channels come first. Received: "
            f"{model.name!r}, which is pruned, clustered or quantization-aware. Start from `strip(model)`."
        )
    return model


def _schedule(schedule: Any, scope: str, structure: Any) -> SparsitySchedule:
    planned = schedule
    if not isinstance(schedule, SparsitySchedule):
        planned = ConstantSparsity(checked_sparsity("schedule", schedule))
    if structure == "unstructured":
        return planned
    is_pair = isinstance(structure, (tuple, list)) and len(structure) == 2
    if not is_pair or not all(isinstance(one, int) for one in structure) or not 0 < structure[0] < structure[1]:
        raise ValueError(
            f"`structure` must be 'unstructured', 'channels', or (n, m) with 0 < n < m. {received(structure=structure)}"
        )
    share = structure[0] / structure[1]
    if not isinstance(planned, ConstantSparsity) or not math.isclose(planned.sparsity, share):
        raise ValueError(
            f"`schedule` must be {share:g}, or a ConstantSparsity of it, for structure={tuple(structure)}: n of m "
            f"weights are 0. {received(schedule=schedule)}"
        )
    if scope != "layer":
        raise ValueError(
            f"`scope` must be 'layer' for structure={tuple(structure)}, which gives each layer the same share. "
            f"{received(scope=scope)}"
        )
    return planned


def _axis_of_groups(kernel: Kernel, size: int) -> int:
    axis, shape = kernel.input_axis, tuple(kernel.variable.shape)
    assert axis is not None
    if shape[axis] % size:
        raise ValueError(
            f"The inputs of a layer must be a multiple of {size} for groups of {size} weights. Received: "
            f"{kernel.layer!r} with a kernel of shape {shape}, of whose inputs {shape[axis]} lie in a row. Give it in "
            f"`skip`."
        )
    return axis
