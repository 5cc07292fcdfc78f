"""What `fab check` asks of what lies between nodes: SSH, mpirun, a timed all-reduce."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bootstrap.commands.checks.nodes import ACTIVATED, BOOTSTRAP
from bootstrap.commands.checks.report import CheckResult, judged
from bootstrap.ssh.command import bash_script, script
from bootstrap.ssh.host import Host

PAIR_SECONDS = 15
AT_ONCE = 4
"""Every node asks at once, and sshd turns away some of more than 10 who log in together."""
LOOK_BEFORE = "look at ssh between nodes and mpirun first"
MPIRUN_SECONDS = 180
ALL_REDUCE_SECONDS = 300
# $1: the cluster's ssh, $2: seconds, $3: how many at once; input: addresses. Prints `address code`.
# What was refused is asked once more: it may have been one login too many at once.
PAIRS = """
xargs -P "$3" -I {} sh -c '
  for try in 1 2; do
    timeout "$2" "$1" "$3" true >/dev/null 2>&1 </dev/null; code=$?
    [ $code -eq 255 ] && [ $try -eq 1 ] || break
    sleep 2
  done
  echo "$3 $code"' pair "$1" "$2" {}
"""


def pairs(source: Host, targets: Sequence[Host]) -> list[CheckResult]:
    """From one node to each other one, over the cluster's own SSH."""
    words = (source.layout.ssh, str(PAIR_SECONDS), str(AT_ONCE))
    addresses = "".join(f"{target.node.address}\n" for target in targets)
    rounds = -(-len(targets) // AT_ONCE)
    finished = source.run(
        script(PAIRS, *words), stdin=addresses.encode(), check=False,
        timeout=60 + 2 * PAIR_SECONDS * rounds,
    )  # fmt: skip
    codes = dict(line.split() for line in finished.stdout.splitlines() if len(line.split()) == 2)
    return [
        _pair(source, target, codes.get(target.node.address, "no answer")) for target in targets
    ]


def _pair(source: Host, target: Host, code: str) -> CheckResult:
    where = f"{source.name} to {target.name}"
    if code == "0":
        return CheckResult("ssh between nodes", where, True, "answers")
    reasons = {
        "124": f"no answer within {PAIR_SECONDS} s: something between them drops packets",
        "255": "refused, or a host key that is not the pinned one",
    }
    fix = (
        f"{BOOTSTRAP} pins keys anew; then, on {source.name}: "
        f"{source.layout.ssh} -v {target.node.address} true"
    )
    return CheckResult(
        "ssh between nodes", where, False, reasons.get(code, f"exit code {code}"), fix
    )


def hostnames(head: Host, hosts: Sequence[Host]) -> CheckResult:
    """`mpirun hostname`: every node starts a process."""
    finished = head.run(_mpirun(head, hosts, ["hostname"]), check=False, timeout=MPIRUN_SECONDS)
    names = sorted(set(finished.stdout.split()))
    well = finished.exit_code == 0 and len(finished.stdout.split()) == len(hosts)
    found = ", ".join(names) if len(names) <= 4 else f"{len(names)} nodes"
    problems = [] if well else [finished.error_line]
    return judged("mpirun hostname", "cluster", problems, found, BOOTSTRAP)


def all_reduce(head: Host, hosts: Sequence[Host], backend: str) -> CheckResult:
    """One rank per node: seconds for the smallest sum, bytes per second for a large one."""
    what = f"all-reduce ({backend})"
    program = [head.python, "-P", "-m", "training.all_reduce", "--backend", backend]
    finished = head.run(_mpirun(head, hosts, program), check=False, timeout=ALL_REDUCE_SECONDS)
    try:
        figures = json.loads(finished.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return CheckResult(what, "cluster", False, finished.error_line, LOOK_BEFORE)
    found = (
        f"{figures['latency_seconds'] * 1e6:.0f} µs for 4 bytes,"
        f" {figures['bytes_per_second'] / 1e6:.0f} MB/s for {figures['bytes'] / 1e6:.0f} MB"
    )
    return CheckResult(what, "cluster", True, found)


def _mpirun(head: Host, hosts: Sequence[Host], program: Sequence[str]) -> str:
    """One process a node, through the cluster's own SSH as the activation says."""
    names = ",".join(host.node.address for host in hosts)
    command = ["mpirun", "-hosts", names, "-n", str(len(hosts)), "-ppn", "1", *program]
    return bash_script(ACTIVATED, head.layout.activate, *command)
