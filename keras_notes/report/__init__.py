"""The report of a bundle: a page for a browser, in one file."""

from keras_notes.report._write_report import write_report

__all__ = ["write_report"]
