"""JSON files of a bundle, validated by the schemas in `tflite/`.

The files `*.schema.json` beside this one are links to those in `tflite/`, so that they are installed with the package.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import jsonschema

from keras_notes._shared.checks import one_line
from keras_notes._shared.types import Json
from keras_notes.errors import BundleError

__all__ = ["find_violation", "malformed_error", "parse_json", "read_table"]

_MAX_DIGITS = 20


def parse_json(content: str | bytes, *, allow_non_finite: bool = False) -> Json:
    """Parses JSON that every reader of a bundle can read: integers of 64 bits, and finite numbers.

    Args:
        content: The text.
        allow_non_finite: Whether NaN and infinity, as Python writes them, are allowed.

    Raises:
        ValueError: If the text is not such JSON.
        RecursionError: If it is nested too deeply.
    """
    if allow_non_finite:
        return json.loads(content, parse_int=_parse_integer)
    return json.loads(content, parse_int=_parse_integer, parse_float=_parse_finite, parse_constant=_parse_finite)


def find_violation(data: Json, schema: str) -> str | None:
    """Returns how data violates a schema, and where, on one line; None if the data follow it.

    Args:
        data: Parsed JSON.
        schema: Name of the schema's file, such as "bundle.schema.json".
    """
    violation = jsonschema.exceptions.best_match(_validator(schema).iter_errors(data))
    return violation and f"{one_line(violation.message)}, at {one_line(violation.json_path, 100)}"


def read_table(path: Path, schema: str, content: str) -> Json:
    """Reads a JSON file of a bundle that follows a schema.

    Args:
        path: The file.
        schema: Name of the schema's file.
        content: Description of what the file must hold, for errors.

    Raises:
        BundleError: If the file is not JSON, or does not follow the schema.
    """
    try:
        data = parse_json(path.read_bytes(), allow_non_finite=True)
    except (RecursionError, ValueError) as error:
        raise malformed_error(path, content, repr(error)) from error
    if (violation := find_violation(data, schema)) is not None:
        raise malformed_error(path, content, violation)
    return data


def malformed_error(path: Path, content: str, received: str) -> BundleError:
    """Returns the error for a JSON file of a bundle that does not hold what it must."""
    return BundleError(f"{str(path)!r} must be {content}. Received: {one_line(received)}. Convert the model again.")


@functools.cache
def _validator(schema: str) -> jsonschema.protocols.Validator:
    definition = json.loads(Path(__file__).with_name(schema).read_text(encoding="utf-8"))
    # To a schema 16.0 is an integer, but not to a reader in a typed language.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)(definition)


def _parse_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"an integer beyond 64 bits ({one_line(text, 30)})")
    return int(text)


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite ({one_line(text, 30)})")
    return value
