"""`fab generate`, `fab export` and `fab playground` over a real sshd: flags, files, the way back.

The head's programs are stand-ins that write what the real ones write and keep what they were told:
tests/e2e draws for real.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootstrap.commands.drawing import export, generate, playground
from tests.sshd import become_person, free_port, serving

CHECKOUT = Path(__file__).parents[4]
SECONDS = 60
PROGRAMS = """
import http.server, json, os, pathlib, sys
module, *words = sys.argv[1:]
flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
record = pathlib.Path("told.json")
files = {key: pathlib.Path(value.split("=")[-1].rsplit(":", 1)[0]) for key, value in flags.items()
         if key in ("embeds", "lora", "vae", "calibration_prompts")}
there = {key: path.is_dir() or path.read_text() for key, path in files.items()}
record.write_text(json.dumps({"module": module, "words": words, "files": there}))
if flags.get("seed") == "13":
    sys.exit("error: --seed 13: brings bad luck")
if os.path.exists("no-openvino") and module != "training.generate":
    sys.exit("error: it needs packages. `make environment-openvino` makes an environment")
if module == "training.generate":
    path = pathlib.Path(words[0]) / "generated" / "a.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"picture")
    print(json.dumps([str(path)]))
elif module == "training.export":
    folder = pathlib.Path(flags["output_dir"])
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "openvino_model.bin").write_bytes(os.urandom(300_000))
    print(json.dumps({"output_dir": str(folder)}))
else:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/"}), flush=True)
    server.serve_forever()
