"""Compression: quantization-aware training, pruning and clustering that arrive in the .tflite file exactly."""

from keras_notes.compression._affine import Grid
from keras_notes.compression._compressed_model import CompressedModel, strip
from keras_notes.compression._quantize_aware import quantize_aware

__all__ = [
    "CompressedModel",
    "Grid",
    "quantize_aware",
    "strip",
]
