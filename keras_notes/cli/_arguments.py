"""Arguments of the command line: models, samples, recipes by layer."""

from __future__ import annotations

import argparse
import importlib
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from keras_notes._shared.checks import check_choice
from keras_notes._shared.recipe_names import AUTO, RECIPES, canonical_recipe
from keras_notes._shared.types import ArrayLike, Config

if TYPE_CHECKING:
    import keras

__all__ = [
    "check_model_exists",
    "conversion_arguments",
    "load_arrays",
    "load_data",
    "load_labelled",
    "load_model",
    "parse_recipe",
]

# Their classes are registered with Keras when they are imported.
_REGISTERING = ("compression", "distillation", "layers", "losses")


def check_model_exists(source: str) -> None:
    """Raises ValueError if a path leads nowhere: before Keras is imported, which takes seconds."""
    if ":" not in source and not Path(source).exists():
        raise ValueError(f"MODEL must be a .keras file, a SavedModel or MODULE:FUNCTION. Received: no file {source!r}.")


def load_model(source: str, trusted: Sequence[str]) -> keras.Model:
    """Loads a `.keras` or `.h5` file in safe mode, a SavedModel, or what a function "module:function" returns.

    Args:
        source: A path, or "module:function".
        trusted: Modules to import first, where custom classes of a `.keras` file are registered.

    Raises:
        ValueError: If it is none of them, or cannot be loaded.
    """
    import keras

    from keras_notes.conversion import load_keras2_model

    for name in _REGISTERING:
        importlib.import_module(f"keras_notes.{name}")
    if (where := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, where)
    for name in trusted:
        _import_module(name)
    path = Path(source)
    if ":" in source and not path.exists():
        return _build_model(source)
    if path.is_dir():
        return _load_saved_model(path)
    try:
        if path.suffix in (".h5", ".hdf5"):
            return load_keras2_model(path)
        # Always in safe mode: a model may hold code, and files are untrusted.
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file may raise anything from BadZipFile to KeyError
        raise ValueError(
            f"{source!r} cannot be loaded as a Keras model: {error}. If its layers are yours, name the module that "
            f"registers them: --trust MODULE."
        ) from error


def conversion_arguments(options: argparse.Namespace) -> Config:
    """Returns the arguments of `convert` that options of the command line stand for, with the files that they name.

    Args:
        options: Options of the command `convert`.
    """
    return {
        "recipe": parse_recipe(options.recipe, options.layer),
        "edges": options.edges,
        "calibration": load_arrays(options.calibration),
        "input_range": None if options.input_range is None else tuple(options.input_range),
        "golden": load_arrays(options.golden),
        "labels": None if options.labels is None else options.labels.read_text().splitlines(),
        "preprocessing": options.preprocessing,
        "tokenizer": options.tokenizer,
        "batch_size": None if options.any_batch else 1,
        "validation_data": load_labelled(options.x, options.y),
        "accuracy_budget": options.accuracy_budget,
        "prefer": options.prefer,
        "overwrite": options.overwrite,
    }


def load_arrays(path: Path | None) -> np.ndarray | dict[str, np.ndarray] | None:
    """Loads the samples of a .npy file, or of a .npz file by input name.

    Raises:
        ValueError: If it is neither.
    """
    if path is None:
        return None
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except (EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} must be a .npy or .npz file of numbers. Received: {error}") from error


def load_labelled(x: Path | None, y: Path | None) -> tuple[ArrayLike, ArrayLike] | None:
    """Loads samples and their class ids; returns None without paths.

    Raises:
        ValueError: If only one is.
    """
    if (x is None) != (y is None):
        raise ValueError("`-x` and `-y` must be given together. Received: only one of them.")
    return None if x is None else (load_arrays(x), load_arrays(y))


def load_data(data: Path | None, x: Path | None, y: Path | None) -> tuple[ArrayLike | None, ArrayLike | None]:
    """Loads labelled samples from one .npz file with y and x, or y and each input by name; or from two files.

    Raises:
        ValueError: If the file does not hold them, or both forms are given.
    """
    if data is None:
        return load_labelled(x, y) or (None, None)
    arrays = load_arrays(data)
    if x is not None or y is not None or not isinstance(arrays, dict) or "y" not in arrays or len(arrays) < 2:
        raise ValueError(
            f"`--data` must be a .npz file with the arrays x and y, in the place of `-x` and `-y`. "
            f"Received: {str(data)!r} with {sorted(arrays) if isinstance(arrays, dict) else 'one array'}."
        )
    labels = arrays.pop("y")
    return (arrays["x"] if set(arrays) == {"x"} else arrays), labels


def parse_recipe(default: str, layers: Sequence[str]) -> str | Config:
    """Returns the recipe, with exceptions that are written as "PATTERN=RECIPE".

    Raises:
        ValueError: If one has no "=".
    """
    if not layers:
        return check_choice("recipe", canonical_recipe(default), (*RECIPES, AUTO))
    pairs = [layer.partition("=") for layer in layers]
    if wrong := [layer for layer, (_, equals, _) in zip(layers, pairs, strict=True) if not equals]:
        raise ValueError(f"`--layer` must be PATTERN=RECIPE. Received: {wrong[0]!r}.")
    return {"default": default, "layers": {pattern: name for pattern, _, name in pairs}}


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"The module {name!r} cannot be imported: {error}") from error


def _build_model(source: str) -> keras.Model:
    module, _, function = source.partition(":")
    build = getattr(_import_module(module), function, None)
    if not callable(build):
        raise ValueError(f"A builder must be a function, MODULE:FUNCTION. Received: {source!r}.")
    return build()


def _load_saved_model(path: Path) -> keras.Model:
    """Returns a functional model around the signature "serving_default" of a SavedModel."""
    import keras

    if not (path / "saved_model.pb").is_file():
        raise ValueError(f"A folder must be a SavedModel. Received: {str(path)!r} without saved_model.pb.")
    try:
        layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default")
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be loaded as a SavedModel: {error}") from error
    specs = layer.call_endpoint_fn.structured_input_signature[1]
    if len(specs) != 1:
        raise ValueError(
            f"A SavedModel must have one input; convert the Keras model itself for several. Received: {sorted(specs)}."
        )
    ((name, spec),) = specs.items()
    inputs = keras.Input(spec.shape[1:], dtype=spec.dtype.name, name=name)
    outputs = layer(inputs)
    return keras.Model(inputs, outputs, name=path.name.replace(" ", "_"))
