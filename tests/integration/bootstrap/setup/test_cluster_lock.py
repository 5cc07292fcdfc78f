"""Two at once on one cluster: the second is told who is there; nobody leaves a lock behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bootstrap.errors import Interrupted, UserError
from bootstrap.inventory.inventory import Node
from bootstrap.setup import cluster_lock
from bootstrap.setup.cluster_lock import cluster_locked
from bootstrap.ssh.host import Host, local_host

CHECKOUT = Path(__file__).parents[4]
SECONDS = 60
CLAIM = """
import sys, time
from bootstrap.setup.cluster_lock import cluster_locked
from bootstrap.ssh.host import Host, local_host
from bootstrap.inventory.inventory import Node
with cluster_locked([local_host(Node("n0", "127.0.0.1"), sys.argv[1])], "fab bootstrap"):
    print("cluster_locked", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def head(tmp_path: Path) -> Host:
    """This machine, with a folder of the test's."""
    return local_host(Node("n0", "127.0.0.1"), str(tmp_path / "root"))


def wait_for_the_lock(head: Host) -> None:
    """Fails where whoever held it keeps it."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            with cluster_locked([head], "fab clean"):
                return
        except UserError:
            assert time.monotonic() < end, "the lock outlived what it was held for"


def test_the_second_is_told_who_is_there_and_the_third_comes_after(head: Host) -> None:
    other = local_host(head.node, head.layout.root)
    with cluster_locked([head], "fab bootstrap"):
        with pytest.raises(UserError) as raised, cluster_locked([other], "fab train"):
            pytest.fail("both hold it")
        said = str(raised.value)
        assert said.startswith("n0: fab bootstrap of ")
        assert "working on this cluster" in said
        assert "Nothing was changed" in said
    with cluster_locked([other], "fab train"):
        pass


def test_who_is_killed_leaves_no_lock(head: Host, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, head.layout.root],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"cluster_locked\n"
        with (
            pytest.raises(UserError, match="fab bootstrap of"),
            cluster_locked([head], "fab clean"),
        ):
            pytest.fail("both hold it")
        process.send_signal(signal.SIGKILL)
    wait_for_the_lock(head)


def test_who_is_cut_off_holds_it_no_longer_than_the_lease(
    head: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head whose sshd has not noticed that the connection is gone."""
    monkeypatch.setattr(cluster_lock, "RENEW_SECONDS", 1000.0)
    other = local_host(head.node, head.layout.root)

    def cut_off() -> None:
        with cluster_locked([head], "fab bootstrap"):
            long_ago = time.time() - 60 * cluster_lock.LEASE_MINUTES
            os.utime(Path(head.layout.root) / cluster_lock.LEASE, (long_ago, long_ago))
            wait_for_the_lock(other)

    with pytest.raises(UserError, match="was lost"):
        cut_off()


def test_who_says_that_it_lives_keeps_it(head: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_lock, "RENEW_SECONDS", 0.1)
    with cluster_locked([head], "fab bootstrap"):
        lease = Path(head.layout.root) / cluster_lock.LEASE
        a_minute_ago = time.time() - 60
        os.utime(lease, (a_minute_ago, a_minute_ago))
        end = time.monotonic() + SECONDS
        while lease.stat().st_mtime <= a_minute_ago + 1:
            assert time.monotonic() < end, "nothing was renewed"
            time.sleep(0.05)


def waits_for_the_lock(root: str) -> bool:
    """Whether somebody's `flock` is at it."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"flock" and os.readlink(path / "cwd") == root:
                return True
    return False


def test_a_cleaned_cluster_is_his_who_waited_for_it(head: Host) -> None:
    other = local_host(head.node, head.layout.root)
    third = local_host(head.node, head.layout.root)
    has_it, over = threading.Event(), threading.Event()

    def wait() -> None:
        while not over.is_set():  # on a slow machine it may have waited too long
            with contextlib.suppress(UserError), cluster_locked([other], "fab bootstrap"):
                has_it.set()
                over.wait()

    waiting = threading.Thread(target=wait)
    try:
        with cluster_locked([head], "fab clean", gone=True):
            waiting.start()
            while not waits_for_the_lock(head.layout.root):
                time.sleep(0.02)
        assert has_it.wait(SECONDS)
        assert (Path(head.layout.root) / cluster_lock.LOCK).exists()
        with (
            pytest.raises(UserError, match="fab bootstrap of"),
            cluster_locked([third], "fab train"),
        ):
            pytest.fail("both hold it")
    finally:
        over.set()
        waiting.join()


def test_a_cleaned_cluster_that_nobody_waits_for_has_no_folder(head: Host) -> None:
    with cluster_locked([head], "fab clean", gone=True):
        pass
    assert not Path(head.layout.root).exists()


def test_a_lock_that_is_lost_ends_the_work_on_every_node(head: Host, tmp_path: Path) -> None:
    worker = local_host(Node("n1", "127.0.0.1"), str(tmp_path / "worker"))
    ended = []

    def work() -> None:
        with cluster_locked([head, worker], "fab bootstrap"):
            (Path(head.layout.root) / cluster_lock.LOCK).unlink()
            with cluster_locked([local_host(head.node, head.layout.root)], "fab bootstrap"):
                for host in (worker, head):
                    with pytest.raises(Interrupted):
                        host.run("sleep 1000")
                    ended.append(host.name)

    with pytest.raises(UserError, match=r"n0: the lock .*/setup\.lock was lost"):
        work()
    assert ended == ["n1", "n0"]


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    head = local_host(Node("n0", "127.0.0.1"), str(tmp_path / "file" / "root"))
    with (
        pytest.raises(UserError, match="file/root cannot be written"),
        cluster_locked([head], "fab clean"),
    ):
        pytest.fail("it is held where nothing can be")
