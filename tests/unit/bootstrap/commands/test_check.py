"""`fab check`'s findings: what each planted fault is called, and what mends it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bootstrap.commands import check
from bootstrap.commands.checks import links, nodes
from bootstrap.commands.checks.report import CheckResult, show
from bootstrap.errors import TimedOut
from bootstrap.inventory.inventory import Node
from bootstrap.node.reports import node_report
from bootstrap.paths import CHECKOUT, Layout
from bootstrap.setup.python.package_pins import Lock, read_lock
from bootstrap.ssh.command import Command
from bootstrap.ssh.command_output import Output
from bootstrap.ssh.host import Host, local_host
from bootstrap.ssh.transport import LocalTransport
from tests.oneccl import BROKEN, put_intel_packages

LOCK = Lock("upstream", {"torch": "2.13.0", "typing_extensions": "4.1"}, {})


def handed_out(root: Path) -> Path:
    """A node's root with two pictures, their manifest, and the files that a node must have."""
    folder = root / "data" / "dicoo"
    folder.mkdir(parents=True)
    lines = []
    for name in ("0.jpeg", "1.jpeg"):
        (folder / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  ./{name}\n")
    (root / "data" / "dicoo.sha256").write_text("".join(lines))
    for name in ("activate", "cluster/nodefile", "hf/accelerate/default_config.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return folder


def test_a_changed_and_a_missing_picture_are_named(tmp_path: Path) -> None:
    folder = handed_out(tmp_path)
    head = node_report.report(tmp_path)
    assert all(finding.passed for finding in nodes.files("n0", head, head))
    (folder / "1.jpeg").write_bytes(b"another")
    (folder / "0.jpeg").unlink()
    (tmp_path / "activate").unlink()
    found = nodes.files("n1", node_report.report(tmp_path), head)
    told = {finding.what: finding for finding in found if not finding.passed}
    assert set(told) == {"paths", "data/dicoo"}
    assert "0.jpeg is not what was copied there; 1.jpeg is" in told["data/dicoo"].found
    assert told["data/dicoo"].fix == "fab bootstrap"
    assert "activate" in told["paths"].found


def test_another_hand_out_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    handed_out(tmp_path)
    head: dict[str, Any] = node_report.report(tmp_path)
    other = json.loads(json.dumps(head))
    other["folders"]["data/dicoo"]["digest"] = "0" * 64
    assert "differs from the head's" in nodes.files("n1", other, head)[1].found
    other["folders"] = {}
    assert nodes.files("n1", other, head)[1].found == "is not there"


def test_the_report_is_one_line_of_json(tmp_path: Path) -> None:
    handed_out(tmp_path)
    command = [sys.executable, "-m", "bootstrap.node.reports.node_report", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(finished.stdout)
    assert report["packages"]["pytest"]
    assert report["folders"]["data/dicoo"]["wrong"] == []


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ({"torch": "2.13.0+cpu", "typing-extensions": "4.1"}, "2 packages as pinned (upstream)"),
        ({"torch": "2.8.0+cpu", "typing-extensions": "4.1"}, "torch 2.8.0+cpu instead of 2.13.0"),
        ({"torch": "2.13.0"}, "typing_extensions is missing"),
    ],
)
def test_a_wrong_package_is_named(installed: dict[str, str], says: str) -> None:
    finding = nodes.packages("n1", {"packages": installed}, LOCK)
    assert finding.found == says
    assert finding.passed == ("pinned" in says)
    assert finding.fix == ("" if finding.passed else "fab bootstrap")


def test_a_node_without_a_compiler_is_named_and_passes() -> None:
    there = nodes.compiler("n1", {"compiler": "/usr/bin/g++"})
    assert (there.passed, there.found) == (True, "/usr/bin/g++")
    lacking = nodes.compiler("n2", {"compiler": None})
    assert lacking.passed
    assert lacking.found.startswith("none: --frozen compiled computes natively")


def test_a_full_disk_and_a_skewed_clock_are_named() -> None:
    full = nodes.disk("n1", {"disk_free": 1 << 20}, "/home/ana/.xeon-diffusion")
    assert (full.passed, full.found) == (False, "0.0 GiB free")
    assert "/home/ana/.xeon-diffusion/runs" in full.fix
    assert nodes.disk("n1", {"disk_free": 1 << 40}, "/r").passed
    head = nodes.Clock(0.3, 0.1)
    assert nodes.clock("n1", nodes.Clock(1.3, 0.1), head).passed
    late = nodes.clock("n1", nodes.Clock(-9.7, 0.1), head)
    assert (late.passed, late.found) == (False, "-10.0 s to the head's, within 0.2 s")
    # A slow line cannot tell: what it may be off by is allowed for.
    assert nodes.clock("n1", nodes.Clock(-9.7, 9.0), head).passed


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return local_host(Node(name="n0", address="127.0.0.1"), str(tmp_path))


def test_the_clock_of_this_machine_is_this_machines(host: Host) -> None:
    seen = nodes.read_clock(host)
    assert abs(seen.ahead) <= seen.within + 0.01


def test_pairs_are_asked_at_once_and_told_apart(host: Host, tmp_path: Path) -> None:
    ssh = tmp_path / "cluster" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\ncase $1 in 10.0.0.5) exit 0;; 10.0.0.6) exit 255;; esac\nexit 124\n")
    ssh.chmod(0o755)
    others = [
        local_host(Node(name=f"n{i}", address=f"10.0.0.{4 + i}"), str(tmp_path)) for i in (1, 2, 3)
    ]
    found = {finding.where: finding for finding in links.pairs(host, others)}
    assert found["n0 to n1"].passed
    assert "host key" in found["n0 to n2"].found
    assert "drops packets" in found["n0 to n3"].found
    assert "10.0.0.6 true" in found["n0 to n2"].fix


