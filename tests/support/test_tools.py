"""Tests whose tool is missing: skipped, or failed in a gate."""

import pytest

from tests.support.tools import need


def test_what_is_there_is_not_missed(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "sh")
    need("sh", "chromium")


@pytest.mark.parametrize("tool", ["no-such-tool", "chromium"])
def test_a_missing_tool_skips_by_name_or_fails_where_nothing_may_be_skipped(monkeypatch, tool):
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    monkeypatch.delenv("KERAS_NOTES_SKIP_NOTHING", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"needs {tool}, not installed"):
        need("sh", tool)
    monkeypatch.setenv("KERAS_NOTES_SKIP_NOTHING", "1")
    with pytest.raises(pytest.fail.Exception, match=f"needs {tool}, not installed"):
        need("sh", tool)
