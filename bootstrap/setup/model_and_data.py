"""The base model and the pictures: once to the head, from the hub or from the person, then on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from bootstrap import urls
from bootstrap.answers import read
from bootstrap.errors import UserError
from bootstrap.node.downloads.hub_files import PICTURES
from bootstrap.setup.broadcast import PUT_IN_PLACE, RESTORE, Say, Tree, seal, untouched
from bootstrap.ssh.command import script
from bootstrap.ssh.local_files import files_of

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

DEFAULT_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
DEFAULT_PICTURES = "sd-concepts-library/dicoo"
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
ENDPOINT = "HF_ENDPOINT"
"""The person's variable that names a mirror of the hub."""
RECORD = {"model": "model.json", "pictures": "data.json"}


class Record(TypedDict):
    """What the head keeps of an input that was brought, as far as it is asked for again."""

    path: str
    source: NotRequired[str]
    name: NotRequired[str]
    key: NotRequired[str]


@dataclass(frozen=True)
class Input:
    """A model or a folder of pictures that every node is to have.

    Attributes:
        kind: "model" or "pictures".
        source: a repository on the hub, or a folder of the person's.
        local: that folder; None: from the hub.
        revision: of the repository; None: its newest.
        mark: ends the folder's name on the nodes.
    """

    kind: str
    source: str
    local: Path | None = None
    revision: str | None = None
    mark: str = ""

    @property
    def name(self) -> str:
        """The folder's name on the nodes."""
        last = self.local.name if self.local else self.source.rpartition("/")[2]
        return (re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or self.kind) + self.mark

    def path(self, host: Host) -> str:
        """Where it lies on every node."""
        folder = host.layout.models if self.kind == "model" else host.layout.data
        return f"{folder}/{self.name}"

    def key(self) -> str:
        """Changes when the input does: a local folder's content, a repository's revision."""
        if self.local is not None:
            return f"{self.local.name} {content_key(self.local)}"
        return f"{self.source}@{self.revision or 'newest'} {urls.stored(endpoint())}"


def read_input(kind: str, value: str, revision: str | None = None) -> Input:
    """What a person means by `value`: a folder of theirs, or else a repository on the hub.

    Raises:
        UserError: it is neither, or the folder cannot be used.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        return Input(kind, value, checked(kind, path.resolve()))
    if kind == "model" and path.is_file():
        raise UserError(
            f"{value}: is a single file; the nodes are sent a pipeline folder. Make one of it:\n"
            '  python -c "from diffusers import StableDiffusionPipeline as P; '
            f"P.from_single_file('{value}').save_pretrained('FOLDER')\""
        )
    if not re.fullmatch(REPOSITORY, value) or path.exists():
        raise UserError(f"{value}: is neither a folder here nor a repository on the hub (a/b).")
    return Input(kind, value, revision=revision)


def checked(kind: str, folder: Path) -> Path:
    """A local folder that can be sent as it is.

    Raises:
        UserError: it holds no pictures, or no pipeline; or names that shells and tar mangle.
    """
    names = files_of(folder)
    odd = [name for name in names if "\n" in name or "\\" in name or not _is_text(name)]
    if odd:
        raise UserError(
            f"{folder / odd[0]}: its name has a line break, a backslash or bytes that are not"
            " UTF-8: rename it."
        )
    suffixes = {path.suffix.lower() for path in names.values()}
    # The training reads by content: a file without a suffix may be a picture.
    if kind == "pictures" and not suffixes & {"", *PICTURES}:
        raise UserError(f"{folder}: holds no pictures ({', '.join(PICTURES)}).")
    if kind == "model" and not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder}: is not a diffusers pipeline: model_index.json is missing. "
            "StableDiffusionPipeline.save_pretrained(...) writes one."
        )
    return folder


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8; what is not has lone surrogates in it."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def content_key(folder: Path) -> str:
    """A folder's content and names as one SHA-256; reads all of it."""
    digest = hashlib.sha256()
    for name, path in files_of(folder).items():
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{content}  ./{name}\n".encode())
    return digest.hexdigest()


