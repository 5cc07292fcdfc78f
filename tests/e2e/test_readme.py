"""Every command that the README shows, as a person types it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from PIL import Image

from tests.captioned import make_captioned
from tests.hub import serving
from tests.short_run import short_run
from tests.tiny_model import make_kohya_lora
from training import export, generate, playground, textual_inversion
from training.config.command_line import parse
from training.config.lora import LoraConfig
from training.config.quantize import QuantizeConfig
from training.config.run import RunConfig
from training.config.textual_inversion import TextualInversionConfig
from training.models.embeds import save_embeds
from training.storage.run_directory import RunRecord, write_config

Capture = pytest.CaptureFixture[str]
RECORD = RunRecord(
    seed=7, global_batch=1, learning_rate=2e-3, dtype="float32", frozen="native", model="m",
    pictures="p", rows="r",
)  # fmt: skip
CHECKOUT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
LAUNCHERS: dict[str, list[str]] = {"alone": []}
if (PROGRAMS / "mpirun").exists():  # Intel MPI has wheels for Linux on x86-64 only
    LAUNCHERS["mpirun"] = ["mpirun", "-n", "2"]
SHORT = [
    *("--resolution=32", "--max_train_steps=2", "--report_to=none", "--mixed_precision=no"),
    *("--num_validation_images=1", "--num_inference_steps=2"),
]
"""What a test changes: size and length, nothing else."""


def shown(name: str = "README.md") -> list[str]:
    """The commands in the fenced blocks of a page, continuation lines joined, comments cut."""
    text = (CHECKOUT / name).read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = "\n".join(block for language, block in blocks if not language)
    lines = commands.replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def training_command() -> list[str]:
    (command,) = (line for line in shown() if "training.textual_inversion" in line)
    return shlex.split(command)[1:]  # without the interpreter's path


def drawing_command(contains: str) -> list[str]:
    """The command of README's table that draws so, without the interpreter's path."""
    commands = re.findall(
        r"`\.venv/bin/python (-m training\.generate [^`]+)`", (CHECKOUT / "README.md").read_text()
    )
    (command,) = (each for each in commands if contains in each)
    return shlex.split(command)


def toml_shown() -> str:
    """The file that docs/training.md shows."""
    text = (CHECKOUT / "docs" / "training.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(block)


PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (CHECKOUT / "docs").glob("*.md"))]
INTERPRETER = re.compile(r"(?:\.venv(?:-[a-z]+)?/bin/)?python -m (training\.[a-z_.]+) ?(.*)")


def programs_shown() -> list[tuple[str, str]]:
    """Every `python -m training...` that the pages show, as module and words, launchers cut.

    In backquotes, and in blocks, with what lies in the place of a word (`...`) left out.
    """
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        text = (CHECKOUT / page).read_text()
        lines = [*shown(page), *re.findall(r"`([^`\n]+)`", text)]
        for line in lines:
            if (match := INTERPRETER.search(line)) and "..." not in line:
                found[match[1], match[2].strip()] = None
    return list(found)


@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)
def test_the_training_command_runs_against_a_hub(
    launcher: list[str], tiny_model: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures, tmp_path / "dicoo")
    with serving({"stable-diffusion-v1-5/stable-diffusion-v1-5": tiny_model}) as hub:
        finished = subprocess.run(
            [*launcher, sys.executable, *training_command(), *SHORT],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
                "PYTHONPATH": str(CHECKOUT),
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(tmp_path / "hub-cache"),
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        asked = {path for method, path in hub.requests if method == "GET"}
    assert finished.returncode == 0, finished.stderr
    assert any(path.endswith("unet/diffusion_pytorch_model.safetensors") for path in asked)
    assert (tmp_path / "runs" / "dicoo" / "learned_embeds.safetensors").exists()
    assert len(list((tmp_path / "runs" / "dicoo" / "samples").glob("step-*/*.png"))) == 2
    if launcher:
        return
    # Offline: the model is in the cache that the training has filled.
    for command, count in ((drawing_command("runs/dicoo"), 4), (drawing_command("--again"), 1)):
        drawn = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1",
                 "HF_HOME": str(tmp_path / "hub-cache")},
            timeout=300, check=False,
        )  # fmt: skip
        assert drawn.returncode == 0, drawn.stderr
        paths = json.loads(drawn.stdout)
        assert len(paths) == count
        shutil.copy(tmp_path / paths[0], tmp_path / "PICTURE.png")
    assert "the same, pixel for pixel" in drawn.stderr


def test_the_command_for_any_model_draws_with_a_lora_and_a_tiny_vae_in_four_steps(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("MODEL").symlink_to(tiny_model)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet")
    make_kohya_lora(Path("lcm.safetensors"), unet)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ).save_pretrained("taesd")  # fmt: skip
    module, *words = drawing_command("--model MODEL")[1:]
    assert (module, generate.main(words)) == ("training.generate", 0)
    (drawn,) = json.loads(capfd.readouterr().out)
    with Image.open(drawn) as picture:
        settings = json.loads(picture.info["xeon-diffusion"])
    assert settings["settings"]["num_inference_steps"] == 4
    assert settings["settings"]["scheduler"] == "lcm"


@pytest.mark.openvino
def test_the_lines_of_openvino_export_a_run_and_draw_with_it(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    model = CHECKOUT / "training" / "miniature" / "model"
    changes = {"placeholder_token": "<dicoo>", "initializer_token": "toy", "resolution": 64}
    run = short_run(model, pictures, tmp_path, Path("runs/dicoo"), max_train_steps=2, **changes)
    assert textual_inversion.main(run) == 0
    line = r"`\.venv-openvino/bin/python -m (training\.(?:export|generate)) ([^`]+)`"
    lines = dict(re.findall(line, (CHECKOUT / "README.md").read_text()))
    assert lines.keys() == {"training.export", "training.generate"}
    assert export.main(shlex.split(lines["training.export"])) == 0
    capfd.readouterr()
    assert generate.main(shlex.split(lines["training.generate"])) == 0
    (drawn,) = json.loads(capfd.readouterr().out)
    with Image.open(drawn) as picture:
        assert json.loads(picture.info["xeon-diffusion"])["settings"]["engine"] == "openvino"


@pytest.mark.parametrize(("module", "words"), programs_shown())
def test_every_program_that_a_page_shows_reads_its_words(
    module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dicoo.toml").write_text(toml_shown())
    Path("runs/dicoo").mkdir(parents=True)
    config = TextualInversionConfig.model_validate(tomllib.loads(toml_shown()))
    write_config(Path("runs/dicoo"), config, RECORD)
    given = shlex.split(words, comments=True)
    configs: dict[str, type[RunConfig]] = {
        "training.textual_inversion": TextualInversionConfig, "training.lora": LoraConfig,
        "training.quantize": QuantizeConfig,
    }  # fmt: skip
    parsers = {
        "training.generate": generate.parser,
        "training.export": export.parser,
        "training.playground": playground.parser,
    }
    if module in parsers:
        asked = vars(parsers[module]().parse_args(given))
        assert any(value is not None for value in asked.values()) or not given
    elif module in configs and given and given != ["--help"]:
        parse(configs[module], given, "prog", "")
    else:
        assert importlib.util.find_spec(module)
        assert given in ([], ["--help"])


def test_the_lora_commands_of_its_page_run(tiny_model: Path, tmp_path: Path) -> None:
    make_captioned(tmp_path / "castles")
    commands = [shlex.split(line)[1:] for line in shown("docs/lora.md")]
    (training,) = (words for words in commands if words[:2] == ["-m", "training.lora"])
    (drawing,) = (words for words in commands if "runs/castles" in words and "--seed" in words)
    own = [f"--pretrained_model_name_or_path={tiny_model}", "--rank=2", *SHORT]
    for words in ([*training, *own], drawing):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            check=False, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    (picture,) = json.loads(done.stdout)
    assert (tmp_path / picture).exists()


def test_the_hub_name_that_is_gone_still_works_with_a_notice(
    tiny_model: Path, pictures: Path, tmp_path: Path
) -> None:
    flags = [
        *("--pretrained_model_name_or_path=runwayml/stable-diffusion-v1-5", *SHORT),
        *(f"--train_data_dir={pictures}", "--placeholder_token=<new>"),
        *("--initializer_token=toy", "--train_batch_size=1", f"--output_dir={tmp_path / 'run'}"),
    ]
    with serving({"stable-diffusion-v1-5/stable-diffusion-v1-5": tiny_model}) as hub:
        finished = subprocess.run(
            [sys.executable, "-m", "training.textual_inversion", *flags],
            cwd=CHECKOUT,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert finished.returncode == 0, finished.stderr
    assert (
        "runwayml/stable-diffusion-v1-5 is gone from the hub: using its maintained copy "
        "stable-diffusion-v1-5/stable-diffusion-v1-5" in finished.stderr
    )


def test_the_file_in_docs_is_the_training_that_the_readme_shows() -> None:
    flags = training_command()[2:]  # without `-m training.textual_inversion`
    given, _ = parse(TextualInversionConfig, flags, "prog", "")
    file = TextualInversionConfig.model_validate(tomllib.loads(toml_shown()))
    alike = {"output_dir": given.output_dir, "resolution": 512}  # the first is given with --config
    assert file.model_copy(update=alike) == given


def test_the_lines_of_python_draw_with_a_runs_word(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (CHECKOUT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "training").symlink_to(CHECKOUT / "training")
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    save_embeds(
        tmp_path / "runs" / "demo" / "learned_embeds.safetensors", "<buddy>", torch.ones(1, 128)
    )
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, timeout=300, check=True)
    with Image.open(tmp_path / "buddy.png") as picture:
        assert picture.size == (64, 64)


def test_the_make_targets_that_are_shown_exist() -> None:
    targets = {line.split()[1] for line in shown() if line.startswith("make ")}
    assert {"demo", "test"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=CHECKOUT, check=True, capture_output=True)
