"""What a node does at its first boot; the rest is `fab bootstrap`'s, which can be repeated."""

from __future__ import annotations

import base64

# Succeeds where nothing of ours runs: neither a training nor a command of bootstrap's. (The pattern
# does not match itself, as it stands in this command's own line.)
IDLE = '! grep -Eqs "training[.]textual_inversion|[.]xeon-diffusion/" /proc/[0-9]*/cmdline'
# The image's own unattended upgrades go on, as the head is open to the internet; they take cores
# and restart services, so they wait for a run to end. What does the work (apt.systemd.daily)
# keeps to once a day by itself: an hourly timer only asks more often.
CLOUD_CONFIG = f"""\
#cloud-config
write_files:
  - path: /etc/systemd/system/apt-daily-upgrade.service.d/between-runs.conf
    content: |
      [Service]
      ExecCondition=/bin/sh -c '{IDLE}'
  - path: /etc/systemd/system/apt-daily-upgrade.timer.d/between-runs.conf
    content: |
      [Timer]
      OnCalendar=
      OnCalendar=hourly
      RandomizedDelaySec=10min
runcmd:
  - [systemctl, daemon-reload]
  - [systemctl, restart, apt-daily-upgrade.timer]
"""


def custom_data() -> str:
    """The cloud-init document as osProfile.customData wants it: base64."""
    return base64.b64encode(CLOUD_CONFIG.encode()).decode()
