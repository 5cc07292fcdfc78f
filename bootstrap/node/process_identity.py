"""A process told from a later one that got its number: a pid that is kept is used again one day."""

from __future__ import annotations

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
START_TIME = 22
"""The field of /proc/PID/stat (proc_pid_stat(5)): when it began, in ticks since the boot."""


def identity(pid: int) -> str | None:
    """Names one process of one boot of this machine; None: no process has that number now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field, a name in parentheses, may hold spaces and parentheses.
        began = stat.rpartition(")")[2].split()[START_TIME - 3]
        return f"{BOOT_ID.read_text(encoding='ascii').strip()} {began}"
    except (OSError, IndexError):
        return None
