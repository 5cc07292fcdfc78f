"""What a node does at its first boot; the rest is `fab bootstrap`'s, which can be repeated."""

from __future__ import annotations

import base64
from textwrap import indent

# Succeeds where nothing of ours runs: neither a training nor a command of bootstrap's. (The pattern
# does not match itself, as it stands in this command's own line.)
IDLE = '! grep -Eqs "training[.]textual_inversion|[.]xeon-diffusion/" /proc/[0-9]*/cmdline'
# The image's own unattended upgrades go on, as the head is open to the internet; they take cores
# and restart services, so they wait for a run to end. What does the work (apt.systemd.daily)
# keeps to once a day by itself: an hourly timer only asks more often.
# The head's data disk, where it has one: made a file system only where it holds nothing at all, at
# each boot, so that one that is attached later is found too. The folder is there on every node, as
# what is ours lies in the same place on all.
MOUNT_DATA = """\
#!/bin/sh
# usage: mount-data MOUNT_POINT OWNER DEVICE...
set -eu
point=$1 owner=$2
shift 2
mkdir -p "$point"
for device in "$@"; do
    [ -e "$device" ] || continue
    # 0: it holds something; 2: nothing is found. Anything else is no reason to write to it.
    found=0
    blkid -p "$device" >/dev/null || found=$?
    case $found in
    0) ;;
    2) mkfs.ext4 -q -L data "$device" ;;
    *) echo "$device cannot be read" >&2; exit 1 ;;
    esac
    mountpoint -q "$point" || mount "$device" "$point"
    resize2fs "$device" || true
    break
done
chown "$owner" "$point"
"""
DATA_FOLDER = "/data"
DATA_DEVICES = "/dev/disk/azure/data/by-lun/0 /dev/disk/azure/scsi1/lun0"
CLOUD_CONFIG = f"""\
#cloud-config
write_files:
  - path: /usr/local/sbin/mount-data
    permissions: "0755"
    content: |
{indent(MOUNT_DATA, " " * 6)}
  - path: /etc/systemd/system/mount-data.service
    content: |
      [Unit]
      Description=The disk that outlives the nodes
      After=local-fs.target walinuxagent.service
      [Service]
      Type=oneshot
      RemainAfterExit=yes
      ExecStart=/usr/local/sbin/mount-data {DATA_FOLDER} %USER% {DATA_DEVICES}
      [Install]
      WantedBy=multi-user.target
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
  - [systemctl, enable, --now, mount-data.service]
  - [systemctl, restart, apt-daily-upgrade.timer]
"""


def custom_data(user: str) -> str:
    """The cloud-init document as osProfile.customData wants it, base64; /data belongs to `user`."""
    return base64.b64encode(CLOUD_CONFIG.replace("%USER%", user).encode()).decode()
