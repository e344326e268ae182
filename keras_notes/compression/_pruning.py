"""`prune`: weights that are 0, and stay 0 through training, into the file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_notes._checks import check_choice, received
from keras_notes.compression._channels import prune_channels
from keras_notes.compression._compressed_model import CompressedModel, without_integers
from keras_notes.compression._kernels import Kernel, kernels_of
from keras_notes.compression._sparsity_schedules import ConstantSparsity, SparsitySchedule, checked_sparsity
from keras_notes.compression._weight_transform import WeightTransform

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

    The weights that are 0 get no gradient, and neither momentum nor weight decay brings them back: each kernel is
    multiplied by its mask wherever it is used. No callback is needed. `strip` gives the plain model, zeros written into
    its weights; `convert` writes them to the file, where they are exact in any number format.

    Args:
        model: A built model, which stays as it is; or one that `cluster` made.
        schedule: The share of weights that are 0: a number in [0, 1), from the start on; or a `ConstantSparsity` or
            `PolynomialSparsity` by training step.
        scope: "layer": each kernel loses that share. "global": all of them together do, by one ranking of magnitudes.
        structure: "unstructured"; (n, m): of each m weights in a row along the inputs, n are 0, the form that sparse
            matrix units take, so that the sparsity is n / m, and kernels of depthwise convolutions stay as they are; or
            "channels": whole filters and units are taken out, at once, by `prune_channels`, which needs a number for
            `schedule`, and makes the file smaller and the device faster.
        skip: Patterns of names or paths of layers that stay as they are.

    Returns:
        A `CompressedModel`; with "channels" a smaller model of the class of `model`.

    Raises:
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
    planned = _schedule(schedule, structure)
    network, transforms, specs = without_integers(model, "prune")
    kernels = kernels_of(network, skip)
    if isinstance(structure, tuple):
        kernels = [kernel for kernel in kernels if not kernel.is_depthwise]
        for kernel in kernels:
            _check_groups(kernel, structure[1])
    numbers = [kernel.number for kernel in kernels]
    shapes = [tuple(kernel.variable.shape) for kernel in kernels]
    pruning = Pruning(numbers, shapes=shapes, schedule=planned, scope=scope, structure=structure)
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
    """

    def __init__(
        self,
        numbers: Sequence[int],
        *,
        shapes: Sequence[Sequence[int]],
        schedule: SparsitySchedule,
        scope: str,
        structure: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(numbers, **kwargs)
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.schedule = schedule
        self.scope = scope
        self.structure = structure if isinstance(structure, str) else tuple(structure)
        self.masks = [
            self.add_weight(shape=shape, initializer="ones", trainable=False, name=f"mask_{number}")
            for number, shape in zip(self.numbers, self.shapes, strict=True)
        ]
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="step")
        self.built = True

    def start(self, values: Mapping[int, Any]) -> None:
        """Prunes for the first time."""
        for mask, new in zip(self.masks, self._masks(values, self.schedule.sparsity_at(0)), strict=True):
            mask.assign(new)

    def call(self, values: Mapping[int, Any], training: bool = False) -> dict[int, Any]:
        """The kernels, with zeros."""
        masks = [ops.convert_to_tensor(mask) for mask in self.masks]
        if training:
            step = ops.convert_to_tensor(self.step)
            held = {number: ops.stop_gradient(value) for number, value in values.items()}
            masks = ops.cond(
                self.schedule.prunes_at(step),
                lambda: self._masks(held, self.schedule.sparsity_at(step)),
                lambda: masks,
            )
            for mask, new in zip(self.masks, masks, strict=True):
                mask.assign(new)
            self.step.assign(step + 1)
        return {number: values[number] * mask for number, mask in zip(self.numbers, masks, strict=True)}

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            **super().get_config(),
            "shapes": [list(shape) for shape in self.shapes],
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "scope": self.scope,
            "structure": self.structure if isinstance(self.structure, str) else list(self.structure),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pruning:
        """The transform of a configuration."""
        return cls(**{**config, "schedule": keras.saving.deserialize_keras_object(config["schedule"])})

    def _masks(self, values: Mapping[int, Any], sparsity: Any) -> list[Any]:
        magnitudes = [ops.abs(values[number]) for number in self.numbers]
        if isinstance(self.structure, tuple):
            return [_mask_of_groups(one, *self.structure) for one in magnitudes]
        if self.scope == "layer":
            return [_mask(one, sparsity) for one in magnitudes]
        together = _mask(ops.concatenate([ops.reshape(one, (-1,)) for one in magnitudes]), sparsity)
        ends = [sum(map(math.prod, self.shapes[: place + 1])) for place in range(len(self.shapes))]
        parts = [together[end - math.prod(shape) : end] for end, shape in zip(ends, self.shapes, strict=True)]
        return [ops.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _mask(magnitudes: Any, sparsity: Any) -> Any:
    """1 but for the share of least magnitude; by ranks, which are exact where magnitudes are equal."""
    flat = ops.reshape(magnitudes, (-1,))
    ranks = ops.argsort(ops.argsort(flat))
    zeros = ops.cast(ops.round(sparsity * flat.shape[0]), ranks.dtype)
    return ops.reshape(ops.cast(ranks >= zeros, "float32"), magnitudes.shape)


def _mask_of_groups(magnitudes: Any, zeros: int, size: int) -> Any:
    """1 but for the `zeros` of least magnitude of each `size` in a row along the inputs, the last axis but one."""
    moved = ops.swapaxes(magnitudes, -1, -2)
    groups = ops.reshape(moved, (*moved.shape[:-1], moved.shape[-1] // size, size))
    ranks = ops.argsort(ops.argsort(groups, axis=-1), axis=-1)
    return ops.swapaxes(ops.reshape(ops.cast(ranks >= zeros, "float32"), moved.shape), -1, -2)


def _plain(model: keras.Model) -> keras.Model:
    if isinstance(model, CompressedModel):
        raise ValueError(
            f"`model` must be a plain one for structure='channels': other channels come first. Received: "
            f"{model.name!r}, which is pruned, clustered or quantization-aware. Start from `strip(model)`."
        )
    return model


def _schedule(schedule: Any, structure: Any) -> SparsitySchedule:
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
    return planned


def _check_groups(kernel: Kernel, size: int) -> None:
    if kernel.variable.shape[-2] % size:
        raise ValueError(
            f"The inputs of a layer must be a multiple of {size} for groups of {size} weights. Received: "
            f"{kernel.layer!r} with a kernel of shape {tuple(kernel.variable.shape)}. Give it in `skip`."
        )
