"""What is done to weights on their way from the variables to the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

__all__ = ["WeightTransform"]


class WeightTransform(keras.Layer):
    """A layer between variables and network, with a state of its own: masks, centroids.

    Args:
        numbers: The variables that it changes, by their number in `network.variables`.

    Attributes:
        shares_values: Whether its weights take few values, which integers shall keep few.
    """

    shares_values = False

    def __init__(self, numbers: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.numbers = tuple(int(number) for number in numbers)

    def call(self, values: Mapping[int, Any], training: bool = False) -> dict[int, Any]:
        """The weights as the network shall have them.

        Args:
            values: The weights by number of variable.
            training: Whether a step of training is under way, at which the state may move.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "numbers": list(self.numbers)}
