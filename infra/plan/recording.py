"""Run the real Pulumi program without Pulumi's engine, and write down all that it asks for.

The SDK's own mocks stand in for the engine. `Mocks` sees types and inputs alone; the options
(dependencies, parents, protect, retain ...) are read from the registration requests, by a monitor
of our own that `set_mocks` is given.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import runpy
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import get_root_resource, mocks, rpc, set_all_config, set_mocks, test
from pulumi_azure_native import compute, network, resources

import infra.program.cluster  # noqa: F401  (see below)
from infra.errors import UserError
from infra.program.changes import at
from infra.rules.kinds import NAME_KEYS
from infra.rules.rules import UNKNOWN

# Loaded here, before the fork: the SDK loads each module at its first use, and that takes seconds.
LOADED = (compute.VirtualMachine, network.NetworkInterface, network.Subnet, resources.ResourceGroup)

PROGRAM = Path(__file__).resolve().parents[2] / "__main__.py"
PROJECT = "xeon-diffusion"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
PRINCIPAL = "11111111-1111-1111-1111-111111111111"
PUBLIC_ADDRESSES = "198.51.100."
"""RFC 5737: addresses for documentation."""

OUTPUTS = "xeon-diffusion:plan:Outputs"
"""A component that is made for the program's outputs alone."""

COLLECTIONS = {
    "azure-native:resources:ResourceGroup": None,
    "azure-native:network:VirtualNetwork": "Microsoft.Network/virtualNetworks",
    "azure-native:network:Subnet": "Microsoft.Network/virtualNetworks/{parent}/subnets",
    "azure-native:network:NetworkSecurityGroup": "Microsoft.Network/networkSecurityGroups",
    "azure-native:network:PublicIPAddress": "Microsoft.Network/publicIPAddresses",
    "azure-native:network:NatGateway": "Microsoft.Network/natGateways",
    "azure-native:network:NetworkInterface": "Microsoft.Network/networkInterfaces",
    "azure-native:compute:VirtualMachine": "Microsoft.Compute/virtualMachines",
    "azure-native:consumption:Budget": "Microsoft.Consumption/budgets",
    "azure-native:devtestlab:GlobalSchedule": "Microsoft.DevTestLab/schedules",
    "azure-native:compute:Disk": "Microsoft.Compute/disks",
    "azure-native:compute:ProximityPlacementGroup": "Microsoft.Compute/proximityPlacementGroups",
    "azure-native:authorization:RoleAssignment": "Microsoft.Authorization/roleAssignments",
}
"""The rest of that address."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["infra.plan.recording"])


class _Azure(mocks.Mocks):
    """Answers as Azure would: ids of ARM's shape, and addresses; in a preview, nothing."""

    def __init__(self, preview: bool, living: Mapping[str, Mapping[str, Any]]) -> None:
        self.preview = preview
        self.living = living

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        if self.preview or not args.custom:
            return "", {}
        name = args.inputs[NAME_KEYS[args.typ]]
        outputs = {**args.inputs, "name": name}
        if (path := args.inputs.get("scope")) is None:
            group = args.inputs["resourceGroupName"]
            path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"
        if (collection := COLLECTIONS[args.typ]) is not None:
            parent = args.inputs.get("virtualNetworkName", "")
            path += f"/providers/{collection.format(parent=parent)}/{name}"
        if args.typ.endswith(":PublicIPAddress"):
            outputs["ipAddress"] = PUBLIC_ADDRESSES + ("10" if "head" in args.name else "20")
        if "identity" in args.inputs:
            outputs["identity"] = {**args.inputs["identity"], "principalId": PRINCIPAL}
        # What exists has its own id, and what Azure chose for it.
        old = self.living.get(args.name, {})
        chosen = {k: part for k, part in old.get("outputs", {}).items() if k not in args.inputs}
        return old.get("id") or path, {**outputs, **chosen}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], None]:
        raise RuntimeError(f"the program asked Azure {args.token}, which a plan cannot answer")


