"""The base class of pruning and clustering, and the substitution of weights by transformed ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_notes._shared.keras_internals import owns_loss
from keras_notes._shared.types import Config, Tensor

__all__ = ["WeightTransform", "substitute_values"]


class WeightTransform(keras.Layer):
    """A layer between the variables of a network and their use, with a state of its own: masks or centroids.

    Args:
        variable_indices: Indices in `network.variables` of the variables that it changes.

    Attributes:
        shares_values: Whether its weights take few different values. Integer quantization then keeps them few.
    """

    shares_values = False

    def __init__(self, variable_indices: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variable_indices = tuple(int(index) for index in variable_indices)

    def call(self, values: Mapping[int, Tensor], training: bool = False) -> dict[int, Tensor]:
        """Returns the transformed weights.

        Args:
            values: Weights by the index of their variable.
            training: Whether this call is a training step, in which the state may change.
        """
        raise NotImplementedError

    def get_config(self) -> Config:
        """Returns the arguments; the indices have the key "numbers"."""
        return {**super().get_config(), "numbers": list(self.variable_indices)}

    @classmethod
    def from_config(cls, config: Config) -> WeightTransform:
        """Returns the transform of a configuration."""
        arguments = {**config, "variable_indices": config["numbers"]}
        del arguments["numbers"]
        return super().from_config(arguments)


@contextlib.contextmanager
def substitute_values(
    variables: Sequence[keras.Variable], values: Mapping[int, Tensor], layers: Iterable[keras.Layer] = ()
) -> Iterator[None]:
    """Lets some variables have other values while the block runs; gradients flow to the sources of these values.

    Values that the block assigns to other variables, such as moving statistics, are assigned when it ends.

    Args:
        variables: All variables that the block reads.
        values: Other values by the index of their variable in `variables`.
        layers: Layers whose `add_loss` and activity regularizers count, as they would without the substitution.
    """
    if not values:
        yield
        return
    # All variables, because a scope hides the scope around it, with which JAX trains.
    current = {index: ops.convert_to_tensor(variable) for index, variable in enumerate(variables)}
    current.update(values)
    scope = keras.StatelessScope(
        state_mapping=[(variables[index], value) for index, value in current.items()], collect_losses=True
    )
    before = [scope.get_current_value(variable) for variable in variables]
    with scope:
        yield
    for index, variable in enumerate(variables):
        after = scope.get_current_value(variable)
        if index not in values and after is not before[index]:
            variable.assign(after)
    for layer in layers:
        for loss in scope.losses:
            if owns_loss(layer, loss):
                layer.add_loss(loss)
