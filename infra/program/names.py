"""Azure names of everything in a stack, after Azure's naming convention and inside its limits.

Abbreviations: https://learn.microsoft.com/azure/cloud-adoption-framework/ready/
azure-best-practices/resource-abbreviations. Limits: https://learn.microsoft.com/azure/
azure-resource-manager/management/resource-name-rules.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from infra.config.values import LONGEST_NAME as LONGEST_STEM


@dataclass(frozen=True)
class Names:
    """The names in one stack: stable from run to run, distinct for distinct stacks."""

    stem: str

    @classmethod
    def of(cls, project: str, stack: str) -> Names:
        """Names for any project and stack: what Azure does not take becomes a digest."""
        wanted = f"{project}-{stack}"
        plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
        if plain == wanted and len(plain) <= LONGEST_STEM:
            return cls(plain)
        # The separator keeps ("a-b", "c") apart from ("a", "b-c").
        digest = hashlib.sha256(f"{project}\0{stack}".encode()).hexdigest()[:8]
        return cls(f"{plain[: LONGEST_STEM - 9].rstrip('-') or 'stack'}-{digest}")

    @classmethod
    def chosen(cls, name: str, project: str, stack: str) -> Names:
        """Names that bear `name`, or, where it is empty, those of the project and the stack."""
        return cls(name) if name else cls.of(project, stack)

    def resource_group(self) -> str:
        """At most 90 characters."""
        return f"rg-{self.stem}"

    def virtual_network(self) -> str:
        """At most 64 characters."""
        return f"vnet-{self.stem}"

    def subnet(self) -> str:
        """At most 80 characters."""
        return f"snet-{self.stem}"

    def network_security_group(self) -> str:
        """At most 80 characters."""
        return f"nsg-{self.stem}"

    def nat_gateway(self) -> str:
        """At most 80 characters."""
        return f"ng-{self.stem}"

    def public_ip(self, purpose: str) -> str:
        """At most 80 characters; `purpose` is head or nat."""
        return f"pip-{self.stem}-{purpose}"

    def proximity_placement_group(self, zone: str) -> str:
        """At most 80 characters. VMs that move to another zone need another group meanwhile."""
        return f"ppg-{self.stem}" + (f"-zone{zone}" if zone else "")

    def network_interface(self, index: int) -> str:
        """At most 80 characters."""
        return f"nic-{self.stem}-{index}"

    def virtual_machine(self, index: int) -> str:
        """At most 64 characters: this is the node's host name too."""
        return f"vm-{self.stem}-{index}"

    def budget(self) -> str:
        """At most 63 characters."""
        return f"budget-{self.stem}"

    def data_disk(self) -> str:
        """At most 80 characters."""
        return f"disk-{self.stem}-data"

    def os_disk(self, index: int) -> str:
        """At most 80 characters."""
        return f"osdisk-{self.stem}-{index}"
