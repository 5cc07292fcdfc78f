"""From bare hosts to a picture, as a person types it: real sshd, real mpirun, nothing prepared.

A `pulumi` on the PATH prints the real program's outputs, with the rig's addresses in the place of
Azure's. The hub and the package index are stand-ins on the head's uplink. Shells are not quiet.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.hub import serving
from tests.person import SECONDS, STATE, TRAINING, Person, pulumi
from tests.rig.rig import rig_of
from tests.rig.stand_in import serving_packages
from tests.rig.wheels import fetch_wheels
from tests.sshd import free_port

CHECKOUT = Path(__file__).parents[3]
MINIATURE = CHECKOUT / "training" / "miniature"
BASHRC = """\
echo "error: welcome to $(hostname)"; echo careful >&2; printf 'no line end'
trap 'echo good-bye' EXIT
"""
"""On the head and the worker that trains with it: nothing that is read depends on a quiet shell."""
QUANTIZING = [
    *("--method", "quantize", "--train-data-dir", str(MINIATURE / "style"), "--resolution", "64"),
    *("--max-train-steps", "2", "--checkpointing-steps", "1", "--calibration-samples", "4"),
    *("--merge-tokens", "0.4", "--num-evaluation-samples", "2", "--report-to", "none"),
]
"""A UNet in 8 bits, as short as it can be; it goes through the checkpoints as a long one does."""
PLANTED = ("packages", "data/dicoo", "disk", "clock", "ssh between nodes")

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """In a folder of their own, with three hosts that nobody has touched."""
    folder = tmp_path_factory.mktemp("person")
    (folder / "fabfile.py").symlink_to(CHECKOUT / "fabfile.py")
    wheels = fetch_wheels([CHECKOUT / "requirements" / "node-upstream-openvino.txt"])
    repositories = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": MINIATURE / "model",
        "sd-concepts-library/dicoo": MINIATURE / "concept",
    }
    with (
        rig_of(3, home_size="10G") as rig,
        serving_packages(wheels, rig.outside) as index,
        serving(repositories, address=rig.outside) as hub,
    ):
        pulumi(folder, rig)
        for host in rig.hosts[:2]:
            host.path(f"{host.home}/.bashrc").write_text(BASHRC)
        choices = ("--stack", "upstream", "--environment", "venv", "--with", "openvino")
        yield Person(folder, rig, index, hub, choices)


@pytest.fixture(scope="module")
def ready(person: Person) -> Person:
    """After `fab bootstrap` on hosts that were bare, its first try cut short by the index."""
    for host in person.rig.hosts:
        assert host.run("python3 -c 'import torch'", check=False).returncode != 0
    for worker in person.rig.workers:
        assert worker.run("ip route show default").stdout == ""
    person.index.fail("error", only="diffusers")
    said = person.bootstrap(code=1)
    assert "error: vm-xeon-diffusion-dev-0: " in said
    assert "diffusers" in said
    assert "0 of 3 nodes are ready" in said
    person.index.mend()
    assert "3 of 3 nodes are ready" in person.bootstrap()
    return person


def test_the_packages_came_in_once(ready: Person) -> None:
    """Although there are three hosts, and a first try had fetched some of them."""
    wheels = sum(path.stat().st_size for path in ready.index.folder.glob("*.whl"))
    assert 0 < ready.index.total < 1.01 * wheels  # its pages are counted too
    assert set(ready.index.clients) == {str(ready.rig.network.public)}


def test_a_second_bootstrap_changes_nothing_and_asks_nothing(ready: Person) -> None:
    before = [host.run(STATE).stdout for host in ready.rig.hosts]
    asked = len(ready.index.requests), len(ready.hub.requests)
    ready.bootstrap()
    assert (len(ready.index.requests), len(ready.hub.requests)) == asked
    assert [host.run(STATE).stdout for host in ready.rig.hosts] == before


@pytest.fixture(scope="module")
def trained(ready: Person) -> Person:
    """After `fab check` and `fab train` on two hosts, a rank each."""
    checked = ready.fab("check")
    assert "All is well." in checked
    assert "all-reduce (gloo)" in checked
    ready.fab("train", *TRAINING, "-n", "2", "-ppn", "1", "--run", "dicoo")
    return ready


def test_the_rows_and_samples_came_home_while_training(trained: Person) -> None:
    run = trained.folder / "runs" / "dicoo"
    assert (run / "learned_embeds.safetensors").exists()
    assert list((run / "samples").rglob("*.png"))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (start,) = (event for event in events if event["event"] == "start")
    assert (start["ranks"], start["backend"]) == (2, "gloo")
    assert events[-1]["event"] == "done"


def test_nothing_lies_outside_the_folder_that_clean_removes(trained: Person) -> None:
    for host in trained.rig.hosts:
        there = set(host.run("ls -A ~").stdout.split())
        assert there <= {".xeon-diffusion", ".ssh", ".bashrc", ".profile", ".bash_logout"}


def test_each_host_of_the_run_keeps_the_same_checkpoint(trained: Person) -> None:
    command = "sha256sum ~/.xeon-diffusion/runs/dicoo/checkpoint-4/state.safetensors"
    digests = {host.run(command).stdout.split()[0] for host in trained.rig.hosts[:2]}
    assert len(digests) == 1


def test_status_fetch_and_generate(trained: Person) -> None:
    status = trained.fab("status")
    assert "dicoo" in status
    printed = trained.fab("logs", "--all")
    assert "training.textual_inversion" in printed
    assert "welcome" not in printed
    trained.fab("fetch", "--full")
    assert (trained.folder / "runs" / "dicoo" / "model_index.json").exists()
    assert "not fetched" not in trained.fab("status")
    asked = ("--prompt", "a <dicoo>", "--num-inference-steps", "2", "--negative-prompt", "blue")
    said = trained.fab("generate", *asked, "--scheduler", "euler")
    (picture,) = (line for line in said.splitlines() if line.endswith(".png"))
    with Image.open(trained.folder / picture) as image:
        assert image.size == (64, 64)
        assert len(image.convert("RGB").getcolors(64 * 64) or []) > 16


def test_a_lora_is_trained_from_pictures_with_captions(trained: Person) -> None:
    flags = ["a heart" if word == "a <dicoo>" else word for word in TRAINING]
    pictures = ("--train-data-dir", str(MINIATURE / "style"))
    trained.fab("train", "--method", "lora", *flags, *pictures, "-n", "2", "--run", "style")
    assert (trained.folder / "runs" / "style" / "pytorch_lora_weights.safetensors").exists()
    said = trained.fab(
        "generate", "--run", "style", "--prompt", "a heart", "--num-inference-steps", "2"
    )
    (picture,) = (line for line in said.splitlines() if line.endswith(".png"))
    assert (trained.folder / picture).exists()


def test_what_tune_finds_on_the_head_is_what_train_takes(trained: Person) -> None:
    asked = ("--frozen", "native", "--mixed-precision", "no", "-ppn", "1", "--budget", "600")
    said = trained.fab("tune", *TRAINING, *asked)
    assert "native, fp32, 1 rank of " in said
    tuned = "~/.xeon-diffusion/tuned"
    try:
        found = json.loads(trained.rig.head.run(f"cat {tuned}/textual_inversion.json").stdout)
        assert found["images_per_second"] > 0
        said = trained.fab("train", *TRAINING, "--dry-run")
        assert "from fab tune, where no flag says otherwise: native, fp32, 1 ranks" in said
        assert "--frozen=native" in said
        assert f"OMP_NUM_THREADS {found['threads']}" in said
        assert " -n 3 " in " ".join(said.split())
        assert not trained.rig.head.run("ls -d /tmp/tune-*", check=False).stdout
    finally:
        trained.rig.head.run(f"rm -r {tuned}", check=False)


def test_an_export_comes_home_and_draws_on_the_head(trained: Person) -> None:
    trained.fab("export", "--run", "dicoo", "--weights", "bf16")
    home = trained.folder / "runs" / "dicoo" / "openvino"
    assert json.loads((home / "export.json").read_text())["words"] == ["<dicoo>"]
    assert list((home / "unet").glob("*.bin"))
    asked = ("--run", "dicoo", "--prompt", "a <dicoo>", "--num-inference-steps", "2")
    said = trained.fab("generate", *asked, "--engine", "openvino", "--guidance-scale", "2")
    (picture,) = (line for line in said.splitlines() if line.endswith(".png"))
    with Image.open(trained.folder / picture) as image:
        assert image.size == (64, 64)


def test_quantizing_is_refused_where_a_node_has_no_nncf(trained: Person) -> None:
    packages = "~/.xeon-diffusion/env/lib/python3*/site-packages"
    worker = trained.rig.workers[1]
    worker.run(f"cd {packages} && mv nncf nncf.away")
    try:
        said = trained.fab("train", *QUANTIZING, "--run", "int8", code=1)
    finally:
        worker.run(f"cd {packages} && mv nncf.away nncf")
    outputs = json.loads((trained.folder / "outputs.json").read_text())
    name = outputs["nodes"][2]["name"]
    assert f"error: {name}: NNCF is missing" in said
    assert "`fab bootstrap --with openvino` brings it" in said
    for host in trained.rig.hosts:
        assert host.run("ls ~/.xeon-diffusion/runs/int8", check=False).returncode != 0


def test_a_unet_is_quantized_on_two_hosts_exported_and_draws(trained: Person) -> None:
    trained.fab("train", *QUANTIZING, "-n", "2", "-ppn", "1", "--run", "int8")
    run = trained.folder / "runs" / "int8"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (start,) = (event for event in events if event["event"] == "start")
    assert (start["ranks"], start["backend"]) == (2, "gloo")
    assert events[-1]["event"] == "done"
    command = "sha256sum ~/.xeon-diffusion/runs/int8/checkpoint-2/state.safetensors"
    digests = {host.run(command).stdout.split()[0] for host in trained.rig.hosts[:2]}
    assert len(digests) == 1
    assert (run / "quantized_unet.safetensors").exists()
    trained.fab("export", "--run", "int8")
    exported = json.loads((run / "openvino" / "export.json").read_text())
    assert (exported["weights"], exported["merge_tokens"]) == ("qat", 0.4)
    asked = ("--run", "int8", "--prompt", "a heart", "--num-inference-steps", "2")
    said = trained.fab("generate", *asked, "--engine", "openvino")
    (picture,) = (line for line in said.splitlines() if line.endswith(".png"))
    with Image.open(trained.folder / picture) as image:
        assert image.size == (64, 64)


def test_the_page_is_drawn_on_the_head_and_reached_from_here(trained: Person) -> None:
    port = free_port()
    with trained.fab_open("playground", "--run", "dicoo", "--port", str(port)) as lines:
        assert any(f"http://127.0.0.1:{port}" in line for line in lines)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=SECONDS) as page:
            assert json.load(page)["title"] == "xeon-diffusion"


def test_the_seeds_own_line_trains_over_the_nodefile(trained: Person) -> None:
    flags = (
        "--pretrained_model_name_or_path models/stable-diffusion-v1-5 --train_data_dir data/dicoo"
        " --placeholder_token '<dicoo>' --initializer_token toy --learnable_property object"
        " --resolution 64 --train_batch_size 1 --seed 7 --gradient_accumulation_steps 1"
        " --max_train_steps 2 --learning_rate 2.0e-03 --scale_lr --lr_scheduler constant"
        " --lr_warmup_steps 0 --output_dir ./textual_inversion_output --save_as_full_pipeline"
        " --num_evaluation_samples 1 --report_to none"
    )
    line = (
        "cd ~/.xeon-diffusion && . ./activate && mpirun -f cluster/nodefile -n 2 -ppn 1"
        f" accelerate launch -m training.textual_inversion {flags}"
    )
    trained.rig.ssh(trained.rig.head, line, seconds=SECONDS)
    written = trained.rig.head.run("cat ~/.xeon-diffusion/textual_inversion_output/events.jsonl")
    start = json.loads(written.stdout.splitlines()[0])
    assert (start["ranks"], start["backend"]) == (2, "gloo")


def test_ranks_have_loaded_what_was_to_be_preloaded(trained: Person) -> None:
    announced = trained.fab("train", *TRAINING, "-n", "2", "-ppn", "1", "--dry-run")
    (preload,) = re.findall(r"export LD_PRELOAD=(\S+)", announced)
    libraries = [Path(path).name for path in preload.split(":")]
    # The hosts' tcmalloc is this machine's (.ci/run installs it); bootstrap takes it where it is.
    installed = trained.rig.head.run("ls /usr/lib/*/libtcmalloc*.so.4", check=False).stdout
    assert libraries[0] == "libiomp5.so"
    assert [name[:11] for name in libraries[1:]] == (["libtcmalloc"] if installed else [])
    longer = [*TRAINING, "--max-train-steps", "5000", "-n", "2", "-ppn", "1", "--run", "long"]
    trained.fab("train", *longer, "--detach")
    events = "~/.xeon-diffusion/runs/long/events.jsonl"
    trained.rig.head.run(
        f"""until grep -q '"event": "step"' {events}; do sleep 0.2; done""", seconds=SECONDS
    )
    loaded = (
        "for maps in /proc/[0-9]*/maps; do"
        " if grep -qs XEON_DIFFUSION_RUN ${maps%maps}environ && grep -qs libtorch_cpu $maps;"
        f" then for name in {' '.join(libraries)}; do grep -c /$name $maps; done; fi; done"
    )
    for host in trained.rig.hosts[:2]:
        mapped = [int(line) > 0 for line in host.run(loaded, check=False).stdout.split()]
        assert mapped == [True] * len(libraries)
    trained.fab("stop")
    kept = trained.rig.head.run("ls -d ~/.xeon-diffusion/runs/long/checkpoint-*").stdout.split()
    assert kept


def test_check_names_what_is_planted_and_what_it_says_mends_it(trained: Person) -> None:
    _, worker, other = trained.rig.hosts
    outputs = json.loads((trained.folder / "outputs.json").read_text())
    name = outputs["nodes"][1]["name"]
    picture = worker.run("ls ~/.xeon-diffusion/data/dicoo/*.png | head -n 1").stdout.strip()
    torch = "~/.xeon-diffusion/env/lib/python3*/site-packages/torch-*.dist-info/METADATA"
    worker.run(f"printf x >> {picture}")
    worker.run(f"sed -i 's/^Version: .*/Version: 2.8.0/' {torch}")
    worker.skew_clock(-90)
    worker.fill_home(leave=1 << 20)
    worker.block(other)
    try:
        said = trained.fab("check", "--no-steps", code=1)
    finally:
        worker.unblock(other)
        worker.empty_home()
        worker.skew_clock(0)
    bad = [line for line in said.splitlines() if "NO" in line]
    named = {what: [line for line in bad if what in line] for what in PLANTED}
    assert all(named.values()), said
    assert sum(len(lines) for lines in named.values()) == len(bad)
    assert all(name in line for line in bad), said
    assert Path(picture).name in named["data/dicoo"][0]
    assert "torch 2.8.0 instead of 2.13.0" in named["packages"][0]
    trained.bootstrap()
    assert "All is well." in trained.fab("check", "--no-steps")
