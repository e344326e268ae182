"""From a trained teacher to a verified model on a phone.

teacher -> distillation -> compression -> conversion -> BUNDLE -> verification -> tflite/*/run
           (uses losses, layers)                        (files)                   (on the device)
"""

from keras_notes import compression, distillation, errors, layers, losses
from keras_notes.benchmarking import bench
from keras_notes.bundle import Bundle
from keras_notes.conversion import convert
from keras_notes.distillation import Distiller, FeatureMatch, TeacherCache
from keras_notes.report import write_report
from keras_notes.verification import Report, verify

__all__ = [
    "Bundle",
    "Distiller",
    "FeatureMatch",
    "Report",
    "TeacherCache",
    "bench",
    "compression",
    "convert",
    "distillation",
    "errors",
    "layers",
    "losses",
    "verify",
    "write_report",
]
