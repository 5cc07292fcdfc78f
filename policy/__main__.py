"""The rules that `make plan` keeps to, for `pulumi up --policy-pack policy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from infra.rules.policies import Stack, plain
from infra.rules.rules import UNKNOWN

stack = Stack()


def look(values: Any, key: Any) -> Any:
    """A value, or what stands for one that only Azure can know."""
    try:
        return values[key]
    except UnknownValueError:
        return UNKNOWN


def take(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Keep each resource's inputs; a stack policy is given outputs."""
    options = args.opts
    stack.add(
        args.urn,
        args.resource_type,
        plain(args.props, look),
        options.protect,
        options.delete_before_replace,
    )


def judge(args: StackValidationArgs, report: ReportViolation) -> None:
    """Hold all of them to the rules."""
    dependencies = {one.urn: [other.urn for other in one.dependencies] for one in args.resources}
    for text in stack.violations(dependencies):
        report(text)


PolicyPack(
    name="xeon-diffusion",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[
        ResourceValidationPolicy("inputs", "Reads each resource's inputs.", take),
        StackValidationPolicy("rules", "A closed cluster, and nothing left behind.", judge),
    ],
)
