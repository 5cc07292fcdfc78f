"""What training's tests share: a tiny model, pictures, and the flags of a short run on them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.captioned import make_captioned
from tests.short_run import PRECISIONS, short_run
from tests.tiny_model import make_pictures, make_tiny_model
from training.machine import vector_math


def pytest_sessionstart() -> None:
    """Tests compute, too."""
    vector_math.resolve_kernels()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures."""
    return make_pictures(tmp_path_factory.mktemp("pictures") / "five")


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures with captions."""
    return make_captioned(tmp_path_factory.mktemp("captioned") / "five")


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where runs share what they encode."""
    return tmp_path_factory.mktemp("latents")


Flags = Callable[..., list[str]]


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    """Each `mixed_precision` that this processor computes in."""
    return str(request.param)


@pytest.fixture
def flags(tiny_model: Path, pictures: Path, latents: Path, tmp_path: Path) -> Flags:
    """The command line of a 6-step run into tmp_path/"run"; keyword arguments add and replace."""

    def build(**changes: object) -> list[str]:
        return short_run(tiny_model, pictures, latents, tmp_path / "run", **changes)

    return build


def burn() -> None:
    """Keep a processor busy."""
    while True:
        torch.ones(1000).sum()


@pytest.fixture
def busy() -> Iterator[None]:
    """Two processes that keep a processor busy each."""
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=burn, daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    yield
    for other in others:
        other.kill()
        other.join()
