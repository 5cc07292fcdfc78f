"""SSH between the nodes: a key of the cluster's own, host keys pinned, nothing left to trust.

The key is made on the head and goes from there to the other nodes through our connections; it is
never written on the person's machine. On each node one line of ~/.ssh/authorized_keys is ours: it
ends in our mark, and lets the key in from the cluster's addresses alone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import paramiko

from bootstrap.errors import CommandFailed, UserError
from bootstrap.inventory.inventory import Inventory, Node
from bootstrap.paths import Layout
from bootstrap.ssh.command import script
from bootstrap.ssh.framing import PRINT_MARK
from bootstrap.ssh.host import Host
from bootstrap.ssh.host_keys import key_text
from bootstrap.ssh.transfer import put

MARK = "xeon-diffusion:"
CONNECT_SECONDS = 10
SayFor = Callable[[Host, str], None]

# $1: the private key's file, $2: its comment.
MAKE_KEY = """
set -e
command -v ssh-keygen >/dev/null || { echo "no ssh-keygen: install openssh-client" >&2; exit 1; }
umask 077
mkdir -p -- "$(dirname -- "$1")"
[ ! -f "$1" ] || chmod 600 -- "$1"  # ssh takes no key that others may read
if ! ssh-keygen -y -P '' -f "$1" >/dev/null 2>&1; then
  rm -f -- "$1.new" "$1.new.pub"
  ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$1.new"
  sync -- "$1.new"
  mv -f -- "$1.new.pub" "$1.pub"
  mv -f -- "$1.new" "$1"
fi
cat -- "$1.pub"
"""
# $1: our mark, as a pattern; $2: the line that ends in it, or nothing to have none. Other lines are
# somebody's way in, in any encoding: where one would be lost, nothing is written.
AUTHORIZE = """
set -e
umask 077
LC_ALL=C; export LC_ALL
mkdir -p -- "$HOME/.ssh"
file=$(readlink -f -- "$HOME/.ssh/authorized_keys")
[ -f "$file" ] || { [ -n "$2" ] || exit 0; : > "$file"; }
lines() { grep -a "$@" || [ $? -eq 1 ]; }  # 1: there are none; more: it has failed
ours=$(lines -e " $1\\$" -- "$file")
[ "$ours" != "$2" ] || exit 0
was="$file.xeon-diffusion-was-$$"; new="$file.xeon-diffusion-$$"
trap 'rm -f -- "$was" "$new"' EXIT
cp -p -- "$file" "$was"
cp -p -- "$file" "$new"
lines -v -e " $1\\$" -- "$was" > "$new"
kept=$(lines -c -e '' -- "$new")
[ -z "$2" ] || printf '%s\\n' "$2" >> "$new"
sync -- "$new"
all=$(lines -c -e '' -- "$was")
own=$(lines -c -e " $1\\$" -- "$was")
now=$(lines -v -c -e " $1\\$" -- "$new")
if [ $((all - own)) -ne "$kept" ] || [ "$now" -ne "$kept" ] || ! cmp -s -- "$was" "$file"; then
  echo "$file was left as it is: it changed meanwhile, or lines of it would have been lost" >&2
  exit 1
fi
mv -f -- "$new" "$file"
"""
# What another node prints before it begins with the command (~/.bashrc, a forced message) is left
# out, as in `framing`; where it never begins, that goes to standard error. No further process of
# ours is between mpirun and ssh: what filters is a child of ssh, and ends with its output.
WRAPPER = r"""#!/bin/bash
# ssh among the nodes of this cluster; for `mpirun -launcher ssh -launcher-exec`.
# What a training preloads or links is not ssh's.
unset LD_PRELOAD LD_LIBRARY_PATH BASH_ENV
# Nor are mpirun's own descriptors, the port among them that it listens on while it starts: held on
# to, it would stay open, to everybody, for as long as the ranks run. (255 is bash's own.)
for descriptor in /proc/self/fd/*; do
    descriptor=${{descriptor##*/}}
    case $descriptor in 0 | 1 | 2 | 255) ;; *) exec {{descriptor}}<&- ;; esac
done
config={config}
while getopts :46AaCfGgKkMNnqsTtVvXxYyB:b:c:D:E:e:F:I:i:J:L:l:m:O:o:P:p:Q:R:S:W:w: option; do
    :
