"""What a machine must have to carry a rig."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PACKAGES = {
    "bridge": "iproute2",
    "gcc": "gcc",
    "ip": "iproute2",
    "iptables": "iptables",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "tc": "iproute2",
    "unshare": "util-linux",
}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST_PYTHON = Path("/usr/bin/python3")


def missing() -> list[str]:
    """What keeps this machine from carrying a rig, a line each; empty when nothing does."""
    if sys.platform != "linux":
        return ["Linux"]
    lacks = [] if os.geteuid() == 0 else ["root"]
    packages = {PACKAGES[tool] for tool in PACKAGES if not shutil.which(tool, path=SYSTEM_PATH)}
    if not HOST_PYTHON.exists() or not _has_ensurepip():
        packages.add("python3-venv")
    if packages:
        lacks.append("apt-get install " + " ".join(sorted(packages)))
    if not Path("/bin").is_symlink():
        lacks.append("a system whose /bin is a link to /usr/bin")
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        lacks.append("overlayfs (modprobe overlay)")
    return lacks


def _has_ensurepip() -> bool:
    version = HOST_PYTHON.resolve().name
    return Path("/usr/lib", version, "ensurepip", "__main__.py").exists()
