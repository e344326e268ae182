"""The public names of the package and how each is called are those that were recorded."""

import types

from tests.support.make_public_surface import (
    COMMAND,
    differences,
    package_surface,
    public_surface,
    recorded_surface,
)


def module_of(**names):
    module = types.ModuleType("package.part")
    module.__all__ = sorted(names)
    vars(module).update(names)
    return module


class Base:
    """A class with a method that others inherit."""

    def inherited(self, x: "Base", *, scale: float = 1.0) -> "Base":
        """A method with annotations."""

    def _private(self):
        """A method that does not count."""


class Public(Base, dict):
    """A class with methods of its own, and of a class from elsewhere."""

    def __init__(self, size: int, name: str = "public") -> None:
        super().__init__()

    @property
    def width(self) -> int:
        """A property."""

    @classmethod
    def make(cls, size: int):
        """A class method."""


def described(**names):
    return public_surface([module_of(**names)], package=Public.__module__.partition(".")[0])


def test_the_public_names_and_signatures_are_the_recorded_ones():
    lines = differences(recorded_surface(), package_surface())
    assert lines == [], "\n".join([*lines, f"If that is on purpose, run `{COMMAND}` and commit its file."])


def test_a_surface_has_methods_of_the_package_without_annotations():
    assert described(Public=Public, LIMIT=3, function=lambda x, activation=len: x, part=types) == {
        "package.part.LIMIT": " = 3",
        "package.part.Public": "(size, name='public')",
        "package.part.Public.inherited": "(self, x, *, scale=1.0)",
        "package.part.Public.make": "(cls, size): classmethod",
        "package.part.Public.width": ": property",
        "package.part.function": "(x, activation=len)",
        "package.part.part": ": module",
    }


def test_names_that_go_come_or_change_are_told():
    before = described(go=lambda x: x, stay=lambda x: x, change=lambda x, *, y=1: x)
    now = described(come=lambda: 0, stay=lambda x: x, change=lambda x, *, y=2: x)
    assert differences(before, now) == [
        "removed: package.part.go(x)",
        "added: package.part.come()",
        "changed: package.part.change(x, *, y=1) is now package.part.change(x, *, y=2)",
    ]
    assert differences(before, before) == []
