"""Checkpoints of long runs: the whole state of training, from which a killed run continues exactly."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_notes._shared.atomic_files import write_atomically
from keras_notes._shared.checks import check_at_least, received
from keras_notes._shared.types import Tensor
from keras_notes.distillation._fingerprints import model_fingerprint

__all__ = ["Checkpoint"]

_META, _TORCH = "meta", "torch_random_state"


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of training after every epoch, and restores it.

    A run that was killed, by `kill -9` too, and started again ends with the weights of an unbroken run, on the same
    backend and machine: weights, optimizer (with accumulated gradients and loss scale), states of random layers,
    BatchNormalization and the Distiller's step are restored to the last bit. The data must be a function of the epoch,
    as `SeededBatches` are. A teacher's weights are not saved; its fingerprint is, and is compared on return.

    A file appears when it is complete. Keras's `BackupAndRestore` leaves out the states of random layers, and can be
    cut between its two files.

    Args:
        directory: Folder of the files (`epoch-00012.npz`); created if it does not exist.
        keep: Number of files to keep, the newest ones.

    Raises:
        ValueError: If a file does not fit the model, the teacher is another, or the file is damaged.

    Example:
        >>> import tempfile, keras, numpy as np, keras_notes as kn
        >>> batches = kn.distillation.SeededBatches(np.random.rand(32, 4), np.zeros(32), batch_size=8)
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     checkpoint = kn.distillation.Checkpoint(directory)
        ...     for epochs in (2, 3):  # the second time as after a kill
        ...         begin, callbacks = checkpoint.restore(model), [checkpoint, batches.epoch_callback()]
        ...         settings = {"initial_epoch": begin, "callbacks": callbacks, "shuffle": False, "verbose": 0}
        ...         print(begin, model.fit(batches, epochs=epochs, **settings).epoch)
        0 [0, 1]
        2 [2]
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        super().__init__()
        self.directory = Path(directory)
        self.keep = check_at_least("keep", keep, 1)
        self._random_state: np.ndarray | None = None
        self._fingerprinted: tuple[keras.Model | None, list[str]] = None, []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # Not in `restore`: reading the first batch draws from PyTorch's random state, too.
        if self._random_state is not None:
            _set_torch_random_state(self._random_state)
        self._random_state = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.save(self.model, epoch + 1)

    def save(self, model: keras.Model, epochs: int) -> Path:
        """Writes the state of a compiled model.

        Args:
            model: The model.
            epochs: Number of epochs that it was trained for.

        Returns:
            The file.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
            >>> model.compile("adam", "mse")
            >>> _ = model.fit(np.random.rand(32, 4), np.random.rand(32, 2), epochs=2, verbose=0)
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     kn.distillation.Checkpoint(directory).save(model, epochs=2).name
            'epoch-00002.npz'
        """
        _build_optimizer(model)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"epoch-{epochs:05d}.npz"
        values: dict[str, Tensor] = {f"{i:05d}": _to_array(variable) for i, variable in enumerate(_state_of(model))}
        meta = {"epochs": epochs, "teachers": self._teachers_of(model), "keras_backend": keras.backend.backend()}
        values[_META] = np.array(json.dumps(meta))
        if keras.backend.backend() == "torch":
            values[_TORCH] = _torch_random_state()
        with write_atomically(path) as file:
            np.savez(file, **values)
        for old in self._files()[: -self.keep]:
            old.unlink()
        return path

    def restore(self, model: keras.Model) -> int:
        """Restores the newest state; returns the number of epochs before it, for `initial_epoch`.

        Args:
            model: A compiled, built model with the same layers and optimizer.

        Returns:
            0 if no file exists yet; the model is then left as it is.

        Raises:
            ValueError: If the model is not compiled and built, a file does not fit it, or the file is damaged.

        Example:
            >>> import tempfile, keras, numpy as np, keras_notes as kn
            >>> x, y = np.random.rand(32, 4), np.random.rand(32, 2)
            >>> model, restored = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]) for _ in range(2))
            >>> model.compile("adam", "mse")
            >>> restored.compile("adam", "mse")
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     checkpoint = kn.distillation.Checkpoint(directory)
            ...     _ = model.fit(x, y, epochs=2, callbacks=[checkpoint], verbose=0)
            ...     epochs = checkpoint.restore(restored)
            >>> epochs, bool((restored.predict(x, verbose=0) == model.predict(x, verbose=0)).all())
            (2, True)
        """
        if not model.built or not getattr(model, "compiled", False):
            raise ValueError(
                f"`model` must be compiled and built before its state can come back. "
                f"{received(model=model.name, compiled=getattr(model, 'compiled', False), built=model.built)} Compile "
                f"it, and call it on a batch where it is subclassed."
            )
        files = self._files()
        if not files:
            return 0
        _build_optimizer(model)
        return self._read(files[-1], model)

    def _read(self, path: Path, model: keras.Model) -> int:
        try:
            # Opened here: np.load leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"{path} must be a whole checkpoint. Received: {error}. Delete it to go on from the one before."
            ) from error
        meta = json.loads(str(arrays.pop(_META)))
        random_state = arrays.pop(_TORCH, None)
        teachers = self._teachers_of(model)
        if meta["teachers"] != teachers:
            raise ValueError(
                f"The teacher must be that of the run in {str(self.directory)!r}. Received: {teachers}, not "
                f"{meta['teachers']}. Use another folder for another teacher."
            )
        variables = _state_of(model)
        shapes = [list(value.shape) for value in arrays.values()]
        expected = [list(variable.shape) for variable in variables]
        if shapes != expected:
            raise ValueError(
                f"{path} must hold the state of this model and optimizer. Received: {len(shapes)} arrays of other "
                f"shapes than the model's {len(expected)}."
            )
        for variable, value in zip(variables, arrays.values(), strict=True):
            variable.assign(_from_array(value, variable.dtype))
        self._random_state = random_state if keras.backend.backend() == "torch" else None
        return meta["epochs"]

    def _teachers_of(self, model: keras.Model) -> list[str]:
        """Returns fingerprints of the teachers, computed once: they are frozen."""
        if self._fingerprinted[0] is not model:
            self._fingerprinted = model, [model_fingerprint(teacher) for teacher in _teacher_models(model)]
        return self._fingerprinted[1]

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("epoch-*.npz"))


def _build_optimizer(model: keras.Model) -> None:
    """Creates the optimizer's variables, which Keras does at the first step: they are part of the state."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _state_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that training changes, in an order that depends on the model alone."""
    teachers = {id(variable) for teacher in _teacher_models(model) for variable in teacher.variables}
    left_out = teachers | {id(variable) for variable in model.metrics_variables}
    variables = [*model.variables, *model.optimizer.variables]
    unique = {id(variable): variable for variable in variables if id(variable) not in left_out}
    return list(unique.values())


def _torch_random_state() -> np.ndarray:
    """On PyTorch a Dropout without a seed draws from PyTorch's own state, and not from Keras's SeedGenerator."""
    import torch

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return np.concatenate([state.numpy() for state in states])


def _set_torch_random_state(random_state: np.ndarray) -> None:
    import torch

    size = len(torch.get_rng_state())
    torch.set_rng_state(torch.from_numpy(random_state[:size].copy()))
    if torch.cuda.is_available() and len(random_state) > size:
        parts = np.split(random_state[size:], torch.cuda.device_count())
        torch.cuda.set_rng_state_all([torch.from_numpy(part.copy()) for part in parts])


def _teacher_models(model: keras.Model) -> list[keras.Model]:
    return getattr(model, "teacher_models", [])


def _to_array(variable: keras.Variable) -> np.ndarray:
    value = np.asarray(keras.ops.convert_to_numpy(variable))
    # NumPy's format knows no bfloat16 (a type of ml_dtypes); its bits keep.
    return value.view("uint16") if value.dtype.name == "bfloat16" else value


def _from_array(value: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes  # comes with Keras

        return value.view(ml_dtypes.bfloat16)
    return value
