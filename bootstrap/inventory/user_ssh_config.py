"""The person's own SSH set-up: ~/.ssh/config and ~/.ssh/known_hosts."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from paramiko import SSHConfig

CONFIGS = (Path("~/.ssh/config"), Path("/etc/ssh/ssh_config"))


def person_config() -> SSHConfig:
    """What ~/.ssh/config says, then /etc/ssh/ssh_config, as ssh itself reads them."""
    config = SSHConfig()
    for path in CONFIGS:
        try:
            text = path.expanduser().read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        config.parse(StringIO(text))
    return config


def person_known_hosts() -> Path:
    """Where ssh keeps the host keys that the person has accepted."""
    return Path("~/.ssh/known_hosts").expanduser()
