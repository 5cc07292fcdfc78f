"""One host of the rig: a machine with a power switch, a disk and a network cable."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from tests.rig import anchors
from tests.rig.commands import RigError, run
from tests.rig.file_system import UID, USER, Identity, make_disk, wait_for_image
from tests.rig.network import Counters, Network, counters

BOOT = Path(__file__).with_name("boot.sh")
CLOCK = Path(__file__).with_name("clock.c")
PATH = "/usr/local/bin:/usr/bin:/bin"
NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")
SECONDS = 20.0


class RigHost:
    """One host.

    Attributes:
        index: 0 is the head.
        name: its host name.
        home: the person's home directory, as the host sees it.
    """

    home = f"/home/{USER}"

    def __init__(
        self,
        index: int,
        identity: Identity,
        network: Network,
        folder: Path,
        home_size: str | None = None,
        shared_home: Path | None = None,
    ) -> None:
        self.index = index
        self.name = identity.name
        self._identity = identity
        self._network = network
        self._folder = folder
        self._home_size = home_size
        self._shared_home = shared_home
        self._mark = f"{network.slot}/host/{identity.name}"
        self._rate: str | None = None

    @property
    def address(self) -> IPv4Address:
        """Its private address."""
        return self._network.address(self.index)

    @property
    def pid(self) -> int:
        """The id, on this machine, of the host's first process."""
        for pid in anchors.find(self._mark):
            if first := anchors.children(pid):
                return first[0]
        raise RigError(f"{self.name} is off.")

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return bool(anchors.find(self._mark))

    @property
    def host_key(self) -> str:
        """The public host key, as known_hosts has it: type and key."""
        path = self._disk / "etc" / "ssh" / "ssh_host_ed25519_key.pub"
        return " ".join(path.read_text().split()[:2])

    @property
    def fingerprint(self) -> str:
        """The host key's fingerprint, SHA256:..."""
        path = self._disk / "etc" / "ssh" / "ssh_host_ed25519_key.pub"
        return run("ssh-keygen", "-l", "-f", str(path)).stdout.split()[1]

    @property
    def log(self) -> Path:
        """What its sshd has written."""
        return self._folder / "sshd.log"

    def start(self) -> None:
        """Switch it on, with the disk it has, or a new one where it has none."""
        if self.is_on:
            raise RigError(f"{self.name} is on already.")
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._disk.exists():
            make_disk(self._disk, self._identity, self._home_size)
        shared = str(self._shared_home or "")
        boot = ["sh", str(BOOT), str(self._folder), self.name, shared]
        argv = ["unshare", *NAMESPACES, "--fork", "--kill-child", *boot]
        anchors.start(self._mark, argv, self.log)
        self._network.plug_in(self.index, self.pid)
        if self._rate:
            self.set_rate(self._rate)
        self._wait_for_sshd()

    def kill(self) -> None:
        """Take its power away. Its peers hear nothing: no connection is closed, none refused.

        What it had written is on the disk, synchronised or not: the page cache is this machine's.
        """
        with suppress(RigError):
            self._network.unplug(self.index)
        anchors.end(self._mark)
        wait_for_image(self._disk)

    def reboot(self) -> None:
        """Take its power away and switch it on again: same disk, same host key."""
        self.kill()
        self.start()

    def replace(self) -> None:
        """Put a new machine in its place: same name and address, empty disk, new host key."""
        self.kill()
        shutil.rmtree(self._disk)
        self.start()

    def run(
        self, command: str, *, user: str = USER, check: bool = True, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on it from the console: no network, no sshd in between."""
        identity: tuple[str, ...] = ("HOME=/root", "USER=root", f"PATH={PATH}:/usr/sbin:/sbin")
        become: tuple[str, ...] = ()
        if user != "root":
            identity = (f"HOME={self.home}", f"USER={user}", f"PATH={PATH}")
            become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        return run(
            *("nsenter", f"--target={self.pid}", *NAMESPACES, "--"),
            *(*become, "env", "-i", *identity, "LANG=C.UTF-8", "bash", "-c"),
            f"cd ~ && {command}",
            check=check,
            seconds=seconds,
        )

    def path(self, path: str) -> Path:
        """Where a file of the running host is found from outside."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def bytes(self) -> Counters:
        """What its interfaces have carried since it was switched on."""
        return counters(self.pid)

    def set_rate(self, rate: str | None) -> None:
        """Let its private interface carry at most `rate` (1gbit, 100mbit) each way."""
        self._network.set_rate(rate, self.index, self.pid)
        self._rate = rate

    def cut(self) -> None:
        """Cut it off the private network, silently; the head keeps its uplink."""
        self._network.cut(self.index)

    def mend(self) -> None:
        """Undo `cut`."""
        self._network.mend(self.index)

    def block(self, other: RigHost) -> None:
        """Let nothing pass between it and another host, until `unblock` or a restart."""
        self._network.block(self.pid, other.index)

    def unblock(self, other: RigHost) -> None:
        """Undo `block`."""
        self._network.unblock(self.pid, other.index)

    def fill_home(self, leave: int = 0) -> None:
        """Fill the small disk under /home until `leave` bytes are free."""
        if not self._home_size:
            raise RigError("Only a home of its own size can be filled: start it with home_size.")
        script = (
            f"size=$(df -B1 --output=avail ~ | tail -1); fallocate -l $((size - {leave})) ~/.full"
        )
        self.run(script)

    def empty_home(self) -> None:
        """Undo `fill_home`."""
        self.run("rm -f ~/.full")

    def skew_clock(self, seconds: int) -> None:
        """Let every program started from now on see a clock that is off by `seconds`; 0: mend.

        The kernel's clock is one for all hosts. So this preloads a library (clock.c) that adds the
        offset to what programs are told about the time of day: `date`, Python and sshd all see it.
        """
        preload = "/etc/ld.so.preload"
        if not seconds:
            self.run(f"rm -f {preload}", user="root")
            return
        library = self._folder / f"clock{seconds}.so"
        run("gcc", "-O1", "-shared", "-fPIC", f"-DOFFSET={seconds}", "-o", str(library), str(CLOCK))
        self.path("/usr/lib/clock.so").write_bytes(library.read_bytes())
        self.path(preload).write_text("/usr/lib/clock.so\n")

    @property
    def _disk(self) -> Path:
        return self._folder / "disk"

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not _listens_on_22(self.pid):
            if time.monotonic() > deadline:
                raise RigError(f"{self.name}: sshd does not listen; {self.log} may say why")
            time.sleep(0.005)


def _listens_on_22(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(":0016") and line.split()[3] == "0A" for line in lines)
