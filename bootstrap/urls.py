"""URLs that a person names may have a password in them: what may be shown and stored of them.

Used on nodes too: standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit, urlunsplit

from bootstrap.errors import UserError

SHORTEST = 4
"""Characters of what is looked for by itself; shorter ones would be found in ordinary words."""
_USER = re.compile(r"""(://)[^\s/?#"'<>]*@""")
_TOKEN = re.compile(r"""(://[^\s/?#"'<>]*/t/)[^\s/?#"'<>]+""")
_QUERY = re.compile(r"""(://[^\s?#"'<>]*\?)[^\s#"'<>]+""")


def shown(text: str) -> str:
    """A text with *** in place of every password, token (`/t/...`) and query in a URL."""
    for pattern, mark in ((_USER, "***@"), (_TOKEN, "***"), (_QUERY, "***")):
        text = pattern.sub(rf"\1{mark}", text)
    return text


def stored(url: str) -> str:
    """A URL as it may be written to a file that others read."""
    parts = urlsplit(url)
    path = re.sub(r"^/t/[^/]+", "/t/***", parts.path)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))


def secrets(url: str) -> list[str]:
    """What of a URL must not be shown in any words, as it is written there and as it is meant."""
    parts = urlsplit(url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    token = re.match(r"/t/([^/]+)", parts.path)
    written = [password or user, token[1] if token else "", parts.query]
    meant = [unquote(text) for text in written]
    return [text for text in dict.fromkeys((*written, *meant)) if len(text) >= SHORTEST]


def checked(what: str, url: str, schemes: Collection[str]) -> str:
    """The URL, if it is one.

    Args:
        what: the flag or the variable that it comes from.
        schemes: those that will do.

    Raises:
        UserError: it is none. It is not quoted, as nobody can say where in it a password ends.
    """
    try:
        parts = urlsplit(url)
        well = parts.scheme in schemes and bool(parts.hostname or parts.scheme == "file")
        well = well and (parts.port or 1) > 0 and not re.search(r"[\s\\\x00-\x1f\x7f]", url)
    except ValueError:
        well = False
    if not well:
        kinds = " or ".join(f"{scheme}://" for scheme in schemes)
        raise UserError(
            f"{what}: is not a URL that begins with {kinds} and names a host. What is special in a"
            " user name or a password has to be encoded (%40 for @, %2F for /)."
        )
    return url
