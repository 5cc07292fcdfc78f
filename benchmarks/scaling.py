"""How much of a training step's time does the network take, and what would 1,024 ranks make of it?

    sudo .venv-cluster/bin/python -m benchmarks.scaling

Two hosts of the rig, one rank each, train the bundled miniature over links of several rates:
the step as it is (the new word's rows) over the link, in many short turns with the same run with no
network, both ranks on one host, as the two differ by less than what the machine's speed drifts in a
minute. Besides: the step without sending anything, so that no rank waits for the other; the step
with the all-reduce of a whole embedding table, as the usual script does it; and the message by
itself. What crossed the link is read from the hosts' counters.

The miniature's step takes a hundredth of Stable Diffusion 1.5's, so the share that the network
takes of it is far larger than it would be there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import finish, interval_of_median, machine
from tests.equipped_rig import CODE, equip
from tests.rig.commands import RigError
from tests.rig.host import RigHost
from tests.rig.rig import Rig, rig_of

ROOT = Path(__file__).resolve().parents[1]
RATES = {"10gbit": 10e9, "1gbit": 1e9, "100mbit": 0.1e9}
TABLE_BYTES = 4 * 49_408 * 768
ROW_BYTES = 4 * (768 + 2)
"""What a step of Stable Diffusion 1.5 sends: one row's gradient, the loss, the wish to stop."""
REFERENCE_SECONDS = 300 / 200
"""A step of the reference run on 16 ranks: 200 steps in about five minutes."""
TABLE_STEPS = 2
START_SECONDS = 300.0
PORTS = itertools.count(29600)
PAIR = ("one host", "rows")
KINDS = ("message", "alone", "table", *PAIR)
ON_PAPER = (2, 4, 16, 64, 256, 1024)


