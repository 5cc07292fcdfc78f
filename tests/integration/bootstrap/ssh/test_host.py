"""Nodes over SSH: real sshds on loopback addresses, run by whoever runs the tests."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from bootstrap.commands.forget_host import forget
from bootstrap.errors import CommandFailed, ConnectionLost, Interrupted, TimedOut, UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.ssh import connection, ssh_transport
from bootstrap.ssh.host import Host, local_host
from bootstrap.ssh.host_keys import HostKeyRefused
from bootstrap.ssh.open_hosts import open_hosts
from bootstrap.ssh.ssh_transport import SshTransport
from tests.sshd import Sshd, become_person, free_port, make_key, serving

Start = Callable[..., Sshd]


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person with a checkout, a key, an empty home folder and no agent."""
    return become_person(tmp_path, monkeypatch)


@pytest.fixture
def start(tmp_path: Path, person: Path) -> Iterator[Start]:
    """start(name, ...): a server; gone after the test."""
    with ExitStack() as servers:

        def one(name: str, **settings: object) -> Sshd:
            return servers.enter_context(
                serving(tmp_path / "servers" / name, person, **settings)  # type: ignore[arg-type]
            )

        yield one


def cluster(person: Path, **servers: Sshd | int) -> Inventory:
    """An inventory of these servers, the head first; a number is a port that nobody listens on."""
    nodes = tuple(
        Node(name, "127.0.0.1", port=server if isinstance(server, int) else server.port)
        for name, server in servers.items()
    )
    return Inventory("test", "file", nodes, user=getpass.getuser(), ssh_private_key_path=person)


def yes(question: str) -> bool:
    """Accept the host keys."""
    return True


def remember(asked: list[str]) -> Callable[[str], bool]:
    """Accept the host keys, and keep what was asked."""

    def ask(question: str) -> bool:
        asked.append(question)
        return True

    return ask


def never(question: str) -> bool:
    """Fails the test: nothing is to be asked."""
    pytest.fail(f"asked: {question}")


@pytest.fixture(params=["local", "head", "worker"])
def host(request: pytest.FixtureRequest, start: Start, person: Path) -> Iterator[Host]:
    """This machine, a node reached directly, and one reached through it."""
    if request.param == "local":
        yield local_host(Node("local", "127.0.0.1"))
        return
    inventory = cluster(person, head=start("a"), worker=start("b"))
    with open_hosts(inventory, yes) as hosts:
        yield hosts[0 if request.param == "head" else 1]


def test_outputs_exit_code_and_input(host: Host) -> None:
    lines: list[str] = []
    finished = host.run(
        "cat; echo wrong >&2; exit 3", stdin=b"in\nput", on_line=lines.append, check=False
    )
    assert (finished.exit_code, finished.stdout, finished.stderr) == (3, "in\nput", "wrong\n")
    assert sorted(lines) == ["in", "input", "wrong"] or sorted(lines) == ["in", "put", "wrong"]


def test_words_are_quoted(host: Host) -> None:
    assert host.run(["printf", "%s", "a b'c\"$HOME"]).stdout == "a b'c\"$HOME"


def test_bytes_that_are_no_text_are_replaced(host: Host) -> None:
    assert host.run(r"printf 'a\377b'").stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_lines_come_as_they_are_printed(host: Host) -> None:
    """The command waits for what the first line's reader does."""
    flag = Path("flag").absolute()
    command = f"echo first; while [ ! -e {flag} ]; do sleep 0.05; done; echo second"

    def on_line(line: str) -> None:
        if line == "first":
            flag.touch()

    assert host.run(command, on_line=on_line, timeout=60).stdout == "first\nsecond\n"


def test_a_failure_names_node_step_code_and_last_lines(host: Host) -> None:
    host = host.during("environment")
    with pytest.raises(CommandFailed) as raised:
        host.run("seq 100; exit 9")
    said = str(raised.value)
    assert said.startswith(f"{host.name}: environment failed with exit code 9:")
    assert said.endswith("    100")
    assert "    50" not in said


def test_a_command_may_leave_its_input(host: Host) -> None:
    assert host.run("true", stdin=b"x" * 5_000_000).exit_code == 0


def test_what_is_secret_is_in_no_process_list(host: Host) -> None:
    secret = "hf_" + os.urandom(8).hex()
    seen = host.run(
        "read -r token; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n';"
        ' echo "length ${#token}"',
        stdin=f"{secret}\n".encode(),
    )
    assert f"length {len(secret)}" in seen.stdout
    assert secret not in seen.stdout


def test_what_takes_too_long_is_ended_there(host: Host) -> None:
    mark = f"0.{os.getpid()}77"
    with pytest.raises(TimedOut, match="was not done after 2 s"):
        host.run(f"sleep 100{mark} & sleep 100{mark}", timeout=2)
    assert not processes(f"100{mark}")


def test_an_interrupt_ends_it_there(host: Host) -> None:
    mark = f"0.{os.getpid()}78"

    def on_line(line: str) -> None:
        host.interrupt()

    with pytest.raises(Interrupted):
        host.run(f"echo started; sleep 100{mark}", on_line=on_line)
    assert not processes(f"100{mark}")
    with pytest.raises(Interrupted):
        host.run("true; sleep 100")


