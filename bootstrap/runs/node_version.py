"""A node that was set up by another version of this checkout, whose modules have other names."""

from __future__ import annotations

import re

from bootstrap.errors import UserError
from bootstrap.ssh.host import Host

NO_SUCH_MODULE = re.compile(r"No module named '?bootstrap\.")


def check_version(host: Host, said: str) -> None:
    """Explain a module of this checkout that a node does not have.

    Args:
        said: what Python printed on standard error when it failed.

    Raises:
        UserError: the node has `bootstrap`, and not the module in it that was asked for.
    """
    if NO_SUCH_MODULE.search(said):
        raise UserError(
            f"{host.name} was set up by another version of this checkout, and does not understand "
            "this one. fab bootstrap brings this version to the nodes, and results stay; while a "
            "run is going on there, use the version that started it (git log, git checkout)."
        )
