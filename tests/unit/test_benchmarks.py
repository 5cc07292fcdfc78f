"""What the pages say was measured is what the committed figures say."""

from __future__ import annotations

import pytest

from benchmarks.plot import PAGE, put, tables


def test_the_page_shows_the_figures_as_they_are() -> None:
    text = PAGE.read_text()
    found = tables()
    assert {"steps", "paper"} <= set(found)
    for name, table in found.items():
        assert put(text, name, table) == text, "stale: .venv/bin/python -m benchmarks.plot"


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- steps -->"):
        put("no place here", "steps", "| |\n")
