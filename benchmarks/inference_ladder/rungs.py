"""The rungs of the ladder, each with what it changes over the one before."""

from __future__ import annotations

from dataclasses import dataclass, replace

LORA_WEIGHT = 0.01
"""Of a LoRA with random weights: little enough that nothing overflows."""


@dataclass(frozen=True)
class Rung:
    """A way to draw.

    Attributes:
        key: its name in the figures.
        title: for the person.
        engine: of `training.inference.engines`, or "ipex".
        dtype: that UNet and VAE compute in, where it is not int8; "auto" is the faster one here.
        allocator: what is preloaded for the system's, beside libiomp and pinning; "": neither.
        scheduler: by its name in `training.inference.schedulers`.
        steps: of a picture.
        export: flags of `training.export`; None: not drawn by OpenVINO.
        lcm: few steps, by a LoRA and without guidance.
        tiny_vae: AutoencoderTiny decodes.
    """

    key: str
    title: str
    engine: str = "torch"
    dtype: str = "float32"
    allocator: str = ""
    channels_last: bool = False
    scheduler: str = "pndm"
    steps: int = 20
    export: tuple[str, ...] | None = None
    lcm: bool = False
    tiny_vae: bool = False


BASE = Rung("torch-fp32", "PyTorch, fp32")
SYSTEM = replace(BASE, key="system", title="+ tcmalloc, libiomp, pinned", allocator="tcmalloc")
JEMALLOC = replace(SYSTEM, key="jemalloc", title="or jemalloc", allocator="jemalloc")
CHANNELS = replace(SYSTEM, key="channels-last", title="+ channels_last", channels_last=True)
BF16 = replace(CHANNELS, key="bf16", title="+ bf16", dtype="bfloat16")
IPEX = replace(BF16, key="ipex-bf16", title="or IPEX, bf16", engine="ipex", channels_last=False)
COMPILED = replace(
    BF16, key="compiled", title="+ compiled, weights frozen", engine="compiled", channels_last=False
)
DPM = replace(COMPILED, key="dpmpp", title="+ DPM++ 2M", scheduler="dpmpp_2m")
DYNAMIC = Rung(
    "openvino-dynamic", "OpenVINO, any shape, fp32", "openvino", scheduler="dpmpp_2m",
    export=("--dynamic",),
)  # fmt: skip
STATIC = replace(DYNAMIC, key="openvino-static", title="+ fixed shape", export=())
STATIC_BF16 = replace(
    STATIC, key="openvino-bf16", title="+ bf16", dtype="bfloat16", export=("--weights", "bf16")
)
INT8 = replace(
    STATIC_BF16, key="openvino-int8", title="+ int8 (hybrid)", dtype="auto",
    export=("--weights", "hybrid"),
)  # fmt: skip
MERGED = replace(
    INT8, key="openvino-int8-merged", title="+ Token Merging 0.4",
    export=("--weights", "hybrid", "--merge_tokens", "0.4"),
)  # fmt: skip
LCM = replace(
    INT8, key="openvino-lcm", title="int8, LCM, 4 steps", scheduler="lcm", steps=4, lcm=True,
    export=("--weights", "hybrid", "--no_guidance"),
)  # fmt: skip
TINY = replace(LCM, key="openvino-lcm-tiny", title="+ tiny VAE", tiny_vae=True)

RUNGS = (
    BASE, SYSTEM, JEMALLOC, CHANNELS, BF16, IPEX, COMPILED, DPM,
    DYNAMIC, STATIC, STATIC_BF16, INT8, MERGED, LCM, TINY,
)  # fmt: skip
EXACT = ("openvino-static", "openvino-bf16", "openvino-dynamic", "dpmpp", "compiled", "ipex-bf16")
"""Without int8, merging or fewer steps: the candidates for the best such rung."""
