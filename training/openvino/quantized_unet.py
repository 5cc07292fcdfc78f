"""A UNet with NNCF's quantizers in it, as PyTorch trains it, and the file that holds it.

NNCF rounds weights and activations to 8 bits on the way, in floating point, and passes gradients
through (Jacob et al. 2018, "Quantization and Training of Neural Networks"); OpenVINO's converter
turns each quantizer into a FakeQuantize, for which it then computes in int8.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training import atomic_files
from training.errors import UserError, first_line
from training.models.loading import weights_digest
from training.models.merge_tokens import merge_tokens
from training.openvino.packages import refuse_tcmalloc
from training.openvino.quantize import LEFT_OUT, quietly

MERGING = ".*attn1/(match|merge|unmerge)/.*"
"""Token Merging's own operations: which tokens are alike is told in floating point."""
BLOCKS = frozenset(
    {
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        "UNetMidBlock2DCrossAttn",
        "UpBlock2D",
        "CrossAttnUpBlock2D",
    }
)
"""Blocks of the UNets of Stable Diffusion 1.x and 2.x: what quantizing them does is known."""
PARTS = {"attentions": "Transformer2DModel", "resnets": "ResnetBlock2D"}
"""What those blocks consist of, by the name of the list in them."""
HOOKS = "__nncf_hooks"
"""What NNCF calls the module that holds a model's quantizers."""


def check_packages(program: str) -> None:
    """Make sure that NNCF can be used in this process, and that it tells nobody of it.

    Args:
        program: the module that needs it.

    Raises:
        UserError: it is missing, or tcmalloc is loaded.
    """
    refuse_tcmalloc(Path("/proc/self/maps"))  # NNCF imports OpenVINO
    os.environ["CI"] = "true"  # it reports its use to its makers otherwise
    try:
        import nncf.torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"NNCF is missing here ({error.name}). Make its environment with "
            f"`make environment-openvino` and run .venv-openvino/bin/python -m {program} ...; on "
            "a cluster's nodes, fab bootstrap --with openvino installs it."
        ) from error


def _compute_without_a_compiler() -> None:
    """Let NNCF's quantizers compute with PyTorch's operations.

    It would build a C++ extension for them where it finds a compiler, for minutes, and compile them
    with TorchDynamo where it does not: a run must not depend on what is installed beside it.
    """
    from nncf.torch.quantization import extensions
    from nncf.torch.quantization.reference import ReferenceBackendType, ReferenceQuantize

    plain = ReferenceQuantize(ReferenceBackendType.TORCH)
    extensions.QuantizedFunctionsCPU._loaded_namespace = SimpleNamespace(
        Quantize_forward=plain.forward, Quantize_backward=plain.backward
    )


def refuse_other_blocks(unet: Any) -> None:
    """Make sure that a UNet consists of known blocks, and these of known parts.

    Raises:
        UserError: names the first that is not.
    """
    blocks = {
        **{f"down_blocks.{number}": block for number, block in enumerate(unet.down_blocks)},
        "mid_block": unet.mid_block,
        **{f"up_blocks.{number}": block for number, block in enumerate(unet.up_blocks)},
    }
    for path, block in blocks.items():
        if block is not None:
            _refuse_another(path, block, BLOCKS)
            for name, kind in PARTS.items():
                for number, part in enumerate(getattr(block, name, ())):
                    _refuse_another(f"{path}.{name}.{number}", part, {kind})


def _refuse_another(path: str, module: nn.Module, known: Collection[str]) -> None:
    kind = type(module).__name__
    if kind not in known:
        raise UserError(
            f"the UNet's {path} is a {kind}, which cannot be quantized here. What can be in its "
            f"place: {', '.join(sorted(known))}. Quantize a model whose UNet is built as that of "
            "Stable Diffusion 1.x and 2.x."
        )


def quantize(unet: Any, samples: Iterable[dict[str, Tensor]], merged: float) -> Any:
    """A copy of `unet` in which weights and activations are rounded to 8 bits.

    Args:
        samples: the UNet's arguments, by name; the quantizers' ranges are fitted to what passes.
        merged: share of tokens that the copy merges.

    Raises:
        UserError: there are no samples, or NNCF cannot quantize this UNet.
    """
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
    )

    _compute_without_a_compiler()
    refuse_other_blocks(unet)
    given = list(samples)
    if not given:
        raise UserError(
            "the calibration set is empty: there is nothing to fit the quantizers' ranges to. "
            "Use --calibration_samples 64."
        )
    if merged:
        unet = _merging_copy(unet, merged)
    # Training does what is left out: correcting biases, and moving ranges from activations to
    # weights. Sums of int8 products overflow on no processor with VNNI.
    advanced = AdvancedQuantizationParameters(
        disable_bias_correction=True,
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1.0, matmul=-1.0),
        overflow_fix=OverflowFix.DISABLE,
    )
    try:
        with quietly():
            student = nncf.quantize(
                unet,
                nncf.Dataset(given),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(given),
                ignored_scope=nncf.IgnoredScope(patterns=[*LEFT_OUT, MERGING], validate=False),
                advanced_parameters=advanced,
            )
    except (nncf.errors.ValidationError, nncf.errors.UnsupportedModelError) as error:
        raise UserError(f"NNCF cannot quantize this UNet: {first_line(error)[:300]}") from error
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return student


