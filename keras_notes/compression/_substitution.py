"""Lets a network run with other values than its variables hold, on every backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["substituted"]


@contextlib.contextmanager
def substituted(
    variables: Sequence[keras.Variable], values: Mapping[int, Any], layers: Sequence[keras.Layer] = ()
) -> Iterator[None]:
    """Lets some variables have other values while the block runs; gradients flow to where the values came from.

    What the block assigns to any of the others, such as moving statistics, is assigned in the end.

    Args:
        variables: All variables that the block reads.
        values: Those of some of them, by their number.
        layers: The layers whose `add_loss` and activity regularizers count, as they would without the scope.
    """
    if not values:
        yield
        return
    # All of them, because a scope hides the one around it, which is how JAX trains.
    current = {number: ops.convert_to_tensor(variable) for number, variable in enumerate(variables)}
    current.update(values)
    scope = keras.StatelessScope(
        state_mapping=[(variables[number], value) for number, value in current.items()], collect_losses=True
    )
    before = [scope.get_current_value(variable) for variable in variables]
    with scope:
        yield
    for number, variable in enumerate(variables):
        after = scope.get_current_value(variable)
        if number not in values and after is not before[number]:
            variable.assign(after)
    for layer in layers:
        for loss in scope.losses:
            if id(loss) in layer._loss_ids:
                layer.add_loss(loss)
