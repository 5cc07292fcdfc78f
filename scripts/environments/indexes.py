"""The package indexes of PyTorch and of Intel, asked only where they answer."""

from __future__ import annotations

import contextlib
import os
import re
import threading

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
ONECCL_INDEX = "https://pytorch-extension.intel.com/release-whl/stable/cpu/us/"
TORCH_INDEX_VARIABLE = "XEON_DIFFUSION_TORCH_INDEX"
ONECCL_INDEX_VARIABLE = "XEON_DIFFUSION_ONECCL_INDEX"
PROBE_SECONDS = 5.0


def index_answers(url: str) -> bool:
    """Whether a package index can be reached from here, found out within a few seconds."""
    # Imported here: it alone would take a third of the time of a run with nothing to do.
    import urllib.error
    import urllib.request

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(f"{url.rstrip('/')}/", method="HEAD")
            try:
                with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                    answered.set()
            except urllib.error.HTTPError as error:
                # Some indexes serve their packages but refuse to list their top folder.
                if error.code in (403, 404, 405):
                    answered.set()

    # Looking a host up knows no timeout, so it happens in a thread that may be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return answered.is_set()


def chosen_index(variable: str, default: str) -> str | None:
    """The index that a variable names, else the default where it answers, else none."""
    named = os.environ.get(variable, "").strip()
    if named:
        return None if named == "none" else named
    return default if index_answers(default) else None


def without_user(url: str) -> str:
    """A URL that may be shown: without user name and password."""
    return re.sub(r"(?<=://)[^/]*@", "", url)
