"""Nodes that share one home folder (a file server's): noticed, so that it is set up once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from bootstrap.setup.step_runner import Say, SharedHomes, Step
from bootstrap.ssh.host import Host


def steps(hosts: Sequence[Host], homes: SharedHomes) -> list[Step]:
    """Each node leaves a mark, then looks whose marks it sees; fills `homes`."""
    mark = secrets.token_hex(8)
    order = {host.name: index for index, host in enumerate(hosts)}

    def leave(host: Host, say: Say) -> None:
        del say
        host.write(_file(host, host), mark.encode(), 0o644)

    def look(host: Host, say: Say) -> None:
        seen = host.run(["grep", "-l", "-r", "-x", "-F", "--", mark, host.layout.homes]).stdout
        paths = set(seen.splitlines())
        first = min(
            (other for other in hosts if _file(host, other) in paths), key=lambda h: order[h.name]
        )
        if first.name != host.name:
            homes[host.name] = first.name
            say(f"its home folder is {first.name}'s")

    return [Step("home folder", leave), Step("shared home", look, after_all=True)]


def _file(host: Host, other: Host) -> str:
    return f"{host.layout.homes}/{other.name.replace(':', '-')}"
