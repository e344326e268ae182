"""What `convert` tried for the recipe "auto", and what each file cost: candidates.json of a bundle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_notes._shared.text_table import aligned
from keras_notes.bundle._bundle import Bundle
from keras_notes.errors import BundleError

__all__ = ["CANDIDATES_FILE", "Candidate", "Choice", "read_choice"]

CANDIDATES_FILE = "candidates.json"


@dataclass(frozen=True)
class Candidate:
    """A recipe on a set of kernels, measured on the machine that converted.

    Attributes:
        bytes: Size of the .tflite file; None, as are the others, where there is none.
        p50_ms: Median latency on one thread, in milliseconds.
        accuracy: Of the file, on the validation data; None without labels.
        loss: What the file loses against the trained model: accuracy, as a fraction; without labels the root mean
            square error of its outputs as a share of their standard deviation, of the worst output.
        reason: Why it could not be taken; empty if it could.
    """

    recipe: str
    kernels: str
    bytes: int | None
    p50_ms: float | None
    accuracy: float | None
    loss: float | None
    reason: str

    def cells(self) -> tuple[str | None, ...]:
        """Recipe, kernels, bytes, p50, accuracy and loss, as they are written in a table."""
        figures = ((self.bytes, ",d"), (self.p50_ms, ".4f"), (self.accuracy, ".4f"), (self.loss, "+.4f"))
        return self.recipe, self.kernels, *(None if value is None else format(value, form) for value, form in figures)


@dataclass(frozen=True)
class Choice:
    """All candidates, and which was taken. `str(choice)` is a table to read.

    Attributes:
        accuracy_budget: The largest loss that was allowed.
        prefer: What was to be least within the budget: "bytes" or "latency".
        model_accuracy: Of the trained model on the validation data; None without labels.
        samples: How many samples the loss was measured on.
        chosen: Index of the candidate that was taken.
    """

    accuracy_budget: float
    prefer: str
    model_accuracy: float | None
    samples: int
    candidates: tuple[Candidate, ...]
    chosen: int

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain values, for JSON."""
        return dataclasses.asdict(self)

    @property
    def rule(self) -> str:
        """What was looked for, and what the loss was measured on."""
        measured = "golden samples, error as a share of the outputs' standard deviation"
        if self.model_accuracy is not None:
            measured = f"samples, on which the trained model has an accuracy of {self.model_accuracy:.4f}"
        return f"Least {self.prefer} with a loss of at most {self.accuracy_budget:g}; {self.samples} {measured}"

    def __str__(self) -> str:
        table = [["", "kernels", "bytes", "p50 ms", "accuracy", "loss"]]
        for index, candidate in enumerate(self.candidates):
            recipe, *figures = (cell or "-" for cell in candidate.cells())
            table.append([f"{'*' if index == self.chosen else ' '} {recipe}", *figures])
        reasons = ["", *(f"  {candidate.reason}".rstrip() for candidate in self.candidates)]
        lines = (line + reason for line, reason in zip(aligned(table, left=2), reasons, strict=True))
        return "\n".join([self.rule, *lines])


def read_choice(bundle: Bundle) -> Choice | None:
    """What was tried when a bundle was made by the recipe "auto"; None if it was made by another one.

    Raises:
        BundleError: If the file is malformed.
    """
    if CANDIDATES_FILE not in bundle.manifest.files:
        return None
    path = bundle.directory / CANDIDATES_FILE
    try:
        data = json.loads(path.read_bytes())
        choice = Choice(**{**data, "candidates": tuple(_candidate(entry) for entry in data["candidates"])})
        _check_type(choice.prefer, str)
        _check_type(choice.accuracy_budget, float)
        _check_type(choice.samples, int)
        _check_type(choice.model_accuracy, float, optional=True)
        if not 0 <= _check_type(choice.chosen, int) < len(choice.candidates):
            raise ValueError(f"chosen={choice.chosen}")
        return choice
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(
            f"{str(path)!r} must be a JSON object with what was tried for the recipe 'auto'. Received: {error!r}. "
            f"Convert the model again."
        ) from error


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    candidate = Candidate(**entry)
    for text in (candidate.recipe, candidate.kernels, candidate.reason):
        _check_type(text, str)
    _check_type(candidate.bytes, int, optional=True)
    for number in (candidate.p50_ms, candidate.accuracy, candidate.loss):
        _check_type(number, float, optional=True)
    return candidate


def _check_type(value: Any, kind: type, *, optional: bool = False) -> Any:
    kinds = (int, float) if kind is float else (kind,)
    if not (value is None and optional) and (isinstance(value, bool) or not isinstance(value, kinds)):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
