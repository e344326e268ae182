"""Conversion: from a trained Keras model to a bundle."""

from keras_notes.conversion._convert import convert

__all__ = [
    "convert",
]
