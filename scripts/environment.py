"""Make the virtual environments that the Makefile's targets run in.

    python scripts/environment.py upstream        make .venv (PyTorch, diffusers, the tools)
    python scripts/environment.py intel           make .venv-intel (the same with IPEX)
    python scripts/environment.py openvino        make .venv-openvino (the same with OpenVINO)
    python scripts/environment.py cluster         make .venv-cluster (pulumi, fabric; no PyTorch)
    python scripts/environment.py lock upstream   write requirements/upstream.txt anew
    python scripts/environment.py clean           remove the environments

An environment is built in .venvs/<profile>-<key>/ and .venv (or another) becomes a link to it
only once it works, so whoever finds the link finds a whole environment. The key stands for the
lock file, the interpreter and the place of the checkout: while none of them changes, a second run
has nothing to do. docs/development.md tells the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

OLDEST_PYTHON = (3, 11)
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
ONECCL_INDEX = "https://pytorch-extension.intel.com/release-whl/stable/cpu/us/"
TORCH_INDEX_VARIABLE = "XEON_DIFFUSION_TORCH_INDEX"
ONECCL_INDEX_VARIABLE = "XEON_DIFFUSION_ONECCL_INDEX"
PROBE_SECONDS = 5.0

# A CUDA build of torch refuses to be imported without its CUDA libraries. It loads these only once
# it meets a GPU, so they are left out: half a gigabyte that nothing here would ever open.
NEVER_LOADED_ON_CPU = ("nvidia-cuda-nvrtc", "nvidia-cusolver", "nvidia-nvtx", "triton")
CUDA_PACKAGES = ("cuda-", "nvidia-", "triton")
# optimum-intel asks for it and imports it for other kinds of models alone. The index's build of it
# belongs to the CUDA build of torch: beside a CPU build, transformers could not be imported.
NEVER_IMPORTED = ("torchvision",)

# Imported once at the end: a package that installs but does not import is a failed set-up.
IMPORTED_AS = {
    "accelerate": "accelerate",
    "diffusers": "diffusers",
    "fabric": "fabric",
    "gradio": "gradio",
    "intel-extension-for-pytorch": "intel_extension_for_pytorch",
    "nncf": "nncf",
    "openvino-genai": "openvino_genai",
    "openvino-tokenizers": "openvino_tokenizers",
    "optimum-intel": "optimum.intel",
    "pulumi": "pulumi",
    "torch": "torch",
    "transformers": "transformers",
}


@dataclass(frozen=True)
class Profile:
    """One environment: what goes into it, and the name under which the Makefile finds it."""

    name: str
    link: str
    extras: tuple[str, ...]
    free_gib: float
    torch: str | None = None
    linux_x86_64_only: bool = False
    oneccl: str | None = None


PROFILES = {
    "upstream": Profile(
        name="upstream",
        link=".venv",
        extras=("train", "dev"),
        free_gib=4,
        torch="2.13.0",
    ),
    "intel": Profile(
        name="intel",
        link=".venv-intel",
        extras=("train", "intel", "dev"),
        free_gib=8,
        torch="2.8.0",
        linux_x86_64_only=True,
        oneccl="2.8.0",
    ),
    # Apart from the others: optimum-intel holds huggingface_hub to older releases.
    "openvino": Profile(
        name="openvino",
        link=".venv-openvino",
        extras=("train", "openvino", "playground", "browser", "dev"),
        free_gib=4,
        torch="2.13.0",
    ),
    # Apart from the one that trains: pulumi-azure-native alone takes as long to install as that.
    "cluster": Profile(
        name="cluster",
        link=".venv-cluster",
        extras=("infra", "bootstrap", "dev"),
        free_gib=2,
    ),
}


class SetupError(Exception):
    """A set-up that cannot go on; the message says what failed and what to do about it."""


def folder(root: Path) -> Path:
    """The folder in a checkout that holds its environments."""
    return root / ".venvs"


def lock_path(root: Path, profile: Profile) -> Path:
    """The file that pins every package of an environment."""
    return root / "requirements" / f"{profile.name}.txt"


def key(root: Path, profile: Profile) -> str:
    """A name for everything that an environment depends on.

    The checkout's own place is part of it: an environment's scripts hold absolute paths, so one
    that was copied or moved along with its checkout must not be taken for a working one.
    """
    digest = hashlib.sha256(lock_path(root, profile).read_bytes())
    for part in (sys.version, sys.base_prefix, platform.machine(), str(root)):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:12]


def is_ready(root: Path, profile: Profile) -> bool:
    """Whether the link leads to the finished environment that the lock file asks for."""
    home = folder(root) / f"{profile.name}-{key(root, profile)}"
    link = root / profile.link
    return (
        link.is_symlink()
        and os.readlink(link) == f"{home.parent.name}/{home.name}"
        and is_finished(home)
    )


def is_finished(home: Path) -> bool:
    """Whether a set-up ran to its end here, and the interpreter it was made with still exists."""
    return (home / "finished.json").is_file() and (home / "bin" / "python").exists()


def check_host(profile: Profile, root: Path) -> None:
    """Refuse a machine that the environment cannot work on, before anything is downloaded."""
    if profile.linux_x86_64_only and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"The {profile.name} environment exists for Linux on x86-64 only: Intel publishes its"
            " PyTorch extension for nothing else.\nThe upstream one (make test) works here."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"This Python {version} comes without venv and ensurepip.\n"
            f"On Debian or Ubuntu:  apt-get install python{version}-venv"
        ) from None
    free = shutil.disk_usage(root).free / 2**30
    if free < profile.free_gib:
        raise SetupError(
            f"The {profile.name} environment takes up to {profile.free_gib:g} GiB and {root} has"
            f" {free:.1f} GiB free.\nMake room there (make clean removes older environments)."
        )


def check_link(root: Path, profile: Profile) -> None:
    """Refuse to replace a `.venv` that somebody else made."""
    link = root / profile.link
    made_here = link.is_symlink() and os.readlink(link).startswith(f"{folder(root).name}/")
    if os.path.lexists(link) and not made_here:
        raise SetupError(
            f"{link} is already there, and this script did not make it: it is left as it is.\n"
            f"Move it away (mv {profile.link} {profile.link}.old) and run this again."
        )


@contextlib.contextmanager
def only_one(root: Path, profile: Profile) -> Iterator[int]:
    """Keep two set-ups of one environment apart; yields the lock's file descriptor.

    The descriptor is handed on to every program the set-up starts. A pip that outlives a killed
    set-up so holds the lock until it ends, and nobody clears the folder it still writes to.
    """
    folder(root).mkdir(exist_ok=True)
    path = folder(root) / f"{profile.name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    holder = path.read_text().strip() or "unknown"
                    say(f"Another set-up of this environment runs (process {holder}); waiting.")
                    waiting = True
                time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


class Steps:
    """Runs the programs of a set-up one after another and shows how long each one takes."""

    def __init__(self, log: Path, lock: int | None = None) -> None:
        self.log = log
        self.lock = lock
        self.live = sys.stdout.isatty()
        log.write_bytes(b"")

    def run(
        self, what: str, command: Sequence[str | Path], advice: str, index: str | None = None
    ) -> None:
        """Run a program to its end; raises SetupError with its last words when it fails."""
        if not self.attempt(what, command, index):
            raise SetupError(f"{what}: failed.\n{self.last_words()}\n{advice}")

    def attempt(self, what: str, command: Sequence[str | Path], index: str | None = None) -> bool:
        """Run a program to its end and say whether it succeeded.

        Args:
            index: pip's, as a variable: what has a password in it is no argument and in no log.
        """
        began = time.monotonic()
        words = [str(part) for part in command]
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(words)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_variables(os.environ) | ({"PIP_INDEX_URL": index} if index else {}),
                pass_fds=() if self.lock is None else (self.lock,),
            )
        try:
            self._wait(what, process, began)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        return process.returncode == 0

    def _wait(self, what: str, process: subprocess.Popen[bytes], began: float) -> None:
        """Show the seconds going by: as one line on a terminal, now and then in a log."""
        reported = began
        while True:
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if self.live:
                    line = f"  {what} … {now - began:.0f} s"
                    # A line that wraps could not be written over.
                    line = line[: shutil.get_terminal_size().columns - 1]
                    print(f"\r\x1b[K{line}", end="", flush=True)
                elif now - reported >= 30:
                    say(f"  {what} … {now - began:.0f} s so far")
                    reported = now
                continue
            ending = "" if process.returncode == 0 else " (failed)"
            start = "\r\x1b[K" if self.live else ""
            say(f"{start}  {what}: {time.monotonic() - began:.0f} s{ending}")
            return

    def last_words(self) -> str:
        """The error lines at the end of the log, else its last lines."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        begin = max(number for number, line in enumerate(lines) if line.startswith("$ "))
        said = [line for line in lines[begin + 1 :] if line]
        errors = [line for line in said if "error" in line.lower()]
        return "\n".join(f"  {line}" for line in (errors or said or ["(it printed nothing)"])[-5:])


