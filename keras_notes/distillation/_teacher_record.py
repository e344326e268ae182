"""Teacher records: outputs and features of the teachers for one batch, and batches that carry one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypedDict

from keras_notes._shared.types import Tensor, Tree

__all__ = ["LayerPath", "TeacherRecord", "feature_key", "feature_of", "inputs_and_record", "with_record"]

LayerPath: TypeAlias = str | Callable | None
"""A layer of a model: its name or path, a function of the model that returns it; None for the model's output."""

# A batch that was joined with a cache is a dictionary of these two; no model's inputs have such names.
_INPUTS, _RECORD = "keras_notes.inputs", "keras_notes.teacher"


class _Outputs(TypedDict):
    outputs: tuple[tuple[Tensor, ...], ...]


class TeacherRecord(_Outputs, total=False):
    """Outputs of all teachers for a batch, and the features that are matched.

    Attributes:
        outputs: For each teacher the leaves of its outputs, each of shape (batch, ...).
        features: Features by `feature_key`; a cache without features leaves them out.
    """

    features: dict[str, Tensor]


def feature_key(teacher: int, layer: LayerPath) -> str:
    """Returns the name of a teacher's feature in a record."""
    if layer is None or isinstance(layer, str):
        return f"{teacher}:{layer}"
    name = getattr(layer, "__qualname__", "<")
    # A function without a name of its own is known in this process only, which is enough without a cache.
    return f"{teacher}:function {id(layer)}" if "<" in name else f"{teacher}:{layer.__module__}.{name}"


def feature_of(record: TeacherRecord, teacher: int, layer: LayerPath) -> Tensor:
    """Returns a teacher's feature in a record; its output for None.

    Raises:
        ValueError: If the record, which came from a cache, does not hold it.
    """
    if layer is None:
        return record["outputs"][teacher][0]
    key, features = feature_key(teacher, layer), record.get("features", {})
    if key not in features:
        raise ValueError(
            f"A cache must hold the teacher's features that are matched. Received: a cache of {sorted(features)} "
            f"without {key!r}. Build it with `features=[{layer!r}]`."
        )
    return features[key]


def with_record(inputs: Tree, record: TeacherRecord) -> dict[str, Tree]:
    """Returns the inputs of a batch together with the teachers' record of it."""
    return {_INPUTS: inputs, _RECORD: record}


def inputs_and_record(x: Tree) -> tuple[Tree, TeacherRecord | None]:
    """Returns the model's inputs, and the record that the batch carries, or None."""
    if isinstance(x, dict) and set(x) == {_INPUTS, _RECORD}:
        return x[_INPUTS], x[_RECORD]
    return x, None
