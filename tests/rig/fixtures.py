"""What tests on a rig use (docs/development.md, "The rig"). They are marked `rig`.

A rig for one test comes from `make_rig`; one that a module's tests share is a fixture of the
module's own around `tests.rig.rig.rig_of`. What the hosts fetch from outside is served by
`tests.rig.stand_in` and `tests.hub` on `rig.outside`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.rig.prerequisites import missing
from tests.rig.rig import Rig, rig_of
from tests.rig.wheels import fetch_wheel

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """make_rig(hosts=2, rate=..., home_size=..., shared_home=...): gone again after the test."""
    with ExitStack() as stack:

        def make(hosts: int = 2, **settings: Any) -> Rig:
            return stack.enter_context(rig_of(hosts, **settings))

        yield make


@pytest.fixture(scope="session")
def impi_wheels() -> Path:
    """A folder with the wheel of Intel MPI's runtime."""
    return fetch_wheel("impi-rt==2021.17.2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the rig's tests out, rather than skip them, where a rig cannot be."""
    rig_tests = [item for item in items if item.get_closest_marker("rig")]
    if rig_tests and missing():
        config.hook.pytest_deselected(items=rig_tests)
        items[:] = [item for item in items if not item.get_closest_marker("rig")]


def pytest_report_header() -> str | None:
    """Say why, if they are left out."""
    lacks = missing()
    return f"rig: its tests are left out, they need {'; '.join(lacks)}" if lacks else None
