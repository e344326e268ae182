"""Docstrings of public names have their parts: arguments, exceptions, a run example, and the source of an algorithm."""

import dataclasses
import importlib
import types

import pytest

from tests.support.docstrings import documented_names, missing_parts, public_items, sections
from tests.support.source_tree import PUBLIC_PACKAGES

# Names with a paper or another source behind them.
SOURCES = {
    "keras_notes.losses": {
        "AsymmetricLoss",
        "AttentionRelationLoss",
        "AttentionTransferLoss",
        "CorrelationDistillationLoss",
        "DecoupledDistillationLoss",
        "DistillationLoss",
        "FocalLoss",
        "HintLoss",
        "JensenShannonDistillationLoss",
        "ProbabilisticTransferLoss",
        "RelationalLoss",
        "SimilarityPreservingLoss",
        "class_balanced_alpha",
        "top_k_targets",
        "with_labels",
    },
    "keras_notes.layers": {
        "LSTM",
        "MultiHeadAttention",
        "PositionalEncoding",
        "Transformer",
        "TransformerDecoder",
        "TransformerEncoder",
        "apply_rotary",
        "generate",
        "lstm_step",
        "rotary_angles",
        "scaled_dot_product_attention",
        "sinusoidal",
    },
    "keras_notes.distillation": {"Distiller", "FeatureMatch", "MutualDistiller"},
    "keras_notes.compression": {
        "ConstantSparsity",
        "PolynomialSparsity",
        "cluster",
        "equalize",
        "prune",
        "prune_channels",
        "quantize_aware",
        "sensitivity",
    },
}
WITH_SOURCE = {getattr(importlib.import_module(name), item) for name, items in SOURCES.items() for item in items}


def missing():
    """Lines of what the docstrings of the package lack, as `name: part`."""
    modules = [importlib.import_module(name) for name in PUBLIC_PACKAGES]
    return [
        f"{name}: {part}"
        for name, item in public_items(modules)
        for part in missing_parts(item, has_source=item in WITH_SOURCE)
    ]


def test_every_public_docstring_has_its_parts():
    lines = missing()
    assert lines == [], "\n".join(lines)


# The checker


def complete(size, *rest, flag=False, **options):
    """Returns a size.

    More text, and a line that ends in a colon:

    Args:
        size: Size of the result: two
            words: of text.
        *rest: Further sizes.
        flag: Whether to.
        **options: Further options.

    Raises:
        ValueError: If the size is 0.

    Example:
        >>> complete(1)
        1

    References:
        A book.
    """
    if size == 0:
        raise ValueError(size)
    return size


class Base:
    """A class with a constructor.

    Args:
        size: Size of it.

    Example:
        >>> Base(1).double()
        2
    """

    def __init__(self, size):
        self.size = size

    def double(self):
        return 2 * self.size

    def halve(self):
        """Returns half of the size."""
        return self.size // 2

    def keys(self):
        return ()

    def get_config(self):
        return {}

    @property
    def half(self):
        return self.size / 2


class Derived(Base, dict):
    """A class with the constructor of its base.

    Args:
        size: Size of it.

    Example:
        >>> Derived(1).size
        1
    """

    def halve(self):
        return 0


@dataclasses.dataclass
class Record:
    """A pair.

    Attributes:
        first: First of them.
        second: Second of them.

    Raises:
        ValueError: If both are equal.

    Example:
        >>> Record(1, 2).first
        1
    """

    first: int
    second: int

    def __post_init__(self):
        if self.first == self.second:
            raise ValueError(self.first)


def without(item, text, replacement=""):
    """Returns a copy of a function or class without a text of its docstring."""
    assert text in item.__doc__
    changed = item.__doc__.replace(text, replacement)
    if isinstance(item, type):
        copy = type(item.__name__, (item,), {"__doc__": changed, "__module__": item.__module__})
    else:
        copy = types.FunctionType(item.__code__, item.__globals__, item.__name__, item.__defaults__)
        copy.__kwdefaults__ = item.__kwdefaults__
    copy.__doc__ = changed
    return copy


@pytest.mark.parametrize("item", [complete, Base, Derived, Record])
def test_a_complete_docstring_passes(item):
    assert missing_parts(item, has_source=item is complete) == []


@pytest.mark.parametrize(
    ("item", "text", "replacement", "part"),
    [
        (complete, "size: Size", "length: Size", "Args: size"),
        (complete, "size: Size", "length: Size", "Args: length, which does not exist"),
        (complete, "*rest: Further", "rest: Further", "Args: *rest"),
        (complete, "**options", "options", "Args: **options"),
        (complete, "Args:", "Arguments:", "Args: size"),
        (complete, "ValueError: If", "If", "Raises"),
        (complete, "Raises:", "Errors:", "Raises"),
        (complete, ">>> complete(1)", "complete(1)", "Example"),
        (complete, "Example:", "In use:", "Example"),
        (complete, "A book.", "", "References"),
        (Base, "size: Size", "Size", "Args: size"),
        (Derived, "size: Size", "Size", "Args: size"),
        (Base, ">>> Base(1).double()", "", "Example"),
        (Record, "second: Second", "Second", "Attributes: second"),
        (Record, "first: First", "third: First", "Attributes: third, which does not exist"),
        (Record, "ValueError: If", "If", "Raises"),
        (Record, ">>> ", "", "Example"),
    ],
)
def test_a_docstring_without_a_part_is_refused(item, text, replacement, part):
    assert part in missing_parts(without(item, text, replacement), has_source=item is complete)


def test_no_docstring_is_refused():
    assert missing_parts(Base.double) == ["a docstring"]


def test_a_raise_of_another_function_or_of_a_caught_exception_does_not_count():
    def passes_on():
        """Passes exceptions on.

        Example:
            >>> passes_on()
        """

        def inner():
            raise ValueError

        try:
            inner()
        except ValueError:
            raise

    assert missing_parts(passes_on) == []


def test_public_items_are_functions_classes_and_their_own_methods_once():
    module = types.ModuleType("package.part")
    module.__all__ = ["Alias", "Base", "Derived", "LIMIT", "complete", "types"]
    vars(module).update(Alias=Base, Base=Base, Derived=Derived, LIMIT=3, complete=complete, types=types)
    paths = [path for path, _ in public_items([module, module], package=Base.__module__.partition(".")[0])]
    # `keys` of Derived overrides that of dict, `halve` the one of Base; `half` is a property, `get_config` Keras's.
    assert paths == [
        "package.part.Alias",
        "package.part.Alias.double",
        "package.part.Alias.halve",
        "package.part.Alias.keys",
        "package.part.Derived",
        "package.part.complete",
    ]


def test_sections_and_entries_are_read():
    parts = sections(complete.__doc__)
    assert list(parts) == ["Args", "Raises", "Example", "References"]
    assert documented_names(parts["Args"]) == ["size", "*rest", "flag", "**options"]
    assert documented_names(["    x, y: Two entries.", "        z: Not an entry.", "    Text."]) == ["x", "y"]
