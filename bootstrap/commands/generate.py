"""`fab generate --prompt "a <dicoo> on the beach"`: draw on the head with what a run has learned.

The pictures come back into runs/NAME/generated here. While a run is going on, the rows of its
newest checkpoint are used; drawing takes cores from it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from bootstrap import answers
from bootstrap.commands import command_line
from bootstrap.errors import UserError
from bootstrap.inventory.inventory import Inventory
from bootstrap.names import under
from bootstrap.runs import prompt_check, results_owner, runs_on_head
from bootstrap.runs.results import disk_errors_named
from bootstrap.runs.run_names import check_name, local_folder
from bootstrap.ssh.host import Host
from bootstrap.terminal import cell, exit_status, say, say_on

PASSED_ON = ("num_images", "seed", "step", "num_inference_steps", "guidance_scale")


def command(head: Host, name: str, chosen: argparse.Namespace) -> str:
    """The line that draws, in the environment that bootstrap has written."""
    words = [head.python, "-P", "-m", "training.generate", f"{head.layout.runs}/{name}"]
    words += [f"--prompt={prompt}" for prompt in chosen.prompt]
    words += [
        f"--{key}={getattr(chosen, key)}" for key in PASSED_ON if getattr(chosen, key) is not None
    ]
    activate = shlex.quote(head.layout.activate)
    line = f"[ ! -r {activate} ] || . {activate}; cd {shlex.quote(head.layout.root)}; " + (
        f"exec {shlex.join(words)}"
    )
    return shlex.join(["bash", "--norc", "-c", line])  # what it sources is bash's


def _check_prompts(prompts: Sequence[str], config: str, name: str) -> None:
    word = prompt_check.placeholder_token_of(config)
    if word is not None:
        prompt_check.require_placeholder_token(prompts, word, name)


def _config_on(head: Host, name: str) -> str:
    try:
        return head.read(f"{head.layout.runs}/{name}/{prompt_check.CONFIG}").decode(
            "utf-8", "replace"
        )
    except UserError:  # the run has not begun: what draws says so
        return ""


def _config_here(name: str) -> str:
    try:
        path = local_folder(check_name(name)) / prompt_check.CONFIG
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@exit_status()
def refuse_here(chosen: argparse.Namespace) -> int:
    """Check the prompts by the run that has been fetched, without a connection; 1: refused."""
    if chosen.run:
        _check_prompts(chosen.prompt, _config_here(chosen.run), chosen.run)
    return 0


def act(chosen: argparse.Namespace, inventory: Inventory, hosts: list[Host]) -> int:
    """Draw and bring the pictures."""
    head = hosts[0]
    run = runs_on_head.the_run(head, chosen.run)
    name = run["name"]
    _check_prompts(chosen.prompt, _config_on(head, name), name)
    with disk_errors_named(name):
        here = results_owner.folder_of(inventory.name, run)
    console = Console(stderr=True)
    with console.status(cell(f"{head.name}: loading the model")) as status:

        def tell(line: str) -> None:
            if line.startswith("drawing"):
                status.update(cell(f"{head.name}: {line}"))
            elif line.startswith("prompt "):  # what of it is cut off, say
                say_on(console, f"{head.name}: {line}")

        finished = head.run(command(head, name, chosen), on_line=tell, check=False)
        if finished.exit_code != 0:
            raise UserError(f"{head.name}: {finished.error_line}")
        drawn = f"{head.name}: the pictures that it drew"
        for path in answers.read_last_line(list[str], finished.stdout, drawn):
            target = under(here / "generated", path.rpartition("/")[2], head.name)
            with disk_errors_named(name):
                head.fetch(path, target)
            say(str(target))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`fab generate`."""
    parser = command_line.parser("generate", __doc__)
    parser.add_argument("--prompt", action="append", required=True, help="may be repeated")
    parser.add_argument("--num-images", type=int, help="pictures per prompt [1]")
    parser.add_argument("--seed", type=int, help="of the first picture [0]")
    parser.add_argument("--step", type=int, help="with the rows of this step [the final ones]")
    parser.add_argument("--num-inference-steps", type=int, help="[as in training]")
    parser.add_argument("--guidance-scale", type=float, help="[as in training]")
    chosen = parser.parse_args(argv)
    return refuse_here(chosen) or command_line.run_command(chosen, act)


if __name__ == "__main__":
    sys.exit(main())
