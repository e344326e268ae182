"""The command line."""

from keras_notes.cli._main import main

__all__ = ["main"]
