"""What tests share: a tiny model, pictures, and the flags of a short run on them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Tiny tensors: threads that spin while they wait cost more than they compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.tiny_model import make_pictures, make_tiny_model

pytest_plugins = ["tests.rig.fixtures"]

# The intel environment holds no pulumi; `make test`, in the other one, runs these.
collect_ignore_glob = (
    [] if importlib.util.find_spec("pulumi") else ["unit/test_infra_*", "integration/test_infra_*"]
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures."""
    return make_pictures(tmp_path_factory.mktemp("pictures") / "five")


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where runs share what they encode."""
    return tmp_path_factory.mktemp("latents")


Flags = Callable[..., list[str]]


@pytest.fixture
def flags(tiny_model: Path, pictures: Path, latents: Path, tmp_path: Path) -> Flags:
    """The command line of a 6-step run into tmp_path/"run"; keyword arguments add and replace."""

    def build(**changes: object) -> list[str]:
        values: dict[str, object] = {
            "pretrained_model_name_or_path": tiny_model,
            "train_data_dir": pictures,
            "placeholder_token": "<new>",
            "initializer_token": "toy",
            "resolution": 32,
            "train_batch_size": 1,
            "max_train_steps": 6,
            "learning_rate": 1e-2,
            "lr_warmup_steps": 0,
            "seed": 3,
            "checkpointing_steps": 2,
            "num_evaluation_samples": 2,
            "report_to": "none",
            "mixed_precision": "no",
            "stack": "upstream",
            "latents_cache_dir": latents,
            "output_dir": tmp_path / "run",
            **changes,
        }
        return [f"--{key}={value}" for key, value in values.items() if value is not None]

    return build