"""


@dataclass(frozen=True)
class Head:
    """A head with a run on it.

    Attributes:
        root: where everything of ours is on it.
    """

    root: Path

    def told(self) -> dict[str, object]:
        """What a program was told last."""
        said: dict[str, object] = json.loads((self.root / "told.json").read_text())
        return said


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """Reached by the inventory cluster.json in the person's folder."""
    key = become_person(tmp_path, monkeypatch)
    with serving(tmp_path / "sshd", key) as server:
        root = server.home / ".xeon-diffusion"
        (root / "env" / "bin").mkdir(parents=True)
        (tmp_path / "programs.py").write_text(PROGRAMS)
        python = root / "env" / "bin" / "python"
        python.write_text(
            f"#!/bin/sh\nPYTHONPATH={CHECKOUT}; export PYTHONPATH\n"
            'case "$3" in training.*)\n'
            f'  shift 2; exec {sys.executable} {tmp_path}/programs.py "$@" ;;\n'
            f'esac\nexec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        run = root / "runs" / "dicoo"
        run.mkdir(parents=True)
        (run / "job.json").write_text("{}")
        (run / "config.toml").write_text('placeholder_token = "<dicoo>"\n')
        (run / "events.jsonl").write_text('{"event": "start", "time": 1.0, "step": 0}\n')
        node = {"name": "n0", "private_ip": server.address, "port": server.port}
        outputs = {"user": getpass.getuser(), "ssh_private_key_path": str(key), "nodes": [node]}
        (tmp_path / "cluster.json").write_text(json.dumps(outputs))
        yield Head(root)


WHERE = ["--inventory", "cluster.json", "--accept-host-keys"]


def test_generate_passes_its_flags_on_and_sends_the_files_that_they_name(
    head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a <dicoo> in snow\n\na <dicoo> at night\n")
    (tmp_path / "lcm.safetensors").write_text("lora")
    (tmp_path / "cat.pt").write_text("rows")
    (tmp_path / "taesd").mkdir()
    (tmp_path / "taesd" / "config.json").write_text("{}")
    asked = [*WHERE, "--prompt-file", "prompts.txt", "--negative-prompt", "blue", "--height", "64",
             "--scheduler", "lcm", "--engine", "openvino", "--lora", "lcm.safetensors:0.5",
             "--embeds", "<cat>=cat.pt", "--vae", "taesd", "--seed", "7"]  # fmt: skip
    assert generate.main(asked) == 0
    said = capsys.readouterr()
    assert (tmp_path / said.out.splitlines()[-1]).read_bytes() == b"picture"
    told = head.told()
    words = told["words"]
    assert isinstance(words, list)
    assert words[0] == f"{head.root}/runs/dicoo"
    assert words[1:3] == ["--prompt=a <dicoo> in snow", "--prompt=a <dicoo> at night"]
    assert {"--negative_prompt=blue", "--height=64", "--scheduler=lcm", "--engine=openvino",
            "--seed=7"} <= set(words)  # fmt: skip
    (lora,) = (word for word in words if word.startswith("--lora="))
    assert lora.endswith("/lcm.safetensors:0.5")
    (embeds,) = (word for word in words if word.startswith("--embeds="))
    assert embeds.startswith("--embeds=<cat>=")
    assert embeds.endswith("/cat.pt")
    assert told["files"] == {"lora": "lora", "embeds": "rows", "vae": True}
    assert generate.main([*WHERE, "--prompt", "a <dicoo>", "--seed", "13"]) == 1
    assert "n0: --seed 13: brings bad luck" in capsys.readouterr().err


def test_what_is_not_here_is_refused_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = ["--inventory", "nowhere.json"]
    for main, words, said in (
        (generate.main, [], "nothing to draw"),
        (generate.main, ["--prompt-file", "p.txt"], "--prompt-file p.txt: cannot be read"),
        (generate.main, ["--prompt", "a", "--lora", "x.safetensors:0.5"], "--lora x.safetensors:"),
        (generate.main, ["--prompt", "a", "--embeds", "w=x.pt"], "--embeds x.pt: there is no"),
        (export.main, ["--vae", "taesd"], "--vae taesd: there is no such file"),
        (export.main, ["--calibration-prompts", "p"], "--calibration-prompts p: cannot be read"),
        (playground.main, ["--vae", "taesd"], "--vae taesd: there is no such file"),
    ):
        assert main([*nowhere, *words]) == 1
        printed = capsys.readouterr()
        assert said in printed.err
        assert printed.err.count("error: ") == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert playground.main([*nowhere, "--port", port]) == 1
    assert f"--port {port}: cannot be used here" in capsys.readouterr().err


def test_an_export_comes_home_whole_in_the_place_of_an_older_one(
    head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([*WHERE, "--weights", "int8", "--dynamic", "--merge-tokens", "0.4"]) == 0
    run, here = head.root / "runs" / "dicoo", tmp_path / "runs" / "dicoo" / "openvino"
    assert capsys.readouterr().out.splitlines()[-1] == "runs/dicoo/openvino"
    words = head.told()["words"]
    assert isinstance(words, list)
    assert words[:2] == [str(run), f"--output_dir={run}/openvino"]
    assert {"--weights=int8", "--dynamic", "--merge_tokens=0.4"} == set(words[2:])
    file = Path("unet") / "openvino_model.bin"
    assert (here / file).read_bytes() == (run / "openvino" / file).read_bytes()
    (here / "of-an-older-one").touch()
    assert export.main(WHERE) == 0
    assert (here / file).read_bytes() == (run / "openvino" / file).read_bytes()
    assert not (here / "of-an-older-one").exists()
    assert [path.name for path in here.parent.iterdir() if "openvino" in path.name] == ["openvino"]
    (head.root / "no-openvino").touch()
    capsys.readouterr()
    assert export.main(WHERE) == 1
    assert "fab bootstrap --with openvino" in capsys.readouterr().err
    assert (here / file).exists()


def test_the_page_is_reached_through_the_connection_and_ends_with_it(
    head: Head, tmp_path: Path
) -> None:
    port = free_port()
    line = [sys.executable, "-m", "bootstrap.commands.drawing.playground", *WHERE]
    process = subprocess.Popen(
        [*line, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert process.stdout is not None
    try:
        said = iter(process.stdout)
        assert any(f"the page is at http://127.0.0.1:{port}" in line for line in said)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/told.json", timeout=SECONDS) as page:
            assert json.load(page)["words"] == [f"{head.root}/runs/dicoo", "--port=0"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
    assert process.returncode != 0
    end = time.monotonic() + SECONDS
    while shutil.which("pgrep") and _serving(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.1)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def _serving(tmp_path: Path) -> bool:
    """Whether the page's program still runs on the head."""
    found = subprocess.run(["pgrep", "-f", f"{tmp_path}/programs.py"], capture_output=True)
    return found.returncode == 0
