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
    """Base of every exception class that this package defines.

    Example:
        >>> import keras_notes as kn
        >>> try:
        ...     kn.verify("build/no_bundle")
        ... except KerasNotesError as error:
        ...     print(f"{type(error).__name__}: {error}")
        BundleError: A bundle must hold model.json. Received: directory='build/no_bundle'.
    """


class BundleError(KerasNotesError):
    """A bundle is missing, malformed, damaged, or stands in the way of a new one.

    Example:
        >>> import pathlib, shutil, tempfile
        >>> from keras_notes.bundle import open_bundle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy = pathlib.Path(shutil.copytree("tflite/testdata/bars_static_int8", f"{folder}/copy"))
        ...     size = (copy / "model.tflite").write_bytes(b"incomplete")
        ...     try:
        ...         open_bundle(copy)
        ...     except BundleError as error:
        ...         print(error)  # doctest: +ELLIPSIS
        The bundle '...' is damaged: model.tflite must have 3999 bytes. Received: 10 bytes. Copy it again.
    """


class ConversionError(KerasNotesError):
    """A model could not be converted as asked.

    Example:
        >>> import keras
        >>> import keras_notes as kn
        >>> model = keras.Sequential([keras.Input((None, 3), name="samples"), keras.layers.Dense(2)])
        >>> try:
        ...     kn.convert(model, "build/samples", "float32")
        ... except ConversionError as error:
        ...     print(error)  # doctest: +ELLIPSIS
        Every size of an input but the batch must be known. Received: shape (None, None, 3) for the input 'samples'. ...
    """


class VerificationError(KerasNotesError):
    """A converted model is not equal to the trained one.

    Args:
        message: Text of the error.
        report: The `keras_notes.verification.Report` with every figure, the failures included.

    Attributes:
        report: The same report.

    Example:
        >>> import dataclasses, tempfile
        >>> from keras_notes.bundle import open_bundle, write_bundle
        >>> from keras_notes.verification import verify
        >>> bundle = open_bundle("tflite/testdata/bars_static_int8")
        >>> files = {name: (bundle.directory / name).read_bytes() for name in bundle.manifest.files}
        >>> tolerance = dataclasses.replace(bundle.manifest.tolerance, max_error_lsb=0.5)
        >>> manifest = dataclasses.replace(bundle.manifest, tolerance=tolerance)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         verify(write_bundle(f"{folder}/strict", manifest, files))
        ...     except VerificationError as error:
        ...         print(error.report.ok, len(error.report.failures), error.report.outputs[0].max_error_lsb > 0.5)
        False 1 True
    """

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report
