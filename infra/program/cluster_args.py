"""The arguments of the component: the keys of the stack's config, as other programs give them."""

# As in cluster.py: no annotations from the future, Pulumi reads the types.
from typing import NotRequired, TypedDict


class ClusterArgs(TypedDict):
    """Keys and defaults are those of Pulumi.yaml; `infra.config` holds them to their rules."""

    name: NotRequired[str]
    """Name that everything in Azure bears (rg-NAME, vm-NAME-0); empty takes the project's and
    the stack's. What exists keeps its name."""
    location: NotRequired[str]
    """Azure region, as 'az account list-locations' names it."""
    node_count: NotRequired[int]
    """Number of VMs; the first one is the head."""
    vm_size: NotRequired[str]
    """VM size: Dv5, Dsv5, Ddv5, Ddsv5, Dsv6 or Ddsv6, 4 vCPUs or more."""
    zone: NotRequired[str]
    """Availability zone of all VMs; empty leaves the choice to Azure."""
    admin_username: NotRequired[str]
    """Name of the account on every node."""
    image: NotRequired[str]
    """Gen2 x64 image as publisher:offer:sku:version, the version pinned."""
    os_disk_size_gb: NotRequired[int]
    """Size of each node's OS disk in GB."""
    os_disk_type: NotRequired[str]
    """Kind of OS disk; Premium_LRS needs a size with an s (Dsv5)."""
    data_disk_size_gb: NotRequired[int]
    """Size in GB of a disk at the head's /data that outlives the nodes; 0: none. Protected:
    Pulumi does not delete it."""
    data_disk_type: NotRequired[str]
    """Kind of the data disk; Premium_LRS needs a size with an s."""
    vnet_cidr: NotRequired[list[str]]
    """Address range of the virtual network; it grows by ',' and another range."""
    subnet_cidr: NotRequired[list[str]]
    """Range of the nodes' subnet, inside vnet_cidr; Azure keeps five addresses of each. It
    grows by ',' and another range."""
    existing_subnet_id: NotRequired[str]
    """A subnet of your own network, as ARM names it, with a way out; empty makes a network.
    subnet_cidr is then the cluster's part of it and vnet_cidr your network's range."""
    public_address: NotRequired[bool]
    """Whether the head has one; without, reach it by a VPN, a jump host or Azure Bastion."""
    allow_ssh_from_anywhere: NotRequired[bool]
    """Must be true for an allowed_ssh_cidr wider than a /8."""
    allowed_ssh_cidr: list[str]
    """The only range that may SSH to the head: your own public address, such as x.x.x.x/32;
    several with ',' between them."""
    ssh_public_key: NotRequired[str]
    """Public key (ed25519 or RSA) that is put on every node, as its file's one line."""
    ssh_public_key_path: NotRequired[str]
    """The file of that key, where ssh_public_key is empty."""
    ssh_private_key_path: NotRequired[str]
    """Private key that fab uses: a path, 'agent' (agent or hardware key), or 'auto': fab looks
    in ~/.ssh for the public key's other half. Only the path is kept, never the key."""
    proximity_placement_group: NotRequired[bool]
    """Ask Azure to place the VMs close together: less latency between ranks."""
    spot: NotRequired[bool]
    """Spot VMs: cheaper, and Azure may take them back at any time."""
    spot_max_price: NotRequired[float]
    """Highest spot price in USD per VM and hour; -1 pays up to the ordinary price."""
    spot_eviction_policy: NotRequired[str]
    """What happens to an evicted spot VM; Deallocate keeps its disk."""
    tags: NotRequired[dict[str, str]]
    """Tags on everything that can have them, as name=value,name=value."""
    head_may_deallocate: NotRequired[bool]
    """Give the head a managed identity that may start and stop this cluster's VMs, for fab
    train --then-pause. Making it needs the role Owner or User Access Administrator."""
    deallocate_at: NotRequired[str]
    """Time of the day (UTC, HHMM) at which every VM is deallocated, whatever runs on it; empty:
    never."""
    monthly_budget: NotRequired[int]
    """Amount a month, in the account's currency, that Azure writes a mail about; 0: none."""
    budget_email: NotRequired[str]
    """Where that mail goes, at 80 and at 100 per cent."""
    replace_nodes: NotRequired[bool]
    """Let changes that Azure cannot make on a VM replace the VMs and their disks."""