def clean_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables without those that would send packages elsewhere."""
    misleading = ("PYTHONHOME", "PYTHONPATH", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER")
    kept = {name: value for name, value in variables.items() if name not in misleading}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def index_answers(url: str) -> bool:
    """Whether a package index can be reached from here, found out within a few seconds."""
    # Imported here: it alone would take a third of the time of a run with nothing to do.
    import urllib.error
    import urllib.request

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(f"{url.rstrip('/')}/", method="HEAD")
            try:
                with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                    answered.set()
            except urllib.error.HTTPError as error:
                # Some indexes serve their packages but refuse to list their top folder.
                if error.code in (403, 404, 405):
                    answered.set()

    # Looking a host up knows no timeout, so it happens in a thread that may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return answered.is_set()


def chosen_index(variable: str, default: str) -> str | None:
    """The index that a variable names, else the default where it answers, else none."""
    named = os.environ.get(variable, "").strip()
    if named:
        return None if named == "none" else named
    return default if index_answers(default) else None


def without_user(url: str) -> str:
    """A URL that may be shown: without user name and password."""
    return re.sub(r"(?<=://)[^/]*@", "", url)


def locked_versions(lock: Path) -> dict[str, str]:
    """The pinned version of each package in a lock file."""
    pin = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")
    matches = (pin.match(line) for line in lock.read_text().splitlines())
    return {normal(match[1]): match[2] for match in matches if match}


def normal(name: str) -> str:
    """A package's name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cuda_requirements(home: Path) -> list[str]:
    """The CUDA packages that the installed torch asks for and loads on import; none for CPU builds.

    They are read from torch's own metadata, which pins them, and so need no lock file of their own.
    """
    from email.parser import HeaderParser

    found = sorted(home.glob("lib/python*/site-packages/torch-*.dist-info/METADATA"))
    if not found:
        return []
    metadata = HeaderParser().parsestr(found[-1].read_text())
    wanted = [
        text
        for text in metadata.get_all("Requires-Dist", [])
        if text.startswith(CUDA_PACKAGES) and "extra ==" not in text
    ]
    return [text for text in wanted if not text.startswith(NEVER_LOADED_ON_CPU)]


