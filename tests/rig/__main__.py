"""A cluster on this machine to play with: `python -m tests.rig up`, `... down`. Needs root."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.rig import anchors, rig, slots
from tests.rig.commands import RigError
from tests.rig.host import RigHost
from tests.rig.inventory import write
from tests.rig.prerequisites import missing
from tests.rig.rig import Rig
from tests.rig.wheels import ROOT, fetch_wheels

INVENTORY = Path("rig.json")
MODEL = "training/miniature/model"
PICTURES = "training/miniature/concept"
NODE_LOCK = ROOT / "requirements" / "node-upstream.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        return int(arguments.run(arguments) or 0)
    except RigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what was up is down again.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=function)
        command.add_argument("--inventory", type=Path, default=INVENTORY, metavar="FILE")
        return command

    one = add("up", _up, "Bring hosts up and write their inventory to rig.json.")
    one.add_argument("--hosts", type=int, default=2, metavar="N", help="1 to 8 (default: 2)")
    one.add_argument("--rate", metavar="RATE", help="of each private interface: 1gbit, 100mbit")
    one.add_argument("--home-size", metavar="SIZE", help="give each host a small /home: 200M")
    one.add_argument("--shared-home", action="store_true", help="one /home for all hosts")
    one.add_argument(
        "--lock", type=Path, action="append", help="serve these wheels, not the nodes'"
    )
    one.add_argument("--wheels", type=Path, help="serve the wheels in this folder, fetch nothing")
    one.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    one.add_argument("--dataset", action="append", default=[], metavar="NAME=FOLDER")
    one.add_argument("--files", type=Path, metavar="FOLDER", help="serve this folder as it is")
    one = add("down", _down, "Remove the rig without a trace.")
    one.add_argument("--all", action="store_true", help="every rig on this machine")
    add("status", _status, "Show the hosts: power, host key, bytes carried.")
    for name, text in _ON_ONE_HOST.items():
        add(name, _change, text).add_argument("host", help="number (0: the head) or name")
        commands.choices[name].set_defaults(name=name)
    for name, text in _ON_TWO_HOSTS.items():
        one = add(name, _change_pair, text)
        one.set_defaults(name=name)
        one.add_argument("host")
        one.add_argument("other")
    one = add("rate", _rate, "Limit the private network, or `none`.")
    one.add_argument("rate")
    one = add("skew", _skew, "Set the clock that a host's new programs see; 0 mends it.")
    one.add_argument("host")
    one.add_argument("seconds", type=int)
    add("cut-person", _cut_person, "Drop everything between this machine and the head.")
    add("mend-person", _mend_person, "Undo cut-person.")
    return top


_ON_ONE_HOST = {
    "cut": "Cut a host off the private network.",
    "mend": "Undo cut.",
    "kill": "Take a host's power away.",
    "start": "Switch it on again: same disk.",
    "replace": "Put a new machine in its place: empty disk, new host key.",
}
_ON_TWO_HOSTS = {"block": "Let nothing pass between two hosts.", "unblock": "Undo block."}


def _up(arguments: argparse.Namespace) -> int:
    path: Path = arguments.inventory.absolute()
    if (slot := _slot_of(path)) is not None:
        raise RigError(
            f"A rig is up already ({path}, number {slot}). Look at it with"
            " `python -m tests.rig status`, take it down with `make rig-down`."
        )
    began = time.monotonic()
    made = rig.up(
        arguments.hosts,
        rate=arguments.rate,
        home_size=arguments.home_size,
        shared_home=arguments.shared_home,
        inventory=path,
    )
    try:
        print(f"{arguments.hosts} hosts are up after {time.monotonic() - began:.1f} s.", flush=True)
        services = _serve(made, arguments)
        write(path, made.inventory(**services))
        made.keep(path)
    except BaseException:
        made.down()
        raise
    _print_next(made, path, services)
    return 0


def _serve(made: Rig, arguments: argparse.Namespace) -> dict[str, str]:
    """Start the stand-ins for the internet in a process that stays; their addresses."""
    wheels = arguments.wheels
    locks = arguments.lock or ([NODE_LOCK] if NODE_LOCK.exists() else [])
    if not wheels and locks:
        print("Fetching the wheels that its package index serves (once).", flush=True)
        wheels = fetch_wheels(locks, show=True)
    settings = {
        "address": made.outside,
        "wheels": str(wheels.absolute()) if wheels else None,
        "models": _named(arguments.model),
        "datasets": _named(arguments.dataset),
        "files": str(arguments.files.absolute()) if arguments.files else None,
        "answer": str(made.folder / "services.json"),
    }
    argv = [sys.executable, "-m", "tests.rig.serve", json.dumps(settings)]
    # Started by the shell so that it finds the package wherever this command was typed.
    script = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(argv)}"
    anchors.start(f"{made.slot}/stand-in", ["sh", "-c", script], made.folder / "stand-in.log")
    services: dict[str, str] = json.loads((made.folder / "services.json").read_text())
    return services


def _named(pairs: Sequence[str]) -> dict[str, str]:
    named = {}
    for pair in pairs:
        name, equals, folder = pair.rpartition("=")
        if not equals or not Path(folder).is_dir():
            raise RigError(f"{pair!r}: write NAME=FOLDER, and let the folder exist.")
        named[name] = str(Path(folder).absolute())
    return named


def _print_next(made: Rig, path: Path, services: dict[str, str]) -> None:
    config = shlex.quote(str(made.ssh_config()))
    print(f"\nThe inventory is {path}. Next:\n")
    for host in made.hosts:
        print(f"  ssh -F {config} {host.name}")
    print(f"  {bootstrap_line(path, services)}")
    print("  .venv-cluster/bin/python -m tests.rig --help    cut, kill, replace, slow down, ...")
    print("  make rig-down                                   remove it without a trace")
    if hub := services.get("hub_url"):
        print(f"\nThe hub's stand-in: HF_ENDPOINT={hub}")
    if files := services.get("files_url"):
        print(f"The files: {files}")


def bootstrap_line(path: Path, services: Mapping[str, str]) -> str:
    """The command that sets the hosts up, from the checkout, with what it holds itself.

    Behind a rig there is no hub but a stand-in for one, and no pictures but those here.
    """
    words = [".venv-cluster/bin/fab", "bootstrap", "--inventory", str(path)]
    if path.parent == ROOT:
        words[-1] = path.name
    words += ["--environment", "venv", "--stack", "upstream"]
    if index := services.get("package_index_url"):
        words += ["--package-index", index]
    words += ["--pretrained-model-name-or-path", MODEL, "--train-data-dir", PICTURES]
    return shlex.join(words)


def _down(arguments: argparse.Namespace) -> int:
    _check_machine()
    rig.remove_abandoned()
    path = arguments.inventory.absolute()
    wanted = slots.used() if arguments.all else [_slot_of(path)]
    for slot in wanted:
        if slot is not None:
            rig.remove(slot)
            print(f"Rig {slot} is gone.")
    if wanted in ([], [None]):
        print("No rig is up.")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    for host in _rig(arguments).hosts:
        state = "on " if host.is_on else "off"
        carried = host.bytes() if host.is_on else "no bytes"
        print(f"{host.index} {host.name} {host.address} {state} {host.fingerprint} {carried}")
    return 0


def _change(arguments: argparse.Namespace) -> None:
    host = _host(_rig(arguments), arguments.host)
    getattr(host, arguments.name)()


def _change_pair(arguments: argparse.Namespace) -> None:
    here = _rig(arguments)
    getattr(_host(here, arguments.host), arguments.name)(_host(here, arguments.other))


def _rate(arguments: argparse.Namespace) -> None:
    _rig(arguments).set_rate(None if arguments.rate == "none" else arguments.rate)


def _skew(arguments: argparse.Namespace) -> None:
    _host(_rig(arguments), arguments.host).skew_clock(arguments.seconds)


def _cut_person(arguments: argparse.Namespace) -> None:
    _rig(arguments).cut_person()


def _mend_person(arguments: argparse.Namespace) -> None:
    _rig(arguments).mend_person()


def _rig(arguments: argparse.Namespace) -> Rig:
    _check_machine()
    path = arguments.inventory.absolute()
    slot = _slot_of(path)
    state = None if slot is None else slots.read(slot)
    if slot is None or state is None:
        raise RigError(f"No rig belongs to {path}. Bring one up: make rig")
    return Rig(slot, state)


def _host(here: Rig, wanted: str) -> RigHost:
    for host in here.hosts:
        if wanted in (host.name, str(host.index)):
            return host
    raise RigError(f"No host {wanted}; there are {', '.join(host.name for host in here.hosts)}.")


def _slot_of(path: Path) -> int | None:
    """The rig that this inventory belongs to, also where `up` did not come to writing it."""
    for slot in slots.used():
        state = slots.read(slot)
        if state and state.inventory == str(path):
            return slot
    return None


def _check_machine() -> None:
    if lacks := missing():
        raise RigError("A rig needs " + "; ".join(lacks) + ".")


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
