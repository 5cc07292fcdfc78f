"""A process is ended with everything that it has started."""

from __future__ import annotations

import subprocess
import sys

import psutil

from bootstrap.node.run_processes import end_tree

GRANDCHILD = "import time; print('up', flush=True); time.sleep(1000)"
CHILD = (
    "import subprocess, sys; "
    f"subprocess.run([sys.executable, '-c', {GRANDCHILD!r}], start_new_session=True)"
)


def test_a_tree_ends_whatever_sessions_are_in_it() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        assert root.stdout.readline() == b"up\n"
        (grandchild,) = psutil.Process(root.pid).children()
        end_tree(root.pid)
        assert root.wait() == -9
    gone, alive = psutil.wait_procs([grandchild], timeout=30)
    assert [process.pid for process in gone] == [grandchild.pid]
    assert not alive
    end_tree(root.pid)
