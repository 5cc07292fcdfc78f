"""Does the intel stack train on nodes, and learn there what one machine with IPEX learns?

    sudo make rig-intel

The module's own path, as a person types it, on two bare hosts of the rig: `fab bootstrap` with
conda and `--stack intel`, `fab check`, 20 steps of the bundled model on two ranks over gloo,
`fab generate`. The same steps on one rank, with both pictures in one batch, are what the losses are
compared with. oneCCL's bindings are left out: no index at hand has them. Where PyTorch's index is
out of reach too, torch is PyPI's build for CUDA (tests/rig/torch_wheel.py).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.results import finish, machine, middle
from tests.conda_channel import libiomp5_of, make_channel
from tests.hub import serving
from tests.person import CHECKOUT, STATE, Person, pulumi
from tests.rig.commands import RigError
from tests.rig.rig import rig_of
from tests.rig.stand_in import FileServer, serving_packages
from tests.rig.torch_wheel import pack_torch
from tests.rig.wheels import fetch_wheels

FIGURES = CHECKOUT / "benchmarks" / "figures" / "intel_nodes.json"
CACHE = CHECKOUT / ".cache" / "rig-wheels-intel"
MINIATURE = CHECKOUT / "training" / "miniature"
STEPS = 20
TRAINING = (
    *("--resolution", "64", "--max-train-steps", str(STEPS), "--checkpointing-steps", str(STEPS)),
    *("--learning-rate", "2e-2", "--report-to", "none", "--num-evaluation-samples", "8"),
    *("--frozen", "ipex", "--stack", "intel"),
)
TORCH = re.compile(r"^torch==\S+( \\\n +--hash=\S+)*\n", re.MULTILINE)
OWN_INDEX = re.compile(r"^(torch|oneccl-bind-pt)==\S+( \\\n +--hash=\S+)*\n", re.MULTILINE)
"""In the lock: what comes from indexes of its own."""
TOLERANCE = 1e-4
"""float32, and a sum of two in another order: what is left after `STEPS` steps, relative."""


def wheels() -> Path:
    """The folder with the wheels of the intel stack and of py-rattler."""
    lock = (CHECKOUT / "requirements" / "node-intel.txt").read_text()
    general = CACHE.with_name("node-intel-general.txt")
    general.parent.mkdir(parents=True, exist_ok=True)
    general.write_text(OWN_INDEX.sub("", lock))
    fetch_wheels([general, CHECKOUT / "requirements" / "node-conda.txt"], CACHE, show=True)
    return CACHE


def checkout_for(torch: Path, folder: Path) -> Path:
    """The checkout as links, but for its lock: that has the hash of this torch, PyPI's build."""
    folder.mkdir()
    for path in CHECKOUT.iterdir():
        if path.name != "requirements":
            (folder / path.name).symlink_to(path)
    shutil.copytree(CHECKOUT / "requirements", folder / "requirements")
    lock = folder / "requirements" / "node-intel.txt"
    with torch.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    pin = f"torch=={torch.name.split('-')[1]} --hash=sha256:{digest}\n"
    lock.write_text(TORCH.sub(pin, lock.read_text()))
    return folder


@contextmanager
def cluster() -> Iterator[Person]:
    """Two bare hosts, and all that they fetch from outside."""
    repositories = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": MINIATURE / "model",
        "sd-concepts-library/dicoo": MINIATURE / "concept",
    }
    found = wheels()
    torch = pack_torch(CHECKOUT / ".venv-intel", found)
    with (
        tempfile.TemporaryDirectory() as scratch,
        rig_of(2) as rig,
        serving_packages(found, rig.outside) as index,
        serving(repositories, address=rig.outside) as hub,
    ):
        checkout = checkout_for(torch, Path(scratch) / "checkout")
        folder = Path(scratch) / "person"
        folder.mkdir()
        (folder / "fabfile.py").symlink_to(CHECKOUT / "fabfile.py")
        pulumi(folder, rig)
        channel = make_channel(Path(scratch) / "channel", libiomp5_of(found))
        server = FileServer(channel.folder, str(rig.outside))
        channels = ("--conda-channel", server.url, "--allow-http")
        choices = ("--stack", "intel", "--without-oneccl", *channels)
        yield Person(folder, rig, index, hub, choices, checkout)
        server.close()


