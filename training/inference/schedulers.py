"""Schedulers by name, each made from the noise schedule of the model that it is to draw with."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

import diffusers

from training.errors import UserError


@dataclass(frozen=True)
class Sampler:
    """A scheduler that can be asked for.

    Attributes:
        kind: the class in diffusers.
        label: as A1111 calls it, for its `parameters` text.
        options: beside the model's own noise schedule.
        zero_snr: whether it can begin where nothing is left of the picture (a terminal
            signal-to-noise ratio of zero, Lin et al. 2023).
        steps: how many it needs; None: the ordinary number.
        guidance: the guidance scale of its few-step models; None: the ordinary one.
    """

    kind: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_snr: bool = False
    steps: int | None = None
    guidance: float | None = None


_DPM = "DPMSolverMultistepScheduler"
SAMPLERS = {
    "dpmpp_2m": Sampler(_DPM, "DPM++ 2M"),
    "dpmpp_2m_karras": Sampler(_DPM, "DPM++ 2M Karras", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": Sampler(_DPM, "DPM++ 2M SDE", {"algorithm_type": "sde-dpmsolver++"}),
    "ddim": Sampler("DDIMScheduler", "DDIM", zero_snr=True),
    "ddpm": Sampler("DDPMScheduler", "DDPM", zero_snr=True),
    "deis": Sampler("DEISMultistepScheduler", "DEIS"),
    "euler": Sampler("EulerDiscreteScheduler", "Euler", zero_snr=True),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a", zero_snr=True),
    "heun": Sampler("HeunDiscreteScheduler", "Heun"),
    "lcm": Sampler("LCMScheduler", "LCM", zero_snr=True, steps=4, guidance=1.0),
    "pndm": Sampler("PNDMScheduler", "PLMS", {"skip_prk_steps": True}),
    "tcd": Sampler("TCDScheduler", "TCD", zero_snr=True, steps=4, guidance=1.0),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC"),
}
STEPS = 20
"""Of an ordinary picture: DPM++ 2M needs no more."""
GUIDANCE = 7.5


def default_name(noise: Any) -> str:
    """The scheduler of a model where none is asked for.

    DPM-Solver++ where it fits; DDIM for models with zero terminal signal-to-noise ratio, whose
    first step DPM-Solver cannot take.

    Args:
        noise: the configuration of the model's own scheduler.
    """
    return "ddim" if noise.get("rescale_betas_zero_snr", False) else "dpmpp_2m"


def check_name(name: str) -> str:
    """`name`, if it is a scheduler's.

    Raises:
        UserError: it is not; names the nearest.
    """
    if name in SAMPLERS:
        return name
    plain = name.lower().replace("+", "p").replace("-", "_").replace(" ", "_")
    near = difflib.get_close_matches(plain, SAMPLERS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"--scheduler {name}: {hint}There are {', '.join(SAMPLERS)}.")


def build(name: str, noise: Any) -> Any:
    """The scheduler `name` over the noise schedule that a model was trained with.

    Args:
        noise: the configuration of the model's own scheduler.

    Raises:
        UserError: it cannot draw with this model.
    """
    sampler = SAMPLERS[check_name(name)]
    if noise.get("rescale_betas_zero_snr", False) and not sampler.zero_snr:
        able = ", ".join(known for known, it in SAMPLERS.items() if it.zero_snr)
        raise UserError(
            f"--scheduler {name}: cannot take the first step of this model, which was trained "
            f"with zero terminal SNR (rescale_betas_zero_snr). Use one of {able}."
        )
    return getattr(diffusers, sampler.kind).from_config(noise, **sampler.options)
