"""The arguments of the component: the keys of the stack's config, as other programs give them."""

# As in cluster.py: no annotations from the future, Pulumi reads the types.
from typing import NotRequired, TypedDict


class ClusterArgs(TypedDict):
    """Keys and defaults are those of Pulumi.yaml; `infra.config` holds them to their rules."""

    name: NotRequired[str]
    """Part of the name of every Azure resource (rg-NAME, vm-NAME-0); empty: the project's
    and the stack's name. Existing resources keep their names."""
    location: NotRequired[str]
    """Azure region, as 'az account list-locations' names it."""
    existing_resource_group: NotRequired[str]
    """Name of a resource group of yours that everything goes into, in the same region;
    empty: the cluster has one of its own, which pulumi destroy deletes. Chosen when a
    cluster is made."""
    node_count: NotRequired[int]
    """Number of VMs; the first one is the head."""
    vm_size: NotRequired[str]
    """VM size: Dv5, Dsv5, Ddv5, Ddsv5, Dsv6 or Ddsv6, 4 vCPUs or more."""
    zone: NotRequired[str]
    """Availability zone of all VMs; empty: Azure chooses."""
    admin_username: NotRequired[str]
    """Name of the account on every node."""
    image: NotRequired[str]
    """Gen2 x64 image as publisher:offer:sku:version, the version pinned."""
    os_disk_size_gb: NotRequired[int]
    """Size of each node's OS disk in GB."""
    os_disk_type: NotRequired[str]
    """Type of the OS disks; Premium_LRS needs a VM size with an s (Dsv5)."""
    data_disk_size_gb: NotRequired[int]
    """Size in GB of a data disk, mounted at /data on the head, that outlives the nodes; 0:
    no disk. Protected: Pulumi does not delete it."""
    data_disk_type: NotRequired[str]
    """Type of the data disk; Premium_LRS needs a VM size with an s."""
    vnet_cidr: NotRequired[list[str]]
    """Address range of the virtual network; to extend it, append ',' and another range."""
    subnet_cidr: NotRequired[list[str]]
    """Address range of the nodes' subnet, inside vnet_cidr; Azure reserves five addresses
    of each range. To extend it, append ',' and another range."""
    existing_subnet_id: NotRequired[str]
    """ARM ID of a subnet in your own network, with outbound internet access; empty: a
    network is created. subnet_cidr is then the cluster's part of the subnet, vnet_cidr the
    range of your network."""
    public_address: NotRequired[bool]
    """Whether the head has a public address; without one, connect through a VPN, a jump
    host or Azure Bastion."""
    allow_ssh_from_anywhere: NotRequired[bool]
    """Must be true for an allowed_ssh_cidr wider than a /8."""
    allowed_ssh_cidr: list[str]
    """The only address range that can connect to the head by SSH: your own public address,
    such as x.x.x.x/32; separate several with ','."""
    ssh_public_key: NotRequired[str]
    """Public key (ed25519 or RSA) installed on every node: the line in its .pub file."""
    ssh_public_key_path: NotRequired[str]
    """File of the public key, read when ssh_public_key is empty."""
    ssh_private_key_path: NotRequired[str]
    """Private key that fab uses: a path, 'agent' (agent or hardware key), or 'auto': fab
    looks in ~/.ssh for the key that belongs to the public key. Only the path is stored,
    never the key."""
    proximity_placement_group: NotRequired[bool]
    """Ask Azure to place the VMs close together: less latency between ranks."""
    spot: NotRequired[bool]
    """Spot VMs: cheaper, but Azure can evict them at any time."""
    spot_max_price: NotRequired[float]
    """Highest spot price in USD per VM per hour; -1: up to the pay-as-you-go price."""
    spot_eviction_policy: NotRequired[str]
    """What happens to an evicted spot VM; Deallocate keeps its disk."""
    tags: NotRequired[dict[str, str]]
    """Tags of every resource that supports tags, as name=value,name=value."""
    head_may_deallocate: NotRequired[bool]
    """Give the head a managed identity that may start and deallocate this cluster's VMs,
    for fab train --then-pause. Creating it needs the role Owner or User Access
    Administrator."""
    idle_minutes: NotRequired[int]
    """Minutes without a training, a drawing or a command of fab after which the head
    deallocates every VM; 0: never. Needs head_may_deallocate; fab bootstrap starts the
    watch, and fab stay-awake holds it off."""
    deallocate_at: NotRequired[str]
    """Time of day (UTC, HHMM) at which every VM is deallocated, whatever runs on it; empty:
    never."""
    monthly_budget: NotRequired[int]
    """Monthly budget in the account's currency; Azure sends a mail when costs approach it;
    0: no budget."""
    budget_email: NotRequired[str]
    """Address that Azure mails when costs reach 80 and 100 percent of monthly_budget."""
    replace_nodes: NotRequired[bool]
    """Replace VMs and their disks where Azure cannot change an existing VM."""
