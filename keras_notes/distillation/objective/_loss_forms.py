"""Forms of the losses that are not distillation losses: what they take as targets and as predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import keras

from keras_notes._shared.types import Tensor
from keras_notes.losses import AsymmetricLoss, FocalLoss

__all__ = ["CLASS_IDS", "LossForm", "LossLike", "form_of_loss"]

LossLike: TypeAlias = str | keras.losses.Loss | Callable[[Tensor, Tensor], Tensor]
"""A Keras loss: an object, a function of (y_true, y_pred), or the name of one."""

CLASS_IDS = "class ids"
"""The form of targets that no teacher gives: one class id a sample."""


class LossForm(NamedTuple):
    """Form of what a loss takes.

    Attributes:
        teacher: Form of the targets: "probs", or `CLASS_IDS`.
        from_logits: Whether the predictions are logits.
        exclusive: True for the classes of a softmax, False for the labels of a sigmoid.
    """

    teacher: str
    from_logits: bool
    exclusive: bool


# Names of Keras's functions: form of the targets, and whether the values of a sample are one distribution.
_FUNCTIONS = {
    "kl_divergence": ("probs", True),
    "categorical_crossentropy": ("probs", True),
    "categorical_focal_crossentropy": ("probs", True),
    "binary_crossentropy": ("probs", False),
    "binary_focal_crossentropy": ("probs", False),
    "dice": ("probs", False),
    "tversky": ("probs", False),
    "sparse_categorical_crossentropy": (CLASS_IDS, True),
    "categorical_generalized_cross_entropy": (CLASS_IDS, True),
    "ctc": (CLASS_IDS, True),
}
# Functions of logits that have no argument `from_logits`.
_ON_LOGITS = ("ctc",)


def form_of_loss(loss: LossLike) -> LossForm | None:
    """Returns what a loss of probabilities takes; None for losses of any numbers, and where nothing is known.

    Known are Keras's losses, by object, function or name, and the losses on labels of this package. A subclass that
    computes something else is not one of them.

    Args:
        loss: The loss.
    """
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, FocalLoss):
        return LossForm("probs", loss.from_logits, loss.exclusive)
    if isinstance(loss, AsymmetricLoss):
        return LossForm("probs", loss.from_logits, False)
    settings: dict[str, bool] = {}
    if isinstance(loss, keras.losses.Loss):
        if not _calls_its_function(loss):
            return None
        function, settings = loss.fn, loss.get_config()
    elif isinstance(loss, functools.partial):
        function, settings = loss.func, loss.keywords
    else:
        function = loss
    for name, (teacher, exclusive) in _FUNCTIONS.items():
        if function is not None and function is getattr(keras.losses, name, None):
            return LossForm(teacher, bool(settings.get("from_logits", name in _ON_LOGITS)), exclusive)
    return None


def _calls_its_function(loss: keras.losses.Loss) -> bool:
    """Whether a loss calls `fn` on targets and predictions as they are, as Keras's own classes do."""
    cls = type(loss)
    return cls.call is keras.losses.KLDivergence.call and cls.__call__ is keras.losses.Loss.__call__
