"""Whether compiling repays is a sum of what was measured, and it is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from training.storage.compile_cost import PREPARED, knowledge, known, note, sum_of


def figures(native: float, compiled: float, cost: float) -> str:
    return json.dumps({"native": native, "compiled": compiled, PREPARED: cost})


def test_as_many_steps_as_it_takes_repay_it() -> None:
    found = sum_of([figures(3.5, 2.4, 110.0)], 2000)
    assert found is not None
    assert found.repays
    assert str(found) == (
        "compiled: about 110 s to have the code, saves 1.1 s per step (both as measured here), "
        "pays after 100 of 2,000 steps"
    )
    for steps, repays in ((100, True), (99, False)):
        few = sum_of([figures(3.5, 2.4, 110.0)], steps)
        assert few is not None
        assert few.repays is repays
    assert str(few).startswith("native: compiled takes about 110 s")
    assert str(few).endswith("pays after 100 steps, of which 99 come")


def test_what_is_slower_never_repays() -> None:
    found = sum_of([figures(8.0, 8.4, 13.0)], 10**9)
    assert found is not None
    assert not found.repays
    assert str(found) == "native: a compiled step took 8.40 s here, a native one 8.00"


def test_all_ranks_have_to_know_and_the_slowest_counts() -> None:
    assert sum_of([figures(3.0, 2.0, 10.0), ""], 1000) is None
    found = sum_of([figures(3.0, 2.0, 10.0), figures(2.9, 2.1, 90.0)], 1000)
    assert found is not None
    assert (found.cost, found.native, found.compiled) == (90.0, 2.9, 2.1)


def test_figures_are_kept_and_torn_ones_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept" / "a.times"
    note(path, native=3.0)
    assert knowledge(path) == ""
    note(path, compiled=2.0, **{PREPARED: 100.0})
    note(path, compiled=2.5)
    assert known(path) == {"native": 3.0, "compiled": 2.5, PREPARED: 100.0}
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    assert json.loads(knowledge(path)) == known(path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert knowledge(path) == ""
    for torn in ("", "[]", '{"native": "fast"}', '{"nat'):
        path.write_text(torn)
        assert known(path) == {}
    note(None, native=3.0)
    assert knowledge(None) == ""
    assert [file.name for file in path.parent.iterdir()] == ["a.times"]
