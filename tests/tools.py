"""Tools that some tests need and a machine may lack."""

import os
import shutil

import pytest


def need(tool: str, package: str | None = None) -> None:
    """Skips the test if a tool is missing; where KERAS_NOTES_SKIP_NOTHING is set, as in a gate, fails it."""
    if shutil.which(tool) is None:
        reason = f"{tool} is missing" + (f" (apt-get install {package})" if package else "")
        (pytest.fail if os.environ.get("KERAS_NOTES_SKIP_NOTHING") else pytest.skip)(reason)
