"""The task list: `fab --list`. Each task is one call."""

from __future__ import annotations

import sys
from pathlib import Path

from fabric import Connection, task

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


def _from(inventory: str) -> list[str]:
    return ["--inventory", str(Path(inventory))] if inventory else []
