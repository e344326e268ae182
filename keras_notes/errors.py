"""The exceptions of keras_notes.

    Exception
    └── KerasNotesError
        ├── BundleError         a bundle that is missing, malformed, damaged or in the way
        ├── ConversionError     a model that could not be converted as asked
        ├── QuantizationError   a model with layers that cannot compute in integers; a ValueError too
        └── VerificationError   a converted model that is not equal to the trained one

Wrong arguments are plain ``ValueError`` and ``TypeError``, as in Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

__all__ = ["BundleError", "ConversionError", "KerasNotesError", "QuantizationError", "VerificationError"]

# Keyword arguments: of any type.
_Arguments: TypeAlias = dict[str, Any]


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

    Args:
        message: Text of the error.
        remedies: Arguments of `convert` with which the model converts, the best first; none if there are none.
        problems: What stands in the way, a sentence each. Defaults to the message.

    Attributes:
        remedies: The same arguments, each a dict of keyword arguments.
        problems: The same sentences.

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

    def __init__(
        self, message: str, remedies: Sequence[_Arguments] = (), problems: Sequence[str] | None = None
    ) -> None:
        super().__init__(message)
        self.remedies = tuple(remedies)
        self.problems = (message,) if problems is None else tuple(problems)

    @property
    def remedy(self) -> _Arguments | None:
        """The best of the remedies; None if there is none."""
        return self.remedies[0] if self.remedies else None


class QuantizationError(KerasNotesError, ValueError):
    """A model has layers or operations that cannot compute in integers.

    Args:
        message: Text of the error.
        remedy: Arguments of `quantize_aware` with which the model is taken and converts; None if there are none.
        problems: What stands in the way, a sentence each.

    Attributes:
        remedy: The same arguments, a dict of keyword arguments, or None.
        problems: The same sentences.

    Example:
        >>> import keras
        >>> from keras_notes.compression import quantize_aware
        >>> inputs = keras.Input((8,))
        >>> model = keras.Model(inputs, keras.ops.cumsum(keras.layers.Dense(4)(inputs), axis=1))
        >>> try:
        ...     quantize_aware(model)
        ... except QuantizationError as error:
        ...     print(error.remedy)
        {'skip': ['cumsum']}
    """

    def __init__(self, message: str, remedy: _Arguments | None, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.problems = tuple(problems)


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
