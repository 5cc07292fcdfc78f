"""The task list: `fab --list`. Each task is one call."""

from __future__ import annotations

import sys

from fabric import Connection, task


@task  # type: ignore[untyped-decorator]
def preflight(connection: Connection) -> None:
    """Check everything that would stop `pulumi up`, before money is spent."""
    from infra import preflight as checks

    sys.exit(checks.main([]))


@task  # type: ignore[untyped-decorator]
def pause(connection: Connection, inventory: str = "") -> None:
    """Deallocate the VMs: their disks stay, the bill for cores stops."""
    from infra import power

    sys.exit(power.main(["pause", *_from(inventory)]))


@task  # type: ignore[untyped-decorator]
def resume(connection: Connection, inventory: str = "") -> None:
    """Start the VMs again and wait until they answer."""
    from infra import power

    sys.exit(power.main(["resume", *_from(inventory)]))


def _from(inventory: str) -> list[str]:
    return ["--inventory", inventory] if inventory else []
