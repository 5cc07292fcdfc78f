"""Each node's accelerate config, so that a plain `accelerate launch` works in mpirun's ranks.

No mpirun section: with one, accelerate would start mpirun in every rank of the mpirun that started
it. Without, each rank's `accelerate launch` starts the one process of its rank.
"""

from __future__ import annotations

from bootstrap.setup.python.rank_environment import MASTER_PORT


def accelerate_config(
    *, machine_rank: int, num_machines: int, main_process_ip: str, mixed_precision: str
) -> str:
    """The file's text, as `accelerate config` would write it: a process each; mpirun's -n counts.

    Args:
        machine_rank: this node's; the head's is 0.
        num_machines: all nodes.
        main_process_ip: the head's private address.
        mixed_precision: "bf16" where every node has it in hardware, else "no".
    """
    return (
        "compute_environment: LOCAL_MACHINE\n"
        "debug: false\n"
        "distributed_type: MULTI_CPU\n"
        "downcast_bf16: 'no'\n"
        "enable_cpu_affinity: false\n"
        f"machine_rank: {machine_rank}\n"
        f"main_process_ip: {main_process_ip}\n"
        f"main_process_port: {MASTER_PORT}\n"
        "main_training_function: main\n"
        f"mixed_precision: '{mixed_precision}'\n"
        f"num_machines: {num_machines}\n"
        f"num_processes: {num_machines}\n"
        "rdzv_backend: static\n"
        "same_network: true\n"
        "use_cpu: true\n"
    )
