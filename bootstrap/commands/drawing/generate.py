"""`fab generate --prompt "a <dicoo> on the beach"`: draw on the head with what a run has learned.

The pictures come back into runs/NAME/generated here. While a run is going on, the word as of its
newest checkpoint is used; drawing takes cores from the run. The flags are those of
`python -m training.generate` (docs/generate.md); files that they name are here and go to the head.
`--engine openvino` draws with what `fab export` has made.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bootstrap import answers
from bootstrap.commands import command_line
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.names import under
from bootstrap.runs import prompt_check, results_owner, runs_on_head
from bootstrap.runs.drawing import files, head_program
from bootstrap.runs.results import disk_errors_named
from bootstrap.runs.run_names import check_name, local_folder
from bootstrap.ssh.host import Host
from bootstrap.terminal import cell, exit_status, say, say_on

MODULE = "training.generate"
PASSED_ON = (
    "negative_prompt", "num_images", "seed", "height", "width", "step", "scheduler",
    "num_inference_steps", "guidance_scale", "engine", "mixed_precision",
)  # fmt: skip


def words(head: Host, name: str, chosen: argparse.Namespace) -> list[str]:
    """The program's flags; its files are on the head after this."""
    prompts = [f"--prompt={prompt}" for prompt in chosen.prompt]
    return [head.layout.run(name), *prompts, *files.words(head, chosen, PASSED_ON)]


def _check_prompts(prompts: Sequence[str], config: str, name: str) -> None:
    word = prompt_check.placeholder_token_of(config)
    if word is not None:
        prompt_check.require_placeholder_token(prompts, word, name)


def _config_here(name: str) -> str:
    try:
        path = local_folder(check_name(name)) / prompt_check.CONFIG
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@exit_status()
def refuse_here(chosen: argparse.Namespace) -> int:
    """Read the prompts, and check them by the run that has been fetched, and that files are here.

    All of it without a connection; not 0: refused.
    """
    chosen.prompt = list(chosen.prompt or [])
    if chosen.prompt_file is not None:
        chosen.prompt += files.prompts_in(chosen.prompt_file)
    if not chosen.prompt:
        raise UserError("nothing to draw: give --prompt or --prompt-file.")
    files.refuse_missing(chosen)
    if chosen.run and not chosen.embeds:
        _check_prompts(chosen.prompt, _config_here(chosen.run), chosen.run)
    return 0


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Draw and bring the pictures."""
    head = hosts[0]
    run = runs_on_head.the_run(head, chosen.run)
    name = run["name"]
    if not chosen.embeds:  # with further words, a prompt may be about those alone
        config = head.text_of(f"{head.layout.run(name)}/{prompt_check.CONFIG}")
        _check_prompts(chosen.prompt, config, name)
    with disk_errors_named(name):
        here = results_owner.folder_of(inventory.name, run)
    console = Console(stderr=True)
    with console.status(cell(f"{head.name}: loading the model")) as status:

        def tell(line: str) -> None:
            if line.startswith("drawing"):
                status.update(cell(f"{head.name}: {line}"))
            elif line.startswith("prompt "):  # what of it is cut off, say
                say_on(console, f"{head.name}: {line}")

        finished = head_program.run(head, MODULE, words(head, name, chosen), tell)
        drawn = f"{head.name}: the pictures that it drew"
        for path in answers.read_last_line(list[str], finished.stdout, drawn):
            target = under(here / "generated", path.rpartition("/")[2], head.name)
            with disk_errors_named(name):
                head.fetch(path, target)
            say(str(target))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_line.parser("generate", __doc__)
    add = made.add_argument
    add("--prompt", action="append", help="prompt to draw; may be repeated")
    add(
        "--prompt-file",
        type=Path,
        metavar="FILE",
        help="file here with one prompt per line",
    )
    add("--negative-prompt", metavar="TEXT", help="what not to draw")
    add("--num-images", type=int, help="pictures per prompt [1]")
    add("--seed", type=int, help="seed of the first picture; each next picture takes the next [0]")
    add("--height", type=int, help="in pixels, a multiple of 8 [as in training]")
    add("--width", type=int, help="in pixels, a multiple of 8 [as in training]")
    add("--step", type=int, help="use the word as of this step [the final one]")
    files.add_flags(made)
    add("--scheduler", metavar="NAME", help="dpmpp_2m, ddim, euler, lcm ... [dpmpp_2m]")
    add(
        "--num-inference-steps",
        type=int,
        help="denoising steps [as in training; 4 with lcm and tcd]",
    )
    add("--guidance-scale", type=float, help="guidance scale [as in training; 1 with lcm and tcd]")
    add("--engine", choices=("torch", "compiled", "openvino"), help="[torch]")
    add("--mixed-precision", choices=("auto", "no", "bf16"), help="[as in training]")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """`fab generate`."""
    chosen = parser().parse_args(argv)
    return refuse_here(chosen) or command_line.run_command(chosen, act)
