"""Compression: quantization-aware training, pruning and clustering that arrive in the .tflite file exactly."""

from keras_notes.compression import tfmot
from keras_notes.compression._clustering import cluster
from keras_notes.compression._compressed_model import CompressedModel, strip
from keras_notes.compression._equalization import equalize
from keras_notes.compression._pruning import prune
from keras_notes.compression._quantize_aware import quantize_aware
from keras_notes.compression._sensitivity import LayerSensitivity, sensitivity
from keras_notes.compression._sparsity_schedules import ConstantSparsity, PolynomialSparsity
from keras_notes.compression._summary import KernelSummary, Summary, summary
from keras_notes.compression.channels._prune_channels import prune_channels
from keras_notes.compression.quantization._affine import Grid

__all__ = [
    "CompressedModel",
    "ConstantSparsity",
    "Grid",
    "KernelSummary",
    "LayerSensitivity",
    "PolynomialSparsity",
    "Summary",
    "cluster",
    "equalize",
    "prune",
    "prune_channels",
    "quantize_aware",
    "sensitivity",
    "strip",
    "summary",
    "tfmot",
]
