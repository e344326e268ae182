"""Losses: plain Keras `Loss` classes over pure functions, for every backend."""

from keras_notes.losses._distillation import DistillationLoss
from keras_notes.losses._focal import FocalLoss

__all__ = [
    "DistillationLoss",
    "FocalLoss",
]
