"""Runs on the head: fetch a model or pictures from the Hugging Face hub into a folder.

    env/bin/python -m bootstrap.node.downloads.hub_download model REPOSITORY FOLDER [REVISION]
    env/bin/python -m bootstrap.node.downloads.hub_download pictures REPOSITORY FOLDER [REVISION]

Through huggingface_hub itself, so HF_TOKEN_PATH and proxies are respected. Standard input is the
URL of a mirror, in which there may be a password, or nothing. What is whole is not fetched again.
The last line printed is the commit that the files are of.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bootstrap.errors import UserError, exit_status
from bootstrap.names import relative
from bootstrap.node.downloads.hub_files import picture_files, pipeline_files, without_safetensors
from bootstrap.urls import shown

DEFAULT_ENDPOINT = "https://huggingface.co"


def download(kind: str, repository: str, folder: Path, revision: str | None) -> str:
    """Fetch it; returns the commit.

    Raises:
        UserError: the hub does not answer, refuses, or has nothing that can be used.
    """
    # Nodes have it, the person's machine need not.
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        about = HfApi().model_info(repository, revision=revision)
        names = [item.rfilename for item in about.siblings or []]
        wanted = pipeline_files(names) if kind == "model" else picture_files(names)
        for name in wanted:
            relative(name, repository)
        check(kind, repository, wanted, names)
        for number, name in enumerate(wanted, 1):
            print(f"{number} of {len(wanted)}: {name}", flush=True)
            fetched = Path(hf_hub_download(repository, name, revision=about.sha, local_dir=folder))
            if kind == "pictures" and fetched.parent != folder:
                fetched.replace(folder / fetched.name)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(
            f"{repository}: the hub refuses access: the repository does not exist, or needs a "
            "token with access (fab bootstrap --hub-token-file PATH)."
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT)
        raise UserError(
            f"{repository}: could not be fetched from {shown(endpoint)}: {shown(reason)}. "
            "Check the head's network, name a mirror (HF_ENDPOINT), or send a folder of your "
            "own (--pretrained-model-name-or-path, --train-data-dir)."
        ) from error
    # The client's own notes on what it fetched; a picture's former folder.
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if kind == "pictures":
        for name in {PurePosixPath(name).parts[0] for name in wanted if "/" in name}:
            shutil.rmtree(folder / name, ignore_errors=True)
    return str(about.sha)


def check(kind: str, repository: str, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a repository that cannot be used, before anything is fetched."""
    if kind == "pictures" and not wanted:
        raise UserError(f"{repository}: has no pictures.")
    if kind == "model":
        if "model_index.json" not in wanted:
            raise UserError(f"{repository}: is not a diffusers pipeline (no model_index.json).")
        pickled = without_safetensors(wanted, names)
        if pickled:
            raise UserError(
                f"{repository}: {', '.join(pickled)} has its weights as pickles alone, which can "
                "run code when read. Convert them to safetensors and send the folder."
            )


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """Do it, and say how."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) not in (3, 4) or arguments[0] not in ("model", "pictures"):
        print(__doc__, file=sys.stderr)
        return 2
    kind, repository, folder = arguments[:3]
    if endpoint := sys.stdin.read().strip():
        os.environ["HF_ENDPOINT"] = endpoint  # the library reads it when it is imported
    Path(folder).mkdir(parents=True, exist_ok=True)
    commit = download(kind, repository, Path(folder), arguments[3] if arguments[3:] else None)
    print(commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
