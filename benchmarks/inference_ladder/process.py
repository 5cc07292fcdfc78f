"""One rung in a process of its own: loads, draws a first picture, then draws and times others.

`python -m benchmarks.inference_ladder` starts it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.inference_ladder.prepare import model_of
from benchmarks.inference_ladder.rungs import LORA_WEIGHT, RUNGS, Rung
from training.config.groups import ModelConfig
from training.inference import engines, schedulers
from training.inference.engines.torch_engine import DTYPES, TorchArtist, assemble
from training.inference.settings import File, Lora, Settings, Source
from training.machine import vector_math
from training.machine.cpu import this_cpu
from training.machine.precision import resolve_dtype
from training.machine.stack import resolve_stack

PROMPT, SEED = "a photo of a red cat", 7
SIDE = {False: 512, True: 64}
GUIDANCE = {False: 7.5, True: 1.5}
"""Both by whether it is the bundled model."""
MINI_SCHEDULER = "ddim"
"""That model's schedule ends at zero signal, where most others cannot begin."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, and write what it took to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference_ladder.process")
    parser.add_argument("rung")
    parser.add_argument("folder", type=Path, help="where `prepare` put everything")
    parser.add_argument("output", type=Path, help="a file for the figures; a picture beside it")
    parser.add_argument("--mini", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="drawn; the rest is reckoned")
    parser.add_argument("--pictures", type=int, default=1, help="timed after the first")
    parser.add_argument("--started", type=float, default=time.time(), help="seconds since 1970")
    parser.add_argument("--reference", help="draw once more, with another scheduler")
    chosen = parser.parse_args(argv)
    vector_math.resolve_kernels()
    rung = next(each for each in RUNGS if each.key == chosen.rung)
    source, settings = ask(rung, chosen.folder, chosen.mini, chosen.steps)
    artist = _load(rung, source, settings)
    artist.settings = settings.model_copy(update={"num_inference_steps": 1})
    _timed(artist)
    ready = time.time() - chosen.started
    artist.settings = settings
    timed = [_timed(artist) for _ in range(chosen.pictures)]
    rest = rung.steps - settings.num_inference_steps
    step = statistics.median(step for one in timed for step in one.steps)
    step_cpu = statistics.median(step for one in timed for step in one.cpu_steps)
    figures = {
        "seconds": [one.total + rest * step for one in timed],
        "cpu_seconds": [one.cpu_total + rest * step_cpu for one in timed],
        "step_seconds": step,
        "first_seconds": ready + (rung.steps - 1) * step,
        "peak_bytes": _peak_bytes(),
        "weights_bytes": _weights_bytes(artist, source),
        "threads": torch.get_num_threads(),
        "preloaded": [name for name in ("tcmalloc", "jemalloc", "libiomp5") if name in _mapped()],
        "torch": str(torch.__version__),
    }
    timed[-1].picture.save(chosen.output.with_suffix(".png"))
    if chosen.reference:
        config = artist.pipeline.scheduler.config
        artist.pipeline.scheduler = schedulers.build(chosen.reference, config)
        _timed(artist).picture.save(chosen.output.with_name(f"{chosen.reference}.png"))
    chosen.output.write_text(json.dumps(figures))
    return 0


def ask(rung: Rung, folder: Path, mini: bool, steps: int) -> tuple[Source, Settings]:
    """The weights and the settings of a rung; few-step ones and the bundled model draw in full."""
    lora = Lora(file=File.at(folder / "lcm.safetensors"), weight=LORA_WEIGHT)
    source = Source(
        model=ModelConfig(pretrained_model_name_or_path=str(model_of(folder, mini))),
        loras=(lora,) if rung.lcm else (),
        vae=File.at(folder / "tiny") if rung.tiny_vae else None,
        dtype="bfloat16" if computes_in(rung) == torch.bfloat16 else "float32",
        exported=folder / "exports" / rung.key if rung.export is not None else None,
    )
    settings = Settings(
        engine="compiled" if rung.engine == "compiled"
        else "openvino" if rung.engine == "openvino" else "torch",
        scheduler=MINI_SCHEDULER if mini and not rung.lcm else rung.scheduler,
        height=SIDE[mini],
        width=SIDE[mini],
        num_inference_steps=rung.steps if mini else min(steps, rung.steps),
        guidance_scale=1 if rung.lcm else GUIDANCE[mini],
    )  # fmt: skip
    return source, settings


def computes_in(rung: Rung) -> torch.dtype:
    """The dtype of what a rung does not compute in int8."""
    asked = {"float32": "no", "bfloat16": "bf16"}.get(rung.dtype, rung.dtype)
    return resolve_dtype(asked, this_cpu())


def _load(rung: Rung, source: Source, settings: Settings) -> Any:
    if rung.engine == "ipex":
        return _with_ipex(source, settings)
    artist: Any = engines.load(source, settings, _say)
    if rung.channels_last:
        for part in (artist.pipeline.unet, artist.pipeline.vae):
            part.to(memory_format=torch.channels_last)
    return artist


def _with_ipex(source: Source, settings: Settings) -> TorchArtist:
    """PyTorch over models that IPEX has packed for drawing alone."""
    optimize = resolve_stack("intel").optimize
    assert optimize is not None
    models, pipeline, words = assemble(source)
    pipeline.scheduler = schedulers.build(settings.scheduler, models.noise_scheduler.config)
    dtype = DTYPES[source.dtype]
    pipeline.unet = optimize(models.unet, dtype, False)
    pipeline.vae = models.vae.to(dtype).eval()
    return TorchArtist(pipeline, settings, words)


@dataclass(frozen=True)
class _Timed:
    """A picture: seconds in all and of each step but the first, by the clock and of all cores."""

    picture: Image.Image
    total: float
    steps: list[float]
    cpu_total: float
    cpu_steps: list[float]


def _timed(artist: Any) -> _Timed:
    clock, cpu = [time.perf_counter()], [time.process_time()]

    def mark(step: int = 0) -> None:
        clock.append(time.perf_counter())
        cpu.append(time.process_time())

    picture = artist.draw(PROMPT, SEED, mark)
    mark()

    def steps(marks: list[float]) -> list[float]:
        return [after - before for before, after in itertools.pairwise(marks[1:-1])]

    return _Timed(picture, clock[-1] - clock[0], steps(clock), cpu[-1] - cpu[0], steps(cpu))


def _weights_bytes(artist: Any, source: Source) -> int:
    """Of what a picture is drawn with: text encoder, UNet and decoder, as they are stored."""
    if source.exported is not None:
        parts = ("text_encoder", "unet", "vae_decoder")
        return sum((source.exported / part / "openvino_model.bin").stat().st_size for part in parts)
    pipeline = artist.pipeline
    modules = (pipeline.text_encoder, pipeline.unet, pipeline.vae.decoder)
    return sum(each.numel() * each.element_size() for part in modules for each in part.parameters())


def _peak_bytes() -> int:
    """The most memory that this process has had at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _mapped() -> str:
    return Path("/proc/self/maps").read_text()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
