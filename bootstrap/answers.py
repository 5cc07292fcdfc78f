"""What nodes answer in JSON, read as what it has to be: anything else is one clear message."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from bootstrap.errors import UserError

SHOWN = 200
Kind = TypeVar("Kind")


def read(kind: type[Kind], text: str, whose: str) -> Kind:
    """An answer as a value of `kind`; keys that `kind` does not name are left out.

    Args:
        whose: the node, and what it was asked.

    Raises:
        UserError: it is no JSON, or something else.
    """
    try:
        value: Kind = _adapter(cast(Any, kind)).validate_json(text)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        wrong = f"{where}: {first['msg']}" if where else first["msg"]
        raise UserError(
            f"{whose}: the answer cannot be read ({wrong}). It begins: {text[:SHOWN]!r}"
        ) from error


def read_last_line(kind: type[Kind], text: str, whose: str) -> Kind:
    """The same of a program that may print other things before its answer."""
    lines = text.rstrip().splitlines()
    return read(kind, lines[-1] if lines else "", whose)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
