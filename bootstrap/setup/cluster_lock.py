"""One at a time: who sets a cluster up, cleans it or starts a training, keeps others from it.

The lock is a file on the head, held by a process there for as long as the command here goes on
saying that it lives: nothing is left to be removed when a laptop dies or its network goes, which
the head's sshd may not notice for hours. Where the lock is lost all the same, because its file has
gone, what was being done under it is ended. A head without `flock` (util-linux) has no lock.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from bootstrap.errors import UserError
from bootstrap.ssh.command import CommandResult, script
from bootstrap.ssh.host import Host

WAIT_SECONDS = 3
"""For one that is just ending."""
BUSY = 75
ANSWER_SECONDS = 60.0
RENEW_SECONDS = 15.0
LEASE_MINUTES = 2
"""How long a word from here keeps the lock."""
LOCK = "setup.lock"
LEASE = "setup.lease"
HELD = "held by process "
# Standard input: the root (so that no process's words hold it on our account: fab clean looks for
# those), then who asks. Prints its own number once it holds the lock, else who does. `fab clean`
# takes the lock's file away: who has waited for that one tries again. Where the lease runs out it
# ends its connection's sshd (nothing but shells is between), and with it what else was running
# there on that person's behalf.
HOLD = f"""
read -r root && read -r who
mkdir -p "$root" && cd "$root" || exit 1
command -v flock >/dev/null || {{ echo "{HELD}0"; exit 0; }}
mine() {{ [ {LOCK} -ef "/proc/$$/fd/9" ]; }}
for try in 1 2 3 4 5 6 7 8; do
    mkdir -p "$root" && cd "$root" && command exec 9>>{LOCK} || continue
    flock -w {WAIT_SECONDS} -E {BUSY} 9
    code=$?
    [ "$code" -ne {BUSY} ] || cat {LOCK}
    [ "$code" -eq 0 ] || exit "$code"
    ! mine || break
done
mine || exit 1
printf '%s\\n' "$who" >{LOCK}
: >{LEASE}
echo "{HELD}$$"
while mine && [ -n "$(find {LEASE} -mmin -{LEASE_MINUTES} 2>/dev/null 9>&-)" ]; do
    sleep 2 9>&-
done
mine && [ -e {LEASE} ] || exit 0
process=$$
while [ "${{process:-0}}" -gt 1 ]; do
    case $(cat "/proc/$process/comm") in
        sshd*) kill "$process"; break ;; *sh) ;; *) break ;;
    esac
    process=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status")
done
"""
RENEW = f'read -r root && cd "$root" && touch -c {LEASE}'
# $1: the process that holds the lock, or 0; $2: whether the lock goes too, and the folder where
# nothing else is in it. Standard input: the root. What goes, goes while it is held (the shell moves
# its descriptor about); only the empty folder waits until it is not, as a file server keeps a file
# that is open until then.
RELEASE = f"""
read -r root && cd "$root" 2>/dev/null || exit 0
held() {{ for file in "/proc/$1/fd/"*; do [ {LOCK} -ef "$file" ] && return; done; return 1; }}
[ "$1" -eq 0 ] || held "$1" || exit 0
[ "$2" != gone ] || rm -f -- {LOCK} {LEASE}
[ "$1" -eq 0 ] || kill "$1"
[ "$2" = gone ] || exit 0
cd /
for try in 1 2 3 4 5; do
    rmdir -- "$root" 2>/dev/null && break
    [ -z "$(ls -A -- "$root" 2>/dev/null | grep -v '^\\.nfs')" ] || break
    sleep 1
done
"""


@contextlib.contextmanager
def cluster_locked(hosts: Sequence[Host], command: str, *, gone: bool = False) -> Iterator[None]:
    """Keep others from the cluster.

    Args:
        hosts: reachable, that of the lock first (the head); what runs on them is ended if the lock
            is lost.
        command: the person's, for those who meet the lock.
        gone: in the end the lock's files go too, and the folder if nothing else is in it.

    Raises:
        UserError: somebody has it; says who, and since when. Or it was lost meanwhile.
    """
    head = hosts[0]
    asker = f"{command} of {getpass.getuser()}@{socket.gethostname()}"
    who = f"{asker}, since {time.strftime('%H:%M:%S UTC', time.gmtime())}"
    held: list[int] = []
    answered, over = threading.Event(), threading.Event()
    ended: list[CommandResult | UserError] = []

    def on_line(line: str) -> None:
        found = re.fullmatch(rf"{HELD}(\d+)", line)
        if found and not held:
            held.append(int(found[1]))
            answered.set()

    def hold() -> None:
        text = f"{head.layout.root}\n{who}\n".encode()
        try:
            ended.append(head.run(["sh", "-c", HOLD], stdin=text, on_line=on_line, check=False))
        except UserError as error:
            ended.append(error)
        if not over.is_set() and held and held[0]:
            for host in hosts:
                host.interrupt()
        answered.set()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    if not answered.wait(ANSWER_SECONDS):
        raise UserError(f"{head.name}: did not answer within {ANSWER_SECONDS:.0f} s.")
    if not held:
        raise _refusal(head, ended[0])
    if held[0]:
        threading.Thread(target=_renew, args=(head, over), daemon=True).start()
    lost: CommandResult | UserError | None = None
    try:
        try:
            yield
        finally:
            lost = ended[0] if ended and held[0] else None
            over.set()
            if lost is None:
                with contextlib.suppress(UserError):  # Cut off or interrupted: the lease runs out.
                    _release(head, held[0], gone)
    except UserError as error:
        if isinstance(lost, CommandResult):
            raise _loss(head) from error
        raise
    if isinstance(lost, CommandResult):  # else the connection is gone, which every command has said
        raise _loss(head)


def _renew(head: Host, over: threading.Event) -> None:
    root = f"{head.layout.root}\n".encode()
    while not over.wait(RENEW_SECONDS):
        with contextlib.suppress(UserError):
            head.run(["sh", "-c", RENEW], stdin=root, check=False)


def _release(head: Host, process: int, gone: bool) -> None:
    line = script(RELEASE, process, "gone" if gone else "")
    head.run(line, stdin=f"{head.layout.root}\n".encode(), check=False)


def _loss(head: Host) -> UserError:
    return UserError(
        f"{head.name}: the lock {head.layout.root}/{LOCK} was lost (somebody removed it, or nothing"
        f" was heard from here for {LEASE_MINUTES} minutes), and this command was ended, as"
        " somebody else may be working on this cluster now. Repeat the command to continue."
    )


def _refusal(head: Host, end: CommandResult | UserError) -> UserError:
    if isinstance(end, UserError):
        return end
    if end.exit_code == BUSY:
        holder = end.stdout.strip() or "another fab command"
        return UserError(
            f"{head.name}: {holder}, is working on this cluster. Nothing was changed. Repeat the"
            " command when that one has finished (or, if its connection has broken, in"
            f" {LEASE_MINUTES} minutes)."
        )
    said = (end.stderr or end.stdout).strip()
    return UserError(f"{head.name}: {head.layout.root} cannot be written: {said}")
