"""A run's checkpoints as they lie on one node: which is the newest whole one, and bring it over.

    python -m bootstrap.node.checkpoints newest RUN_FOLDER            what is there, as JSON
    python -m bootstrap.node.checkpoints export RUN_FOLDER STEP       its files, as JSON
    python -m bootstrap.node.checkpoints import RUN_FOLDER < EXPORT   writes them

Every node keeps them (kilobytes), so that the loss of none takes a run along. Reads contract 2:
`config.toml` and `checkpoint-<step>/` with `state.json`, which holds the hash of the state.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootstrap import atomic_files
from bootstrap.errors import UserError

CONFIG = "config.toml"
MANIFEST = "state.json"
STATE = "state.safetensors"
# A run that was killed while it replaced a checkpoint has it under the second name.
_NAME, _REPLACED = re.compile(r"checkpoint-(\d+)"), re.compile(r"\.checkpoint-(\d+)\.\d+\.old")
LEARNED = ("learned_embeds", "pytorch_lora_weights", "quantized_unet")
"""How the files begin that hold what was learned; of several words `.<word>` follows."""
_EXPORTED = re.compile(
    rf"config\.toml|(checkpoint-\d+/|({'|'.join(LEARNED)})(\.\w[\w.-]*)?-steps-\d+\.)\w[\w.-]*"
)


def newest(folder: Path) -> dict[str, Any]:
    """The newest whole checkpoint.

    Returns:
        `step` (None: there is none), `run` (the facts fixed at the run's start, None: no run),
        `config` (the rest of config.toml).
    """
    config = _config(folder)
    run = config.pop("run", None)
    for step, path in sorted(_checkpoints(folder).items(), reverse=True):
        if _is_whole(path, step, run):
            return {"step": step, "run": run, "config": config}
    return {"step": None, "run": run, "config": config}


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The folder of each step, whole or not."""
    found: dict[int, Path] = {}
    for name in (_REPLACED, _NAME):
        matches = [(name.fullmatch(path.name), path) for path in folder.glob("*checkpoint-*")]
        found |= {int(match[1]): path for match, path in matches if match}
    return found


def run_record(folder: Path) -> dict[str, Any] | None:
    """The facts fixed at the run's start; None: there is no run."""
    record: dict[str, Any] | None = _config(folder).get("run")
    return record


def _config(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_whole(path: Path, step: int, run: object) -> bool:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        digest = hashlib.sha256((path / STATE).read_bytes()).hexdigest()
        return (manifest["step"], manifest["sha256"], manifest["run"]) == (step, digest, run)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def export(folder: Path, step: int) -> dict[str, str]:
    """A checkpoint's files, config.toml and what was learned by it, by name, in base64."""
    paths = {CONFIG: folder / CONFIG}
    for path in sorted(_checkpoints(folder)[step].iterdir()):
        paths[f"checkpoint-{step}/{path.name}"] = path
    for path in sorted(folder.glob(f"*-steps-{step}.*")):
        if path.name.startswith(LEARNED) and _EXPORTED.fullmatch(path.name):
            paths[path.name] = path
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in paths.items()}


def import_files(folder: Path, files: dict[str, str]) -> None:
    """Write what `export` gave; the manifest last, as with it a checkpoint is whole.

    Raises:
        UserError: it names files that no checkpoint has.
    """
    for name in sorted(files, key=lambda name: name.endswith(MANIFEST)):
        if not _EXPORTED.fullmatch(name):
            raise UserError(f"{name!r}: is not a file of a checkpoint.")
        try:
            content = base64.b64decode(files[name], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise UserError(f"{name}: arrived damaged.") from error
        if name != CONFIG or not (folder / CONFIG).exists():
            atomic_files.write(folder / name, content)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    what, where, *rest = sys.argv[1:] if argv is None else argv
    folder = Path(where)
    if what == "newest":
        print(json.dumps(newest(folder)))
    elif what == "export":
        print(json.dumps(export(folder, int(rest[0]))))
    elif what == "import":
        import_files(folder, json.load(sys.stdin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
