"""A signature of a .tflite file on LiteRT, in the units of the trained model. Imports neither Keras nor TensorFlow.

It runs whatever the file says in this process: outside of tests that is the sandbox's worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_notes._litert.model import INTEGER_DTYPES
from keras_notes.bundle import SignatureEntry, TensorEntry
from keras_notes.errors import BundleError

__all__ = ["KERNELS", "Runtime", "quantize"]

# Kernel sets differ in rounding, so an integer comparison says which one it ran on.
KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
# LiteRT fails without a word where it gets no memory.
_NO_REASON = "it gives no reason, which is most likely too little memory (`keras_notes.verification.Limits`)"


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
    """One signature of a file, ready to run."""

    def __init__(
        self, path: Path, signature: SignatureEntry, kernels: str, threads: int = 1, *, keeps_tensors: bool = False
    ) -> None:
        self.signature = signature
        try:
            self.interpreter = Interpreter(
                str(path),
                num_threads=threads,
                experimental_op_resolver_type=KERNELS[kernels],
                experimental_preserve_all_tensors=keeps_tensors,
            )
            self.interpreter.allocate_tensors()
            self._run = self.interpreter.get_signature_runner(signature.name)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"cannot be loaded by LiteRT: {str(error).strip() or _NO_REASON}") from error

    def outputs(
        self, inputs: Mapping[str, np.ndarray], batch_size: int, before_each: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """Runs samples, `batch_size` at once, and stacks the outputs; says before each run how many samples it takes.

        Each run starts from a fresh state; but of a signature with states, the samples are the steps of one sequence:
        the first takes its states from `inputs`, every other one what the step before it gave.
        """
        count = len(next(iter(inputs.values())))
        rows: list[dict[str, np.ndarray]] = []
        for start in range(0, count, batch_size):
            batch = {name: array[start : start + batch_size] for name, array in inputs.items()}
            if rows:
                batch.update({state.input: rows[-1][state.output] for state in self.signature.states})
            before_each(batch_size)
            rows.append(self._one(batch))
        return {entry.name: np.concatenate([row[entry.name] for row in rows]) for entry in self.signature.outputs}

    def feed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs as the edge of the file takes them."""
        return {entry.name: _to_edge(entry, inputs[entry.name]) for entry in self.signature.inputs}

    def _one(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.interpreter.reset_all_variables()
        try:
            results = self._run(**self.feed(inputs))
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip() or _NO_REASON
            raise BundleError(f"cannot be run by LiteRT on such a sample: {reason}") from error
        return {entry.name: _from_edge(entry, results[entry.name]) for entry in self.signature.outputs}


def _to_edge(entry: TensorEntry, values: np.ndarray) -> np.ndarray:
    if entry.dtype in INTEGER_DTYPES and entry.scale is not None and entry.zero_point is not None:
        return quantize(values, entry.scale, entry.zero_point, entry.dtype)
    return values.astype(entry.dtype)


def _from_edge(entry: TensorEntry, values: np.ndarray) -> np.ndarray:
    if entry.dtype in INTEGER_DTYPES and entry.scale is not None and entry.zero_point is not None:
        return (values.astype(np.float32) - np.float32(entry.zero_point)) * np.float32(entry.scale)
    return values
