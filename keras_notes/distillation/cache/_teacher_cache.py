"""A teacher's outputs on disk: computed once, looked up by a fingerprint of each sample's bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, check_choice, check_integer, check_positive, received
from keras_notes._shared.types import Config, Json, Tree
from keras_notes.distillation._fingerprints import model_fingerprint, sample_fingerprints
from keras_notes.distillation._seeded_batches import SeededBatches
from keras_notes.distillation._teacher_record import LayerPath, TeacherRecord
from keras_notes.distillation.cache._build import build_cache
from keras_notes.distillation.cache._cache_settings import (
    CacheSettings,
    StorageOptions,
    describe_inputs,
    preprocess_fingerprint,
)
from keras_notes.distillation.cache._dataset_shards import Source, check_batches, is_arrays
from keras_notes.distillation.cache._joined_batches import JoinedBatches, JoinedStream
from keras_notes.distillation.cache._reader import CacheFiles
from keras_notes.distillation.objective._output_forms import FORMS, final_activations
from keras_notes.distillation.objective._weighted_losses import as_teacher_loss, name_of_class
from keras_notes.distillation.recording._teachers import RecordingModel, Teachers, models_of

__all__ = ["TeacherCache"]


@keras.saving.register_keras_serializable(package="keras_notes")
class TeacherCache:
    """A teacher's outputs for a data set, computed once and kept on disk.

    Every sample is identified by a fingerprint of its bytes as the teacher saw them (before `preprocess`). So the order
    of a data set, its batches and the part of it that is used do not matter, and a sample that the teacher never saw
    is an error and not a wrong target. With augmentation the cache holds `views` seeded views of each sample, and
    teacher and student see the same ones.

    Files: `.npy` arrays in shards, read by memory mapping; they need about 24 bytes a sample beside the outputs.
    Several processes may build shards side by side (`process`). A build that was interrupted continues where it
    stopped; one for another teacher, another data set or other settings is an error, and so is a shard that is not as
    it was written.

    Args:
        directory: Folder that `build` wrote.
        check_bytes: Whether every file is read and compared with its fingerprint (at the speed of the disk), and not
            its size alone.

    Attributes:
        directory: Folder of the cache.
        samples: Number of samples, of all views.
        views: Number of views of each sample.
        teachers: Number of teachers.
        settings: Settings of the build.
        record_spec: A record of KerasTensors: {"outputs": a tuple for each teacher, "features": by their keys}.

    Raises:
        ValueError: If there is not a complete cache, or a file is missing, truncated or altered.

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
        self.settings: dict[str, Json] = self._files.settings
        self.samples: int = self._files.samples
        self._settings = CacheSettings.from_json(self.settings)
        self.views: int = self._settings.views
        self.teachers: int = len(self._settings.teachers)
        self.record_spec: TeacherRecord = self._settings.record_spec()

    @classmethod
    def open(cls, directory: str | Path, *, check_bytes: bool = True) -> TeacherCache:
        """Opens a complete cache.

        Args:
            directory: Folder that `build` wrote.
            check_bytes: Whether every file is read and compared with its fingerprint (at the speed of the disk), and
                not its size alone.

        Raises:
            ValueError: If there is no cache, its build was not finished, or a file is missing, truncated or altered.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x = np.random.rand(32, 4).astype("float32")
            >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     _ = kn.TeacherCache.build(teacher, x, directory, verbose=0)
            ...     cache = kn.TeacherCache.open(directory)  # in another run
            >>> cache.samples, cache.settings["dtype"]
            (32, 'float16')
        """
        return cls(directory, check_bytes=check_bytes)

    @classmethod
    def build(
        cls,
        teacher: keras.Model | Sequence[keras.Model],
        dataset: Tree,
        directory: str | Path,
        *,
        features: Sequence[LayerPath | tuple[int, LayerPath]] | LayerPath = (),
        preprocess: Callable[[Tree], Tree] | None = None,
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
        """Runs the teacher over a data set and keeps its outputs; or continues a build that was interrupted.

        Args:
            teacher: A built model, or several.
            dataset: `SeededBatches`; arrays `x` or `(x, y)`; a `keras.utils.PyDataset`; or batches that can be
                iterated over again, such as a `tf.data.Dataset`. Only the inputs are read. Batches that augment at
                random cannot be found again: augment in `SeededBatches`.
            directory: Folder to write to; created if it does not exist.
            features: Layers of the teacher (names, paths, functions; or pairs (index of the teacher, layer)) whose
                outputs are kept, too.
            preprocess: A layer or function that makes the teacher's inputs from the student's, see `Distiller`.
            top_k: Number of most probable classes to keep, with the probability of all others, for
                `DistillationLoss(teacher="top_k")`; None keeps every output.
            temperature: Temperature of top-k probabilities, that of the loss.
            form: Form of the teacher's outputs, for `top_k`: "logits", "probs" or "log_probs".
            dtype: "float16", or "float32" for numbers beyond 65504 or for exact outputs.
            views: Number of augmented views to keep. Defaults to that of `SeededBatches`, else 1 (passes over the data
                set).
            batch_size: Samples that the teacher sees at once; data sets of batches have their own.
            shard_size: Samples in a shard, less where features are large (256 MiB a shard).
            process: (index, count): this process builds every count-th shard, beginning with its index.
            verbose: 0 for silence, else a progress bar with the time left.

        Returns:
            The cache; or None, while other processes have not finished their shards.

        Raises:
            ValueError: If an argument is out of its range; if the folder holds a cache of another teacher, data set or
                other settings; or if the teacher returns NaN or numbers that float16 cannot hold.
        """
        teachers = models_of(teacher)
        layers = features if isinstance(features, (list, tuple)) else [features]
        pairs = [layer if isinstance(layer, tuple) else (0, layer) for layer in layers]
        views = check_at_least("views", (getattr(dataset, "views", None) or 1) if views is None else views, 1)
        if isinstance(dataset, SeededBatches) and dataset.augment is not None and dataset.views != views:
            raise ValueError(
                f"`views` of augmented SeededBatches must be the number that is cached, or epochs show others. "
                f"{received(views=views)} The batches have views={dataset.views}."
            )
        recorders = Teachers(teachers, preprocess, pairs)
        # Raises an error here for what is not a layer or a function, before the teachers run.
        preprocess_fingerprint(preprocess)
        storage = StorageOptions(
            features=_check_named(recorders.feature_keys),
            top_k=None if top_k is None else check_integer("top_k", top_k),
            temperature=check_positive("temperature", temperature),
            form=check_choice("form", form, ("logits", "probs", "log_probs")),
            dtype=check_choice("dtype", dtype, ("float16", "float32")),
        )
        if storage.top_k is not None:
            _check_form(teachers, storage.form)
        source = Source(dataset, views, check_at_least("batch_size", batch_size, 1))
        shard_size = check_at_least("shard_size", shard_size, 1)
        is_complete = build_cache(
            storage, recorders, source, Path(directory), shard_size=shard_size, process=process, verbose=verbose
        )
        return cls(directory, check_bytes=False) if is_complete else None

    def join(self, dataset: Tree, **batches: Tree) -> keras.utils.PyDataset:
        """Joins a data set with the cache: its batches then carry the teacher's outputs, as `Distiller.fit` takes them.

        Args:
            dataset: `SeededBatches`, a `keras.utils.PyDataset`, batches that can be iterated over again, or arrays
                `(x, y)` or `(x, y, sample_weight)`, of which `SeededBatches` are made.
            **batches: Arguments of `SeededBatches`, for arrays.

        Returns:
            A `keras.utils.PyDataset`. A sample that the cache does not hold is a ValueError when its batch is read.

        Raises:
            TypeError: If `dataset` is not one of these, or has batches already and `batches` are passed.
            ValueError: If `dataset` is infinite, or shows other views than those that were cached.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x, y = np.random.rand(32, 4).astype("float32"), np.random.randint(0, 3, 32)
            >>> teacher, student = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     cache = kn.TeacherCache.build(teacher, x, directory, verbose=0)
            ...     batches = cache.join((x, y), batch_size=8, seed=0)
            ...     distiller = kn.Distiller(cache, student)
            ...     distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            ...     history = distiller.fit(batches, verbose=0)
            >>> batches.num_batches, sorted(history.history)
            (4, ['distillation_loss', 'loss', 'student_loss', 'total_loss'])
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

    def lookup(self, inputs: Tree) -> TeacherRecord:
        """Returns the teacher's record of a batch of inputs, as `Distiller` takes it.

        Args:
            inputs: Inputs of the student, of shape (batch, ...), in their structure.

        Returns:
            {"outputs": a tuple of arrays for each teacher, "features": arrays by their keys, if there are any}.

        Raises:
            ValueError: If the cache does not hold a sample.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x = np.random.rand(32, 4).astype("float32")
            >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     cache = kn.TeacherCache.build(teacher, x, directory, verbose=0)
            ...     ((logits,),) = cache.lookup(x[:5])["outputs"]
            >>> logits.shape, bool(np.allclose(logits, teacher(x[:5]), atol=0.01))
            ((5, 3), True)
        """
        arrays, missing = self._files.find(sample_fingerprints(inputs))
        if missing.any():
            raise ValueError(
                f"Every sample must be one that the teacher saw. Received: {int(missing.sum())} of {len(missing)} "
                f"samples of the batch are not in {str(self.directory)!r} (first at {int(missing.argmax())}), with "
                f"inputs {describe_inputs(inputs)}; the cache was built from {self.settings['inputs']}. Build a "
                f"cache of this data set; augment in SeededBatches, where views can be repeated."
            )
        return self._settings.unpack(arrays)

    def check_teacher(
        self, teacher: keras.Model | Sequence[keras.Model], *, preprocess: Callable[[Tree], Tree] | None = None
    ) -> None:
        """Checks that these are the teachers whose outputs the cache holds, to the last weight.

        Args:
            teacher: The model, or models.
            preprocess: A layer, which is compared by its settings, or a function, which is compared by its name.

        Raises:
            ValueError: If a model has other weights or layers than that of the build, or `preprocess` is another.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x = np.random.rand(32, 4).astype("float32")
            >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     cache = kn.TeacherCache.build(teacher, x, directory, verbose=0)
            >>> cache.check_teacher(teacher)
            >>> teacher.set_weights([2.0 * weights for weights in teacher.get_weights()])
            >>> cache.check_teacher(teacher)  # doctest: +ELLIPSIS
            Traceback (most recent call last):
                ...
            ValueError: The teacher must be the one that ... was built with. ...
        """
        teachers = models_of(teacher)
        fingerprints = [model_fingerprint(model) for model in teachers]
        if fingerprints != self.settings["teachers"]:
            raise ValueError(
                f"The teacher must be the one that {str(self.directory)!r} was built with. Received: "
                f"{', '.join(repr(model.name) for model in teachers)} with other weights or layers "
                f"({', '.join(fingerprints)}; the cache has {', '.join(self.settings['teachers'])}). "
                f"Build a cache of it."
            )

        if preprocess_fingerprint(preprocess) != self.settings["preprocess"]:
            raise ValueError(
                f"`preprocess` must be the one that {str(self.directory)!r} was built with. Received: another "
                f"({preprocess_fingerprint(preprocess)}; the cache has {self.settings['preprocess']})."
            )

    def check_losses(self, losses: Sequence[keras.losses.Loss]) -> None:
        """Checks that losses on outputs take what the cache holds: dense outputs, or the top k at one temperature.

        Args:
            losses: Losses on the teacher's outputs.

        Raises:
            ValueError: If a loss takes dense outputs and the cache holds the top k, or the reverse; or if its
                temperature is not that of the top k.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x = np.random.rand(32, 4).astype("float32")
            >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     cache = kn.TeacherCache.build(teacher, x, directory, top_k=2, temperature=4.0, verbose=0)
            >>> cache.check_losses([kn.losses.DistillationLoss(4.0, teacher="top_k", teacher_temperature=4.0)])
            >>> cache.check_losses([kn.losses.DistillationLoss(4.0)])  # doctest: +ELLIPSIS
            Traceback (most recent call last):
                ...
            ValueError: The losses must take what the cache holds. ...
        """
        top_k, temperature = self.settings["top_k"], self.settings["temperature"]
        for loss in map(as_teacher_loss, losses):
            if (loss.teacher == "top_k") == bool(top_k) and not (top_k and loss.temperature != temperature):
                continue
            content = f"the top {top_k} at temperature {temperature:g}" if top_k else "dense outputs"
            raise ValueError(
                f"The losses must take what the cache holds. Received: {name_of_class(loss)}(teacher={loss.teacher!r}, "
                f"temperature={loss.temperature}) for {content} in {str(self.directory)!r}."
            )

    def verify(
        self,
        teacher: keras.Model | Sequence[keras.Model],
        inputs: Tree,
        *,
        preprocess: Callable[[Tree], Tree] | None = None,
    ) -> float:
        """Runs the teacher on samples again; returns the largest error, relative to the largest output.

        Args:
            teacher: The model, or models.
            inputs: Samples that the cache holds, of shape (batch, ...).
            preprocess: The layer or function of the build, or None.

        Raises:
            ValueError: If the error is more than the rounding of the cache's dtype (and of another batch size)
                explains, if the number of teachers is another, or if the cache holds the top k or lacks a sample.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x = np.random.rand(32, 4).astype("float32")
            >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     cache = kn.TeacherCache.build(teacher, x, directory, verbose=0)
            ...     error = cache.verify(teacher, x[:8])
            >>> error < 0.001  # the rounding of float16
            True
        """
        teachers = models_of(teacher)
        recording = RecordingModel(Teachers(teachers, preprocess).record, teachers)
        if self.settings["top_k"]:
            raise ValueError("`verify` must have dense outputs. Received: a cache of the top k. Use `check_teacher`.")
        if len(teachers) != self.teachers:
            raise ValueError(f"`verify` must have {self.teachers} teachers. {received(teachers=len(teachers))}")
        errors = []
        outputs = recording.predict_on_batch(inputs)["outputs"]
        for live_leaves, cached_leaves in zip(outputs, self.lookup(inputs)["outputs"], strict=True):
            for leaf, cached in zip(live_leaves, cached_leaves, strict=True):
                leaf, cached = np.asarray(leaf, "float64"), np.asarray(cached, "float64")
                # Equal infinities (classes ruled out) differ by nothing.
                is_same = leaf == cached
                largest = np.abs(np.where(np.isfinite(leaf), leaf, 0.0)).max()
                errors.append(
                    np.abs(np.subtract(leaf, cached, where=~is_same, out=np.zeros_like(leaf))).max()
                    / max(largest, 1e-30)
                )
        tolerance = {"float16": 2e-3, "float32": 1e-4}[self.settings["dtype"]]
        if not max(errors) <= tolerance:
            raise ValueError(
                f"The teacher must say what {str(self.directory)!r} holds. Received: a relative error of "
                f"{max(errors):.2g}, more than {tolerance:g}. It is another teacher, or `preprocess` is another."
            )
        return float(max(errors))

    def get_config(self) -> Config:
        return {"directory": str(self.directory.absolute())}

    @classmethod
    def from_config(cls, config: Config) -> TeacherCache:
        return cls(config["directory"])


def _check_form(teachers: Sequence[keras.Model], form: str) -> None:
    """Raises ValueError if the top k are to be computed from another form than that of a teacher's outputs."""
    for teacher in teachers:
        for activation in final_activations(teacher):
            form_of_teacher = FORMS.get(activation or "", form)
            if form_of_teacher != form:
                raise ValueError(
                    f"`form` must be that of the teacher's outputs, with `top_k`. {received(form=form)} "
                    f"{teacher.name!r} ends in {activation!r}: use `form={form_of_teacher!r}`."
                )


def _check_named(feature_keys: Sequence[str]) -> tuple[str, ...]:
    nameless = [key for key in feature_keys if ":function " in key]
    if nameless:
        raise ValueError(
            f"`features` must have names that another process finds again. Received: {len(nameless)} lambdas or "
            f"the like. Use the layer's name or path, or a function of a module."
        )
    return tuple(feature_keys)