class Hanging(LocalTransport):
    """Of a node on which one question is never answered, or with what nobody can read."""

    def __init__(self, hangs_at: str = "", garbles: str = "") -> None:
        super().__init__()
        self.hangs_at, self.garbles = hangs_at, garbles

    def stream(self, command: Command, output: Output) -> None:
        if self.hangs_at and self.hangs_at in command.line:
            raise TimedOut(f"{output.host}: that was not done after 60 s and was ended.")
        if self.garbles and self.garbles in command.line:
            command = dataclasses.replace(command, line="echo Welcome to this machine!")
        super().stream(command, output)


@pytest.mark.parametrize("how", ["hangs_at", "garbles"])
@pytest.mark.parametrize(
    ("question", "what", "where"),
    [
        ("node_report", "environment", "n1"),
        ("date", "clock", "n1"),
        ("xargs", "ssh between nodes", "n1 to "),
        ("mpirun", "mpirun hostname", "cluster"),
        ("all_reduce", "all-reduce (gloo)", "cluster"),
        ("--placeholder_token", "one step alone", "n1"),
    ],
)
def test_a_question_that_hangs_is_a_line_of_the_table(
    question: str, what: str, where: str, how: str, tmp_path: Path
) -> None:
    hosts = []
    for name in ("n0", "n1"):
        on_head = what in ("mpirun hostname", "all-reduce (gloo)")
        fault = {how: question} if (name == "n0") == on_head else {}
        hosts.append(Host(Node(name, name), Layout(str(tmp_path / name)), Hanging(**fault)))
        answering(tmp_path / name)
    found = check.check(hosts, lambda text: None)
    bad = [finding for finding in found if not finding.passed and finding.what == what]
    assert [finding.where.startswith(where) for finding in bad] == [True], found
    assert bad[0].fix
    assert {"clock", "ssh between nodes"} <= {finding.what for finding in found}


