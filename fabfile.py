"""The task list: `fab --list`. Each task is one call."""

from __future__ import annotations

import sys
from pathlib import Path

from fabric import task
from invoke import Context

from infra import power
from infra import preflight as checks


@task
def preflight(context: Context) -> None:
    """Check everything that would stop `pulumi up`, before money is spent."""
    sys.exit(checks.main([]))


@task
def pause(context: Context, inventory: str = "") -> None:
    """Deallocate the VMs: their disks stay, the bill for cores stops."""
    sys.exit(power.main(["pause", *_from(inventory)]))


@task
def resume(context: Context, inventory: str = "") -> None:
    """Start the VMs again and wait until they answer."""
    sys.exit(power.main(["resume", *_from(inventory)]))


def _from(inventory: str) -> list[str]:
    return ["--inventory", str(Path(inventory))] if inventory else []