def store_token(head: Host, token: str) -> None:
    """Keep a hub token where only its owner reads it. It is in no argument and no log."""
    head.hide([token.strip()])
    head.write(head.layout.hub_token, token.strip().encode(), mode=0o600)


def endpoint() -> str:
    """The mirror of the hub that the person's HF_ENDPOINT names; "": none.

    Raises:
        UserError: it is no URL.
    """
    url = os.environ.get(ENDPOINT, "").strip()
    return urls.checked(ENDPOINT, url, ("https", "http")) if url else ""


def download_line(host: Host, wanted: Input, folder: str) -> str:
    """The command that fetches from the hub, on the head; its standard input is `endpoint`."""
    environment = {
        "HF_HOME": host.layout.hf,
        "HF_TOKEN_PATH": host.layout.hub_token,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    words = [
        "env", *(f"{name}={value}" for name, value in environment.items()),
        host.python, "-I", "-m", "bootstrap.node.downloads.hub_download",
        wanted.kind, wanted.source, folder, *([wanted.revision] if wanted.revision else []),
    ]  # fmt: skip
    return shlex.join(words)


def record_path(head: Host, kind: str) -> str:
    """Where the head keeps what was brought of a kind."""
    return f"{head.layout.cluster}/{RECORD[kind]}"


def read_record(head: Host, kind: str) -> Record | None:
    """What was brought of a kind; None: nothing.

    Raises:
        UserError: the record cannot be read.
    """
    path = record_path(head, kind)
    text = head.text_of(path)
    return read(Record, text, f"{head.name}: {path}") if text else None


def is_on_head(head: Host, wanted: Input) -> bool:
    """Whether the head has an input as it is asked for; its content is not looked at."""
    return _is_there(head, wanted) and _known_key(head, wanted.kind) == wanted.key()


def _is_there(head: Host, wanted: Input) -> bool:
    line = script(f'{RESTORE} test -d "$1"', wanted.path(head))
    return head.run(line, check=False).exit_code == 0


def _known_key(head: Host, kind: str) -> str | None:
    """What a record on the head says it is of; a record that cannot be read is none."""
    try:
        record = read_record(head, kind)
        return record.get("key") if record else None
    except UserError:
        return None


def fetch_to_head(head: Host, wanted: Input, say: Say, record: bool = True) -> Tree:
    """Bring an input to the head, unless it is there as it should be, and seal it.

    Args:
        record: it is what is taught from now on when nobody says otherwise.

    Raises:
        UserError: the hub refuses, or the person's folder does not arrive.
    """
    path = wanted.path(head)
    key = wanted.key()
    there = _is_there(head, wanted)
    if there and _known_key(head, wanted.kind) == key and untouched(head, path):
        return seal(head, path)
    filling = f"{path}.filling"
    commit = None
    head.run(script('mkdir -p "$(dirname "$1")"', path))
    if wanted.local is not None:
        say(f"sending {wanted.local}")
        if there:  # what has not changed stays: only what differs is sent
            head.run(script('rm -rf "$2" && cp -al "$1" "$2"', path, filling))
        head.send(wanted.local, filling, exact=True)
    else:
        head.hide(urls.secrets(endpoint()))
        line = download_line(head, wanted, filling)
        finished = head.run(line, stdin=endpoint().encode(), on_line=say, check=False)
        if finished.exit_code != 0:
            raise UserError(f"{head.name}: {finished.error_line}")
        commit = (finished.stdout.split() or [""])[-1]
    head.run(script(PUT_IN_PLACE, filling, path))
    tree = seal(head, path)
    if not record:
        return tree
    about = {
        "key": key,
        "name": wanted.name,
        "path": path,
        "source": str(wanted.local or wanted.source),
        "commit": commit,
        "sha256": tree_sha256(tree),
        "files": tree.files,
    }
    head.write(record_path(head, wanted.kind), json.dumps(about, indent=1).encode(), mode=0o644)
    return tree


def tree_sha256(tree: Tree) -> str:
    """A folder's content as one hash; equal to `content_key` of the same folder here."""
    return hashlib.sha256(tree.manifest.encode()).hexdigest()