def install_torch(steps: Steps, home: Path, version: str) -> None:
    """Install torch: a CPU build where there is one, else what the configured index offers."""
    source = "from the configured index"
    index = None
    # Only on Linux are the index's ordinary builds made for CUDA.
    if sys.platform == "linux" or TORCH_INDEX_VARIABLE in os.environ:
        index = chosen_index(TORCH_INDEX_VARIABLE, TORCH_INDEX)
        if index is not None:
            source = f"from {without_user(index)}"
    steps.run(
        f"PyTorch {version}, {source}",
        [*pip(home), "install", "--no-deps", f"torch=={version}"],
        "Check the network, then run this again. "
        + (
            f"{TORCH_INDEX_VARIABLE}=none takes torch from the configured index instead."
            if index is not None
            else f"{TORCH_INDEX_VARIABLE} can name an index that has this release."
        ),
        index,
    )
    wanted = cuda_requirements(home)
    if wanted:
        steps.run(
            "CUDA libraries, which this build of PyTorch needs to be imported at all",
            [*pip(home), "install", *wanted],
            f"Check the network, or name an index with CPU builds in {TORCH_INDEX_VARIABLE}.",
        )


def install_oneccl(steps: Steps, home: Path, version: str) -> None:
    """Install the oneCCL bindings where Intel's index answers; training falls back to gloo."""
    without = "training on several machines uses gloo"
    index = chosen_index(ONECCL_INDEX_VARIABLE, ONECCL_INDEX)
    if index is None:
        reason = (
            f"{ONECCL_INDEX_VARIABLE} says so"
            if ONECCL_INDEX_VARIABLE in os.environ
            else "Intel's index does not answer"
        )
        say(f"  oneCCL bindings: left out, {reason}; {without}")
        return
    package = "oneccl_bind_pt"
    imports = "import torch, oneccl_bindings_for_pytorch"
    install = [*pip(home), "install", "--no-deps", f"{package}=={version}"]
    source = without_user(index)
    if not steps.attempt(f"oneCCL bindings {version}, from {source}", install, index):
        say(f"  oneCCL bindings: left out, {source} has no {version} for this Python; {without}")
    elif not steps.attempt("oneCCL bindings, first import", [python(home), "-I", "-c", imports]):
        steps.attempt("oneCCL bindings, taken out", [*pip(home), "uninstall", "--yes", package])
        say(f"  oneCCL bindings: left out, they do not import here; {without}")


