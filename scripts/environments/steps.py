"""The programs of a set-up, run one after another: seconds on the terminal, output in a log."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.environments.profiles import SetupError


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


def python(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / "bin" / "python"


def pip(home: Path) -> list[str | Path]:
    """The pip of an environment, deaf to the caller's Python settings."""
    return [python(home), "-I", "-m", "pip"]