class Clock:
    """How long each command took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Time the block, and say so."""
        begun = time.monotonic()
        yield
        self.seconds[what] = round(time.monotonic() - begun, 1)
        print(f"{what}: {self.seconds[what]:.1f} s", flush=True)


def events(person: Person, run: str) -> list[dict[str, object]]:
    """What a run has written, of those that came home."""
    lines = (person.folder / "runs" / run / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(person: Person, run: str) -> dict[int, float]:
    """By step, and by evaluation (negative)."""
    found = {}
    for event in events(person, run):
        if event["event"] in ("step", "evaluation"):
            step = int(str(event["step"]))
            found[step if event["event"] == "step" else -step - 1] = float(str(event["loss"]))
    return found


def compare(two: dict[int, float], one: dict[int, float]) -> float:
    """The largest relative difference of the losses.

    Raises:
        RigError: there are none of the last step.
    """
    if STEPS not in two or set(two) != set(one):
        raise RigError(f"losses of steps {sorted(two)} and {sorted(one)}: not the same steps")
    return max(abs(two[step] - one[step]) / abs(one[step]) for step in one)


def train(person: Person, run: str, ranks: int, *more: str) -> dict[str, object]:
    """Train, and return the run's start event."""
    batch = ("--train-batch-size", str(2 // ranks), "-n", str(ranks), "-ppn", "1")
    person.fab("train", *TRAINING, *batch, "--run", run, *more)
    return next(event for event in events(person, run) if event["event"] == "start")


def main() -> int:
    """Run it all; 1 where the losses differ."""
    clock = Clock()
    with cluster() as person:
        with clock.timing("bootstrap"):
            person.bootstrap()
        outside = person.rig.head.bytes().uplink_in
        inside = person.rig.head.bytes().private_out
        before = [host.run(STATE).stdout for host in person.rig.hosts]
        with clock.timing("bootstrap again"):
            person.bootstrap()
        if [host.run(STATE).stdout for host in person.rig.hosts] != before:
            raise RigError("a second fab bootstrap changed something")
        with clock.timing("check"):
            checked = person.fab("check")
        if "All is well." not in checked:
            raise RigError(checked)
        with clock.timing("train, 2 ranks"):
            start = train(person, "two", 2, "--mixed-precision", "no")
        with clock.timing("train, 1 rank"):
            train(person, "one", 1, "--mixed-precision", "no")
        with clock.timing("train, 2 ranks, auto precision"):
            auto = train(person, "auto", 2)
        with clock.timing("generate"):
            said = person.fab("generate", "--prompt", "a <dicoo>", "--num-inference-steps", "2")
        if not (picture := next(line for line in said.splitlines() if line.endswith(".png"))):
            raise RigError(said)
        two, one = losses(person, "two"), losses(person, "one")
        difference = compare(two, one)
        in_bf16 = compare(losses(person, "auto"), one)
        index = person.index.total
    steps = [value for step, value in two.items() if step > 0]
    figures = {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": clock.seconds,
        "bytes_from_outside": outside,
        "bytes_of_wheels": index,
        "bytes_from_node_to_node": inside,
        "backend": start["backend"],
        "stack": start["stack"],
        "versions": start["versions"],
        "frozen": start["frozen"],
        "dtype": start["dtype"],
        "steps_compared": len(steps),
        "median_loss": middle(steps),
        "largest_relative_difference": difference,
        "auto_dtype": auto["dtype"],
        "auto_largest_relative_difference_to_float32": in_bf16,
        "picture": Path(picture).name,
    }
    finish(figures, FIGURES)
    if difference > TOLERANCE:
        print(f"The losses differ by {difference:.2e}: more than rounding.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RigError, AssertionError) as error:
        sys.exit(f"error: {error}")
