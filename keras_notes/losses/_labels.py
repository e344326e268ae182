"""Rules for the inputs of losses: float precision, and how labels and predictions fit together.

A wrong pair of shapes must never broadcast into a wrong loss, so every pairing that is not listed here is an error.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_same_shape, differ, received
from keras_notes._shared.types import Tensor

__all__ = [
    "aligned_labels",
    "check_feature_axis",
    "check_logits",
    "classes_of",
    "expand_class_axis",
    "is_class_ids",
    "loss_dtype",
    "raise_if_labels_out_of_range",
    "to_logits",
]

# The smallest probability that is told from 0: its reciprocal, times a loss weight, must stay below the largest
# number of float32.
_MINIMUM_PROBABILITY = 1e-36


def loss_dtype(dtype: str | None) -> str:
    """The dtype of a loss: float32 unless float64 is asked for.

    Class ids and exponentials both suffer in 16 bits (bfloat16 cannot hold the id 257), so a half-precision policy
    or `floatx` does not reach the loss; an explicit half-precision `dtype` is refused.
    """
    if dtype is None:
        return "float64" if keras.backend.floatx() == "float64" else "float32"
    name = keras.dtype_policies.get(dtype).compute_dtype
    if name not in ("float32", "float64"):
        raise ValueError(
            f"`dtype` must be float32 or float64: a loss in 16 bits loses class ids and small probabilities. "
            f"{received(dtype=dtype)} Leave it out; 16-bit predictions are raised to float32."
        )
    return name


def classes_of(y_pred: Tensor, axis: int) -> int | None:
    """Returns the number of classes, or None where the shape does not tell it."""
    rank = len(y_pred.shape)
    if not -rank <= axis < rank:
        raise ValueError(f"`axis` must be an axis of y_pred. {received(axis=axis, shape=tuple(y_pred.shape))}")
    return y_pred.shape[axis]


def check_feature_axis(features: Tensor, axis: int) -> None:
    """Raises ValueError unless `axis` is an axis of the features behind that of the batch."""
    classes_of(features, axis)
    if axis % len(features.shape) == 0:
        raise ValueError(
            f"`axis` must not be the batch axis. {received(axis=axis)} The features have shape {tuple(features.shape)}."
        )


def is_class_ids(y_true: Tensor, y_pred: Tensor, axis: int) -> bool:
    """True for class ids of shape (...,) or (..., 1), False for one label per class, an error for anything else."""
    true_shape, pred_shape = tuple(y_true.shape), tuple(y_pred.shape)
    axis = axis % len(pred_shape)
    batch_shape = pred_shape[:axis] + pred_shape[axis + 1 :]
    if not differ(true_shape, batch_shape):
        return True
    if len(true_shape) == len(pred_shape):
        true_batch_shape = true_shape[:axis] + true_shape[axis + 1 :]
        if not differ(true_batch_shape, batch_shape):
            if true_shape[axis] == 1 and pred_shape[axis] != 1:
                return True
            if not differ(true_shape, pred_shape):
                return False
    raise ValueError(
        f"y_true must hold class ids of shape {batch_shape} or one label per class of shape {pred_shape}. "
        f"Received: y_true of shape {true_shape} with y_pred of shape {pred_shape}."
    )


def expand_class_axis(ids: Tensor, y_pred: Tensor, axis: int) -> Tensor:
    """Returns ids of shape (...,) with the class axis of y_pred, of length 1."""
    return ids if len(ids.shape) == len(y_pred.shape) else ops.expand_dims(ids, axis)


def aligned_labels(y_true: Tensor, y_pred: Tensor, axis: int) -> Tensor:
    """Independent labels of the shape of y_pred; a model with one label may leave the label axis out."""
    if len(y_true.shape) == len(y_pred.shape) - 1 and classes_of(y_pred, axis) == 1:
        y_true = ops.expand_dims(y_true, axis)
    check_same_shape(y_true, y_pred, what_true="Labels", what_pred="predictions")
    return y_true


def check_logits(
    teacher: Tensor, student: Tensor, axis: int, *, exclusive: bool = True, standardize: bool = False
) -> None:
    """Raises ValueError unless teacher and student have the same classes, and enough of them."""
    classes = classes_of(student, axis)
    check_same_shape(teacher, student, what_true="The teacher's logits", what_pred="the student's logits")
    if exclusive and classes is not None and classes < 2:
        raise ValueError(
            f"The logits must have at least two classes when `exclusive=True`. Received: {classes} along axis "
            f"{axis}. Use `exclusive=False` for a single sigmoid output."
        )
    if standardize and (classes is None or classes < 3):
        raise ValueError(
            f"`standardize=True` needs at least three classes: of two it leaves only which is larger. "
            f"Received: {classes} along axis {axis}."
        )


def _log(p: Tensor) -> Tensor:
    return ops.log(ops.maximum(p, _MINIMUM_PROBABILITY))


def to_logits(y_pred: Tensor, *, from_logits: bool, exclusive: bool) -> Tensor:
    """Logits from predictions: as they are, or of the probabilities of a softmax (`exclusive`) or of a sigmoid."""
    if from_logits:
        return y_pred
    return _log(y_pred) if exclusive else _log(y_pred) - _log(1.0 - y_pred)


def raise_if_labels_out_of_range(
    y_true: Tensor, y_pred: Tensor, axis: int, exclusive: bool, ignore_class: int | None = None
) -> None:
    """Raises ValueError for class ids outside [0, classes) and labels outside [0, 1], where they can be seen.

    That is in a NumPy array. Inside a compiled training step nothing can be raised; there the loss of a sample with
    such a class id is NaN.
    """
    if not isinstance(y_true, np.ndarray):
        return
    y_pred = ops.convert_to_tensor(y_pred)
    classes = classes_of(y_pred, axis)
    if not exclusive or not is_class_ids(y_true, y_pred, axis):
        wrong = ~((y_true >= 0) & (y_true <= 1))
        if wrong.any():
            raise ValueError(f"Labels must be in [0, 1]. {_wrong_values(y_true, wrong)}")
        return
    if classes is None:
        return
    wrong = (y_true < 0) | (y_true >= classes) | (y_true != np.floor(y_true))
    if ignore_class is not None:
        wrong &= y_true != ignore_class
    if wrong.any():
        raise ValueError(
            f"Class ids must be integers in [0, {classes}). {_wrong_values(y_true, wrong)} "
            f"Mark samples without a label by `ignore_class`."
        )


def _wrong_values(values: np.ndarray, wrong: np.ndarray) -> str:
    return f"Received: {values[wrong].flat[0]} ({int(wrong.sum())} of {values.size} are wrong)."
