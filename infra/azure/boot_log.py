"""What the VMs' serial consoles said of their SSH host keys: known before the first connection.

cloud-init prints the fingerprints of a new VM's keys to the console, and Azure keeps the console's
log (boot diagnostics). It reaches us over TLS from Azure itself, not through the network that the
first SSH connection crosses.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from azure.identity import DefaultAzureCredential

from infra.azure.arm import Azure, asking
from infra.azure.power import inventory_of
from infra.errors import UserError
from infra.inventory import Inventory

AT_ONCE = 8
DOWNLOAD_SECONDS = 20
LONGEST_LOG = 8 << 20
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_BEGIN = "-----BEGIN SSH HOST KEY FINGERPRINTS-----"
_END = "-----END SSH HOST KEY FINGERPRINTS-----"
Download = Callable[[str], bytes]


def fingerprints_in(log: str) -> frozenset[str]:
    """The fingerprints of the last boot that printed any; empty where none did.

    A console's lines carry prefixes of their own, so only the marks and the digests are looked at.
    """
    last = log.rpartition(_BEGIN)[2] if _BEGIN in log else ""
    return frozenset(_FINGERPRINT.findall(last.partition(_END)[0]))


def download(address: str) -> bytes:
    """The log behind the address that Azure signed for it."""
    with urllib.request.urlopen(address, timeout=DOWNLOAD_SECONDS) as answer:
        content: bytes = answer.read(LONGEST_LOG)
    return content


def fingerprints(
    azure: Azure, inventory: Inventory, download: Download = download
) -> Mapping[str, frozenset[str]]:
    """The host keys' fingerprints (SHA256:...) of each node whose log can be read, by name.

    A node that is not in the answer can still be compared by hand. Its log may not be written yet,
    this account may not be allowed to read it, or Azure did not answer.
    """
    machines = azure.compute().virtual_machines

    def of(name: str) -> frozenset[str]:
        try:
            with asking(name):
                data = machines.retrieve_boot_diagnostics_data(inventory.resource_group, name)
            log = download(data.serial_console_log_blob_uri)
            return fingerprints_in(log.decode("utf-8", "replace"))
        except (UserError, OSError, TypeError, ValueError):
            return frozenset()

    names = [node.name for node in inventory.nodes]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = dict(zip(names, threads.map(of, names), strict=True))
    return {name: prints for name, prints in found.items() if prints}


def of_stack(names: Sequence[str]) -> Mapping[str, Collection[str]]:
    """The fingerprints of the selected stack's nodes among `names`; of no other machines."""
    try:
        inventory = inventory_of(None)
    except UserError:
        return {}
    wanted = tuple(node for node in inventory.nodes if node.name in names)
    if not wanted:
        return {}
    azure = Azure(DefaultAzureCredential(), inventory.subscription_id)
    return fingerprints(azure, inventory.model_copy(update={"nodes": wanted}))
