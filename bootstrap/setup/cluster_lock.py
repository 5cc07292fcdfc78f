"""One at a time: who sets a cluster up, cleans it or starts a training, keeps others from it.

The lock is a file on the head, held by a process there for as long as the command here goes on
saying that it lives: nothing is left to be removed when a laptop dies or its network goes, which
the head's sshd may not notice for hours. A head without `flock` (util-linux) has no lock.
"""

from __future__ import annotations

import contextlib
import getpass
import socket
import threading
import time
from collections.abc import Iterator

from bootstrap.errors import UserError
from bootstrap.ssh.host import Finished, Host

WAIT_SECONDS = 3
"""For one that is just ending."""
BUSY = 75
ANSWER_SECONDS = 60.0
RENEW_SECONDS = 15.0
LEASE_MINUTES = 2
"""How long a word from here keeps the lock."""
LEASE = "setup.lease"
HELD = "held by process "
# Standard input: the root (so that no process's words hold it on our account: fab clean looks for
# those), then who asks. Prints its own number once it holds the lock, else who does. Where the
# lease runs out it ends its connection's sshd (nothing but shells is between), and with it what
# else was running there on that person's behalf.
HOLD = f"""
read -r root && read -r who
mkdir -p "$root" && cd "$root" || exit 1
command -v flock >/dev/null || {{ echo "{HELD}0"; exit 0; }}
exec 9>>setup.lock || exit 1
flock -w {WAIT_SECONDS} -E {BUSY} 9
code=$?
[ "$code" -ne {BUSY} ] || cat setup.lock
[ "$code" -eq 0 ] || exit "$code"
printf '%s\\n' "$who" >setup.lock
: >{LEASE}
echo "{HELD}$$"
while [ -n "$(find {LEASE} -mmin -{LEASE_MINUTES} 2>/dev/null 9>&-)" ]; do sleep 5 9>&-; done
[ -e {LEASE} ] || exit 0
process=$$
while [ "${{process:-0}}" -gt 1 ]; do
    case $(cat "/proc/$process/comm") in
        sshd*) kill "$process"; break ;; *sh) ;; *) break ;;
    esac
    process=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status")
done
"""
RENEW = f'read -r root && cd "$root" && touch -c {LEASE}'


@contextlib.contextmanager
def claimed(head: Host, command: str) -> Iterator[None]:
    """Keep others from the cluster.

    Args:
        head: reachable.
        command: the person's, for those who meet the lock.

    Raises:
        UserError: somebody has it; says who, and since when.
    """
    asker = f"{command} of {getpass.getuser()}@{socket.gethostname()}"
    who = f"{asker}, since {time.strftime('%H:%M:%S UTC', time.gmtime())}"
    held: list[int] = []
    answered = threading.Event()
    ended: list[Finished | UserError] = []

    def on_line(line: str) -> None:
        if line.startswith(HELD):
            held.append(int(line.removeprefix(HELD)))
            answered.set()

    def hold() -> None:
        text = f"{head.layout.root}\n{who}\n".encode()
        try:
            ended.append(head.run(["sh", "-c", HOLD], stdin=text, on_line=on_line, check=False))
        except UserError as error:
            ended.append(error)
        answered.set()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    if not answered.wait(ANSWER_SECONDS):
        raise UserError(f"{head.name}: did not answer within {ANSWER_SECONDS:.0f} s.")
    if not held:
        raise _refusal(head, ended[0])
    if held[0] == 0:
        yield
        return
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(head, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(UserError):  # Cut off or interrupted: the lease runs out.
            head.run(["kill", str(held[0])], check=False)


def _renew(head: Host, over: threading.Event) -> None:
    root = f"{head.layout.root}\n".encode()
    while not over.wait(RENEW_SECONDS):
        with contextlib.suppress(UserError):
            head.run(["sh", "-c", RENEW], stdin=root, check=False)


def _refusal(head: Host, end: Finished | UserError) -> UserError:
    if isinstance(end, UserError):
        return end
    if end.exit_code == BUSY:
        holder = end.stdout.strip() or "another fab command"
        return UserError(
            f"{head.name}: {holder}, is at work on this cluster. Nothing was changed; the same"
            " command can be given again when that one is through (or, if its connection has"
            f" broken, in {LEASE_MINUTES} minutes)."
        )
    said = (end.stderr or end.stdout).strip()
    return UserError(f"{head.name}: {head.layout.root} cannot be written: {said}")
