"""Tools that a test may need beside Python's packages, and how it says so."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def is_installed(tool: str) -> bool:
    """Returns whether a program, or a Python package that drives one, is installed."""
    if tool == "playwright":
        return importlib.util.find_spec("playwright") is not None
    names = (os.environ.get("CHROMIUM") or BROWSERS) if tool == "chromium" else tool
    return any(shutil.which(name) for name in ([names] if isinstance(names, str) else names))


def need(*tools: str, package: str | None = None) -> None:
    """Skips the test that lacks a tool, by name; with KERAS_NOTES_SKIP_NOTHING set, as in a gate, fails it."""
    missing = [tool for tool in tools if not is_installed(tool)]
    if not missing:
        return
    reason = f"needs {', '.join(missing)}, not installed" + (f" (apt-get install {package})" if package else "")
    (pytest.fail if os.environ.get("KERAS_NOTES_SKIP_NOTHING") else pytest.skip)(reason)
