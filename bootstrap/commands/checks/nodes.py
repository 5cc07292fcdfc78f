"""What `fab check` asks each node by itself: packages, files, disk, clock, one training step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bootstrap.commands.checks.report import CheckResult
from bootstrap.errors import UserError
from bootstrap.runs.node_version import check_version
from bootstrap.setup.python.package_pins import Lock
from bootstrap.ssh.command import bash_script
from bootstrap.ssh.host import Host

LEAST_FREE_GIB = 2.0
"""Room for checkpoints, samples, a whole pipeline in bf16."""
CLOCK_SECONDS = 2.0
"""More than this and the times in logs of two nodes no longer tell what came first."""
REPORT_SECONDS = 600
STEP_SECONDS = 1800
BOOTSTRAP = "fab bootstrap"
GIB = 2**30
# $1: activate; $2...: the command.
ACTIVATED = '. "$1"; shift; exec "$@"'
# $1: activate, $2...: the command. The run's folder is gone afterwards, whatever happened.
ALONE = """
. "$1"; shift
folder=$(mktemp -d "$1/check-XXXXXX"); shift
trap 'rm -rf "$folder"' EXIT
trap 'exit 143' INT TERM HUP
"$@" --output_dir "$folder/run" >"$folder/said" 2>&1 || { tail -n 5 "$folder/said" >&2; exit 1; }
grep -a '"event": "step"' "$folder/run/events.jsonl" | tail -n 1
"""


@dataclass(frozen=True)
class Clock:
    """A node's clock as seen from here.

    Attributes:
        ahead: seconds before this machine's.
        within: half the time that the question took; `ahead` is uncertain by as much.
    """

    ahead: float
    within: float


def read_report(host: Host) -> dict[str, Any]:
    """What a node holds (`bootstrap.node.reports.node_report`).

    Raises:
        UserError: it has no environment, or a broken one.
    """
    command = [host.python, "-I", "-m", "bootstrap.node.reports.node_report", host.layout.root]
    finished = host.run(command, check=False, timeout=REPORT_SECONDS)
    if finished.exit_code != 0:
        check_version(host, finished.stderr)
        said = finished.error_line
        raise UserError(f"{host.name}: its environment does not start: {said}")
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def packages(name: str, report: Mapping[str, Any], lock: Lock) -> CheckResult:
    """Every package of the lock at its pinned version; a build's mark (+cpu) does not count."""
    installed = report["packages"]
    wrong = []
    for package, pin in lock.pins.items():
        there = installed.get(package.lower().replace("_", "-"))
        if there is None:
            wrong.append(f"{package} is missing")
        elif there.partition("+")[0] != pin.partition("+")[0]:
            wrong.append(f"{package} {there} instead of {pin}")
    found = f"{len(lock.pins)} packages as pinned ({lock.stack})"
    return CheckResult("packages", name, not wrong, _some(wrong) or found, _fix(wrong, BOOTSTRAP))


def files(name: str, report: Mapping[str, Any], head: Mapping[str, Any]) -> list[CheckResult]:
    """Models and pictures: as they were copied there, and the same as the head's."""
    findings = []
    lacking = report["missing"]
    findings.append(
        CheckResult("paths", name, not lacking, _some(lacking, "missing: ") or "all there",
                _fix(lacking, BOOTSTRAP))
    )  # fmt: skip
    for folder, content in head["folders"].items():
        mine = report["folders"].get(folder)
        problems = []
        if mine is None:
            problems.append("is not there")
        else:
            problems += [f"{file} is not what was copied there" for file in mine["wrong"]]
            if mine["digest"] != content["digest"]:
                problems.append("differs from the head's")
        found = f"as copied ({content['digest'][:12]})"
        findings.append(
            CheckResult(
                folder, name, not problems, _some(problems) or found, _fix(problems, BOOTSTRAP)
            )
        )
    return findings


def compiler(name: str, report: Mapping[str, Any]) -> CheckResult:
    """What `--frozen compiled` and the attention kernel need: a node without it passes."""
    there = report["compiler"]
    without = (
        "none: --frozen compiled computes natively, and attention is PyTorch's "
        "(Debian: apt install g++ python3-dev)"
    )
    return CheckResult("C++ compiler", name, True, there or without)


def disk(name: str, report: Mapping[str, Any], root: str) -> CheckResult:
    """Room to write what a training writes."""
    free = report["disk_free"] / GIB
    return CheckResult(
        "disk", name, free >= LEAST_FREE_GIB, f"{free:.1f} GiB free",
        "" if free >= LEAST_FREE_GIB else f"fab fetch --full, then remove old runs in {root}/runs",
    )  # fmt: skip


def read_clock(host: Host) -> Clock:
    """Ask a node for the time."""
    before = time.time()
    said = host.run(["date", "+%s.%N"], timeout=60).stdout
    after = time.time()
    return Clock(float(said) - (before + after) / 2, (after - before) / 2)


def clock(name: str, mine: Clock, head: Clock) -> CheckResult:
    """A node's clock against the head's."""
    skew, within = mine.ahead - head.ahead, mine.within + head.within
    well = abs(skew) <= CLOCK_SECONDS + within
    found = f"{skew:+.1f} s to the head's, within {within:.1f} s" if not well else (
        f"within {CLOCK_SECONDS:g} s of the head's"
    )  # fmt: skip
    return CheckResult(
        "clock", name, well, found,
        "" if well else "on that node: sudo timedatectl set-ntp true, or chronyc makestep",
    )  # fmt: skip


def step_alone(host: Host, model: str, pictures: str) -> CheckResult:
    """One training step on this node and nothing else, with the model and the pictures on it."""
    command = [
        host.python, "-P", "-m", "training.textual_inversion",
        f"--pretrained_model_name_or_path={model}", f"--train_data_dir={pictures}",
        "--placeholder_token=<check>", "--initializer_token=toy", "--learnable_property=object",
        "--resolution=64", "--train_batch_size=1", "--max_train_steps=1", "--learning_rate=1e-3",
        "--lr_warmup_steps=0", "--seed=7", "--num_evaluation_samples=1", "--report_to=none",
    ]  # fmt: skip
    line = bash_script(ALONE, host.layout.activate, host.layout.root, *command)
    finished = host.run(line, check=False, timeout=STEP_SECONDS)
    try:
        event = json.loads(finished.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        said = finished.error_line
        return CheckResult("one step alone", host.name, False, said, BOOTSTRAP)
    return CheckResult("one step alone", host.name, True, f"loss {event['loss']:.4f}")


def oneccl(host: Host) -> CheckResult:
    """Whether oneCCL's bindings import: where one node's do not, all ranks use gloo."""
    program = [host.python, "-P", "-c", "import torch, oneccl_bindings_for_pytorch"]
    line = bash_script(ACTIVATED, host.layout.activate, *program)
    finished = host.run(line, check=False, timeout=STEP_SECONDS)
    well = finished.exit_code == 0
    said = finished.error_line
    fix = f"{BOOTSTRAP}; without it fab train uses gloo on every node"
    return CheckResult(
        "oneCCL's bindings", host.name, well, "import" if well else f"do not import: {said}",
        "" if well else fix,
    )  # fmt: skip


def _some(problems: Sequence[str], before: str = "") -> str:
    if not problems:
        return ""
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return before + "; ".join(problems[:3]) + more


def _fix(problems: Sequence[str], fix: str) -> str:
    return fix if problems else ""
