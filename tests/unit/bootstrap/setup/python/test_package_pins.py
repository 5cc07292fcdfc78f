"""The nodes' locks: what they pin, and which index each part is asked of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootstrap.errors import UserError
from bootstrap.setup.python.package_pins import (
    BATCH,
    ONECCL_INDEX,
    ONECCL_PACKAGE,
    STACKS,
    TORCH_INDEX,
    Part,
    read_lock,
)
from bootstrap.setup.python.packages import (
    advice,
    download_line,
    requirement_file,
)
from bootstrap.urls import shown

ROOT = Path(__file__).resolve().parents[5]


@pytest.mark.parametrize("stack", STACKS)
def test_every_package_is_held_to_a_hash_but_oneccls_bindings(stack: str) -> None:
    lock = read_lock(ROOT, stack)
    for name, line in lock.lines.items():
        assert ("--hash=sha256:" in line) == (name != ONECCL_PACKAGE), line
    assert len(lock.pins) > 50


@pytest.mark.parametrize("stack", STACKS)
def test_torch_is_the_cpu_build_on_every_node(stack: str) -> None:
    lock = read_lock(ROOT, stack)
    assert lock.pins["torch"].endswith("+cpu")
    assert not [name for name in lock.pins if re.match(r"nvidia-|cuda-|triton", name)]


@pytest.mark.parametrize("stack", STACKS)
def test_nodes_compute_with_what_the_checkout_is_tested_with(stack: str) -> None:
    tested = dict(
        re.findall(
            r"^([a-z0-9-]+)==([^\s;]+)",
            (ROOT / "requirements" / f"{stack}.txt").read_text(),
            re.MULTILINE,
        )
    )
    pins = read_lock(ROOT, stack).pins
    shared = set(pins) & set(tested) - {"torch"}
    assert {"accelerate", "diffusers", "impi-rt", "transformers"} <= shared
    assert {name: pins[name] for name in shared} == {name: tested[name] for name in shared}


def test_no_tools_on_nodes() -> None:
    pins = read_lock(ROOT, "upstream").pins
    assert not {"pytest", "mypy", "ruff", "fabric", "pulumi", "paramiko"} & set(pins)
    assert {"intel-openmp", "impi-rt", "pydantic", "rich", "huggingface-hub"} <= set(pins)


def test_parts_of_the_intel_stack() -> None:
    torch, oneccl, *general = read_lock(ROOT, "intel").parts(None)
    assert (torch.index, torch.names) == (TORCH_INDEX, ("torch",))
    assert (oneccl.index, oneccl.names) == (ONECCL_INDEX, ("oneccl-bind-pt",))
    assert {part.index for part in general} == {None}
    assert any("intel-extension-for-pytorch" in part.names for part in general)
    assert max(len(part.lines) for part in general) == BATCH


def test_one_index_replaces_all() -> None:
    lock = read_lock(ROOT, "intel")
    parts = lock.parts("https://mirror/simple")
    assert {part.index for part in parts} == {"https://mirror/simple"}
    # Folders of portions that were fetched from elsewhere keep their meaning.
    assert [part.lines for part in parts] == [part.lines for part in lock.parts(None)]


def test_every_pin_is_in_one_portion() -> None:
    for stack in STACKS:
        lock = read_lock(ROOT, stack)
        pins = "".join(part.pins() for part in lock.parts(None)).splitlines()
        assert sorted(pins) == sorted(f"{name}=={pin}" for name, pin in lock.pins.items())


def test_the_key_changes_with_the_lock_and_the_python() -> None:
    intel, upstream = read_lock(ROOT, "intel"), read_lock(ROOT, "upstream")
    assert len({intel.key("3.11"), intel.key("3.12"), upstream.key("3.11")}) == 3
    assert intel.key("3.11") == read_lock(ROOT, "intel").key("3.11")


@pytest.mark.parametrize("stack", STACKS)
def test_openvino_is_added_to_a_stack_whose_torch_stays(stack: str) -> None:
    plain, lock = read_lock(ROOT, stack), read_lock(ROOT, stack, ["openvino"])
    assert (lock.stack, lock.extras) == (stack, ("openvino",))
    assert lock.pins.keys() > plain.pins.keys()
    assert {"gradio", "openvino", "openvino-genai", "optimum-intel"} <= lock.pins.keys()
    for name in ("torch", "accelerate", "diffusers", "impi-rt", "transformers"):
        assert lock.lines[name] == plain.lines[name]
    assert all("--hash=" in lock.lines[name] for name in set(lock.pins) - {ONECCL_PACKAGE})
    assert "torchvision" not in lock.pins
    tested = (ROOT / "requirements" / "openvino.txt").read_text().splitlines()
    mine = {f"{name}=={pin}" for name, pin in lock.pins.items() if name not in plain.pins}
    assert mine <= {line.partition(";")[0] for line in tested}
    assert lock.without(["gradio"]).extras == ("openvino",)


def test_what_only_newer_pythons_need_is_left_out_on_older_ones() -> None:
    lock = read_lock(ROOT, "upstream", ["openvino"])
    older, newer = lock.for_python("3.11"), lock.for_python("3.13")
    assert older.left_out == ("audioop-lts",)
    assert "audioop-lts" not in older.lines
    assert newer.left_out == ()
    assert "python_version" not in newer.lines["audioop-lts"]
    assert "--hash=sha256:" in newer.lines["audioop-lts"]
    assert read_lock(ROOT, "upstream").for_python("3.11") == read_lock(ROOT, "upstream")


def test_an_unknown_stack() -> None:
    with pytest.raises(UserError, match="choose one of intel, upstream"):
        read_lock(ROOT, "cuda")


def test_the_index_and_its_password_are_in_no_argument() -> None:
    part = Part("https://me:secret@mirror/simple", ("a==1 --hash=sha256:00",))
    line = download_line("/usr/bin/python3", "3.12", "/w/pip.zip", part, "/w/x")
    assert "mirror" not in line
    assert "secret" not in line
    assert "--require-hashes" in line
    assert requirement_file(part).startswith("--index-url https://me:secret@mirror/simple\n")
    assert shown(part.index or "") == "https://***@mirror/simple"


def test_a_part_without_hashes_is_fetched_without_them() -> None:
    part = Part(TORCH_INDEX, ("torch==2.13.0+cpu",))
    assert "--require-hashes" not in download_line("python3", "3.12", "/w/pip.zip", part, "/w/x")


def test_an_index_without_tls_is_trusted_as_the_person_named_it() -> None:
    part = Part("http://10.0.0.9:8080/simple", ())
    assert requirement_file(part).startswith("--trusted-host 10.0.0.9\n")


def test_intels_index_gone_names_the_other_stack() -> None:
    assert "--stack upstream" in advice(Part(ONECCL_INDEX, ("oneccl-bind-pt==2.8.0",)), "intel")