def processes(mark: str) -> list[str]:
    """Command lines of this machine that hold `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if mark in words:
            found.append(words)
    return found


def test_first_contact_asks_once_about_all_and_then_never(start: Start, person: Path) -> None:
    inventory = cluster(person, head=start("a"), one=start("b"), two=start("c"))
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return True

    with open_hosts(inventory, ask) as hosts:
        assert [host.run("echo $SSH_CONNECTION").exit_code for host in hosts] == [0, 0, 0]
    (question,) = asked
    for host in hosts:
        assert isinstance(host.transport, SshTransport)
        assert host.name in question
    with open_hosts(inventory, never) as hosts:
        assert not any(host.unreachable for host in hosts)


def test_keys_that_are_not_accepted_are_not_pinned_and_nothing_ran(
    start: Start, person: Path
) -> None:
    server = start("a")
    with pytest.raises(HostKeyRefused), open_hosts(cluster(person, head=server), lambda q: False):
        pass
    assert not Path(".cluster/test/known_hosts").exists()
    assert "Starting session" not in server.log


def test_a_changed_key_is_refused_until_it_is_forgotten(
    start: Start, person: Path, tmp_path: Path
) -> None:
    head = start("a")
    with serving(tmp_path / "first", person) as server:
        inventory = cluster(person, head=head, worker=server)
        with open_hosts(inventory, yes):
            pass
    replaced = start("again", port=server.port)
    with open_hosts(inventory, never) as hosts:
        assert hosts[0].unreachable is None
        assert "fab forget-host --node worker" in str(hosts[1].unreachable)
    assert "Accepted publickey" not in replaced.log
    forget("worker")
    asked: list[str] = []
    with open_hosts(inventory, remember(asked)) as hosts:
        assert hosts[1].run("true").exit_code == 0
    assert "worker" in asked[0]
    assert "head" not in asked[0]


def test_a_key_of_another_kind_is_a_change_too(start: Start, person: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "first", person) as server:
        inventory = cluster(person, head=server)
        with open_hosts(inventory, yes):
            pass
    rsa = tmp_path / "rsa"
    os.system(f"ssh-keygen -q -t rsa -N '' -f {rsa}")
    start("again", port=server.port, host_key=rsa)
    with open_hosts(inventory, never) as hosts:
        assert isinstance(hosts[0].unreachable, HostKeyRefused)


def test_a_nodefile_takes_what_the_person_already_knows(start: Start, person: Path) -> None:
    server = start("a")
    key = (server.folder / "host_key.pub").read_text()
    known = Path(os.environ["HOME"]) / ".ssh" / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {key}")
    node = Node("mine", "127.0.0.1", port=server.port, ssh_host="127.0.0.1")
    inventory = Inventory(
        "own", "nodefile", (node,), user=getpass.getuser(), ssh_private_key_path=person
    )
    with open_hosts(inventory, never) as hosts:
        assert hosts[0].run("true").exit_code == 0
    other = make_key(server.folder / "other").with_suffix(".pub").read_text()
    known.write_text(f"[127.0.0.1]:{server.port} {other}")
    forget("mine")
    with open_hosts(inventory, never) as hosts:
        assert "ssh-keygen -R" in str(hosts[0].unreachable)


def test_a_boot_log_is_asked_about_new_nodes_alone(start: Start, person: Path) -> None:
    head, worker = start("a"), start("b")
    with open_hosts(cluster(person, head=head), yes):
        pass
    asked: list[list[str]] = []

    def boot_log(names: object) -> dict[str, list[str]]:
        assert isinstance(names, list)
        asked.append(names)
        return {"worker": ["SHA256:another"]}

    inventory = cluster(person, head=head, worker=worker)
    with (
        pytest.raises(HostKeyRefused, match="boot log says SHA256:another"),
        open_hosts(inventory, never, boot_log=boot_log),
    ):
        pass
    assert asked == [["worker"]]


def test_nobody_there(start: Start, person: Path) -> None:
    inventory = cluster(person, head=start("a"), down=free_port(), up=start("b"))
    with open_hosts(inventory, yes) as hosts:
        said = str(hosts[1].unreachable)
        assert said.startswith(f"down ({getpass.getuser()}@127.0.0.1:{inventory.nodes[1].port}")
        assert "through 127.0.0.1" in said
        assert "does not answer" in said
        assert hosts[2].run("true").exit_code == 0
        with pytest.raises(connection.Unreachable):
            hosts[1].run("true")


def test_no_head_no_workers(start: Start, person: Path) -> None:
    inventory = cluster(person, head=free_port(), worker=start("b"))
    with open_hosts(inventory, never) as hosts:
        assert "does not answer: connection refused" in str(hosts[0].unreachable)
        assert "through the head" in str(hosts[1].unreachable)


def test_a_node_that_comes_up_late_is_waited_for(start: Start, person: Path) -> None:
    port = free_port()
    said: list[str] = []

    def on_wait(text: str) -> None:
        if not said:
            start("late", port=port)
        said.append(text)

    with open_hosts(cluster(person, head=port), yes, wait_seconds=60, on_wait=on_wait) as hosts:
        assert hosts[0].unreachable is None
    assert "does not answer" in said[0]


def test_a_key_that_is_not_let_in(start: Start, person: Path, tmp_path: Path) -> None:
    inventory = cluster(make_key(tmp_path / "stranger"), head=start("a"))
    with open_hosts(inventory, never, wait_seconds=3600) as hosts:
        assert "does not let" in str(hosts[0].unreachable)
        assert "stranger" in str(hosts[0].unreachable)


def test_a_cut_connection_is_said_and_ends_what_ran(start: Start, person: Path) -> None:
    server = start("a")
    mark = f"0.{os.getpid()}79"
    with open_hosts(cluster(person, head=server), yes) as hosts:
        head = hosts[0].during("packages")
        with pytest.raises(ConnectionLost, match=r"head: the connection broke during packages"):
            head.run(f"echo up; sleep 100{mark}", on_line=lambda line: server.cut())
        gone = threading.Event()
        for _ in range(600):
            if not processes(f"100{mark}"):
                break
            gone.wait(0.1)
        assert not processes(f"100{mark}")
        with pytest.raises(ConnectionLost):
            hosts[0].run("true")


def test_everything_is_in_the_nodes_log(start: Start, person: Path) -> None:
    with open_hosts(cluster(person, head=start("a")), yes) as hosts:
        hosts[0].run("echo out; echo err >&2")
        hosts[0].write(f"{hosts[0].layout.root}/secret", b"hf_secret")
    log = Path(".cluster/test/logs/head.log").read_text()
    for text in ("$ echo out; echo err >&2", " out\n", " err\n"):
        assert text in log
    assert "hf_secret" not in log


def at_once(host: Host, command: str, count: int) -> list[str]:
    """What `count` of the same command print, all begun together."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: host.run(command, timeout=60).stdout, range(count)))


