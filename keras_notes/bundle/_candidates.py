"""The candidates of the recipe "auto" and their measurements: candidates.json of a bundle."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from keras_notes._shared.text_table import align
from keras_notes._shared.types import Config
from keras_notes.bundle._bundle import Bundle
from keras_notes.bundle._schema import malformed_error, read_table

__all__ = ["CANDIDATES_FILE", "Candidate", "Choice", "read_choice"]

CANDIDATES_FILE = "candidates.json"
_SCHEMA = "candidates.schema.json"
_CONTENT = "a JSON object with what was tried for the recipe 'auto'"


@dataclass(frozen=True)
class Candidate:
    """A recipe on a set of kernels, measured on the machine that converted.

    Attributes:
        recipe: Name of the recipe.
        kernels: Set of kernels that the file ran on: "xnnpack" or "builtin".
        bytes: Size of the .tflite file; None, like every other figure, if the recipe gave no file.
        p50_ms: Median latency on one thread, in milliseconds.
        accuracy: Accuracy of the file on the validation data, in [0, 1]; None without labels.
        loss: Accuracy that the file loses against the trained model; without labels the root mean square error of its
            worst output, as a share of that output's standard deviation.
        reason: Why the candidate could not be chosen; empty if it could.

    Example:
        >>> candidates = (
        ...     Candidate("float32", "xnnpack", 9000, 0.02, 0.971, 0.0, ""),
        ...     Candidate("static_int8", "xnnpack", 3000, 0.01, 0.968, 0.003, ""),
        ... )
        >>> min(candidates, key=lambda candidate: candidate.bytes).recipe
        'static_int8'
    """

    recipe: str
    kernels: str
    bytes: int | None
    p50_ms: float | None
    accuracy: float | None
    loss: float | None
    reason: str

    def cells(self) -> tuple[str | None, ...]:
        """Returns recipe, kernels, bytes, p50, accuracy and loss as the cells of a table; None for a missing figure.

        Example:
            >>> Candidate("static_int8", "xnnpack", 3000, 0.01, None, 0.003, "").cells()
            ('static_int8', 'xnnpack', '3,000', '0.0100', None, '+0.0030')
        """
        figures = ((self.bytes, ",d"), (self.p50_ms, ".4f"), (self.accuracy, ".4f"), (self.loss, "+.4f"))
        return self.recipe, self.kernels, *(None if value is None else format(value, form) for value, form in figures)


@dataclass(frozen=True)
class Choice:
    """All candidates of the recipe "auto", and the chosen one. `str(choice)` is a table to read.

    Attributes:
        accuracy_budget: The largest loss that was allowed.
        prefer: The measure that was minimized within the budget: "bytes" or "latency".
        model_accuracy: Accuracy of the trained model on the validation data, in [0, 1]; None without labels.
        samples: Number of samples that the loss was measured on.
        candidates: All candidates, in the order in which they were made.
        chosen: Index of the candidate that the bundle holds.

    Example:
        >>> float32 = Candidate("float32", "xnnpack", 9000, 0.02, None, 0.0, "")
        >>> int8 = Candidate("static_int8", "xnnpack", 3000, 0.01, None, 0.002, "")
        >>> print(Choice(0.01, "bytes", None, 32, (float32, int8), chosen=1))
        Least bytes with a loss of at most 0.01; 32 golden samples, error as a share of the outputs' standard deviation
                       kernels  bytes  p50 ms  accuracy     loss
          float32      xnnpack  9,000  0.0200         -  +0.0000
        * static_int8  xnnpack  3,000  0.0100         -  +0.0020
    """

    accuracy_budget: float
    prefer: str
    model_accuracy: float | None
    samples: int
    candidates: tuple[Candidate, ...]
    chosen: int

    def to_dict(self) -> Config:
        """Returns the choice as plain values, for JSON.

        Example:
            >>> float32 = Candidate("float32", "xnnpack", 9000, 0.02, None, 0.0, "")
            >>> choice = Choice(0.01, "bytes", None, 32, (float32,), chosen=0)
            >>> choice.to_dict()["candidates"][0]["recipe"]
            'float32'
        """
        return dataclasses.asdict(self)

    @property
    def rule(self) -> str:
        """The rule of the choice in words: the minimized measure, the budget, and how the loss was measured."""
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
        lines = (line + reason for line, reason in zip(align(table, left=2), reasons, strict=True))
        return "\n".join([self.rule, *lines, *self._smaller_files()])

    def _smaller_files(self) -> list[str]:
        """Returns a line for a smaller file within the budget, which was not chosen because it is much slower."""
        chosen = self.candidates[self.chosen]
        if self.prefer != "bytes" or self.chosen < 0 or chosen.bytes is None or not chosen.p50_ms:
            return []
        fitting = [candidate for candidate in self.candidates if not candidate.reason]
        smallest = min(fitting, key=lambda candidate: (candidate.bytes or 0, candidate.p50_ms or 0.0))
        if smallest.bytes is None or smallest.p50_ms is None or smallest.bytes >= chosen.bytes:
            return []
        saved, times = chosen.bytes - smallest.bytes, smallest.p50_ms / chosen.p50_ms
        return [f"{smallest.recipe} is {saved:,d} bytes smaller, but takes {times:.1f} times as long"]


def read_choice(bundle: Bundle) -> Choice | None:
    """Reads what the recipe "auto" tried for a bundle.

    Args:
        bundle: The bundle.

    Returns:
        The choice, or None if the bundle was made by another recipe.

    Raises:
        BundleError: If candidates.json does not follow `tflite/candidates.schema.json`.

    Example:
        >>> from keras_notes.bundle import open_bundle
        >>> print(read_choice(open_bundle("tflite/testdata/bars_static_int8")))
        None
    """
    if CANDIDATES_FILE not in bundle.manifest.files:
        return None
    path = bundle.directory / CANDIDATES_FILE
    data = read_table(path, _SCHEMA, _CONTENT)
    choice = Choice(**{**data, "candidates": tuple(Candidate(**entry) for entry in data["candidates"])})
    # A schema cannot compare two values.
    if choice.chosen >= len(choice.candidates):
        received = f"chosen={choice.chosen} of {len(choice.candidates)} candidates"
        raise malformed_error(path, _CONTENT, received)
    return choice
