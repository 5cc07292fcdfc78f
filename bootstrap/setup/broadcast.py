"""A folder from the head to all other nodes, inside the cluster: the internet is asked once.

The person's machine only gives the commands. The bytes go from node to node as a tar stream over
the cluster's own ssh, and each node that has the folder sends it on. What arrives lies in
`<folder>.partial` until every file has the SHA-256 that the head computed; only then does it get
its name. Beside it, `<folder>.sha256` says what it holds.
"""

from __future__ import annotations

import queue
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bootstrap.errors import UserError
from bootstrap.names import relative
from bootstrap.setup.fanout import run_fan_out
from bootstrap.ssh.command import script

if TYPE_CHECKING:
    from bootstrap.ssh.host import Host

Say = Callable[[str], None]
SayOf = Callable[["Host", str], None]

# $1: a folder's name. A kill while another was put in its place left it as `<name>.old`.
RESTORE = """
if [ -d "$1.old" ] && [ ! -e "$1" ]; then mv -T "$1.old" "$1"; fi
"""
# $1: the folder that was being filled, $2: its name from now on. What it is put in the place of is
# there until then; what was said of that one's content goes with it.
PUT_IN_PLACE = """set -e
sync -f "$1" 2>/dev/null || sync
rm -f "$2.sha256"
if [ -d "$2" ]; then rm -rf "$2.old"; mv -T "$2" "$2.old"; fi
mv -T "$1" "$2" || { [ ! -d "$2.old" ] || mv -T "$2.old" "$2"; exit 1; }
rm -rf "$2.old"
"""

# Standard input: names, each with a NUL behind it. Prints what sha256sum prints, but by OpenSSL,
# which uses the processor's own instructions: a fifth of the time.
HASHES = """
LC_ALL=C; export LC_ALL  # names are in any encoding
hashes() {
    if command -v openssl >/dev/null; then xargs -0 -r openssl dgst -sha256 -r | sed 's/ \\*/  /'
    else xargs -0 -r sha256sum; fi 2>/dev/null || :
}
"""
# $1: the folder. Prints its manifest, which is computed once.
SEAL = f"""set -e
{HASHES}
cd "$1"
if [ ! -f "$1.sha256" ]; then
    if find . -type f \\( -path '*\\\\*' -o -path '*\n*' \\) | grep -q .; then
        echo "a file's name has a line break or a backslash in it" >&2; exit 3
    fi
    find . -type f -print0 | sort -z | hashes > "$1.sha256.partial"
    if [ "$(find . -type f | wc -l)" -ne "$(wc -l < "$1.sha256.partial")" ]; then
        echo "not every file in $1 can be read" >&2; exit 3
    fi
    sync -f "$1" 2>/dev/null || sync
    mv "$1.sha256.partial" "$1.sha256"
fi
cat "$1.sha256"
"""

# What is small (pictures) is read; of what takes long to read (models), files' times are believed.
SMALL_KIB = 64 << 10
# $1: the folder, $2: its manifest. Fails where a file has been added, removed or changed since.
UNTOUCHED = f"""
[ "$(find "$1" -type f | wc -l)" -eq "$(wc -l < "$2")" ] && {{
    if [ "$(du -sk "$1" | cut -f 1)" -lt {SMALL_KIB} ]; then
        [ ! -s "$2" ] || ( cd "$1" && sha256sum --check --status "$2" 2>/dev/null )
    else
        [ -z "$(find "$1" -type f -newer "$2" | head -n 1)" ]
    fi
}}
"""

# $1: the folder; input: the manifest. Prints what is missing, or nothing and exits with 10 where
# the folder is already what the manifest says.
MISSING = f"""set -e
{HASHES}
untouched() {{ {UNTOUCHED} }}
# $1: the manifest. Prints those of its lines that are true of the files below here.
true_lines() {{
    cut -c 67- "$1" | tr '\\n' '\\0' | hashes > "$1.found"
    grep -axF -f "$1.found" "$1" || :
    rm -f "$1.found"
}}
tree=$1; partial=$1.partial
{RESTORE}
mkdir -p "$(dirname "$tree")" "$partial"
cat > "$partial.sha256"
if [ -d "$tree" ] && cmp -s "$partial.sha256" "$tree.sha256" && untouched "$tree" "$tree.sha256"
then
    rm -rf "$partial" "$partial.sha256"; exit 10
fi
if [ -d "$tree" ]; then
    cd "$tree"
    true_lines "$partial.sha256" | cut -c 67- | while IFS= read -r file; do
        mkdir -p "$partial/$(dirname "$file")"; ln -f "$file" "$partial/$file"
    done
fi
cd "$partial"
true_lines "$partial.sha256" > "$partial.there"
grep -avxF -f "$partial.there" "$partial.sha256" | cut -c 67- | while IFS= read -r file; do
    rm -f "$file"; printf '%s\\n' "$file"
done
rm -f "$partial.there"
"""

# $1: the folder. What a killed attempt or an older version left is not in the manifest: it goes.
FINISH = f"""set -e
{HASHES}
tree=$1; partial=$1.partial
cd "$partial"
cut -c 67- "$partial.sha256" > "$partial.wanted"
tr '\\n' '\\0' < "$partial.wanted" | hashes > "$partial.found"
if ! cmp -s "$partial.found" "$partial.sha256"; then
    echo "arrived damaged, or not at all:" >&2
    grep -avxF -f "$partial.found" "$partial.sha256" | cut -c 67- | head -n 5 >&2
    exit 74
fi
sort -o "$partial.wanted" "$partial.wanted"
find . -type f | sort | comm -23 - "$partial.wanted" |
    while IFS= read -r file; do rm -f "$file"; done
rm -f "$partial.wanted" "$partial.found"
cd "$(dirname "$tree")"
set -- "$partial" "$tree"
{PUT_IN_PLACE}
touch "$partial.sha256"
mv "$partial.sha256" "$tree.sha256"
"""


