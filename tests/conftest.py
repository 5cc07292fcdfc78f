"""What all tests share, and which environment runs which of them.

`.venv` holds PyTorch and runs training's tests; `.venv-cluster` holds Pulumi and Fabric and runs
those of infra and bootstrap. What an environment cannot run is left out there, not skipped.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

# Tiny tensors: threads that spin while they wait cost more than they compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A job in the background of a script is started deaf to Ctrl-C, and so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLUSTER = {"bootstrap", "infra"}
"""Folders whose tests mirror that package."""
WITH_THE_HUB = "test_hub_download.py"
"""Runs what bootstrap runs in a node's environment, which holds huggingface_hub as .venv does."""
HERE = {
    "training": importlib.util.find_spec("torch") is not None,
    "cluster": importlib.util.find_spec("pulumi") is not None,
}

pytest_plugins = [
    *(["tests.training_fixtures", "tests.training_steps"] if HERE["training"] else []),
    *(["tests.rig.fixtures"] if HERE["cluster"] else []),
]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of the other environment."""
    if not collection_path.name.startswith("test_"):
        return None
    folders = set(collection_path.relative_to(Path(__file__).parent).parts)
    of_cluster = folders & CLUSTER or collection_path.name.startswith("test_rig")
    side = "cluster" if of_cluster and collection_path.name != WITH_THE_HUB else "training"
    return None if HERE[side] else True
