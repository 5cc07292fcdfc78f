"""Environments made by conda: Python, tcmalloc and libiomp5 from conda-forge, the rest from wheels.

The head alone talks to the channel: it resolves, downloads, and lists what it got; the other nodes
make the same environment from these files. None of it has ever been run by those who wrote it, as
no channel could be reached: the command lines are tested, conda is not (docs/verification.md).
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bootstrap.errors import UserError
from bootstrap.setup.broadcast import Say
from bootstrap.ssh.transfer import script

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

VERSION = "25.3.1-0"
INSTALLER = f"Miniforge3-{VERSION}-Linux-x86_64.sh"
URL = f"https://github.com/conda-forge/miniforge/releases/download/{VERSION}/{INSTALLER}"
SHA256 = "376b160ed8130820db0ab0f3826ac1fc85923647f75c1b8231166e3d559ab768"
CHANNEL = "https://conda.anaconda.org/conda-forge"
PYTHON = "3.12"
# llvm-openmp's libiomp5.so is the runtime that Intel's own compiler package was built from.
SPECS = (f"python={PYTHON}", "gperftools", "llvm-openmp")
EXPLICIT = "explicit.txt"
PACKAGES = "packages"
LOOK_SECONDS = 10

# $1: a URL, $2: a file, or "" to only look whether it is there.
GET = f"""
if command -v curl >/dev/null; then
    if [ -n "$2" ]; then exec curl -fsSL --retry 3 -C - -o "$2" "$1"; fi
    exec curl -fsSIL --max-time {LOOK_SECONDS} -o /dev/null "$1"
elif command -v wget >/dev/null; then
    if [ -n "$2" ]; then exec wget -q -c -O "$2" "$1"; fi
    exec wget -q --spider --tries=1 --timeout={LOOK_SECONDS} "$1"
fi
echo "neither curl nor wget is installed" >&2; exit 127
"""
# $1: conda's package cache, $2: the list, $3: where the listed files are to lie.
COLLECT = """set -e
mkdir -p "$3"
sed -n 's|#.*||; /^https\\{0,1\\}:/ s|.*/||p' "$2" | while IFS= read -r name; do
    ln -f "$1/$name" "$3/$name"
done
"""


def key() -> str:
    """Names what conda brings."""
    return hashlib.sha256(" ".join((INSTALLER, SHA256, *SPECS)).encode()).hexdigest()[:12]


def folder(host: Host) -> str:
    """What the head hands out for conda: the installer, packages, and the list of them."""
    return f"{host.layout.wheels}/conda-{key()}"


def conda_home(host: Host) -> str:
    """Where Miniforge itself is installed on a node."""
    return f"{host.layout.root}/miniforge-{VERSION}"


def channel_answers(host: Host) -> bool:
    """Whether a node reaches conda-forge and the installer: what `--environment auto` goes by."""
    return all(
        host.run(script(GET, url, ""), check=False).exit_code == 0
        for url in (f"{CHANNEL}/noarch/repodata.json.zst", URL)
    )


def miniforge_lines(installer: str, home: str) -> list[str]:
    """The commands that check the installer and install Miniforge, without touching shell files."""
    check = f"echo {SHA256}  {shlex.quote(installer)} | sha256sum --check --quiet"
    # -b: no questions and no changes to start-up files. -u: what a killed attempt left is no harm.
    return [check, shlex.join(["bash", installer, "-b", "-u", "-p", home])]


def create_line(conda: str, prefix: str, cache: str) -> str:
    """The command that resolves and downloads, on the head; the cache keeps the package files."""
    words = [
        "env", f"CONDA_PKGS_DIRS={cache}", f"{conda}/bin/conda", "create", "--yes", "--quiet",
        "--override-channels", "--channel", CHANNEL, "--strict-channel-priority",
        "--prefix", prefix, *SPECS,
    ]  # fmt: skip
    return shlex.join(words)


def list_line(conda: str, prefix: str) -> list[str]:
    """The command that lists an environment's packages with URL and MD5."""
    return [f"{conda}/bin/conda", "list", "--prefix", prefix, "--explicit", "--md5"]


def local_list(explicit: str, packages: str) -> str:
    """conda's list with the files on the node's own disk in place of the channel's.

    Raises:
        UserError: the list is not one.
    """
    lines = []
    for line in explicit.splitlines():
        url = line.strip()
        if url.startswith(("https://", "http://")):
            lines.append(f"file://{packages}/{url.rsplit('/', 1)[1]}")
    if not lines:
        raise UserError("conda listed no packages: the environment on the head is empty.")
    return "\n".join(["@EXPLICIT", *lines]) + "\n"


def offline_line(conda: str, prefix: str, explicit: str) -> list[str]:
    """The command that makes the same environment from files, asking nothing of the network."""
    return [
        f"{conda}/bin/conda", "create", "--yes", "--quiet", "--offline",
        "--prefix", prefix, "--file", explicit,
    ]  # fmt: skip


def fetch(head: Host, say: Say) -> str:
    """Bring Miniforge and the packages to the head, unless they are there; returns their folder.

    Raises:
        UserError: something does not answer, or is not what its checksum says.
    """
    target = folder(head)
    if head.run(script('test -d "$1"', target), check=False).exit_code == 0:
        return target
    filling, home = f"{target}.fetching", conda_home(head)
    head.run(["mkdir", "-p", filling])
    say(f"Miniforge {VERSION}")
    head.run(script(GET, URL, f"{filling}/{INSTALLER}"))
    check, install = miniforge_lines(f"{filling}/{INSTALLER}", home)
    if head.run(check, check=False).exit_code != 0:
        head.run(["rm", "-f", f"{filling}/{INSTALLER}"])
        raise UserError(f"{head.node.name}: {URL} is not the file it was: its SHA-256 differs.")
    head.run(install)
    say("Python, tcmalloc and libiomp5 from conda-forge")
    cache, probe = f"{filling}.cache", f"{filling}.env"
    head.run(["rm", "-rf", probe])
    head.run(create_line(home, probe, cache))
    listed = head.run(list_line(home, probe)).stdout
    head.write(f"{filling}.list", listed.encode(), mode=0o644)
    head.run(script(COLLECT, cache, f"{filling}.list", f"{filling}/{PACKAGES}"))
    text = local_list(listed, f"{target}/{PACKAGES}")
    head.write(f"{filling}/{EXPLICIT}", text.encode(), mode=0o644)
    head.run(["rm", "-rf", probe, cache, f"{filling}.list"])
    head.run(["mv", "-T", filling, target])
    return target


def empty_lines(host: Host, home: str) -> Sequence[Sequence[str] | str]:
    """The commands that make an empty environment on any node, from what was handed out."""
    brought, conda = folder(host), conda_home(host)
    return [
        ["rm", "-rf", home],
        *miniforge_lines(f"{brought}/{INSTALLER}", conda),
        offline_line(conda, home, f"{brought}/{EXPLICIT}"),
    ]