LINE = re.compile(r"[0-9a-f]{64}  \./(?P<name>.+)")
"""Of a manifest, as sha256sum prints it."""


@dataclass(frozen=True)
class Tree:
    """A folder that every node is to have.

    Attributes:
        path: absolute, the same on all.
        manifest: `sha256sum`'s lines, sorted by name.
    """

    path: str
    manifest: str

    @property
    def names(self) -> frozenset[str]:
        """Of its files, as the manifest has them: `./` and what is below the folder."""
        return frozenset(line[66:] for line in _lines(self.manifest))

    @property
    def files(self) -> int:
        """How many."""
        return len(_lines(self.manifest))


def seal(host: Host, path: str) -> Tree:
    """Compute what a folder holds, unless that was done before.

    Raises:
        UserError: it is not there, or has names that cannot be copied.
    """
    manifest = host.run(script(SEAL, path)).stdout
    for line in _lines(manifest):
        found = LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{host.name}: its list of {path} cannot be read: {line[:80]!r}")
        relative(found["name"], host.name)
    return Tree(path, manifest)


def _lines(text: str) -> list[str]:
    """Without the other characters that `splitlines` breaks at: names may have them."""
    return text.removesuffix("\n").split("\n") if text else []


def untouched(host: Host, path: str) -> bool:
    """Whether a sealed folder is what it was; a large one (`SMALL_KIB`) is told by its times."""
    return host.run(script(UNTOUCHED, path, f"{path}.sha256"), check=False).exit_code == 0


def missing(host: Host, tree: Tree) -> list[str] | None:
    """The files that a node lacks; None: the folder is there already."""
    finished = host.run(script(MISSING, tree.path), stdin=tree.manifest.encode(), check=False)
    if finished.exit_code == 10:
        return None
    if finished.exit_code != 0:
        raise UserError(f"{host.node.name}: {tree.path}: {finished.stderr.strip()[-400:]}")
    lacking, known = _lines(finished.stdout), tree.names
    for name in lacking:
        if name not in known:
            raise UserError(f"{host.name}: {tree.path}: it asks for {name!r}, which is not in it.")
    return lacking


def copy(sender: Host, receiver: Host, tree: Tree, lacking: Sequence[str], say: Say) -> None:
    """Send files from node to node, and put the folder in place there.

    Args:
        lacking: what `missing` says of the receiver.

    Raises:
        UserError: it did not arrive whole.
    """
    if lacking:
        say(f"{len(lacking)} of {tree.files} files from {sender.node.name}")
        there = script('mkdir -p "$1" && exec tar -xf - -C "$1"', f"{tree.path}.partial")
        send = shlex.join([sender.layout.ssh, receiver.node.address, there])
        pack = shlex.join(["tar", "-C", tree.path, "-cf", "-", "-T", "-"])
        sender.run(f"{pack} | {send}", stdin="".join(f"{name}\n" for name in lacking).encode())
    receiver.run(script(FINISH, tree.path))


def broadcast(
    tree: Tree, sources: Sequence[Host], targets: Sequence[Host], say: SayOf
) -> dict[str, UserError]:
    """Bring a folder to every target, each that has it sending it on.

    Args:
        tree: sealed on the sources.
        sources: nodes that have it: the head.
        targets: nodes that may lack it.
        say: told what happens to which target.

    Returns:
        by name, why a target did not get it. All others have it.
    """
    by_name = {host.name: host for host in (*sources, *targets)}
    looked = _look(tree, targets)
    lacking = {name: found for name, found in looked.items() if isinstance(found, list)}
    having = [host.name for host in sources]
    having += [name for name, found in looked.items() if found is None]

    def send(sender: str, receiver: str) -> None:
        target = by_name[receiver]
        files = lacking.pop(receiver, None)
        if files is None:  # a second try: some of it has arrived, or all
            files = missing(target, tree)
        if files is not None:
            copy(by_name[sender], target, tree, files, lambda text: say(target, text))

    failures = {name: found for name, found in looked.items() if isinstance(found, UserError)}
    return failures | run_fan_out(having, list(lacking), send)


def _look(tree: Tree, hosts: Sequence[Host]) -> dict[str, list[str] | UserError | None]:
    """By name, what `missing` says of each node, asked at once."""

    def look(host: Host) -> list[str] | UserError | None:
        try:
            return missing(host, tree)
        except UserError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as threads:
        found = threads.map(look, hosts)
        return dict(zip((host.name for host in hosts), found, strict=True))


def broadcast_each(
    trees: Iterable[Tree], sources: Sequence[Host], targets: Sequence[Host], say: SayOf
) -> dict[str, UserError]:
    """`broadcast` of one folder after the other, each while the next is still being made.

    Args:
        trees: made as they are asked for, which takes time (a download).

    Returns:
        by name, why a target did not get all of them.

    Raises:
        UserError: one could not be made; those before it are on the nodes.
    """
    failures: dict[str, UserError] = {}
    made: queue.SimpleQueue[Tree | None] = queue.SimpleQueue()

    def work() -> None:
        while (tree := made.get()) is not None:
            left = [host for host in targets if host.node.name not in failures]
            failures.update(broadcast(tree, sources, left, say))

    with ThreadPoolExecutor(max_workers=1) as thread:
        working = thread.submit(work)
        try:
            for tree in trees:
                made.put(tree)
        finally:
            made.put(None)
        working.result()
    return failures