def _merging_copy(unet: Any, merged: float) -> Any:
    """The same weights in another module that merges tokens."""
    copy = type(unet).from_config(unet.config)
    copy.load_state_dict(unet.state_dict(), assign=True)
    merge_tokens(copy.eval(), merged)
    return copy


def checkpoint_gradients(student: Any) -> None:
    """Let a quantized UNet compute its blocks' activations again in the backward pass.

    NNCF finds a quantizer's place by counting operations since the UNet's first, which a block that
    is computed again, alone, must begin with where it began at first.
    """
    from nncf.torch.function_hook.hook_executor_mode import FunctionHookMode

    def run(block: Callable[..., Any], *args: Any) -> Any:
        modes = torch.overrides._get_current_function_mode_stack()
        hooks = next((mode for mode in modes if isinstance(mode, FunctionHookMode)), None)
        if hooks is None:
            return block(*args)
        stack, calls = list(hooks.module_call_stack), dict(hooks.op_calls)
        first = [True]

        def compute(*args: Any) -> Any:
            if first:
                first.clear()
                return block(*args)
            with FunctionHookMode(hooks.model, hooks.hook_storage) as again:
                again.module_call_stack = list(stack)
                again.op_calls = defaultdict(int, calls)
                return block(*args)

        return checkpoint(compute, *args, use_reentrant=False)

    student.enable_gradient_checkpointing(run)


def save(path: Path, student: Any, merged: float, base: str) -> None:
    """Write a quantized UNet: its weights in float32, the quantizers, and where those are.

    Args:
        base: the digest of the model that it was quantized from.
    """
    from nncf.torch import get_config

    state = student.state_dict()
    # Quantizers that several places share are there once per place.
    tensors = {k: v.clone() if HOOKS in k else v.contiguous() for k, v in state.items()}
    facts = {"nncf": json.dumps(get_config(student)), "merge_tokens": repr(merged), "base": base}
    atomic_files.write_file(path, lambda temporary: save_file(tensors, temporary, facts))


def load(path: Path, unet: Any) -> tuple[Any, float]:
    """Put what `save` wrote into a UNet of the same base model, in place.

    Returns:
        The UNet with its quantizers, and the share of tokens that it merges.

    Raises:
        UserError: the file cannot be read, or is of another base model.
    """
    from nncf.torch import load_from_config

    _compute_without_a_compiler()
    refuse_another_base(path, unet)
    facts, tensors = _read(path), load_file(path)
    merge_tokens(unet, facts.merged)
    with quietly():
        student = load_from_config(unet, facts.nncf)
    student.load_state_dict(tensors)
    return student.eval(), facts.merged


def refuse_another_base(path: Path, unet: Any) -> None:
    """Make sure that what `save` wrote was quantized from `unet`.

    Raises:
        UserError: it was not, or the file cannot be read.
    """
    if _read(path).base != digest(unet):
        raise UserError(
            f"{path}: was quantized from another base model than the one that is loaded. Give the "
            "model that its run was started with, unchanged."
        )


@dataclass(frozen=True)
class _Facts:
    """What the file of a quantized UNet says beside its tensors: NNCF's configuration, the share of
    merged tokens, the base model's digest."""

    nncf: Any
    merged: float
    base: str


def _read(path: Path) -> _Facts:
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
        return _Facts(json.loads(said["nncf"]), float(said["merge_tokens"]), said["base"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: is no quantized UNet ({first_line(error)}).") from error


def digest(unet: Any) -> str:
    """What tells one base UNet from another."""
    return weights_digest(unet)


def rounded_weights(student: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A quantized UNet's weights as its quantizers round them, by the names of a plain UNet.

    Args:
        inputs: the UNet's arguments, of any sample: NNCF rounds a weight where it is used.
    """
    names = {id(value): name for name, value in student.named_parameters()}
    weights = {k: v for k, v in student.state_dict().items() if not k.startswith(HOOKS)}

    def note(_: nn.Module, given: tuple[Any, ...], rounded: Tensor) -> None:
        if id(given[0]) in names:
            weights[names[id(given[0])]] = rounded

    quantizers = [m for m in student.get_submodule(HOOKS).modules() if not list(m.children())]
    handles = [quantizer.register_forward_hook(note) for quantizer in quantizers]
    try:
        with torch.no_grad():
            student(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {plain_name(name): value for name, value in weights.items()}


def plain_name(name: str) -> str:
    """What a weight of a UNet that merges tokens is called in one that does not."""
    return name.replace(".attn1.attention.", ".attn1.")


def parameters_of(student: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained of a quantized UNet: weights, and the quantizers' ranges, by path."""
    return {path: value for path, value in student.named_parameters() if value.requires_grad}
