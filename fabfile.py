"""The task list: `fab --list`. Each task is one call."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from fabric import Connection, task

from bootstrap import bootstrap as set_up
from bootstrap import clean as cleaning
from bootstrap import forget_host as forgetting
from infra import power
from infra import preflight as checks


@task  # type: ignore[untyped-decorator]
def preflight(connection: Connection) -> None:
    """Check everything that would stop `pulumi up`, before money is spent."""
    sys.exit(checks.main([]))


@task  # type: ignore[untyped-decorator]
def pause(connection: Connection, inventory: str = "") -> None:
    """Deallocate the VMs: their disks stay, the bill for cores stops."""
    sys.exit(power.main(["pause", *_from(inventory)]))


@task  # type: ignore[untyped-decorator]
def resume(connection: Connection, inventory: str = "") -> None:
    """Start the VMs again and wait until they answer."""
    sys.exit(power.main(["resume", *_from(inventory)]))


@task(  # type: ignore[untyped-decorator]
    auto_shortflags=False,
    help={
        "inventory": "cluster.json, a nodefile (user@host:port a line), or local",
        "stack": "intel (default) or upstream",
        "environment": "auto (default), conda or venv",
        "package_index": "URL, in place of PyPI, PyTorch's and Intel's",
        "pretrained_model_name_or_path": "a repository on the hub or a folder here",
        "revision": "of that repository",
        "train_data_dir": "a folder of pictures here, or a repository on the hub",
        "hub_token_file": "a token for gated models; - reads standard input",
        "wait": "seconds that a node may take to answer",
        "accept_host_keys": "pin new host keys without asking",
    },
)
def bootstrap(
    connection: Connection,
    inventory: str = "",
    stack: str = "",
    environment: str = "",
    package_index: str = "",
    pretrained_model_name_or_path: str = "",
    revision: str = "",
    train_data_dir: str = "",
    hub_token_file: str = "",
    wait: str = "",
    accept_host_keys: bool = False,
) -> None:
    """Set up every node, from bare machines to ones that train; can be repeated at any time."""
    flags = {name: value for name, value in locals().items() if name != "connection"}
    sys.exit(set_up.main(_flags(flags)))


@task(auto_shortflags=False, help={"inventory": "as in bootstrap", "yes": "do not ask"})  # type: ignore[untyped-decorator]
def clean(
    connection: Connection, inventory: str = "", yes: bool = False, accept_host_keys: bool = False
) -> None:
    """Remove from the nodes what bootstrap and train have put there, results included."""
    flags = {"inventory": inventory, "yes": yes, "accept_host_keys": accept_host_keys}
    sys.exit(cleaning.main(_flags(flags)))


@task(help={"node": "its name", "cluster": "only there"})  # type: ignore[untyped-decorator]
def forget_host(connection: Connection, node: str, cluster: str = "") -> None:
    """Forget a replaced node's host key; the next command shows the new one and asks."""
    sys.exit(forgetting.main(_flags({"node": node, "cluster": cluster})))


def _flags(values: Mapping[str, object]) -> list[str]:
    """A command line of those that were given, in the dashed form."""
    words = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value:
            words += [flag, str(value)]
    return words


def _from(inventory: str) -> list[str]:
    return ["--inventory", str(Path(inventory))] if inventory else []
