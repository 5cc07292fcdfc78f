"""`fab train --then-pause`: the head deallocates the VMs when the run has ended, its own last.

    python -m bootstrap.node.azure.deallocate [--check] VM...

Shutting down from inside would not stop the bill; Azure's resource manager does, asked with the
managed identity of the VM that this runs on, which the stack gives the head where its config says
`head_may_deallocate`. `--check` says beforehand whether it can see the VMs, which is reading: that
it may deallocate them too shows at the end alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from bootstrap.errors import UserError, exit_status

METADATA = "http://169.254.169.254/metadata"
ARM = "https://management.azure.com"
VERSION = "2024-07-01"
SECONDS = 60
TRIES = 4
BETWEEN_TRIES = 15.0


def _ask(url: str, headers: dict[str, str], method: str = "GET", proxies: bool = True) -> Any:
    """A JSON answer; the metadata service answers the machine itself alone, never a proxy."""
    request = urllib.request.Request(url, headers=headers, method=method)
    handlers = [] if proxies else [urllib.request.ProxyHandler({})]
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=SECONDS) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        said = error.read().decode("utf-8", "replace")[:300]
        raise UserError(f"{url.partition('?')[0]} answered {error.code}: {said}") from error
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"{url.partition('?')[0]} does not answer ({error}).") from error
    return json.loads(text) if text else None


def deallocate(vms: Sequence[str], check: bool) -> None:
    """Ask Azure to deallocate `vms`, in order; with `check`, only whether they can be seen.

    A VM that Azure refuses is asked for again, and does not keep the others running. The last one,
    where this runs, is asked for when all others have been.

    Raises:
        UserError: Azure refused some of them, or this is no VM of Azure's.
    """
    arm = os.environ.get("XEON_DIFFUSION_ARM", ARM)
    tries = 1 if check else TRIES
    token, group = _again(_identity, tries)
    headers = {"Authorization": f"Bearer {token}"}
    verb, method = ("", "GET") if check else ("/deallocate", "POST")

    def ask(vm: str) -> str | None:
        url = f"{arm}{group}/providers/Microsoft.Compute/virtualMachines/{vm}"
        try:
            _ask(f"{url}{verb}?api-version={VERSION}", headers, method)
        except UserError as error:
            return str(error)
        return None

    *others, last = vms
    problems = _each_again(ask, others, tries) | _each_again(ask, [last], tries)
    if problems:
        raise UserError("\n".join(f"{vm}: {problem}" for vm, problem in problems.items()))


def _identity() -> tuple[str, str]:
    """A token of this VM's identity, and the resource group that the VM is in."""
    metadata = os.environ.get("XEON_DIFFUSION_METADATA", METADATA)
    mine = {"Metadata": "true"}
    about = _ask(f"{metadata}/instance/compute?api-version=2021-02-01", mine, proxies=False)
    url = f"{metadata}/identity/oauth2/token?api-version=2018-02-01&resource={ARM}/"
    token = _ask(url, mine, proxies=False)["access_token"]
    group, subscription = about["resourceGroupName"], about["subscriptionId"]
    return token, f"/subscriptions/{subscription}/resourceGroups/{group}"


def _again(ask: Callable[[], tuple[str, str]], tries: int) -> tuple[str, str]:
    for _ in range(tries - 1):
        try:
            return ask()
        except UserError as error:
            print(f"{error} Asking again.", file=sys.stderr, flush=True)
            time.sleep(BETWEEN_TRIES)
    return ask()


def _each_again(
    ask: Callable[[str], str | None], vms: Sequence[str], tries: int
) -> dict[str, str]:  # fmt: skip
    """Ask for each, and again for those that were refused; returns those and why."""
    problems: dict[str, str] = {}
    for number in range(tries):
        if number:
            time.sleep(BETWEEN_TRIES)
        answers = {vm: ask(vm) for vm in (problems or vms)}
        problems = {vm: problem for vm, problem in answers.items() if problem is not None}
        if not problems:
            break
        print(f"not deallocated yet: {', '.join(problems)}", file=sys.stderr, flush=True)
    return problems


@exit_status()
def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    words = list(sys.argv[1:] if argv is None else argv)
    check = "--check" in words
    deallocate([word for word in words if word != "--check"], check)
    return 0


if __name__ == "__main__":
    sys.exit(main())
