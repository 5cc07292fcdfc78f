"""The results on the hub: asked before training whether it takes them, uploaded after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import yaml
from diffusers.utils.hub_utils import load_or_create_model_card, populate_model_card
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from training.config.groups import OutputsConfig
from training.config.run import RunConfig
from training.errors import UserError, first_line
from training.storage.events import events_of, read_events
from training.storage.run_directory import MODEL_INDEX, PIPELINE_PARTS

UPLOADED = (
    "samples/step-*/*.png",
    "loss.png",
    MODEL_INDEX,
    *(f"{part}/**/*" for part in PIPELINE_PARTS),
)
"""What is uploaded, beside the method's own files and the model card, and nothing else: the
configuration, events, the report, logs and a cluster's job files tell of folders and machines;
comparison.png shows the training pictures."""
TAGS = ("stable-diffusion", "stable-diffusion-diffusers", "text-to-image", "diffusers")
LICENSE = "creativeml-openrail-m"
"""Stable Diffusion's; it covers models derived from it."""
REFUSALS = (HfHubHTTPError, httpx.HTTPError, OSError, ValueError, yaml.YAMLError)
"""What the hub's client raises, and what a model card there with broken metadata does."""


def ask_for_repository(outputs: OutputsConfig) -> str:
    """Make the repository, unless it is there; returns its whole name.

    Raises:
        UserError: the hub is out of reach, or this token may not write there.
    """
    api, name = HfApi(), outputs.hub_model_id or outputs.output_dir.name
    try:
        repository = api.create_repo(name, exist_ok=True).repo_id
        api.auth_check(repository, write=True)
    except REFUSALS as error:
        raise UserError(
            f"push_to_hub: the hub does not take {name} ({first_line(error)}). Set HF_TOKEN to a "
            "token that may write there, give another --hub_model_id, or leave out --push_to_hub."
        ) from error
    return repository


def publish(config: RunConfig, repository: str, notify: Callable[[str], None]) -> None:
    """Upload what was learned, the pictures drawn with it and the whole pipeline; a model card.

    Raises:
        UserError: the hub refuses.
    """
    names = sorted(
        {
            path.relative_to(config.output_dir).as_posix()
            for pattern in (*UPLOADED, *config.own_files)
            for path in config.output_dir.glob(pattern)
            if path.is_file()
        }
    )
    try:
        files = [
            CommitOperationAdd("README.md", model_card(config, repository).encode()),
            *(CommitOperationAdd(name, config.output_dir / name) for name in names),
        ]
        HfApi().create_commit(repository, files, commit_message="End of training")
    except REFUSALS as error:
        raise UserError(
            f"push_to_hub: {repository} could not be uploaded ({first_line(error)}). "
            "Set HF_TOKEN to a token that may write; the results are in "
            f"{config.output_dir}."
        ) from error
    notify(f"uploaded to {repository}: README.md, {', '.join(_shortened(names))}")


def _shortened(names: list[str]) -> list[str]:
    """Files of the run's own folder, and folders with what they hold."""
    folders = dict.fromkeys(name.split("/")[0] + "/" for name in names if "/" in name)
    return [*(name for name in names if "/" not in name), *folders]


def model_card(config: RunConfig, repository: str) -> str:
    """README.md for the hub: what it is, how it is used, what it draws.

    One that is there is kept, with the tags added, as diffusers' own script does.
    """
    name = config.model_name
    base = None if Path(name).exists() else name
    loaded = f'"{base}"' if base else "..."
    description = (
        f"# {config.title}\n\n"
        f"{config.summary} over {base or 'a Stable Diffusion model'}.\n\n"
        "```python\n"
        "from diffusers import StableDiffusionPipeline\n\n"
        f"pipeline = StableDiffusionPipeline.from_pretrained({loaded})\n"
        f"{config.usage(repository)}"
        "```\n\n"
        f"{_pictures(config.output_dir)}"
    )
    card = load_or_create_model_card(
        repo_id_or_path=repository,
        from_training=True,
        license=LICENSE,
        base_model=base,
        model_description=description,
        inference=True,
    )
    return str(populate_model_card(card, tags=[*TAGS, config.method, "diffusers-training"]))


def _pictures(folder: Path) -> str:
    """The newest validation pictures with their prompts; nothing where none were drawn."""
    drawn = events_of(read_events(folder), "sample", "prompt", "path")
    newest = max((event["step"] for event in drawn), default=None)
    return "".join(
        f"![{event['prompt']}](./{event['path']})\n" for event in drawn if event["step"] == newest
    )