def answering(root: Path) -> None:
    """A node that answers every question of `fab check`, with as little as will do."""
    handed_out(root)
    for path, text in {
        "cluster/ssh": "#!/bin/sh\nexit 0\n",
        "env/bin/mpirun": '#!/bin/sh\ncase "$*" in *hostname*) echo a; echo b;; *"python -P -m "*)'
        ' echo \'{"latency_seconds": 1, "bytes_per_second": 1, "bytes": 1}\';; esac\n',
        "env/bin/python": '#!/bin/sh\ncase "$*" in *node_report*) exec'
        f" env PYTHONPATH={Path.cwd()} {sys.executable}"
        f" -m bootstrap.node.reports.node_report {root};;\n"
        "'-P -m '*) ;; *) exit 3;; esac\n"
        'while [ "$1" != --output_dir ]; do shift; done; mkdir "$2"\n'
        'echo \'{"event": "step", "loss": 1.0}\' > "$2/events.jsonl"\n',
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o755)
    # What oneCCL's own script is: bash's.
    (root / "activate").write_text(f'paths=(a b)\nexport PATH={root}/env/bin:"$PATH"\n')
    (root / "env" / "installed.json").write_text('{"stack": "upstream", "packages": {}}')
    for record in ("model", "data"):
        (root / "cluster" / f"{record}.json").write_text('{"path": "/nowhere"}')


def test_the_table_has_a_line_for_each_failure_and_one_for_what_is_well() -> None:
    out = io.StringIO()
    findings = [CheckResult("disk", f"n{i}", True, "plenty") for i in range(9)]
    findings += [
        CheckResult("clock", "n0", True, "right"),
        CheckResult("clock", "n1", False, "late", "do"),
    ]
    show(findings, Console(file=out, width=120))
    text = out.getvalue()
    assert "n0, n1 and 7 more" in text
    assert "late" in text
    assert "right" not in text
    assert "1 of 11 checks failed." in text


def test_nodes_that_answer_everything_are_well(tmp_path: Path) -> None:
    hosts = [local_host(Node(name, name), str(tmp_path / name)) for name in ("n0", "n1")]
    for host in hosts:
        answering(Path(host.layout.root))
    bad = [finding for finding in check.check(hosts, lambda text: None) if not finding.passed]
    # What is installed here is not the lock's, and how full this disk is nobody knows.
    assert {finding.what for finding in bad} - {"disk"} == {"packages"}


def test_a_blocked_pair_of_workers_is_not_summed_over(tmp_path: Path) -> None:
    hosts = [local_host(Node(f"n{i}", f"10.0.0.{i}"), str(tmp_path)) for i in range(4)]
    found = [CheckResult("ssh between nodes", "n2 to n1", False, "refused", "fab bootstrap")]
    assert [host.name for host in check._all_to_all(hosts, found)] == ["n0", "n1", "n3"]


def node_with_oneccl(tmp_path: Path, name: str, bindings: str) -> Host:
    """A node whose environment lists oneCCL's bindings, whatever they are."""
    root = tmp_path / name
    host = local_host(Node(name, "127.0.0.1"), str(root))
    packages = put_intel_packages(tmp_path / f"{name}-packages", bindings)
    (packages / "torch.py").touch()
    (root / "env" / "bin").mkdir(parents=True)
    (root / "env" / "installed.json").write_text('{"packages": {"oneccl_bind_pt": "2.8.0"}}')
    python = root / "env" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / "activate").touch()
    return host


def test_the_node_whose_oneccl_bindings_do_not_import_is_named(tmp_path: Path) -> None:
    hosts = [
        node_with_oneccl(tmp_path, name, code)
        for name, code in (("n0", ""), ("n1", BROKEN), ("n2", ""))
    ]
    (Path(hosts[2].layout.env) / "installed.json").unlink()
    with ThreadPoolExecutor() as threads:
        whole, found = check._oneccl(threads, hosts)
    assert (whole.where, whole.passed) == ("n0", True)
    assert (found.where, found.passed) == ("n1", False)
    assert "libccl.so.1.0: cannot open shared object file" in found.found
    assert "gloo on every node" in found.fix


def test_packages_are_those_of_the_stack_with_what_was_added(tmp_path: Path) -> None:
    host = local_host(Node("n0", "127.0.0.1"), str(tmp_path))
    lock = read_lock(CHECKOUT, "upstream", ["openvino"]).for_python("3.11")
    there = {"stack": "upstream", "with": ["openvino"], "left_out": list(lock.left_out)}
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "installed.json").write_text(json.dumps(there))
    report = {"packages": dict(lock.pins)}
    assert check._packages(host, report).passed
    del report["packages"]["optimum-intel"]
    assert "optimum-intel is missing" in check._packages(host, report).found
