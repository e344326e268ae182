"""Settings of a teacher cache: how the tensors of a record are stored as arrays, and read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import received
from keras_notes._shared.types import Json, Tensor, Tree
from keras_notes.distillation._fingerprints import model_fingerprint
from keras_notes.distillation._teacher_record import TeacherRecord
from keras_notes.distillation.cache._shards import FORMAT_VERSION
from keras_notes.distillation.objective._form_checks import check_finite
from keras_notes.distillation.recording._teachers import Teachers
from keras_notes.losses import DistillationLoss, top_k_targets

__all__ = ["FINGERPRINTS", "CacheSettings", "StorageOptions", "describe_inputs", "preprocess_fingerprint"]

# The array of a shard that holds the samples' fingerprints.
FINGERPRINTS = "fingerprints"
_FINGERPRINT_BYTES = 8
# The class id of the last pair of `top_k_targets`, which holds the probability of all other classes.
_OTHER_CLASSES = -1


@dataclasses.dataclass(frozen=True)
class StorageOptions:
    """How outputs and features are stored; known before the teachers run.

    Attributes:
        features: Keys of the features, in the order of their arrays.
        top_k: Number of classes that are kept; None keeps every output.
        temperature: Temperature of the top-k probabilities.
        form: Form of the teacher's outputs, for `top_k`.
        dtype: "float16" or "float32".
    """

    features: tuple[str, ...]
    top_k: int | None
    temperature: float
    form: str
    dtype: str

    def to_tensors(self, record: TeacherRecord) -> dict[str, Tensor]:
        """Returns the tensors of a record by the names of their arrays; a build compiles this."""
        tensors = {}
        for i, leaves in enumerate(record["outputs"]):
            for j, leaf in enumerate(leaves):
                tensors[f"output_{i}_{j}"] = self._reduce(leaf)
        for i, key in enumerate(self.features):
            tensors[f"feature_{i}"] = record["features"][key]
        return tensors

    def _reduce(self, output: Tensor) -> Tensor:
        """Returns the top-k targets of an output, if only they are kept."""
        if self.top_k is None:
            return output
        logits = DistillationLoss(teacher=self.form).teacher_logits(ops.cast(output, "float32"))
        return top_k_targets(logits, self.top_k, self.temperature)

    def pack(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the arrays as they are stored.

        Raises:
            ValueError: If the teacher returned NaN, or numbers that the dtype cannot hold.
        """
        stored = {}
        for name, array in arrays.items():
            if self.top_k is not None and name.startswith("output"):
                ids = array[..., :-1, 0]
                stored[f"{name}_ids"] = ids.astype("uint16" if ids.max(initial=0) < 2**16 else "int32")
                stored[f"{name}_log_probs"] = self._narrow(name, array[..., 1])
            else:
                stored[name] = self._narrow(name, array)
        return stored

    def _narrow(self, name: str, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array, "float32")
        check_finite(array, f"in {name} ")
        largest = float(np.abs(np.where(np.isfinite(array), array, 0)).max(initial=0))
        if self.dtype == "float16" and largest > float(np.finfo("float16").max):
            raise ValueError(
                f"float16 must hold what the teacher gives. Received: {largest:g} in {name}. Use `dtype='float32'`."
            )
        return array.astype(self.dtype)

    def output_of(self, stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        """Returns an output from its stored arrays: as it is, or as top-k targets."""
        if self.top_k is None:
            return stored[name]
        ids = np.asarray(stored[f"{name}_ids"], "float32")
        others = np.full((*ids.shape[:-1], 1), _OTHER_CLASSES, "float32")
        return np.stack([np.concatenate([ids, others], -1), stored[f"{name}_log_probs"].astype("float32")], axis=-1)


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """The settings of a build, as settings.json and cache.json hold them; a second build must have the same.

    Attributes:
        teachers: Fingerprint of each teacher.
        preprocess: Fingerprint of `preprocess`, or None.
        storage: How outputs and features are stored.
        outputs: For each teacher the shapes of its outputs, without the batch axis.
        feature_shapes: Shapes of the features, without the batch axis.
        inputs: Dtypes and shapes of the inputs, as `describe_inputs` words them.
        views: Number of views of each sample.
        shard_size: Samples in a shard.
    """

    teachers: tuple[str, ...]
    preprocess: str | None
    storage: StorageOptions
    outputs: tuple[tuple[tuple[int | None, ...], ...], ...]
    feature_shapes: tuple[tuple[int | None, ...], ...]
    inputs: str
    views: int
    shard_size: int

    @classmethod
    def of_build(
        cls,
        teachers: Teachers,
        storage: StorageOptions,
        specs: Mapping[str, keras.KerasTensor],
        inputs: Tree,
        *,
        views: int,
        maximum_shard_size: int,
        maximum_shard_bytes: int,
    ) -> CacheSettings:
        """Returns the settings of a build.

        Args:
            teachers: The teachers.
            storage: How their outputs are stored.
            specs: Shapes of the tensors of a batch, by the names of their arrays.
            inputs: Inputs of one batch.
            views: Number of views of each sample.
            maximum_shard_size: Maximum of samples in a shard.
            maximum_shard_bytes: Maximum of bytes in a shard.
        """
        counts = [0] * len(teachers.models)
        for name in specs:
            if name.startswith("output"):
                counts[int(name.split("_")[1])] += 1
        shapes = {name: tuple(spec.shape[1:]) for name, spec in specs.items()}
        values = sum(int(np.prod([n or 1 for n in shape])) for shape in shapes.values())
        sample_bytes = _FINGERPRINT_BYTES + np.dtype(storage.dtype).itemsize * values
        return cls(
            teachers=tuple(model_fingerprint(model) for model in teachers.models),
            preprocess=preprocess_fingerprint(teachers.preprocess),
            storage=storage,
            outputs=tuple(tuple(shapes[f"output_{i}_{j}"] for j in range(n)) for i, n in enumerate(counts)),
            feature_shapes=tuple(shapes[f"feature_{i}"] for i in range(len(storage.features))),
            inputs=describe_inputs(inputs),
            views=views,
            shard_size=max(1, min(maximum_shard_size, maximum_shard_bytes // sample_bytes)),
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Json]) -> CacheSettings:
        """Returns the settings that a complete cache holds."""
        storage = {field.name: content[field.name] for field in dataclasses.fields(StorageOptions)}
        return cls(
            teachers=tuple(content["teachers"]),
            preprocess=content["preprocess"],
            storage=StorageOptions(**{**storage, "features": tuple(content["features"])}),
            outputs=tuple(tuple(tuple(shape) for shape in shapes) for shapes in content["outputs"]),
            feature_shapes=tuple(tuple(shape) for shape in content["feature_shapes"]),
            inputs=content["inputs"],
            views=content["views"],
            shard_size=content["shard_size"],
        )

    def to_json(self) -> dict[str, Json]:
        """Returns the settings as JSON holds them, with the version of the format."""
        storage = self.storage
        return {
            "format": FORMAT_VERSION,
            "teachers": list(self.teachers),
            "features": list(storage.features),
            "preprocess": self.preprocess,
            "top_k": storage.top_k,
            "temperature": storage.temperature,
            "form": storage.form,
            "dtype": storage.dtype,
            "outputs": [[list(shape) for shape in shapes] for shapes in self.outputs],
            "feature_shapes": [list(shape) for shape in self.feature_shapes],
            "inputs": self.inputs,
            "views": self.views,
            "shard_size": self.shard_size,
        }

    def unpack(self, stored: Mapping[str, np.ndarray]) -> TeacherRecord:
        """Returns the record of a batch from its stored arrays."""
        outputs = tuple(
            tuple(self.storage.output_of(stored, f"output_{i}_{j}") for j in range(len(shapes)))
            for i, shapes in enumerate(self.outputs)
        )
        features = {key: stored[f"feature_{i}"] for i, key in enumerate(self.storage.features)}
        return {"outputs": outputs, "features": features} if features else {"outputs": outputs}

    def record_spec(self) -> TeacherRecord:
        """Returns a record of KerasTensors."""
        outputs = tuple(tuple(_spec(shape) for shape in shapes) for shapes in self.outputs)
        features = zip(self.storage.features, self.feature_shapes, strict=True)
        return {"outputs": outputs, "features": {key: _spec(shape) for key, shape in features}}


def _spec(shape: tuple[int | None, ...]) -> keras.KerasTensor:
    return keras.KerasTensor((None, *shape), dtype="float32")


def describe_inputs(inputs: Tree) -> str:
    """Returns dtypes and shapes of a batch of inputs, without the batch axis."""
    return ", ".join(f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in keras.tree.flatten(inputs))


def preprocess_fingerprint(preprocess: Callable[[Tree], Tree] | None) -> str | None:
    """Returns what tells one `preprocess` from another: a layer's settings and weights, a function's name.

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