class Ranks:
    """The ranks that are told what to measure."""

    def __init__(self, rig: Rig, folder: str, hosts: Sequence[RigHost], size: int) -> None:
        self._rig, self._folder, self._asked = rig, folder, 0
        addresses = ",".join(str(host.address) for host in hosts)
        miniature = f"{CODE}/training/miniature"
        line = (
            f"cd ~ && . ~/.xeon-diffusion/activate && mkdir -p {folder} && "
            f"mpirun -hosts {addresses} -n {size} -ppn {size // len(hosts)} "
            f"-genv OMP_NUM_THREADS 1 -genv I_MPI_PIN off -genv MASTER_PORT {next(PORTS)} "
            f"~/.xeon-diffusion/env/bin/python -m benchmarks.scaling_rank "
            f"{folder} {miniature}/model {miniature}/concept </dev/null"
        )
        self._process = subprocess.Popen(
            ["ssh", "-F", str(rig.ssh_config()), rig.head.name, line],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def measure(self, kind: str, steps: int) -> list[float]:
        """Have so many steps of a kind done; returns the first rank's seconds for each."""
        self._asked += 1
        self._tell({"id": self._asked, "kind": kind, "steps": steps})
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                said = self._process.stdout.read() if self._process.stdout else ""
                raise RigError(f"The ranks ended early:\n{said[-2000:]}")
            for line in self._measured():
                if line["id"] == self._asked:
                    return [float(value) for value in line["seconds"]]
            time.sleep(0.1)
        raise RigError(f"The ranks did not finish {steps} steps within {START_SECONDS:.0f} s.")

    def stop(self) -> None:
        """End them."""
        self._tell({"id": 0, "kind": "stop"})
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _tell(self, order: Mapping[str, object]) -> None:
        text = json.dumps(order)
        self._rig.head.run(f"mkdir -p {self._folder}; echo '{text}' >> {self._folder}/orders")

    def _measured(self) -> list[dict[str, Any]]:
        path = self._rig.head.path(f"{self._folder}/measured")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def model_seconds(compute: float, ranks: int, size: float, latency: float, rate: float) -> float:
    """A step's time on paper: latency x log2 ranks both ways, and a ring's bytes over bandwidth.

    Args:
        compute: seconds without network.
        size: bytes that are summed.
        latency: seconds for one message.
        rate: bits a second.
    """
    rounds = 2 * math.log2(ranks)
    travelling = 2 * (ranks - 1) / ranks * size * 8 / rate
    return compute + latency * rounds + travelling


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, end with a line of JSON."""
    chosen = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory() as folder, rig_of(2) as rig:
            print("putting the environment on two hosts", flush=True)
            with contextlib.chdir(folder):  # where its host keys are remembered, no longer
                equip(rig, Path(folder))
            for host in rig.hosts:
                _put_code(host)
            runs = _measure_all(rig, chosen)
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the hosts are gone.", file=sys.stderr)
        return 130
    figures = {"benchmark": "scaling", "machine": machine(), **_figures(runs)}
    _show(figures)
    finish(figures, chosen.output)
    return 0


def _put_code(host: RigHost) -> None:
    target = host.path(f"{CODE}/benchmarks")
    target.mkdir(exist_ok=True)
    for name in ("__init__.py", "scaling_rank.py"):
        (target / name).write_text((ROOT / "benchmarks" / name).read_text())


def _measure_all(rig: Rig, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    both = Ranks(rig, f"{RigHost.home}/scaling", rig.hosts, 2)
    one = Ranks(rig, f"{RigHost.home}/one-host", [rig.head], 2)
    runs = []
    try:
        for number in range(chosen.rounds):
            for rate in in_turn(RATES, number):
                rig.set_rate(rate)
                for kind in _turns(chosen.pairs):
                    count = TABLE_STEPS if kind == "table" else chosen.steps
                    before = rig.head.bytes().private_out
                    ranks, what = (one, "rows") if kind == "one host" else (both, kind)
                    seconds = statistics.median(ranks.measure(what, count))
                    sent = (rig.head.bytes().private_out - before) / count
                    runs.append({"rate": rate, "kind": kind, "seconds": seconds, "bytes": sent})
                    print(f"{rate:8} {kind:8} {seconds * 1e3:9.2f} ms {sent:13,.0f} B", flush=True)
    finally:
        both.stop()
        one.stop()
    return runs


def in_turn(values: Iterable[str], number: int) -> list[str]:
    """Forwards for even numbers and backwards for odd ones: what drifts falls on all alike."""
    return list(values) if number % 2 == 0 else list(values)[::-1]


def _turns(pairs: int) -> Iterator[str]:
    yield from ("message", "alone", "table")
    for number in range(pairs):
        yield from in_turn(PAIR, number)


def _figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_rate = {}
    for rate in RATES:
        of_kind = {
            kind: [run for run in runs if run["rate"] == rate and run["kind"] == kind]
            for kind in KINDS
        }
        seconds = {kind: [run["seconds"] for run in found] for kind, found in of_kind.items()}
        medians = {kind: statistics.median(values) for kind, values in seconds.items()}
        # Pairs measured one after the other: what slows the machine slows both.
        pairs = zip(seconds["one host"], seconds["rows"], strict=True)
        lost = [100 * (rows / local - 1) for local, rows in pairs]
        by_rate[rate] = {
            "message_ms": round(medians["message"] * 1e3, 3),
            "alone_ms": round(medians["alone"] * 1e3, 3),
            "no_network_ms": round(medians["one host"] * 1e3, 3),
            "rows_ms": round(medians["rows"] * 1e3, 3),
            "table_ms": round(medians["table"] * 1e3, 1),
            "pairs": len(lost),
            "lost_percent": round(statistics.median(lost), 2),
            "lost_percent_95": [round(value, 2) for value in interval_of_median(lost)],
            "rows_bytes": round(statistics.median(run["bytes"] for run in of_kind["rows"])),
            "table_bytes": round(statistics.median(run["bytes"] for run in of_kind["table"])),
        }
    latency = by_rate["1gbit"]["message_ms"] / 2e3  # there and back
    return {"by_rate": by_rate, "latency_seconds": latency, "on_paper": _on_paper(latency)}


def _on_paper(latency: float) -> dict[str, Any]:
    """Stable Diffusion 1.5, a step of `compute` seconds, over 1 Gbit/s."""
    compute = REFERENCE_SECONDS
    return {
        "compute_seconds": compute,
        "rate": "1gbit",
        "ranks": {
            str(count): {
                "rows_seconds": round(model_seconds(compute, count, ROW_BYTES, latency, 1e9), 4),
                "table_seconds": round(model_seconds(compute, count, TABLE_BYTES, latency, 1e9), 4),
            }
            for count in ON_PAPER
        },
    }


def _show(figures: Mapping[str, Any]) -> None:
    print("\nlink       message     alone  no network      rows   whole table   lost (95 %)")
    for rate, found in figures["by_rate"].items():
        low, high = found["lost_percent_95"]
        print(
            f"{rate:8} {found['message_ms']:6.2f} ms {found['alone_ms']:6.1f} ms"
            f" {found['no_network_ms']:8.1f} ms {found['rows_ms']:6.1f} ms"
            f" {found['table_ms']:10.1f} ms   {found['lost_percent']:.1f} %"
            f" ({low:.1f} to {high:.1f})"
        )


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--rounds", type=int, default=3, help="through all rates (default: %(default)s)")
    add("--pairs", type=int, default=20, help="of turns at a rate, a round (default: %(default)s)")
    add("--steps", type=int, default=10, help="timed in a turn (default: %(default)s)")
    add("--output", type=Path, metavar="FILE", help="write the figures here, too")
    return made


if __name__ == "__main__":
    sys.exit(main())
