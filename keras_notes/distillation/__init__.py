"""Distillation: train a compact student on what a teacher says."""

from keras_notes.distillation._distiller import Distiller

__all__ = [
    "Distiller",
]