class _Monitor(mocks.MockMonitor):
    """The SDK's mock engine, which also keeps the requests."""

    def __init__(self, azure: _Azure, living: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(azure)
        self.living = living
        self.requests: list[dict[str, Any]] = []
        self.outputs: dict[str, Any] = {}

    def RegisterResource(self, request: Any) -> Any:  # the base class's spelling
        if request.type not in ("pulumi:pulumi:Stack", OUTPUTS):
            inputs = _plain(rpc.deserialize_properties(request.object, True))
            asked: dict[str, Any] = {}
            if (old := self.living.get(request.name)) is not None:
                asked, inputs = inputs, keep(inputs, old["inputs"], request.ignoreChanges)
                changed = {key: part for key, part in inputs.items() if asked.get(key) != part}
                request.object.update(changed)
            asked_for = {
                "type": request.type,
                "name": request.name,
                "custom": request.custom,
                "inputs": inputs,
                # Of what exists: before old values took the place of ignored ones.
                "asked": asked,
                "hooks": list(request.hooks.before_update),
                "depends_on": sorted({_name(urn) for urn in request.dependencies}),
                "parent": _name(request.parent),
                "protect": request.protect,
                "retain_on_delete": request.retainOnDelete,
                "delete_before_replace": request.deleteBeforeReplace,
                "ignore_changes": list(request.ignoreChanges),
                "replace_on_changes": list(request.replaceOnChanges),
                "import_id": request.importId,
                "provider": request.provider,
            }
            self.requests.append(asked_for)
            answer = super().RegisterResource(request)  # type: ignore[no-untyped-call]
            asked_for["id"] = answer.id
            return answer
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def RegisterResourceOutputs(self, request: Any) -> Any:  # the base class's spelling
        if f"{OUTPUTS}::" in request.urn:
            self.outputs = _plain(rpc.deserialize_properties(request.outputs, True))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


def keep(new: Mapping[str, Any], old: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The new inputs with the old values at some paths, as Pulumi's engine does for ignoreChanges.

    Where there is no old value, the new one stands (engines before August 2025 refuse).
    """
    kept: dict[str, Any] = copy.deepcopy(dict(new))
    for path in paths:
        *parents, last = path.split(".")
        source, target = at(old, ".".join(parents)) if parents else old, kept
        for key in parents:
            target = target.setdefault(key, {})
        if isinstance(source, Mapping) and last in source:
            target[last] = source[last]
    return kept


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _plain(value: Any) -> Any:
    """A value as JSON has it; what only Azure can know is said to be unknown."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        # The wire has one kind of number.
        return int(value) if float(value).is_integer() else value
    return UNKNOWN


def record(
    values: Mapping[str, str],
    stack: str = "dev",
    preview: bool = False,
    living: Mapping[str, Mapping[str, Any]] | None = None,
    program: Path = PROGRAM,
) -> dict[str, Any]:
    """What the program asks for, in a process of its own, as Pulumi runs it.

    Args:
        values: the stack's config by key, without the project's name.
        stack: the stack's name.
        preview: answer nothing, as `pulumi preview` does before anything exists.
        living: the resources that exist, by logical name: `inputs`, and where it is known `id` and
            `outputs`. What the program ignores changes of keeps its value.
        program: whose requests; this repository's.

    Returns:
        `requests` in the order of their arrival, and `outputs`.

    Raises:
        UserError: the program refused the config.
    """
    here, there = _CONTEXT.Pipe()
    words = (there, dict(os.environ), dict(values), stack, preview, dict(living or {}), program)
    process = _CONTEXT.Process(target=_child, args=words)
    process.start()
    there.close()
    try:
        refusal, recorded = here.recv()
    except EOFError:
        raise RuntimeError("the Pulumi program ended without a word") from None
    finally:
        process.join()
    if refusal is not None:
        raise UserError(refusal)
    result: dict[str, Any] = recorded
    return result


def _child(
    there: Connection,
    environment: Mapping[str, str],
    values: Mapping[str, str],
    stack: str,
    preview: bool,
    living: Mapping[str, Mapping[str, Any]],
    program: Path,
) -> None:
    # The server that this is forked from has that of its first caller, ~ included.
    os.environ.clear()
    os.environ.update(environment)
    # What the program does wrong reaches the person once, as the refusal.
    logging.disable()
    azure = _Azure(preview, living)
    monitor = _Monitor(azure, living)
    set_all_config({f"{PROJECT}:{key}": value for key, value in values.items()})
    set_mocks(azure, project=PROJECT, stack=stack, preview=preview, monitor=monitor)

    @test  # type: ignore[untyped-decorator]
    def run() -> None:
        runpy.run_path(str(program), run_name="__main__")
        # The stack of the mocks has told its outputs before there were any.
        exported = vars(get_root_resource())["outputs"]
        pulumi.ComponentResource(OUTPUTS, "outputs").register_outputs(exported)

    try:
        run()
    except pulumi.RunError as error:
        there.send((str(error), None))
    else:
        there.send((None, {"requests": monitor.requests, "outputs": monitor.outputs}))
