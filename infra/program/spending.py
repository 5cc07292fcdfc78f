"""What keeps the bill down: an alert on the month's cost, and VMs that are deallocated at night."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import pulumi
from pulumi_azure_native import compute, consumption, devtestlab

from infra.config.config import ClusterConfig
from infra.program.place import Place
from infra.rules.kinds import BUDGET, SCHEDULE

SHARES = {"most": 80.0, "all": 100.0}
"""Per cent of the budget at which Azure writes a mail."""


def budget(
    config: ClusterConfig, place: Place, group_id: pulumi.Output[str], parent: pulumi.Resource
) -> consumption.Budget:
    """An alert on what the resource group costs a month. It stops nothing."""
    # The first of the month in which it is made, as Azure wants it; later months keep it.
    start = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-01T00:00:00Z")
    return consumption.Budget(
        place.logical("budget"),
        budget_name=place.names.budget(),
        scope=group_id,
        amount=config.monthly_budget,
        category="Cost",
        time_grain="Monthly",
        time_period=consumption.BudgetTimePeriodArgs(start_date=start),
        notifications={
            name: consumption.NotificationArgs(
                enabled=True,
                operator="GreaterThanOrEqualTo",
                threshold=share,
                contact_emails=[config.budget_email],
            )
            for name, share in SHARES.items()
        },
        opts=place.settled.options(BUDGET, parent),
    )


def nightly(
    config: ClusterConfig,
    place: Place,
    machines: Sequence[compute.VirtualMachine],
    parent: pulumi.Resource,
) -> None:
    """Deallocate each VM at one time of the day (UTC), whatever runs on it."""
    for index, machine in enumerate(machines):
        devtestlab.GlobalSchedule(
            place.logical(f"nightly-{index}"),
            # Azure takes this name alone for a VM's schedule.
            name=machine.name.apply(lambda name: f"shutdown-computevm-{name}"),
            resource_group_name=place.group,
            location=place.location,
            status="Enabled",
            task_type="ComputeVmShutdownTask",
            daily_recurrence=devtestlab.DayDetailsArgs(time=config.deallocate_at),
            time_zone_id="UTC",
            target_resource_id=machine.id,
            tags=place.tags,
            opts=place.settled.options(SCHEDULE, parent),
        )
