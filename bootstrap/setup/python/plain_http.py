"""What may come over plain http, where whoever is on the way can change it: what has a hash."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from bootstrap.errors import UserError
from bootstrap.setup.python.package_pins import ONECCL_PACKAGE, Lock
from bootstrap.urls import shown

ALLOW_FLAG = "--allow-http"


def exposed(url: str | None) -> bool:
    """Whether what comes from a URL can be changed on its way to the machine that asks."""
    parts = urlsplit(url or "")
    if parts.scheme != "http":
        return False
    try:
        return not ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"


def refuse(lock: Lock, package_index: str | None, conda_channel: str | None) -> None:
    """Refuse addresses from which other code than the checkout's locks name could come.

    Args:
        lock: of what is asked of the package index.

    Raises:
        UserError: names what has no hash, and the ways out.
    """
    why = "whoever is on the way to the head can put another in its place, and every node runs it"
    if exposed(package_index) and lock.unhashed:
        names = ", ".join(lock.unhashed)
        ways = "Name an https:// index"
        if lock.unhashed == (ONECCL_PACKAGE,):
            ways += ", or do --without-oneccl"
        raise UserError(
            f"--package-index {shown(package_index or '')}: the lock has no hash of {names}, so"
            f" over http {why}. {ways}. {ALLOW_FLAG} takes that risk."
        )
    if exposed(conda_channel):
        raise UserError(
            f"--conda-channel {shown(conda_channel or '')}: a channel's own list is all that says"
            f" what a package must be, so over http {why}. Name an https:// channel, or"
            f" --environment venv, whose packages have hashes. {ALLOW_FLAG} takes that risk."
        )
