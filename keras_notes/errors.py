"""The exceptions of keras_notes.

    Exception
    └── KerasNotesError
        ├── BundleError         a bundle that is missing, malformed, damaged or in the way
        ├── ConversionError     a model that could not be converted as asked
        └── VerificationError   a converted model that is not equal to the trained one

Wrong arguments are plain ``ValueError`` and ``TypeError``, as in Keras.
"""

from __future__ import annotations

from typing import Any

__all__ = ["BundleError", "ConversionError", "KerasNotesError", "VerificationError"]


class KerasNotesError(Exception):
    """Base of every exception class that this package defines."""


class BundleError(KerasNotesError):
    """A bundle is missing, malformed, damaged, or stands in the way of a new one."""


class ConversionError(KerasNotesError):
    """A model could not be converted as asked."""


class VerificationError(KerasNotesError):
    """A converted model is not equal to the trained one.

    Attributes:
        report: The `keras_notes.verification.Report` with every figure, the failures included.
    """

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report