def test_more_commands_than_sessions_wait_for_each_other(
    start: Start, person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The keepalive is refused a session too.
    monkeypatch.setattr(ssh_transport, "IDLE_SECONDS", 0.2)
    with open_hosts(cluster(person, head=start("a", max_sessions=2)), yes) as hosts:
        assert at_once(hosts[0], "sleep 0.5; echo done", 6) == ["done\n"] * 6


def test_no_more_than_eight_run_at_once(start: Start, person: Path) -> None:
    count = "mkdir $$; ls | wc -l; sleep 0.5; rmdir $$"
    with open_hosts(cluster(person, head=start("a")), yes) as hosts:
        folder = f"{hosts[0].layout.root}/here"
        seen = at_once(hosts[0], f"mkdir -p {folder} && cd {folder} && {count}", 20)
    assert 2 < max(map(int, seen)) <= ssh_transport.SESSIONS


def test_sessions_refused_for_long_are_no_lost_connection(
    start: Start, person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_transport, "REFUSED_SECONDS", 1.0)
    with open_hosts(cluster(person, head=start("a", max_sessions=1)), yes) as hosts:
        with ThreadPoolExecutor() as threads:
            up = threading.Event()
            first = threads.submit(
                hosts[0].run, "echo up; sleep 4; echo done", on_line=lambda line: up.set()
            )
            assert up.wait(60)
            with pytest.raises(UserError, match="MaxSessions"):
                hosts[0].run("echo second")
            assert first.result().stdout.endswith("done\n")
        assert hosts[0].run("echo after").stdout == "after\n"


def test_a_node_without_a_place_for_us_is_not_reached_and_the_others_are(
    start: Start, person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = cluster(person, head=start("a"), odd=start("b,c"))
    with open_hosts(inventory, yes) as hosts:
        assert hosts[0].run("true").exit_code == 0
        assert "odd: " in str(hosts[1].unreachable)
        assert "XEON_DIFFUSION_ROOT" in str(hosts[1].unreachable)


def test_what_ran_ends_with_whoever_asked_for_it(tmp_path: Path) -> None:
    """On this machine, too, where no connection breaks."""
    program = (
        "from bootstrap.ssh.host import Host, local_host\n"
        "from bootstrap.inventory.inventory import Node\n"
        "host = local_host(Node('local', '127.0.0.1'))\n"
        "host.run('echo $$; exec sleep 1000', on_line=lambda line: print(line, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[4],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        stdout=subprocess.PIPE,
    ) as asker:
        assert asker.stdout is not None
        sleeping = int(asker.stdout.readline())
        asker.kill()
    end = time.monotonic() + 60
    while Path(f"/proc/{sleeping}").exists():
        assert time.monotonic() < end, "it outlived its asker"
        time.sleep(0.1)


def test_a_command_that_is_ended_may_clean_up_first(host: Host, tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned"
    command = f"trap 'sleep 0.5; touch {cleaned}; exit 1' TERM; while :; do sleep 0.1; done"
    with pytest.raises(TimedOut):
        host.run(command, timeout=1.0)
    end = time.monotonic() + 60
    while not cleaned.exists():
        assert time.monotonic() < end, "it was killed at once"
        time.sleep(0.05)
