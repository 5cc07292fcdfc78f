"""Talking to Azure Resource Manager: who asks, which clients, and what its errors mean."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy, UserAgentPolicy
from azure.core.rest import HttpRequest
from azure.identity import DefaultAzureCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.core import ARMPipelineClient
from azure.mgmt.resource import ResourceManagementClient
from azure.mgmt.resource.subscriptions import SubscriptionClient

from infra.errors import UserError

ENDPOINT = "https://management.azure.com"
SUBSCRIPTION_VARIABLES = ("ARM_SUBSCRIPTION_ID", "AZURE_SUBSCRIPTION_ID")
"""Pulumi's provider reads the first; Azure's own tools the second."""
NO_ROOM = (
    "AllocationFailed",
    "OverconstrainedAllocationRequest",
    "OverconstrainedZonalAllocationRequest",
    "SkuNotAvailable",
)
"""Error codes of compute: capacity, not quota."""
ROOM_FIX = (
    "Wait and run this again, or give Azure more choice: pulumi config set"
    " proximity_placement_group false (a placement group binds all VMs to one place), or another"
    " vm_size or zone; fab preflight says where the size is to be had"
)
ROOM_FOR_EXISTING = (
    "A paused cluster keeps its disks and its placement group, not its cores. VMs that exist change"
    " all this by being replaced, and lose their OS disks (not a data disk): pulumi config set"
    " replace_nodes true, then pulumi up. Another vm_size of the same version and kind replaces"
    " none"
)
PERMISSIONS_API = "2022-04-01"
TRANSPORT = {"connection_timeout": 10, "read_timeout": 60, "retry_total": 4}
"""Seconds, and how often a 429 (after its Retry-After), a 5xx or a lost connection is repeated."""


@dataclass(frozen=True)
class Azure:
    """One subscription, seen through one credential.

    Attributes:
        credential: of azure-identity; it finds `az login`, environment variables and more.
        subscription_id: who pays.
        endpoint: where ARM is, for sovereign clouds and tests.
        options: what every client is given, such as timeouts in seconds.
    """

    credential: Any
    subscription_id: str
    endpoint: str = ENDPOINT
    options: Mapping[str, Any] = field(default_factory=lambda: dict(TRANSPORT))

    @property
    def scope(self) -> str:
        """What a token is asked for."""
        return f"{self.endpoint}/.default"

    def _client(self, kind: Any, *arguments: Any) -> Any:
        return kind(
            self.credential,
            *arguments,
            base_url=self.endpoint,
            credential_scopes=[self.scope],
            **self.options,
        )

    def compute(self) -> Any:
        """azure-mgmt-compute's client."""
        return self._client(ComputeManagementClient, self.subscription_id)

    def resources(self) -> Any:
        """azure-mgmt-resource's client."""
        return self._client(ResourceManagementClient, self.subscription_id)

    def subscriptions(self) -> Any:
        """The client that lists subscriptions."""
        return self._client(SubscriptionClient)

    def permissions(self, group: str = "") -> list[dict[str, Any]]:
        """What this credential may do, as sets of actions and notActions.

        Args:
            group: in this resource group; empty: in the whole subscription.
        """
        policies = [
            UserAgentPolicy("xeon-diffusion"),
            RetryPolicy(retry_total=self.options.get("retry_total", 4)),
            BearerTokenCredentialPolicy(self.credential, self.scope),
        ]
        request = HttpRequest(
            "GET",
            f"{self.endpoint}/subscriptions/{self.subscription_id}"
            + (f"/resourceGroups/{group}" if group else "")
            + "/providers/Microsoft.Authorization/permissions",
            params={"api-version": PERMISSIONS_API},
        )
        with ARMPipelineClient(self.endpoint, policies=policies, **self.options) as client:
            answer = client.send_request(request)
            answer.raise_for_status()
            found: list[dict[str, Any]] = answer.json()["value"]
        return found


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn whatever Azure's SDK raises into one message with the fix.

    Raises:
        UserError: instead of any error of azure-core.
    """
    try:
        yield
    except (AzureError, ValueError, KeyError) as error:
        raise UserError(f"{what}: {meaning(error)}") from error


def meaning(error: Exception) -> str:
    """An error of azure-core as one line: what happened and what to do."""
    if isinstance(error, ClientAuthenticationError):
        return "Azure does not accept this sign-in. Run: az login"
    if isinstance(error, DecodeError | json.JSONDecodeError | KeyError):
        return "Azure's answer was incomplete or not in the expected form. Run this again"
    if isinstance(error, HttpResponseError):
        text = (error.message or "").splitlines()[0] if error.message else ""
        fixes = {
            403: "this account lacks the right. Ask for the role Contributor on the subscription",
            404: f"it does not exist ({text})",
            409: f"another operation on it is running ({text}). Wait, then run this again",
            429: "Azure limits the rate of requests. Wait a few minutes, then run this again",
        }
        if any(code in str(error) for code in NO_ROOM):
            return f"Azure has no capacity for this size there now ({text}). {ROOM_FIX}"
        status = error.status_code or 0
        if status >= 500:
            return f"Azure failed ({status}) several times. Run this again, or see status.azure.com"
        return fixes.get(status, f"Azure refused ({status}): {text}")
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return "Azure cannot be reached or did not answer in time. Check the network"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def sign_in(named: str | None = None, endpoint: str = ENDPOINT) -> Azure:
    """The subscription that Pulumi's provider would use, in its order.

    That which the stack's config names (`azure-native:subscriptionId`), then the environment's,
    then that of `az login`; where the latter cannot be asked, the person's only one.

    Raises:
        UserError: not signed in, or there are several subscriptions and none is named.
    """
    credential = DefaultAzureCredential()
    for choice in (named, *map(os.environ.get, SUBSCRIPTION_VARIABLES), default_of_az()):
        if choice:
            return Azure(credential, choice, endpoint)
    return Azure(credential, only_subscription(Azure(credential, "", endpoint)), endpoint)


def default_of_az() -> str | None:
    """The subscription that `az account set` chose; None without the Azure CLI."""
    if shutil.which("az") is None:
        return None
    command = ["az", "account", "show", "--query", "id", "--output", "tsv"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return finished.stdout.strip() or None


def only_subscription(azure: Azure) -> str:
    """The id of the one subscription that this credential sees; UserError where there are more."""
    with asking("looking for your subscription"):
        found = [
            one for one in azure.subscriptions().subscriptions.list() if one.state == "Enabled"
        ]
    if len(found) == 1:
        return str(found[0].subscription_id)
    names = "".join(f"\n  {one.subscription_id}  {one.display_name}" for one in found)
    raise UserError(
        f"This sign-in has {len(found)} enabled subscriptions; name the one that pays:"
        f" export {SUBSCRIPTION_VARIABLES[0]}=ID{names}"
    )


def pulumi_json(*words: str) -> Any:
    """What `pulumi WORDS --json` prints.

    Raises:
        UserError: Pulumi is not installed, or says no.
    """
    if shutil.which("pulumi") is None:
        raise UserError("pulumi is not on the PATH: https://www.pulumi.com/docs/install")
    command = ["pulumi", *words, "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{finished.stderr.strip()}")
    try:
        return json.loads(finished.stdout)
    except json.JSONDecodeError:
        raise UserError(f"{' '.join(command)} did not print JSON.") from None
