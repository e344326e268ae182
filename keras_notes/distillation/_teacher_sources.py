"""Sources of teacher records for a Distiller: models that run in each step, or a cache that the batches come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import keras

from keras_notes._shared.types import Tree
from keras_notes.distillation._fingerprints import weight_sums
from keras_notes.distillation._start_checks import LossesByOutput, OutputProbe, check_outputs
from keras_notes.distillation._teacher_record import LayerPath, TeacherRecord
from keras_notes.distillation.cache._cache_settings import CacheSettings
from keras_notes.distillation.cache._reader import CacheFiles
from keras_notes.distillation.cache._teacher_cache import TeacherCache
from keras_notes.distillation.recording._teachers import Teachers

__all__ = ["CachedTeacher", "LiveTeachers", "TeacherSource"]

# Samples of a cache whose outputs are checked.
_SAMPLES = 32


class TeacherSource(Protocol):
    """A source of teacher records.

    Attributes:
        models: The teachers that are models; none where a cache takes their place.
        count: Number of teachers.
    """

    models: list[keras.Model]
    count: int

    def record(self, inputs: Tree) -> TeacherRecord:
        """Returns the record of a batch of the student's inputs that does not carry one."""
        ...

    def record_spec(self, inputs: Tree) -> TeacherRecord:
        """Returns the record of KerasTensors of the student's inputs, itself of KerasTensors."""
        ...

    def build(self, inputs: Tree) -> None:
        """Builds the models that are not built, from KerasTensors of the student's inputs."""
        ...

    def start_training(self) -> None:
        """Forgets which caches were compared with the teachers."""
        ...

    def check_outputs(self, x: Tree, losses_by_output: LossesByOutput, student: Sequence[str | None]) -> None:
        """Raises ValueError if the teachers' outputs for the first samples do not fit the losses.

        Args:
            x: Inputs of the student.
            losses_by_output: Lists of losses for a number of outputs.
            student: The result of `final_activations` for the student.
        """
        ...

    def check_cache(self, cache: TeacherCache, *, is_fitting: bool) -> None:
        """Raises ValueError if a cache is of other teachers."""
        ...


class LiveTeachers:
    """Frozen models that run in each step.

    Args:
        models: The teachers.
        preprocess: A function or layer that makes the teachers' inputs from the student's, or None.
        features: For each feature to record: (index of the teacher, layer).

    Raises:
        ValueError: If a layer or a teacher does not exist.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        preprocess: Callable[[Tree], Tree] | None,
        features: Sequence[tuple[int, LayerPath]],
    ) -> None:
        self._teachers = Teachers(models, preprocess, features)
        self._probe = OutputProbe(models, lambda inputs: self._teachers.record(inputs)["outputs"])
        self._checked_state: tuple | None = None
        self.models = self._teachers.models
        self.count = len(self.models)

    def record(self, inputs: Tree) -> TeacherRecord:
        return self._teachers.record(inputs)

    def record_spec(self, inputs: Tree) -> TeacherRecord:
        return self._teachers.record_spec(inputs)

    def build(self, inputs: Tree) -> None:
        self._teachers.build(inputs)

    def start_training(self) -> None:
        self._checked_state = None

    def check_outputs(self, x: Tree, losses_by_output: LossesByOutput, student: Sequence[str | None]) -> None:
        cache = getattr(x, "cache", None)
        if isinstance(cache, TeacherCache):
            _check_cached_outputs(cache, losses_by_output, student)
        self._probe.check(x, losses_by_output, [student])

    def check_cache(self, cache: TeacherCache, *, is_fitting: bool) -> None:
        """Compares fingerprints; within one `fit` once, unless a callback changed the frozen teacher's weights.

        Keras evaluates after each epoch, and a fingerprint copies all weights to the host.
        """
        preprocess, state = self._teachers.preprocess, None
        if is_fitting:
            frozen = [model for model in (*self.models, preprocess) if isinstance(model, keras.Layer)]
            names = (*cache.settings["teachers"], str(cache.settings["preprocess"]))
            state = (names, tuple(weight_sums(model) for model in frozen))
            if state == self._checked_state:
                return
        cache.check_teacher(self.models, preprocess=preprocess)
        self._checked_state = state


class CachedTeacher:
    """A cache in the place of the teachers: each batch carries its record.

    Args:
        cache: The cache.
    """

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache
        self.models: list[keras.Model] = []
        self.count = cache.teachers

    def record(self, inputs: Tree) -> TeacherRecord:
        """Raises ValueError: the records are those of the batches."""
        raise ValueError(
            "Each batch must bring the teacher's outputs where `teacher` is a TeacherCache. Received: a batch "
            "without them. Fit and evaluate on `cache.join(dataset)`."
        )

    def record_spec(self, inputs: Tree) -> TeacherRecord:
        return self._cache.record_spec

    def build(self, inputs: Tree) -> None:
        """Does nothing: there are no models."""

    def start_training(self) -> None:
        """Does nothing: nothing is remembered."""

    def check_outputs(self, x: Tree, losses_by_output: LossesByOutput, student: Sequence[str | None]) -> None:
        """Checks the first outputs of the cache: whether they are finite was checked when it was built."""
        _check_cached_outputs(self._cache, losses_by_output, student)

    def check_cache(self, cache: TeacherCache, *, is_fitting: bool) -> None:
        """Does nothing: there is no model to compare a cache with."""


def _check_cached_outputs(cache: TeacherCache, losses_by_output: LossesByOutput, student: Sequence[str | None]) -> None:
    """Checks the first outputs that a cache holds of each teacher; the top k are log-probabilities."""
    settings = CacheSettings.from_json(cache.settings)
    if settings.storage.top_k is not None:
        return
    arrays = CacheFiles(cache.directory, check_bytes=False).first(_SAMPLES)
    for outputs in settings.unpack(arrays)["outputs"]:
        check_outputs(outputs, losses_by_output, others=[student])
