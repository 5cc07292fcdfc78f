"""SSH key files: the public one is read, the private one is only ever named."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

SMALLEST_RSA_BITS = 2048
"""Azure takes ssh-rsa with at least 2048 bits, and ssh-ed25519, and no other kind."""


def read_public_key(path: Path) -> str:
    """The one public key in a file, as one line.

    Raises:
        ValueError: the file is absent, or holds anything but one key of a kind that Azure takes.
            A private key is never repeated in the message.
    """
    place = path.expanduser()
    try:
        text = place.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(
            f"cannot be read ({why}); make a key with ssh-keygen -t ed25519, or name another"
        ) from None
    return check_public_key(text)


def check_public_key(text: str) -> str:
    """The same key, if Azure takes it.

    Raises:
        ValueError: anything but one key of a kind that Azure takes. A private key is never repeated
            in the message.
    """
    if "PRIVATE KEY" in text:
        raise ValueError("holds a private key; name the public one (it ends in .pub)")
    words = text.split()
    if len(text.splitlines()) != 1 or len(words) < 2:
        raise ValueError("must hold exactly one public key, on one line")
    kind, body = words[0], words[1]
    if kind not in ("ssh-ed25519", "ssh-rsa"):
        raise ValueError(f"holds a key of type {kind[:40]}; Azure accepts ssh-ed25519 and ssh-rsa")
    try:
        blob = base64.b64decode(body, validate=True)
        fields = _fields(blob)
    except (binascii.Error, ValueError):
        raise ValueError("holds a damaged key; write it again with ssh-keygen -y") from None
    if not fields or fields[0] != kind.encode():
        raise ValueError("holds a damaged key; write it again with ssh-keygen -y")
    if kind == "ssh-rsa" and 8 * len(fields[-1].lstrip(b"\0")) < SMALLEST_RSA_BITS:
        raise ValueError(f"holds an RSA key of fewer than {SMALLEST_RSA_BITS} bits; make a new one")
    return text


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed fields of a public key (RFC 4253, section 6.6)."""
    fields = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise ValueError
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return fields
