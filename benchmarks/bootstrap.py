"""Does `fab bootstrap` fetch more, or take longer, when there are more nodes?

    sudo .venv/bin/python -m benchmarks.bootstrap --hosts 1,2,4,8

Runs the real command on hosts of the rig, bare each time, and counts bytes on their interfaces. The
network's time (fetching and handing out) is told apart from the unpacking of environments, for
which all hosts share this machine's processors and real ones do not.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results import finish, machine, middle
from tests.rig import inventory
from tests.rig.commands import RigError
from tests.rig.rig import Rig, rig_of
from tests.rig.stand_in import PackageIndex, serving_packages
from tests.rig.wheels import ROOT, fetch_wheels

LOCK = ROOT / "requirements" / "node-upstream.txt"
NETWORK_STEPS = {"packages", "model and pictures"}
UNPACKING_STEPS = {"environment"}
LINE = re.compile(r"(?P<node>\S+): (?P<step>.+): (?P<end>done|FAILED) in (?P<seconds>[\d.]+) s")


@dataclass(frozen=True)
class Run:
    """One bootstrap of bare hosts.

    Attributes:
        hosts: how many.
        seconds: of the whole command.
        network: of the steps that fetch and hand out; the slowest node's each.
        unpacking: of making the environments.
        again: of the command run a second time, with nothing left to do.
        outside: bytes that came in on the head's uplink: from the internet and from the person.
        index: those of them that the package index sent.
        inside: bytes that the busiest host sent on the private network.
        steps: seconds of each step; the slowest node's.
    """

    hosts: int
    seconds: float
    network: float
    unpacking: float
    again: float
    outside: int
    index: int
    inside: int
    steps: dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, end with a line of JSON."""
    chosen = _parser().parse_args(argv)
    # Ended from outside, too, it takes its hosts down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sizes = [int(size) for size in chosen.hosts.split(",")]
    wheels = fetch_wheels([LOCK])
    runs: list[Run] = []
    try:
        # Taken in turns, so that whatever slows this machine for a while slows every size.
        for round_ in range(chosen.rounds):
            for size in sizes if round_ % 2 == 0 else reversed(sizes):
                runs.append(_measure(size, wheels, chosen))
                print(_row(runs[-1]), flush=True)
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the hosts are gone.", file=sys.stderr)
        return 130
    figures = {
        "benchmark": "bootstrap",
        "rate": chosen.rate,
        "outside_rate": chosen.outside_rate,
        "machine": machine(),
        "sizes": [_of_size(size, runs) for size in sizes],
        **_against_one(sizes, runs),
    }
    finish(figures, chosen.output)
    return 0


def step_seconds(printed: str) -> dict[str, float]:
    """For each step that a bootstrap reported, the time of the node that took longest."""
    slowest: dict[str, float] = {}
    for line in printed.splitlines():
        if match := LINE.fullmatch(line.strip()):
            step = match["step"]
            slowest[step] = max(slowest.get(step, 0.0), float(match["seconds"]))
    return slowest


def _measure(size: int, wheels: Path, chosen: argparse.Namespace) -> Run:
    with (
        tempfile.TemporaryDirectory() as folder,
        rig_of(size, rate=chosen.rate) as rig,
        serving_packages(wheels, rig.outside) as index,
    ):
        rig.set_uplink_rate(chosen.outside_rate)
        path = Path(folder) / "rig.json"
        inventory.write(path, rig.inventory())
        began = time.monotonic()
        steps = step_seconds(_bootstrap(path, index, chosen))
        seconds = time.monotonic() - began
        outside, sent = rig.head.bytes().uplink_in, index.total
        inside = _most_sent(rig)
        began = time.monotonic()
        _bootstrap(path, index, chosen)
        again = time.monotonic() - began
    if not steps:
        raise RigError("Of the bootstrap's steps none was reported: has its output changed?")
    return Run(
        hosts=size,
        seconds=round(seconds, 1),
        network=round(sum(steps.get(step, 0.0) for step in NETWORK_STEPS), 1),
        unpacking=round(sum(steps.get(step, 0.0) for step in UNPACKING_STEPS), 1),
        again=round(again, 1),
        outside=outside,
        index=sent,
        inside=inside,
        steps=steps,
    )


def _bootstrap(path: Path, index: PackageIndex, chosen: argparse.Namespace) -> str:
    """Run the command as a person types it, and show what it says if it fails."""
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "bootstrap.commands.bootstrap", "--inventory", str(path)),
            *("--stack", "upstream", "--environment", "venv", "--accept-host-keys"),
            *("--package-index", index.simple),
            *("--pretrained-model-name-or-path", str(chosen.model.absolute())),
            *("--train-data-dir", str(chosen.pictures.absolute())),
        ],
        cwd=path.parent,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RigError(f"fab bootstrap failed:\n{finished.stdout}{finished.stderr}")
    return finished.stdout


def _most_sent(rig: Rig) -> int:
    return max(host.bytes().private_out for host in rig.hosts)


def _of_size(size: int, runs: Sequence[Run]) -> dict[str, object]:
    """The middles of the runs with so many hosts."""
    fields = [asdict(run) for run in runs if run.hosts == size]
    steps = [field.pop("steps") for field in fields]
    middles = {name: middle([field[name] for field in fields]) for name in fields[0]}
    return {**middles, "steps": {name: middle([step[name] for step in steps]) for name in steps[0]}}


def _against_one(sizes: Sequence[int], runs: Sequence[Run]) -> dict[str, object]:
    """The largest size against a single host, where both were measured."""
    if 1 not in sizes or max(sizes) == 1:
        return {}
    one, most = _of_size(1, runs), _of_size(max(sizes), runs)
    ratios = {f"{name}_ratio": _ratio(most[name], one[name]) for name in ("outside", "network")}
    return {"largest": max(sizes), **ratios}


def _ratio(most: object, one: object) -> float:
    assert isinstance(most, int | float)
    assert isinstance(one, int | float)
    return round(most / one, 3)


def _row(run: Run) -> str:
    return (
        f"{run.hosts} hosts: {run.seconds:.0f} s (network {run.network:.1f} s, unpacking"
        f" {run.unpacking:.1f} s; again {run.again:.1f} s), from outside"
        f" {run.outside / 1e6:.1f} MB ({run.index / 1e6:.1f} MB of packages),"
        f" most sent by one host {run.inside / 1e6:.1f} MB"
    )


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.bootstrap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    miniature = ROOT / "training" / "miniature"
    add = made.add_argument
    add("--hosts", default="1,2,4,8", metavar="N,N,...", help="sizes (default: %(default)s)")
    add("--rounds", type=int, default=1, help="of every size (default: %(default)s)")
    add("--rate", default="10gbit", help="of each private interface (default: %(default)s)")
    add("--outside-rate", default="1gbit", help="of the uplink (default: %(default)s)")
    add("--model", type=Path, default=miniature / "model", help="folder of the base model")
    add("--pictures", type=Path, default=miniature / "concept", help="folder of pictures")
    add("--output", type=Path, metavar="FILE", help="write the figures here, too")
    return made


if __name__ == "__main__":
    sys.exit(main())
