"""Whether the hub can be reached, asked once before its client tries again and again for each file.

The client of `huggingface_hub` needs minutes to give up, and its last words are about a file.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx
from huggingface_hub import constants, get_session, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id

from training.errors import UserError, first_line

ANSWER_SECONDS = 15.0
"""For everything: a name server, and each address of the hub, has time limits of its own."""


def refuse_unreachable(name: str, files: Sequence[str], revision: str | None = None) -> None:
    """Make sure that a model can be had: it is a folder here, in the cache, or the hub answers.

    Args:
        name: of a folder, or of a repository on the hub.
        files: of which such a repository has one at least; where the cache has any of them, the
            hub is not asked.
        revision: of the repository.

    Raises:
        UserError: names the hub, and why it cannot be reached.
    """
    if Path(name).exists() or constants.HF_HUB_OFFLINE:
        return
    with contextlib.suppress(HFValidationError):
        validate_repo_id(name)
        cached = (try_to_load_from_cache(name, file, revision=revision) for file in files)
        if any(isinstance(path, str) for path in cached):
            return
        reason = _why_unreachable()
        if reason:
            hub = first_line(ValueError(constants.ENDPOINT))
            raise UserError(
                f"{name}: is no folder here, and the hub ({hub}) cannot be reached: {reason}. "
                "Check the network, name a mirror (HF_ENDPOINT), or give a folder of your own."
            )


def _why_unreachable() -> str:
    """Why the hub gives no answer, whatever it would be; "": it gives one."""
    reasons: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
            reasons.append("")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            reasons.append(first_line(error)[:200])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return reasons[0] if reasons else f"no answer within {ANSWER_SECONDS:.0f} s"
