"""Docstrings in Google's style, section by section, and the parts that a public one must have."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

__all__ = ["documented_names", "missing_parts", "public_items", "sections"]

PACKAGE = "keras_notes"
# Methods of Keras's interfaces, which Keras describes; a class that saves itself has them without a base of Keras.
_KERAS_METHODS = {"build", "call", "compute_output_shape", "compute_output_spec", "from_config", "get_config"}
_SECTIONS = (
    "Args",
    "Attributes",
    "Call arguments",
    "Example",
    "LiteRT",
    "Masking",
    "Raises",
    "References",
    "Returns",
    "Yields",
)
_HEADER = re.compile(rf"({'|'.join(_SECTIONS)}):")
_ENTRY = re.compile(r" {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*): +\S")


def sections(docstring: str) -> dict[str, list[str]]:
    """Returns the lines of each section of a docstring, by its header without the colon."""
    lines_of: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        if _HEADER.fullmatch(line):
            lines = lines_of.setdefault(line[:-1], [])
        else:
            lines.append(line)
    return lines_of


def documented_names(lines: Iterable[str]) -> list[str]:
    """Returns the names that the entries of a section describe; `a, b: text` describes two."""
    entries = (match for line in lines if (match := _ENTRY.match(line)))
    return [name for entry in entries for name in entry[1].split(", ")]


def missing_parts(item: Callable, *, has_source: bool = False) -> list[str]:
    """Returns what the docstring of a function or class lacks; nothing if it is complete.

    - Args name exactly the parameters, of a class those of its constructor; Attributes every field of a dataclass.
    - Raises is there if the function, the constructor or `__post_init__` has a `raise` of an exception.
    - Example has a line that begins with `>>>`.
    - References is there if `has_source`.

    Args:
        item: Function or class.
        has_source: Whether it has a source, such as a paper, to refer to.
    """
    if not item.__doc__:
        return ["a docstring"]
    parts = sections(item.__doc__)
    lacks = []
    if dataclasses.is_dataclass(item):
        names = [field.name for field in dataclasses.fields(item) if not field.name.startswith("_")]
        lacks += _differences("Attributes", names, documented_names(parts.get("Attributes", ())))
    else:
        lacks += _differences("Args", _parameters(item), documented_names(parts.get("Args", ())))
    if any(map(_has_raise, _bodies(item))) and not documented_names(parts.get("Raises", ())):
        lacks.append("Raises")
    if not any(line.lstrip().startswith(">>>") for line in parts.get("Example", ())):
        lacks.append("Example")
    if has_source and not any(line.strip() for line in parts.get("References", ())):
        lacks.append("References")
    return lacks


def public_items(modules: Iterable[ModuleType], package: str = PACKAGE) -> Iterator[tuple[str, Callable]]:
    """Yields dotted name and value of each public function and class, and of each public method of a class, once.

    Methods count if the package defines them and they override no method from elsewhere. If an override has no
    docstring, the method of its base counts. Constants, modules and properties are left out.
    """
    seen = set()
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            items = [(f"{module.__name__}.{name}", value)]
            if inspect.isclass(value):
                items += [(f"{module.__name__}.{name}.{method}", f) for method, f in _methods(value, package)]
            for path, item in items:
                if id(item) not in seen:
                    seen.add(id(item))
                    yield path, item


def _methods(cls: type, package: str) -> Iterator[tuple[str, Callable]]:
    for name in dir(cls):
        owners = [base for base in cls.__mro__ if name in vars(base)]
        is_own = [base.__module__.partition(".")[0] == package for base in owners]
        if name.startswith("_") or name in _KERAS_METHODS or not owners or not all(is_own):
            continue
        values = [vars(base)[name] for base in owners]
        values = [value.__func__ if isinstance(value, classmethod | staticmethod) else value for value in values]
        if inspect.isfunction(values[0]):
            yield name, next((value for value in values if value.__doc__), values[0])


def _differences(section: str, expected: list[str], actual: list[str]) -> list[str]:
    lacks = [f"{section}: {name}" for name in expected if name not in actual]
    return lacks + [f"{section}: {name}, which does not exist" for name in actual if name not in expected]


def _parameters(item: Callable) -> list[str]:
    """Returns the names of the parameters, with the stars of those that collect others."""
    function = _constructor(item) if inspect.isclass(item) else item
    if function is None:
        return []
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        stars.get(parameter.kind, "") + name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    ]


def _constructor(cls: type) -> Callable | None:
    """Returns the `__init__` that is written in Python in the class or the nearest base of the same package."""
    package = cls.__module__.partition(".")[0]
    for base in cls.__mro__:
        if "__init__" in vars(base):
            return vars(base)["__init__"] if base.__module__.partition(".")[0] == package else None
    return None


def _bodies(item: Callable) -> Iterator[Callable]:
    """Yields the functions that run when the item is called."""
    if not inspect.isclass(item):
        yield inspect.unwrap(item)
    elif dataclasses.is_dataclass(item):
        if hasattr(item, "__post_init__"):
            yield item.__post_init__
    elif (constructor := _constructor(item)) is not None:
        yield inspect.unwrap(constructor)


def _has_raise(function: Callable) -> bool:
    """Returns whether a function has a `raise` of an exception, nested functions aside; `raise` alone passes one on."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    return any(_raises(statement) for statement in definition.body)


def _raises(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
        return False
    if isinstance(node, ast.Raise) and node.exc is not None:
        return True
    return any(_raises(child) for child in ast.iter_child_nodes(node))