def python(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / "bin" / "python"


def pip(home: Path) -> list[str | Path]:
    """The pip of an environment, deaf to the caller's Python settings."""
    return [python(home), "-I", "-m", "pip"]


def build(root: Path, profile: Profile, home: Path, steps: Steps) -> None:
    """Fill an environment's folder from its lock file and mark it finished."""
    lock = lock_path(root, profile)
    versions = locked_versions(lock)
    network = (
        "Check the network and the package index (pip config list; PIP_INDEX_URL names another),"
        " then run this again."
    )
    steps.run(
        "virtual environment",
        [sys.executable, "-m", "venv", home],
        f"Check that {sys.executable} -m venv works for any other folder.",
    )
    if "torch" in versions:
        install_torch(steps, home, versions["torch"])
    # The lock holds all packages, those that other packages need too: nothing is left to resolve.
    steps.run(
        f"{len(versions)} packages, as {lock.relative_to(root)} pins them",
        [*pip(home), "install", "--no-deps", "--requirement", lock],
        network,
    )
    if profile.oneccl is not None and "torch" in versions:
        install_oneccl(steps, home, profile.oneccl)
    # Not `pip install -e`: that lists today's packages, and one added tomorrow would be missed.
    site_packages = next(home.glob("lib/python*/site-packages"))
    (site_packages / "xeon_diffusion_checkout.pth").write_text(f"{root}\n")
    modules = [IMPORTED_AS[name] for name in sorted(versions) if name in IMPORTED_AS]
    if modules:
        steps.run(
            "first import",
            [python(home), "-I", "-c", f"import {', '.join(sorted(modules, key=import_order))}"],
            "The packages installed but do not work together on this machine; the log has the"
            " whole traceback.",
        )
    (home / "finished.json").write_text(
        json.dumps({"lock": lock.name, "python": sys.version, "packages": versions}, indent=1)
    )


def import_order(module: str) -> tuple[bool, str]:
    """Torch comes first: its extension does not load without it."""
    return (module != "torch", module)


def remove_unfinished(root: Path, profile: Profile) -> None:
    """Remove what a killed set-up left behind. The caller holds the lock."""
    for home in sorted(folder(root).glob(f"{profile.name}-*")):
        if not is_finished(home):
            say(f"Removing {home.relative_to(root)}, which an earlier set-up left half-made.")
            shutil.rmtree(home)


def flip(root: Path, profile: Profile, home: Path) -> None:
    """Point the link at an environment, in one move."""
    new = folder(root) / f"{profile.name}.link"
    new.unlink(missing_ok=True)
    new.symlink_to(f"{home.parent.name}/{home.name}", target_is_directory=True)
    os.replace(new, root / profile.link)


def set_up(root: Path, profile: Profile) -> None:
    """Make an environment, or find that it is already there; raises SetupError."""
    if not lock_path(root, profile).is_file():
        raise SetupError(f"{lock_path(root, profile)} is missing: is {root} the checkout?")
    if is_ready(root, profile):
        return
    check_link(root, profile)
    with only_one(root, profile) as lock:
        if is_ready(root, profile):
            return
        remove_unfinished(root, profile)
        home = folder(root) / f"{profile.name}-{key(root, profile)}"
        if not is_finished(home):
            check_host(profile, root)
            make(root, profile, home, lock)
        flip(root, profile, home)
        others = [other.name for other in folder(root).glob(f"{profile.name}-*") if other.is_dir()]
        others.remove(home.name)
        if others:
            # A training may still run in one of them, so they are not this script's to remove.
            say(f"Older environments are still in .venvs/ ({', '.join(sorted(others))}).")


def make(root: Path, profile: Profile, home: Path, lock: int) -> None:
    """Build an environment in its folder; on any failure the folder is gone again."""
    began = time.monotonic()
    say(f"Setting up {profile.link}, the {profile.name} environment. This is done once.")
    steps = Steps(folder(root) / f"{profile.name}.log", lock)
    try:
        build(root, profile, home, steps)
    except BaseException as error:
        shutil.rmtree(home, ignore_errors=True)
        if isinstance(error, SetupError):
            raise SetupError(
                f"{error}\nNothing half-made is left. Everything that was printed:"
                f" {steps.log.relative_to(root)}"
            ) from None
        raise
    say(f"{profile.link} is ready ({time.monotonic() - began:.0f} s).")


def clean(root: Path) -> None:
    """Remove the environments and their links, and nothing that this script did not make."""
    for profile in PROFILES.values():
        link = root / profile.link
        with only_one(root, profile):
            if link.is_symlink() and os.readlink(link).startswith(f"{folder(root).name}/"):
                link.unlink()
            elif os.path.lexists(link):
                say(f"{profile.link} was not made by this script and stays.")
            for home in sorted(folder(root).glob(f"{profile.name}-*")):
                say(f"Removing {home.relative_to(root)}")
                shutil.rmtree(home)
            (folder(root) / f"{profile.name}.log").unlink(missing_ok=True)


def direct_requirements(root: Path, profile: Profile) -> list[str]:
    """What the project itself asks for in an environment."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [text for extra in profile.extras for text in extras[extra]]


def lock_lines(report: Mapping[str, Any], requirements: Sequence[str]) -> list[str]:
    """The lines of a lock file, from pip's report of what it would install.

    A package that the project asks for on some platforms only keeps that condition. Torch keeps no
    mark of the build that was found here, and no CUDA packages: install_torch sees to both.
    What is never imported is left out: locks are installed without looking at dependencies.
    """
    conditions: dict[str, str] = {}
    for text in requirements:
        asked, _, condition = text.partition(";")
        if condition:
            conditions[normal(re.split(r"[^A-Za-z0-9._-]", asked)[0])] = condition.strip()
    lines = []
    for item in report["install"]:
        name = normal(item["metadata"]["name"])
        if name.startswith(CUDA_PACKAGES) or name in NEVER_IMPORTED:
            continue
        line = f"{name}=={item['metadata']['version'].partition('+')[0]}"
        lines.append(f"{line}; {conditions[name]}" if name in conditions else line)
    return sorted(lines)


def write_lock(root: Path, profile: Profile) -> None:
    """Resolve a profile's extras with a fresh pip and pin the outcome in its lock file."""
    check_host(profile, root)
    requirements = direct_requirements(root, profile)
    with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
        place = Path(scratch)
        steps = Steps(place / "log")
        steps.run("virtual environment", [sys.executable, "-m", "venv", place / "env"], "")
        wanted = place / "requirements.txt"
        torch = [] if profile.torch is None else [f"torch=={profile.torch}"]
        wanted.write_text("\n".join([*requirements, *torch]) + "\n")
        report = place / "report.json"
        resolve = [*pip(place / "env"), "install", "--dry-run", "--ignore-installed"]
        steps.run(
            "resolving the packages",
            [*resolve, "--report", report, "--requirement", wanted],
            "Change the ranges in pyproject.toml so that they can all be met.",
        )
        lines = lock_lines(json.loads(report.read_text()), requirements)
    header = (
        f"# Every package of the {profile.name} environment. Written by\n"
        f"#     python scripts/environment.py lock {profile.name}\n"
        "# from the extras in pyproject.toml: change those, not this.\n"
    )
    lock_path(root, profile).parent.mkdir(exist_ok=True)
    lock_path(root, profile).write_text(header + "\n".join(lines) + "\n")
    say(f"{lock_path(root, profile).relative_to(root)}: {len(lines)} packages")


def stop(number: int, frame: FrameType | None) -> None:
    """Let a terminated set-up clean up as one does that is interrupted."""
    raise KeyboardInterrupt


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Make the virtual environments that the Makefile's targets run in."
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parent.parent,
        help="the checkout to work in (default: the one this script lies in)",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for profile in PROFILES.values():
        actions.add_parser(profile.name, help=f"make {profile.link}, unless it is there")
    lock = actions.add_parser("lock", help="write a profile's requirements/*.txt anew")
    lock.add_argument("profile", choices=sorted(PROFILES))
    actions.add_parser("clean", help="remove the environments")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(str(number) for number in OLDEST_PYTHON)
        print(
            f"Python {wanted} or newer is needed; this one, {sys.executable}, is"
            f" {platform.python_version()}.\n"
            f"Name another one:  make PYTHON=/path/to/python{wanted}",
            file=sys.stderr,
        )
        return 1
    chosen = parse(arguments)
    root = chosen.root.resolve()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        if chosen.action == "clean":
            clean(root)
        elif chosen.action == "lock":
            write_lock(root, PROFILES[chosen.profile])
        else:
            set_up(root, PROFILES[chosen.action])
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-made is left.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