done
options=("${{@:1:OPTIND-1}}"); host=${{@:OPTIND:1}}; command=${{*:OPTIND+1}}
case $command in "" | -*) exec ssh -F "$config" "$@" ;; esac
# Without addresses mpirun calls the machine that it runs on by its name.
case $host in "$(uname -n)" | localhost | 127.*) exec sh -c "$command" ;; esac
read -r mark </proc/sys/kernel/random/uuid
quote=\' escaped=\'\"\'\"\'
begin="{mark} ${{mark%%-*}} ${{mark#*-}}; unset BASH_ENV; "
exec ssh -F "$config" "${{options[@]}}" "$host" \
    "exec sh -c '${{begin//$quote/$escaped}}${{command//$quote/$escaped}}'" > >(
    while IFS= read -r line; do
        [ "$line" != "$mark" ] || exec cat
        [ "${{#before}}" -gt 4000 ] || before+="$line"$'\n'
    done
    printf %s "$before$line" >&2
)
"""


def set_up(
    hosts: Sequence[Host],
    inventory: Inventory,
    keys: dict[str, list[paramiko.PKey]],
    say: SayFor,
    homes: Collection[str] = (),
) -> dict[str, UserError]:
    """Let nodes log in to each other. Changes nothing where all is as it should be.

    Args:
        hosts: those that are left, the head first.
        inventory: all nodes; also those that do not answer get their place.
        keys: the host keys of each, as the person has accepted them.
        say: told how far a node is.
        homes: the nodes whose home folder is another's, which is equipped in their place.

    Returns:
        the nodes where it failed, by name.
    """
    head = hosts[0]
    comment = f"{MARK}{inventory.name}"
    public = head.run(script(MAKE_KEY, head.layout.cluster_key, comment)).stdout.strip()
    private = head.read(head.layout.cluster_key)
    files = {
        head.layout.cluster_key: (private, 0o600),
        f"{head.layout.cluster_key}.pub": (f"{public}\n".encode(), 0o644),
        **shared_files(inventory, keys, head.layout),
    }
    line = authorized_line(inventory, public)

    def equip(host: Host) -> UserError | None:
        try:
            put(host, files)
            host.run(script(AUTHORIZE, _pattern(comment), line))
        except UserError as error:
            return error
        return None

    def reach(host: Host) -> UserError | None:
        say(host, "logging in from the head")
        try:
            head.run([head.layout.ssh, host.node.address, "true"], timeout=6 * CONNECT_SECONDS)
        except CommandFailed as error:
            return UserError(
                f"{host.name}: the head cannot log in to it at {host.node.address}:"
                f"{host.node.port}: {error.last_lines}"
            )
        except UserError as error:
            return error
        return None

    with ThreadPoolExecutor(max_workers=len(hosts)) as threads:
        owners = [host for host in hosts if host.name not in homes]
        problems = dict(zip(owners, threads.map(equip, owners), strict=True))
        equipped = [host for host in hosts if problems.get(host) is None]
        if len(hosts) > 1 and problems[head] is None:
            problems |= dict(zip(equipped, threads.map(reach, equipped), strict=True))
    return {host.name: error for host, error in problems.items() if error}


def set_up_single(host: Host, inventory: Inventory) -> None:
    """What a cluster of one machine holds of this: nodefile, nodes.json, and what mpirun starts."""
    files = shared_files(inventory, {}, host.layout)
    held = (host.layout.nodefile, host.layout.nodes_json, host.layout.ssh)
    put(host, {path: files[path] for path in held})


def remove(host: Host, inventory: Inventory) -> None:
    """Take our line out of a node's authorized_keys."""
    host.run(script(AUTHORIZE, _pattern(f"{MARK}{inventory.name}"), ""))


def shared_files(
    inventory: Inventory, keys: dict[str, list[paramiko.PKey]], layout: Layout
) -> dict[str, tuple[bytes, int]]:
    """What every node holds alike: path -> content and mode."""
    nodes = inventory.nodes
    texts = {
        layout.known_hosts: (known_hosts(nodes, keys), 0o644),
        layout.ssh_config: (ssh_config(nodes, layout), 0o644),
        layout.ssh: (WRAPPER.format(config=shlex.quote(layout.ssh_config), mark=PRINT_MARK), 0o755),
        layout.nodefile: ("".join(f"{node.address}\n" for node in nodes), 0o644),
        layout.nodes_json: (nodes_json(nodes), 0o644),
    }
    return {path: (text.encode(), mode) for path, (text, mode) in texts.items()}


def known_hosts(nodes: Sequence[Node], keys: dict[str, list[paramiko.PKey]]) -> str:
    """One line per key, under the alias that `ssh_config` looks for."""
    return "".join(
        f"{_alias(node)} {key_text(key)}\n" for node in nodes for key in keys.get(node.name, ())
    )


def ssh_config(nodes: Sequence[Node], layout: Layout) -> str:
    """For `ssh -F`: who is where, and that nothing but the pinned keys will do."""
    blocks = [
        f"Host {node.address} {_alias(node)}\n"
        f"  HostName {node.address}\n"
        f"  HostKeyAlias {_alias(node)}\n"
        f"  Port {node.port}\n" + (f"  User {node.user}\n" if node.user else "")
        for node in nodes
    ]
    settings = {
        # Processors with AES instructions encrypt with the first half as fast again as with ssh's
        # own choice. A whole list: only OpenSSH from 8.1 on takes one to be put in front of it.
        "Ciphers": "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,"
        "aes256-ctr,aes192-ctr,aes128-ctr",
        "IdentityFile": _quoted(layout.cluster_key),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": _quoted(layout.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "PreferredAuthentications": "publickey",
        "BatchMode": "yes",
        "ForwardAgent": "no",
        "ConnectTimeout": str(CONNECT_SECONDS),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "LogLevel": "ERROR",
    }
    rest = "".join(f"  {name} {value}\n" for name, value in settings.items())
    return "\n".join([*blocks, f"Host *\n{rest}"])


def nodes_json(nodes: Sequence[Node]) -> str:
    """Names, addresses, ports and vCPUs, the head first."""
    listed = [
        {"name": node.name, "address": node.address, "port": node.port, "vcpus": node.vcpus}
        for node in nodes
    ]
    return json.dumps(listed, indent=2) + "\n"


def authorized_line(inventory: Inventory, public: str) -> str:
    """The line of authorized_keys: this key, from these addresses, to run commands and no more."""
    kind, key, _ = public.split(" ", 2)
    options = "restrict"
    addresses = [node.address for node in inventory.nodes]
    # sshd compares names only where it looks them up, which it seldom does.
    if all(_is_address(address) for address in addresses):
        options += f',from="{",".join(dict.fromkeys(addresses))}"'
    return f"{options} {kind} {key} {MARK}{inventory.name}"


def _alias(node: Node) -> str:
    """A node's name without the characters that known_hosts gives a meaning."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", node.name)


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _pattern(comment: str) -> str:
    return re.sub(r"([][.*^$\\])", r"\\\1", comment)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
