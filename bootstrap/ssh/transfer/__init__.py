"""Files between the person's machine and a node: only what differs, whole or not at all, resumed.

Both ways the receiving side writes to a temporary name, syncs, checks SHA-256 and renames. Small
files travel together in one tar stream; large ones alone, so that they go on where they were cut.
"""

from bootstrap.ssh.transfer.fetching import fetch
from bootstrap.ssh.transfer.sending import send
from bootstrap.ssh.transfer.whole_files import put, read, read_lines, write

__all__ = ["fetch", "put", "read", "read_lines", "send", "write"]
