"""A host's disk: an empty root, with the machine's /usr and /etc less what its owner has added.

Everything that the machine's owner has added (/usr/local, /root, /home, /opt, pip's settings, the
ssh keys) is absent, so that a host is as bare as a new VM.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import uuid
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from tests.rig.commands import RigError, run

USER = "azureuser"
UID = 1000
SECONDS = 20.0
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
UseDNS no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""


@dataclass(frozen=True)
class Identity:
    """What a host is called, who may log in, and what else it must know."""

    name: str
    authorized_key: str
    hosts: dict[str, IPv4Address]


def make_disk(disk: Path, identity: Identity, home_size: str | None) -> None:
    """Write a new disk with a new host key; `home_size` such as 64M gives /home a small one."""
    root = disk / "root"
    _make_root(root)
    for part in ("usr", "etc"):
        (disk / part).mkdir()
        (disk / f"work-{part}").mkdir()
    _empty(disk / "usr" / "local")
    for name in ("bin", "lib", "share"):
        (disk / "usr" / "local" / name).mkdir()
    _make_etc(disk / "etc", identity)
    make_home(root / "home", identity.authorized_key)
    if home_size:
        image = disk / "home.img"
        # No blocks kept for root: an unprivileged person would meet the end of the disk early.
        run("mkfs.ext4", "-q", "-m", "0", "-d", str(root / "home"), str(image), home_size)


def make_home(home: Path, authorized_key: str) -> None:
    """Write the person's home directory, with the key that lets them in, into /home."""
    own = home / USER
    shutil.copytree("/etc/skel", own, symlinks=True)
    (own / ".ssh").mkdir(mode=0o700)
    keys = own / ".ssh" / "authorized_keys"
    keys.write_text(authorized_key)
    keys.chmod(0o600)
    own.chmod(0o750)
    for path in (own, *own.rglob("*")):
        os.chown(path, UID, UID, follow_symlinks=False)


def wait_for_image(disk: Path) -> None:
    """The kernel lets go of a small home a moment after the host's last process has ended."""
    image = disk / "home.img"
    deadline = time.monotonic() + SECONDS
    while image.exists() and run("losetup", "-j", str(image)).stdout:
        if time.monotonic() > deadline:
            raise RigError(f"{image} stays in use.")
        time.sleep(0.01)


def _make_root(root: Path) -> None:
    root.mkdir(parents=True)
    for path in Path("/").iterdir():
        if path.is_symlink() and os.readlink(path).startswith("usr/"):
            (root / path.name).symlink_to(os.readlink(path))
    for name in (
        *("boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv"),
        *("sys", "tmp", "usr", "var", "var/cache", "var/lib", "var/log", "var/tmp"),
    ):
        (root / name).mkdir()
    (root / "root").chmod(0o700)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "var" / "run").symlink_to("/run")
    (root / "var" / "lock").symlink_to("/run/lock")


def _make_etc(etc: Path, identity: Identity) -> None:
    _write_accounts(etc)
    (etc / "hostname").write_text(f"{identity.name}\n")
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    names = [f"{address} {name}" for name, address in identity.hosts.items()]
    (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
    # Nobody answers for names: a host fails at once where a real one would ask around.
    (etc / "resolv.conf").write_text("options timeout:1 attempts:1\n")
    (etc / "environment").write_text("")
    _empty(etc / "profile.d")
    for name in ("pip.conf", "xdg/pip", "ld.so.preload", "sudoers.d"):
        if Path("/etc", name).exists():
            (etc / name).parent.mkdir(parents=True, exist_ok=True)
            os.mknod(etc / name, stat.S_IFCHR, os.makedev(0, 0))
    ssh = etc / "ssh"
    _empty(ssh)
    (ssh / "sshd_config").write_text(SSHD_CONFIG)
    key = ssh / "ssh_host_ed25519_key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", identity.name, "-f", str(key))


def _write_accounts(etc: Path) -> None:
    """The system's own accounts and the person's, without any of the people of this machine."""
    accounts = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    kept = [account for account in accounts if int(account[2]) < UID or account[0] == "nobody"]
    kept.append([USER, "x", str(UID), str(UID), "", f"/home/{USER}", "/bin/bash"])
    groups = [line.split(":") for line in Path("/etc/group").read_text().splitlines()]
    groups = [group for group in groups if int(group[2]) < UID or group[0] == "nogroup"]
    (etc / "passwd").write_text("".join(":".join(account) + "\n" for account in kept))
    (etc / "group").write_text(
        "".join(":".join(group[:3]) + ":\n" for group in [*groups, [USER, "x", str(UID)]])
    )
    # No password opens an account, and none is locked either: sshd turns locked ones away.
    for name, owners in (("shadow", kept), ("gshadow", [])):
        (etc / name).write_text("".join(f"{account[0]}:*:::::::\n" for account in owners))
        (etc / name).chmod(0o600)


def _empty(folder: Path) -> None:
    """A folder that hides the machine's own of that name instead of being laid over it."""
    folder.mkdir()
    os.setxattr(folder, "trusted.overlay.opaque", b"y")
