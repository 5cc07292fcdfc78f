"""What a node does at its first boot; the rest is `fab bootstrap`'s, which can be repeated."""

from __future__ import annotations

import base64

# The daily upgrade holds apt's lock when bootstrap needs it, and restarts services under a run.
CLOUD_CONFIG = """\
#cloud-config
bootcmd:
  - [systemctl, mask, --now, apt-daily.timer, apt-daily-upgrade.timer]
"""


def custom_data() -> str:
    """The cloud-init document as osProfile.customData wants it: base64."""
    return base64.b64encode(CLOUD_CONFIG.encode()).decode()
