"""Verification: runs a bundle on LiteRT and compares it with the trained model. Needs no Keras."""

from keras_notes._litert.sandbox import Limits
from keras_notes.verification._report import OutputReport, Report, TaskFigure
from keras_notes.verification._verify import verify

__all__ = ["Limits", "OutputReport", "Report", "TaskFigure", "verify"]
