"""Fixtures of the report: the testdata bundle's verification and its page, for every module that looks at them."""

from __future__ import annotations

import pytest

import keras_notes as kn
from tests.support.bundles import TESTDATA
from tests.support.report_pages import page_of


@pytest.fixture(scope="module")
def report():
    """The verification of the testdata bundle."""
    return kn.verify(TESTDATA)


@pytest.fixture(scope="module")
def sound(report, tmp_path_factory):
    """The page of the testdata bundle."""
    return page_of(TESTDATA, tmp_path_factory.mktemp("sound"), verification=report)
