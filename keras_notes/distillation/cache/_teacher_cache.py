"""A teacher's outputs on disk: computed once, found again by what each sample holds, never by its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, check_choice, check_integer, check_positive, received
from keras_notes.distillation._fingerprints import model_fingerprint, sample_fingerprints
from keras_notes.distillation._seeded_batches import SeededBatches
from keras_notes.distillation.cache._build import build_cache
from keras_notes.distillation.cache._dataset_shards import Source, check_batches, is_arrays
from keras_notes.distillation.cache._joined_batches import JoinedBatches, JoinedStream
from keras_notes.distillation.cache._reader import CacheFiles
from keras_notes.distillation.cache._record_layout import RecordLayout, preprocess_fingerprint
from keras_notes.distillation.recording._teachers import RecordingModel, Teachers, models_of

__all__ = ["TeacherCache"]


@keras.saving.register_keras_serializable(package="keras_notes")
class TeacherCache:
    """What a teacher says of a data set, computed once and kept on disk.

    Every sample is known by a fingerprint of its bytes as the teacher saw them (before `preprocess`). So the order of
    a data set, its batches and what part of it is used do not matter, and a sample that the teacher never saw is an
    error and not a wrong target. With augmentation the cache holds `views` seeded views of each sample, and teacher
    and student see the same ones.

    Files: `.npy` arrays in shards, read by memory mapping; they need about 24 bytes a sample beside the outputs.
    Several processes may build shards side by side (`process`). A build that was cut off goes on where it stopped; one
    for another teacher, another data set or other settings is an error, and so is a shard that is not as it was
    written.

    Example:
        >>> import tempfile, keras, numpy as np, keras_notes as kn
        >>> x, y = np.random.rand(32, 4).astype("float32"), np.random.randint(0, 3, 32)
        >>> teacher, student = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
        >>> batches = kn.distillation.SeededBatches(x, y, batch_size=8, seed=0)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     cache = kn.TeacherCache.build(teacher, batches, directory, verbose=0)
        ...     distiller = kn.Distiller(teacher, student)
        ...     distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        ...     history = distiller.fit(cache.join(batches), verbose=0)
        >>> cache.samples
        32
    """

    def __init__(self, directory: str | Path, *, check_bytes: bool = True) -> None:
        """Opens a complete cache. See `open`."""
        self.directory = Path(directory)
        self._files = CacheFiles(self.directory, check_bytes=check_bytes)
        self.settings: dict = self._files.settings
        self.samples: int = self._files.samples
        self._layout = RecordLayout(self.settings)
        self.views: int = self.settings["views"]
        self.teachers: int = len(self.settings["teachers"])
        self.record_spec: dict = self._layout.spec()

    @classmethod
    def open(cls, directory: str | Path, *, check_bytes: bool = True) -> TeacherCache:
        """Opens a complete cache.

        Args:
            directory: Where `build` left it.
            check_bytes: Whether every file is read and compared with its fingerprint (at the speed of the disk), and
                not its size alone.

        Raises:
            ValueError: If there is no cache, its build was not finished, or a file is missing, truncated or altered.
        """
        return cls(directory, check_bytes=check_bytes)

    @classmethod
    def build(
        cls,
        teacher: keras.Model | Sequence[keras.Model],
        dataset: Any,
        directory: str | Path,
        *,
        features: Sequence[Any] = (),
        preprocess: Callable | None = None,
        top_k: int | None = None,
        temperature: float = 1.0,
        form: str = "logits",
        dtype: str = "float16",
        views: int | None = None,
        batch_size: int = 128,
        shard_size: int = 16384,
        process: tuple[int, int] = (0, 1),
        verbose: int | str = "auto",
    ) -> TeacherCache | None:
        """Runs the teacher over a data set and keeps its outputs; or goes on with a build that was cut off.

        Args:
            teacher: A built model, or several.
            dataset: `SeededBatches`; arrays `x` or `(x, y)`; a `keras.utils.PyDataset`; or batches that can be
                iterated over again, such as a `tf.data.Dataset`. Only the inputs are read. Batches that augment at
                random cannot be found again: augment in `SeededBatches`.
            directory: Where to write; created where it is not there.
            features: Layers of the teacher (names, paths, functions; or pairs (place of the teacher, layer)) whose
                outputs are kept, too.
            preprocess: As in `Distiller`.
            top_k: Keep the k most probable classes and the mass of all others, for
                `DistillationLoss(teacher="top_k")`; None keeps every output.
            temperature: The temperature of top-k probabilities, that of the loss.
            form: What the teacher gives, for `top_k`: "logits", "probs" or "log_probs".
            dtype: "float16", or "float32" for numbers beyond 65504 or to the last bit.
            views: How many augmented views to keep. Defaults to those of `SeededBatches`, else 1 (passes over the data
                set).
            batch_size: Samples that the teacher sees at once; data sets of batches have their own.
            shard_size: Samples in a shard, less where features are large (256 MiB a shard).
            process: (index, count): this process builds every count-th shard, beginning with its index.
            verbose: 0 for silence, else a progress bar with the time left.

        Returns:
            The cache; or None, while other processes have not finished their shards.

        Raises:
            ValueError: If an argument is out of its range; if the folder holds a cache of another teacher, data set or
                other settings; or if the teacher gives NaN or numbers that float16 cannot hold.
        """
        teachers = models_of(teacher)
        features = features if isinstance(features, (list, tuple)) else [features]
        pairs = [pair if isinstance(pair, tuple) else (0, pair) for pair in features]
        views = check_at_least("views", (getattr(dataset, "views", None) or 1) if views is None else views, 1)
        if isinstance(dataset, SeededBatches) and dataset.augment is not None and dataset.views != views:
            raise ValueError(
                f"`views` of augmented SeededBatches must be the number that is cached, or epochs show others. "
                f"{received(views=views)} The batches have views={dataset.views}."
            )
        recorders = Teachers(teachers, preprocess, pairs)
        layout = RecordLayout.of(
            recorders,
            top_k=None if top_k is None else check_integer("top_k", top_k),
            temperature=check_positive("temperature", temperature),
            form=check_choice("form", form, ("logits", "probs", "log_probs")),
            dtype=check_choice("dtype", dtype, ("float16", "float32")),
        )
        source = Source(dataset, views, check_at_least("batch_size", batch_size, 1))
        shard_size = check_at_least("shard_size", shard_size, 1)
        options: dict[str, Any] = {"shard_size": shard_size, "process": process, "verbose": verbose}
        if build_cache(layout, recorders, source, Path(directory), **options):
            return cls(directory, check_bytes=False)
        return None

    def join(self, dataset: Any, **batches: Any) -> keras.utils.PyDataset:
        """Batches of a data set, each with what the teacher said of its samples, for `Distiller.fit` and `evaluate`.

        Args:
            dataset: `SeededBatches`, a `keras.utils.PyDataset`, batches that can be iterated over again, or arrays
                `(x, y)` or `(x, y, sample_weight)`, of which `SeededBatches` are made.
            **batches: Arguments of `SeededBatches`, for arrays.

        Returns:
            A `keras.utils.PyDataset`. A sample that the cache does not hold is a ValueError when its batch is read.
        """
        if is_arrays(dataset):
            arrays = dataset if isinstance(dataset, tuple) else (dataset,)
            dataset = SeededBatches(*arrays, **batches)
        elif batches:
            raise TypeError(f"`dataset` must be arrays to be cut into batches. {received(**batches)}")
        if isinstance(dataset, SeededBatches) and dataset.augment is not None and dataset.views != self.views:
            raise ValueError(
                f"The views of `dataset` must be those that were cached. Received: views={dataset.views}, a cache of "
                f"{self.views}."
            )
        check_batches(dataset)
        return (JoinedBatches if isinstance(dataset, keras.utils.PyDataset) else JoinedStream)(dataset, self)

    def lookup(self, inputs: Any) -> dict:
        """What the teacher said of a batch of inputs, in the form of a record that `Distiller` takes.

        Raises:
            ValueError: If the cache does not hold a sample.
        """
        arrays, missing = self._files.find(sample_fingerprints(inputs))
        if missing.any():
            raise ValueError(
                f"Every sample must be one that the teacher saw. Received: {int(missing.sum())} of {len(missing)} "
                f"samples of the batch are not in {str(self.directory)!r} (first at {int(missing.argmax())}), with "
                f"inputs {self._layout.describe(inputs)}; the cache was built from {self.settings['inputs']}. Build a "
                f"cache of this data set; augment in SeededBatches, where views can be repeated."
            )
        return self._layout.unpack(arrays)

    def check_teacher(
        self, teacher: keras.Model | Sequence[keras.Model], *, preprocess: Callable | None = None
    ) -> None:
        """Raises ValueError unless these are the teachers whose outputs the cache holds, to the last weight.

        `preprocess` is compared by its settings, or by its name where it is a function.
        """
        teachers = models_of(teacher)
        found = [model_fingerprint(model) for model in teachers]
        if found != self.settings["teachers"]:
            raise ValueError(
                f"The teacher must be the one that {str(self.directory)!r} was built with. Received: "
                f"{', '.join(repr(model.name) for model in teachers)} with other weights or layers "
                f"({', '.join(found)}; the cache has {', '.join(self.settings['teachers'])}). Build a cache of it."
            )

        if preprocess_fingerprint(preprocess) != self.settings["preprocess"]:
            raise ValueError(
                f"`preprocess` must be the one that {str(self.directory)!r} was built with. Received: another "
                f"({preprocess_fingerprint(preprocess)}; the cache has {self.settings['preprocess']})."
            )

    def check_losses(self, losses: Sequence[Any]) -> None:
        """Raises ValueError unless losses on outputs take what is cached: dense outputs, or the top k at one T."""
        top_k, temperature = self.settings["top_k"], self.settings["temperature"]
        for loss in losses:
            takes_top_k = getattr(loss, "teacher", None) == "top_k"
            if takes_top_k == bool(top_k) and not (top_k and loss.temperature != temperature):
                continue
            found = f"the top {top_k} at temperature {temperature:g}" if top_k else "dense outputs"
            form = getattr(loss, "teacher", None)
            raise ValueError(
                f"The losses must take what the cache holds. Received: {type(loss).__name__}(teacher={form!r}, "
                f"temperature={getattr(loss, 'temperature', None)}) for {found} in {str(self.directory)!r}."
            )

    def verify(
        self,
        teacher: keras.Model | Sequence[keras.Model],
        inputs: Any,
        *,
        preprocess: Callable | None = None,
    ) -> float:
        """Runs the teacher on samples again and compares: the largest error, relative to the largest output.

        Raises:
            ValueError: If that is more than the rounding of the cache's dtype (and of another batch size) explains.
        """
        teachers = models_of(teacher)
        recording = RecordingModel(Teachers(teachers, preprocess).record, teachers)
        if self.settings["top_k"]:
            raise ValueError("`verify` must have dense outputs. Received: a cache of the top k. Use `check_teacher`.")
        if len(teachers) != self.teachers:
            raise ValueError(f"`verify` must have {self.teachers} teachers. {received(teachers=len(teachers))}")
        errors = []
        outputs = recording.predict_on_batch(inputs)["outputs"]
        for now, then in zip(outputs, self.lookup(inputs)["outputs"], strict=True):
            for leaf, cached in zip(now, then, strict=True):
                leaf, cached = np.asarray(leaf, "float64"), np.asarray(cached, "float64")
                # Equal infinities (classes ruled out) differ by nothing.
                same = leaf == cached
                largest = np.abs(np.where(np.isfinite(leaf), leaf, 0.0)).max()
                errors.append(
                    np.abs(np.subtract(leaf, cached, where=~same, out=np.zeros_like(leaf))).max() / max(largest, 1e-30)
                )
        tolerance = {"float16": 2e-3, "float32": 1e-4}[self.settings["dtype"]]
        if not max(errors) <= tolerance:
            raise ValueError(
                f"The teacher must say what {str(self.directory)!r} holds. Received: a relative error of "
                f"{max(errors):.2g}, more than {tolerance:g}. It is another teacher, or `preprocess` is another."
            )
        return float(max(errors))

    def get_config(self) -> dict:
        return {"directory": str(self.directory.absolute())}

    @classmethod
    def from_config(cls, config: dict) -> TeacherCache:
        return cls(config["directory"])
