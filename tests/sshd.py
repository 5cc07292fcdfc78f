"""A real sshd on a loopback port, run by whoever runs the tests, with a home folder of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Sshd:
    """One running server.

    Attributes:
        address, port: where it listens.
        folder: its configuration, host keys, log and home folder.
        process: it.
    """

    address: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        """The home folder of whoever logs in."""
        return self.folder / "home"

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text()

    def cut(self) -> None:
        """Kill the processes of every open connection; the server goes on listening."""
        for process in _descendants(self.process.pid):
            name = Path(f"/proc/{process}/comm")
            try:
                is_ssh = name.read_text().startswith("sshd")
            except OSError:
                continue
            if is_ssh:
                os.kill(process, signal.SIGKILL)


def become_person(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str = "key") -> Path:
    """Work in `folder` as a person with an empty home folder and no agent; returns their key."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "person"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (folder / "person" / ".ssh").mkdir(parents=True)
    return make_key(folder / "person" / key)


def make_key(path: Path) -> Path:
    """A key pair without a passphrase."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True
    )
    return path


@contextmanager
def serving(
    folder: Path,
    key: Path,
    host_key: Path | None = None,
    port: int = 0,
    home: Path | None = None,
    address: str = "127.0.0.1",
    max_sessions: int = 10,
) -> Iterator[Sshd]:
    """A server that lets `key` in.

    Args:
        folder: for its files.
        key: the private key; its public half is beside it.
        host_key: the server's; None: a new one.
        port: 0: any that is free.
        home: shared with another server; None: its own.
        address: any of 127.0.0.0/8.
        max_sessions: on one connection; sshd's own default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if home:
        (folder / "home").symlink_to(home)
    ssh_folder = folder / "home" / ".ssh"
    ssh_folder.mkdir(parents=True, exist_ok=True)
    authorized = ssh_folder / "authorized_keys"
    if not authorized.exists():
        authorized.write_text(key.with_name(f"{key.name}.pub").read_text())
    host_key = host_key or make_key(folder / "host_key")
    port = port or free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {host_key}\nPidFile none\nUsePAM no\n"
        f"StrictModes no\nAuthorizedKeysFile {authorized}\nPasswordAuthentication no\n"
        f"PermitRootLogin yes\nAllowUsers {getpass.getuser()}\nMaxStartups 100\nLogLevel VERBOSE\n"
        f"MaxSessions {max_sessions}\nSetEnv HOME={folder / 'home'}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [SSHD, "-D", "-f", str(config), "-E", str(folder / "log")], stdin=subprocess.DEVNULL
    )
    server = Sshd(address, port, folder, process)
    try:
        _wait_for(server)
        yield server
    finally:
        server.cut()
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _wait_for(server: Sshd) -> None:
    while server.process.poll() is None:
        try:
            with socket.create_connection((server.address, server.port), timeout=5) as sock:
                sock.recv(3)
                return
        except ConnectionRefusedError:
            continue
    raise RuntimeError(f"sshd did not start: {server.log}")


def _descendants(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found += [int(folder.name), *_descendants(int(folder.name))]
    return found
