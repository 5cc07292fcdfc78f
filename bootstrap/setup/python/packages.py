"""The wheels of a stack, fetched from the internet by the head alone."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bootstrap import urls
from bootstrap.errors import UserError
from bootstrap.setup.broadcast import PUT_IN_PLACE, Say
from bootstrap.setup.python.package_pins import CONDA, ONECCL_INDEX, ONECCL_PACKAGE, Lock, Part
from bootstrap.setup.python.pip_zip import pip_command
from bootstrap.ssh.command import script

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

PINS = "pins.txt"
TRIES, SECONDS = 3, 20
DEFAULT_INDEX = "https://pypi.org/simple"
LOOK_SECONDS = 5


def folders_of(host: Host, lock: Lock, version: str) -> tuple[str, ...]:
    """Where the wheels of a lock lie on every node: a folder for each portion of it."""
    whole = f"{host.layout.wheels}/{lock.stack}-{lock.key(version)}"
    return tuple(f"{whole}/{number:02d}" for number in range(len(lock.parts(None))))


def download_line(python: str, version: str, pip: str, part: Part, folder: str) -> str:
    """The command that fetches one index's part; its requirement file is the standard input.

    Where every line has its hash, nothing else is accepted. Wheels that an earlier attempt left in
    the folder are checked and kept.
    """
    arguments = [
        "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off",
        f"--python-version={version}", "--no-cache-dir",
        f"--retries={TRIES}", f"--timeout={SECONDS}", "--dest", folder,
    ]  # fmt: skip
    if all("--hash=" in line for line in part.lines):
        arguments.append("--require-hashes")
    return pip_command(python, pip, [*arguments, "--requirement", "/dev/stdin"], offline=False)


def requirement_file(part: Part) -> str:
    """What pip reads: the index and the pins."""
    url = urlsplit(part.index or "")
    # pip does not talk to an index without TLS unless told. What has no hash has been refused
    # (plain_http), or the person takes the risk.
    trusted = f"--trusted-host {url.hostname}\n" if url.scheme == "http" else ""
    return trusted + part.requirements()


def fetch(
    head: Host,
    lock: Lock,
    *,
    python: str,
    version: str,
    pip: str,
    package_index: str | None,
    say: Say,
) -> Iterator[str]:
    """Bring a stack's wheels to the head, those that are not there yet; yields folder by folder.

    Args:
        python: any interpreter on the head.
        version: of every node's Python, such as "3.12".
        pip: the packed pip on the head.
        package_index: asked instead of all that the lock names.

    Raises:
        UserError: an index does not answer or lacks a package; the message names the way out.
    """
    arrived = 0

    def progress(line: str) -> None:
        nonlocal arrived
        if line.startswith("Collecting "):
            arrived += 1
            say(f"{arrived} of {len(lock.pins)}: {line.split()[1].partition('==')[0]}")

    head.hide(urls.secrets(package_index or ""))
    folders = folders_of(head, lock, version)
    for part, folder in zip(lock.parts(package_index), folders, strict=True):
        if not head.exists(folder, "d"):
            filling = f"{folder}.fetching"
            head.run(["mkdir", "-p", filling])
            line = download_line(python, version, pip, part, filling)
            _download(head, part, line, progress, lock.stack)
            head.write(f"{filling}/{PINS}", part.pins().encode(), mode=0o644)
            head.run(script(PUT_IN_PLACE, filling, folder))
        else:
            arrived += len(part.lines)
        yield folder


def _download(
    head: Host, part: Part, line: str, progress: Callable[[str], None], stack: str
) -> None:
    finished = head.run(
        line,
        stdin=requirement_file(part).encode(),
        on_line=progress,
        check=False,
    )
    if finished.exit_code != 0:
        said = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
        lines = said or finished.stderr.strip().splitlines() or ["(it said nothing)"]
        last = "\n".join(f"    {line}" for line in lines[-3:])
        index = part.index or "the index that pip on the head is set to (PyPI)"
        raise UserError(
            f"{head.node.name}: {', '.join(part.names[:3])}{' ...' if part.names[3:] else ''}: "
            f"not available from {urls.shown(index)}:\n{last}\n{advice(part, stack)}"
        )


def advice(part: Part, stack: str) -> str:
    """What to do when an index did not give what the lock asks of it."""
    if part.index == ONECCL_INDEX:
        return (
            "Intel has archived its PyTorch extension, and this index may be gone for good. "
            "--without-oneccl goes on with gloo, --stack upstream needs nothing from it."
        )
    ways = ["--package-index URL names an index that the head reaches and that has them."]
    if "torch" in part.names:
        ways.append(
            "It must have PyTorch's own CPU build (+cpu): nodes get no other than that with the"
            f" SHA-256 in requirements/node-{stack}.txt."
        )
    if stack == CONDA:
        ways.append("--environment venv does without.")
    if stack == "intel" and ONECCL_PACKAGE in part.names:
        ways.append("--without-oneccl goes on with gloo; --stack upstream does without it too.")
    if answers(part.index or DEFAULT_INDEX):
        ways.append(
            "This machine reaches the index, so it is the head's way out that is closed: "
            "look at its NAT gateway, its firewall, or the proxy it should use (HTTPS_PROXY)."
        )
    return " ".join(ways)


def answers(url: str) -> bool:
    """Whether an index can be reached from this machine; asked once, a few seconds at most."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
        # The library takes a password for a port; without it, a server that refuses answers too.
        request = urllib.request.Request(urls.stored(url), method="HEAD")
        with urllib.request.urlopen(request, timeout=LOOK_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False
