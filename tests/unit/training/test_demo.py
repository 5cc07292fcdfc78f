"""What `make demo` says before it starts, and how it goes on once it was stopped."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from training import demo

CHECKOUT = Path(__file__).parents[3]
INTERRUPTS = """\
import os, signal, time
time.sleep(0.5)  # until it is waited for
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--ranks", "1", "--max_train_steps=300"],
        ["--validation_prompt", "it's a <buddy> for $5", 'say "hi" to my <buddy>'],
    ],
)
def test_ctrl_c_prints_the_way_on_as_it_can_be_pasted(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    start = [sys.executable, "-c", INTERRUPTS]
    monkeypatch.setattr(demo, "launcher", lambda ranks, environment: start)
    given = [f"--output_dir={tmp_path / 'a run'}", *words]
    assert demo.main(given) == 130
    *_, last = capfd.readouterr().out.splitlines()
    command = last.removeprefix("Resume with:  ")
    assert command.startswith("make demo ARGS=")
    dry = command.replace("make", "make --no-print-directory -n", 1)
    shown = subprocess.run(
        ["sh", "-c", dry], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    *_, typed = shown.splitlines()
    _, arguments = typed.split(" -m training.demo ", 1)
    assert shlex.split(arguments) == [*given, "--resume_from_checkpoint=latest"]


def test_a_demo_that_was_gone_on_with_says_the_same_again() -> None:
    words = ["--resume_from_checkpoint", "latest"]
    assert demo.way_on(words) == "make demo ARGS='--resume_from_checkpoint latest'"


def test_the_first_line_says_what_happens_and_imports_no_torch() -> None:
    code = (
        "import sys; from training import demo\n"
        "demo._run = lambda command, programs: 1\n"
        "assert demo.main(['--ranks=1', '--output_dir=there']) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("Teaching a miniature Stable Diffusion a new word from five pictures")
    assert first.endswith("into there/")
    assert second.startswith("(1 rank of training.textual_inversion, started with ")


def test_the_demo_of_lora_goes_on_as_it_was_started() -> None:
    words = ["--method=lora", "--max_train_steps=300"]
    wanted = "make demo-lora ARGS='--max_train_steps=300 --resume_from_checkpoint=latest'"
    assert demo.way_on(words, demo.DEMOS["lora"].command) == wanted


@pytest.mark.parametrize("method", demo.DEMOS)
def test_what_a_demo_needs_is_there(method: str) -> None:
    shown = demo.DEMOS[method]
    assert (demo.MINIATURE / shown.config).is_file()
    assert list((demo.MINIATURE / shown.pictures).glob("*.png"))
