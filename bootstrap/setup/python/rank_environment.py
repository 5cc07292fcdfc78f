"""The variables that a rank, mpirun and a person's shell on a node need: one place for them all."""

from __future__ import annotations

from collections.abc import Sequence

from bootstrap.paths import Layout

MASTER_PORT = 29500
"""Where the ranks meet on the head, as torch.distributed's own default has it."""
CCL_WORKERS = 1
"""oneCCL's threads per rank that carry messages; a core is kept for each."""


def cluster_environment(
    root: str,
    *,
    master_address: str,
    interface: str | None,
    preload: Sequence[str] = (),
    own_libraries: bool = False,
) -> dict[str, str]:
    """What to export on a node before mpirun, accelerate or training starts.

    PATH is not in it: it is the caller's, with `<root>/env/bin` put in front.

    Args:
        root: the folder that bootstrap filled, the same on every node.
        master_address: the head's private address.
        interface: this node's interface on the route to the head; None leaves the choice to
            the libraries.
        preload: the libraries that bootstrap found for LD_PRELOAD (libiomp5, tcmalloc).
        own_libraries: whether the environment's lib folder holds an OpenSSL and a libstdc++ of its
            own, as conda's does, which the system's ssh must not meet.
    """
    layout = Layout(root)
    variables = {
        "HF_HOME": layout.hf,
        # What matplotlib and others keep for the next time goes when all else of ours goes.
        "MPLCONFIGDIR": f"{root}/cache/matplotlib",
        "XDG_CACHE_HOME": f"{root}/cache",
        "MASTER_ADDR": master_address,
        "MASTER_PORT": str(MASTER_PORT),
        "I_MPI_ROOT": layout.env,
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": layout.ssh,
        # Else what is started on mpirun's own machine inherits the port, open to everybody, that
        # mpirun listens on until all have come.
        "I_MPI_HYDRA_BOOTSTRAP_AUTOFORK": "0",
        # Without it Intel MPI takes the first provider that loads, RDMA ones included.
        "FI_PROVIDER": "tcp",
        "CCL_ATL_TRANSPORT": "ofi",
        "CCL_WORKER_COUNT": str(CCL_WORKERS),
    }
    if not own_libraries:
        # Intel MPI's library and its libfabric, for what calls MPI itself (oneCCL does).
        variables["LD_LIBRARY_PATH"] = f"{layout.env}/lib"
    if interface is not None:
        variables["I_MPI_HYDRA_IFACE"] = interface
        variables["FI_TCP_IFACE"] = interface
        variables["GLOO_SOCKET_IFNAME"] = interface
    if preload:
        variables["LD_PRELOAD"] = ":".join(preload)
    return variables
