"""Names for types that Keras leaves open.

Keras has no common type for the tensors of its backends, and its structures (`keras.tree`) nest them freely. These
aliases say what a value is, where a type checker can only be told `Any`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["ArrayLike", "Config", "DType", "Json", "Node", "Operation", "Store", "Tensor", "Tree"]

Tensor: TypeAlias = Any
"""A tensor of the backend in use, a `keras.KerasTensor`, or a NumPy array where `keras.ops` takes any of them."""

Tree: TypeAlias = Any
"""A structure as `keras.tree` walks it: a leaf, or a list, tuple or dict of structures."""

Operation: TypeAlias = Any
"""A `keras.Operation`: a layer, or an operation of `keras.ops`; its attributes depend on its class."""

Node: TypeAlias = Any
"""A node of a Keras graph: an operation, the tensors that it takes, and the tensors that it returns."""

Store: TypeAlias = Any
"""A mapping of arrays, in which Keras keeps the variables of a layer."""

Json: TypeAlias = Any
"""A value that `json` writes and reads."""

Config: TypeAlias = dict[str, Any]
"""A configuration, as `get_config` returns it."""

DType: TypeAlias = Any
"""A data type: its name, or a `keras.DTypePolicy`."""

ArrayLike: TypeAlias = np.ndarray | Sequence[Any] | Mapping[str, Any] | float | Any
"""Values that `numpy.asarray` takes."""
