"""Writes tests/support/public_surface.json: the public names of the package, and how each is called.

python -m tests.support.make_public_surface

Run it when a name is added, removed or changed on purpose; the difference in the file is then part of the commit.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

SURFACE_FILE = Path(__file__).resolve().parent / "public_surface.json"
COMMAND = "python -m tests.support.make_public_surface"
PACKAGE = "keras_notes"
MODULES = (
    PACKAGE,
    "keras_notes.benchmarking",
    "keras_notes.bundle",
    "keras_notes.cli",
    "keras_notes.compression",
    "keras_notes.compression.tfmot",
    "keras_notes.conversion",
    "keras_notes.distillation",
    "keras_notes.errors",
    "keras_notes.layers",
    "keras_notes.losses",
    "keras_notes.verification",
)


def public_surface(modules: Iterable[ModuleType], package: str = PACKAGE) -> dict[str, str]:
    """Every public name with its signature, without annotations.

    Args:
        modules: Modules with an `__all__`.
        package: The package whose methods count; those that a class has from elsewhere are left out.

    Returns:
        A description by dotted name, in order: parameters and defaults of a function, of the constructor of a class
        and of its public methods; "property", "module", or the value of a constant.
    """
    surface: dict[str, str] = {}
    for module in modules:
        for name in module.__all__:
            value, path = getattr(module, name), f"{module.__name__}.{name}"
            surface[path] = _description(value)
            if isinstance(value, type):
                surface.update({f"{path}.{method}": text for method, text in _methods(value, package)})
    return dict(sorted(surface.items()))


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The differences between two surfaces, a line each."""
    lines = [f"removed: {name}{before[name]}" for name in before if name not in now]
    lines += [f"added: {name}{now[name]}" for name in now if name not in before]
    return lines + [
        f"changed: {name}{before[name]} is now {name}{now[name]}"
        for name in before
        if name in now and now[name] != before[name]
    ]


def package_surface() -> dict[str, str]:
    """The surface of this package."""
    return public_surface(importlib.import_module(name) for name in MODULES)


def recorded_surface() -> dict[str, str]:
    """The surface that was recorded."""
    return json.loads(SURFACE_FILE.read_text())


def _description(value: Any) -> str:
    if isinstance(value, ModuleType):
        return ": module"
    if callable(value):
        return _signature(value)
    return f" = {value!r}"


def _methods(cls: type, package: str) -> Iterable[tuple[str, str]]:
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        is_own = owner is not None and owner.__module__.partition(".")[0] == package
        if name.startswith("_") or owner is None or not is_own:
            continue
        value = vars(owner)[name]
        if isinstance(value, (classmethod, staticmethod)):
            yield name, f"{_signature(value.__func__)}: {type(value).__name__}"
        elif callable(value):
            yield name, _signature(value)
        else:
            yield name, ": property" if isinstance(value, property) else f" = {value!r}"


def _signature(function: Any) -> str:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of an exception class without a constructor of its own
        return "(*args)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class _Named:
    """A default that is written as its name: the address of a function is another in each process."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _default(value: Any) -> Any:
    name = getattr(value, "__name__", None)
    return value if value is inspect.Parameter.empty or not name else _Named(name)


if __name__ == "__main__":
    SURFACE_FILE.write_text(json.dumps(package_surface(), indent=1) + "\n")
    print(SURFACE_FILE)
