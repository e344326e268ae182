"""A signature of a bundle on LiteRT, in the units of the trained model. Imports neither Keras nor TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_notes.bundle import Bundle, SignatureEntry, TensorEntry
from keras_notes.errors import BundleError

__all__ = ["KERNELS", "Runtime", "quantize"]

# Kernel sets differ in rounding, so an integer comparison says which one it ran on.
KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def quantize(values: np.ndarray, scale: float, zero_point: int, dtype: str) -> np.ndarray:
    """round(values / scale) + zero_point, halves away from zero, saturated to the type.

    As in LiteRT's reference kernel; its faster kernels round exact halves to even, one step away on such a value.
    """
    steps = np.asarray(values, np.float32) / np.float32(scale)
    whole = np.trunc(steps)
    # Not trunc(steps + 0.5): the sum rounds the float below a half up to 1.
    rounded = whole + np.where(np.abs(steps - whole) >= 0.5, np.copysign(np.float32(1), steps), 0)
    limits = np.iinfo(dtype)
    return np.clip(rounded + zero_point, limits.min, limits.max).astype(dtype)


class Runtime:
    """One signature of a bundle, ready to run on one thread."""

    def __init__(self, bundle: Bundle, signature: SignatureEntry, kernels: str) -> None:
        self.signature = signature
        try:
            self._interpreter = Interpreter(
                str(bundle.model_path), num_threads=1, experimental_op_resolver_type=KERNELS[kernels]
            )
            self._interpreter.allocate_tensors()
            self._run = self._interpreter.get_signature_runner(signature.name)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"LiteRT cannot load {str(bundle.model_path)!r}: {error}") from error

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the samples one by one, each from a fresh state, and stacks the outputs."""
        count = len(next(iter(inputs.values())))
        rows = [self._one({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(count)]
        return {entry.name: np.concatenate([row[entry.name] for row in rows]) for entry in self.signature.outputs}

    def _one(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._interpreter.reset_all_variables()
        fed = {entry.name: _to_edge(entry, inputs[entry.name]) for entry in self.signature.inputs}
        try:
            results = self._run(**fed)
        except RuntimeError as error:
            raise BundleError(f"LiteRT cannot run the model on such a sample: {error}") from error
        return {entry.name: _from_edge(entry, results[entry.name]) for entry in self.signature.outputs}


def _to_edge(entry: TensorEntry, values: np.ndarray) -> np.ndarray:
    if entry.dtype in ("int8", "uint8") and entry.scale is not None and entry.zero_point is not None:
        return quantize(values, entry.scale, entry.zero_point, entry.dtype)
    return values.astype(entry.dtype)


def _from_edge(entry: TensorEntry, values: np.ndarray) -> np.ndarray:
    if entry.dtype in ("int8", "uint8") and entry.scale is not None and entry.zero_point is not None:
        return (values.astype(np.float32) - np.float32(entry.zero_point)) * np.float32(entry.scale)
    return values
