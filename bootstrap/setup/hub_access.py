"""Whether the head can have from the hub what is wanted, asked before anything is installed.

At that time nothing but the system's Python is there, so a question is all that is asked. What it
cannot answer (a proxy or certificates that only the hub's client knows) is left to the client.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired
from urllib.parse import urlsplit

from typing_extensions import TypedDict

from bootstrap import urls
from bootstrap.answers import read_last_line
from bootstrap.errors import UserError
from bootstrap.node.downloads.hub_download import DEFAULT_ENDPOINT
from bootstrap.setup.model_and_data import Input, endpoint, is_on_head

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

# Standard input: JSON with the URL, a token or null, and the file of a token brought earlier.
LOOK = """
import json, ssl, sys, urllib.error, urllib.request
url, token, kept = json.load(sys.stdin)
try:
    token = token or open(kept).read().strip()
except OSError:
    pass
asked = urllib.request.Request(url)
if token:
    asked.add_unredirected_header("Authorization", "Bearer " + token)
said = {}
try:
    urllib.request.urlopen(asked, timeout=15).close()
except urllib.error.HTTPError as error:
    said = {"status": error.code}
except OSError as error:
    reason = getattr(error, "reason", error)
    if not isinstance(reason, ssl.SSLError):
        said = {"reason": str(reason) or type(reason).__name__}
except Exception:
    pass
print(json.dumps(said))
"""
NOT_SHOWN = (401, 403, 404)


class Answer(TypedDict):
    """Nothing, if the hub shows it; else its HTTP status, or why there was no answer."""

    status: NotRequired[int]
    reason: NotRequired[str]


def refuse_unavailable(head: Host, python: str, wanted: Sequence[Input], token: str | None) -> None:
    """Make sure that the hub shows the head what is to be fetched from it.

    Args:
        python: any interpreter there.
        wanted: the model and the pictures; folders, and what the head has already, are not asked
            for.
        token: of the hub; None: the one that was brought earlier, if any.

    Raises:
        UserError: the hub does not answer, or does not show it.
    """
    hub = endpoint() or DEFAULT_ENDPOINT
    if "@" in urlsplit(hub).netloc:  # urllib takes no password from a URL
        return
    for each in wanted:
        if each.local is not None or is_on_head(head, each):
            continue
        url = f"{hub.rstrip('/')}/api/models/{each.source}"
        if each.revision:
            url += f"/revision/{each.revision}"
        asked = json.dumps([url, token, head.layout.hub_token]).encode()
        printed = head.run([python, "-I", "-c", LOOK], stdin=asked).stdout
        said = read_last_line(Answer, printed, f"{head.name}: asking the hub for {each.source}")
        if "reason" in said:
            raise UserError(
                f"{head.name}: {each.source}: {urls.shown(hub)} cannot be reached"
                f" ({said['reason']}). Nothing was installed. Check the head's network, name a"
                " mirror (HF_ENDPOINT), or send a folder of your own"
                " (--pretrained-model-name-or-path, --train-data-dir)."
            )
        if said.get("status") in NOT_SHOWN:
            raise UserError(
                f"{head.name}: {each.source}: the hub refuses access: the repository does not"
                " exist, or needs a token with access (fab bootstrap --hub-token-file PATH)."
                " Nothing was installed."
            )
