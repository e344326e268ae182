"""How a teacher's record lies in a cache: the arrays of a shard from the tensors of a batch, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import received
from keras_notes.distillation._fingerprints import model_fingerprint
from keras_notes.distillation.objective._output_forms import check_finite
from keras_notes.distillation.recording._teachers import Teachers
from keras_notes.losses import top_k_targets
from keras_notes.losses._teacher_targets import REST, teacher_logits_from

__all__ = ["FINGERPRINTS", "RecordLayout", "preprocess_fingerprint"]

# The array of a shard that holds the samples' fingerprints.
FINGERPRINTS = "fingerprints"


@dataclass
class RecordLayout:
    """The arrays of a record and their order.

    Args:
        settings: What the cache's settings.json holds of it.
    """

    settings: dict

    @classmethod
    def of(cls, teachers: Teachers, **options: Any) -> RecordLayout:
        """The layout of what teachers record, with `top_k`, `temperature`, `form` and `dtype`."""
        keys = list(teachers.feature_keys)
        nameless = [key for key in keys if ":function " in key]
        if nameless:
            raise ValueError(
                f"`features` must have names that another process finds again. Received: {len(nameless)} lambdas or "
                f"the like. Use the layer's name or path, or a function of a module."
            )
        settings = {
            "teachers": [model_fingerprint(model) for model in teachers.models],
            "features": keys,
            "preprocess": preprocess_fingerprint(teachers.preprocess),
            **options,
        }
        return cls(settings)

    def arrays(self, record: dict) -> dict:
        """The arrays of a record as tensors; this is what a build compiles."""
        arrays = {}
        for i, leaves in enumerate(record["outputs"]):
            for j, leaf in enumerate(leaves):
                arrays[f"output_{i}_{j}"] = self._reduced(leaf)
        for i, key in enumerate(self.settings["features"]):
            arrays[f"feature_{i}"] = record["features"][key]
        return arrays

    def _reduced(self, output):
        if self.settings["top_k"] is None:
            return output
        logits = teacher_logits_from(ops.cast(output, "float32"), self.settings["form"], exclusive=True)
        return top_k_targets(logits, self.settings["top_k"], self.settings["temperature"])

    def packed(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays as they are stored.

        Raises:
            ValueError: If the teacher gave NaN, or numbers that the dtype cannot hold.
        """
        stored = {}
        for name, array in arrays.items():
            if self.settings["top_k"] is not None and name.startswith("output"):
                ids = array[..., :-1, 0]
                stored[f"{name}_ids"] = ids.astype("uint16" if ids.max(initial=0) < 2**16 else "int32")
                stored[f"{name}_log_probs"] = self._stored(name, array[..., 1])
            else:
                stored[name] = self._stored(name, array)
        return stored

    def _stored(self, name: str, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array, "float32")
        check_finite(array, f"in {name} ")
        largest = float(np.abs(np.where(np.isfinite(array), array, 0)).max(initial=0))
        if self.settings["dtype"] == "float16" and largest > float(np.finfo("float16").max):
            raise ValueError(
                f"float16 must hold what the teacher gives. Received: {largest:g} in {name}. Use `dtype='float32'`."
            )
        return array.astype(self.settings["dtype"])

    def unpack(self, stored: dict[str, np.ndarray]) -> dict:
        """A record of a batch, from its stored arrays."""
        outputs = tuple(
            tuple(self._output(stored, f"output_{i}_{j}") for j in range(len(shapes)))
            for i, shapes in enumerate(self.settings["outputs"])
        )
        features = {key: stored[f"feature_{i}"] for i, key in enumerate(self.settings["features"])}
        return {"outputs": outputs, "features": features} if features else {"outputs": outputs}

    def _output(self, stored, name: str) -> np.ndarray:
        if self.settings["top_k"] is None:
            return stored[name]
        ids = np.asarray(stored[f"{name}_ids"], "float32")
        rest = np.full((*ids.shape[:-1], 1), REST, "float32")
        return np.stack([np.concatenate([ids, rest], -1), stored[f"{name}_log_probs"].astype("float32")], axis=-1)

    def learn_shapes(self, specs: dict, inputs: Any) -> int:
        """Takes the shapes of a batch's arrays into the settings, and returns the bytes of a sample."""
        counts = [0] * len(self.settings["teachers"])
        for name in specs:
            if name.startswith("output"):
                counts[int(name.split("_")[1])] += 1
        shape = {name: list(spec.shape[1:]) for name, spec in specs.items()}
        self.settings["outputs"] = [[shape[f"output_{i}_{j}"] for j in range(n)] for i, n in enumerate(counts)]
        self.settings["feature_shapes"] = [shape[f"feature_{i}"] for i in range(len(self.settings["features"]))]
        self.settings["inputs"] = self.describe(inputs)
        width = np.dtype(self.settings["dtype"]).itemsize
        return 8 + width * sum(int(np.prod([n or 1 for n in dims])) for dims in shape.values())

    def spec(self) -> dict:
        """A record as KerasTensors, as far as the settings tell."""
        outputs = tuple(tuple(_spec(dims) for dims in shapes) for shapes in self.settings["outputs"])
        shapes = zip(self.settings["features"], self.settings["feature_shapes"], strict=True)
        return {"outputs": outputs, "features": {key: _spec(dims) for key, dims in shapes}}

    @staticmethod
    def describe(inputs: Any) -> str:
        """Dtypes and shapes of a batch of inputs, without the batch axis."""
        return ", ".join(f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in keras.tree.flatten(inputs))


def _spec(dims) -> keras.KerasTensor:
    return keras.KerasTensor((None, *dims), dtype="float32")


def preprocess_fingerprint(preprocess) -> str | None:
    """What tells one `preprocess` from another: a layer's settings and weights, a function's name.

    Raises:
        TypeError: If it is neither.
    """
    if preprocess is None:
        return None
    if isinstance(preprocess, keras.Layer):
        return model_fingerprint(preprocess)
    name = getattr(preprocess, "__qualname__", None)
    if name is None:
        raise TypeError(f"`preprocess` must be a layer or a function. {received(preprocess=preprocess)}")
    return name
