"""What `fab check` asks each node by itself: packages, files, disk, clock, one training step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bootstrap.commands.checks.report import CheckResult, judged
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
        raise UserError(f"{host.name}: its environment does not start: {finished.error_line}")
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
    return judged("packages", name, wrong, found, BOOTSTRAP)


def files(name: str, report: Mapping[str, Any], head: Mapping[str, Any]) -> list[CheckResult]:
    """Models and pictures: as they were copied there, and the same as the head's."""
    findings = [judged("paths", name, report["missing"], "all there", BOOTSTRAP, "missing: ")]
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
        findings.append(judged(folder, name, problems, found, BOOTSTRAP))
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
    found = f"{free:.1f} GiB free"
    fix = f"fab fetch --full, then remove old runs in {root}/runs"
    return judged("disk", name, [found] if free < LEAST_FREE_GIB else [], found, fix)


def read_clock(host: Host) -> Clock:
    """Ask a node for the time."""
    before = time.time()
    said = host.run(["date", "+%s.%N"], timeout=60).stdout
    after = time.time()
    return Clock(float(said) - (before + after) / 2, (after - before) / 2)


def clock(name: str, mine: Clock, head: Clock) -> CheckResult:
    """A node's clock against the head's."""
    skew, within = mine.ahead - head.ahead, mine.within + head.within
    problems = []
    if abs(skew) > CLOCK_SECONDS + within:
        problems.append(f"{skew:+.1f} s to the head's, within {within:.1f} s")
    fix = "on that node: sudo timedatectl set-ntp true, or chronyc makestep"
    return judged("clock", name, problems, f"within {CLOCK_SECONDS:g} s of the head's", fix)


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
        return CheckResult("one step alone", host.name, False, finished.error_line, BOOTSTRAP)
    return CheckResult("one step alone", host.name, True, f"loss {event['loss']:.4f}")


def oneccl(host: Host) -> CheckResult:
    """Whether oneCCL's bindings import: where one node's do not, all ranks use gloo."""
    program = [host.python, "-P", "-c", "import torch, oneccl_bindings_for_pytorch"]
    line = bash_script(ACTIVATED, host.layout.activate, *program)
    finished = host.run(line, check=False, timeout=STEP_SECONDS)
    problems = [f"do not import: {finished.error_line}"] if finished.exit_code else []
    fix = f"{BOOTSTRAP}; without it fab train uses gloo on every node"
    return judged("oneCCL's bindings", host.name, problems, "import", fix)
