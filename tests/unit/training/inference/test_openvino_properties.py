"""What OpenVINO is told about a processor: 8-bit layers in int8 where their sums fit."""

from __future__ import annotations

from typing import get_args

import pytest

from training.inference.engines.openvino_engine import properties
from training.machine.cpu import Cpu
from training.openvino.record import Weights

ICE_LAKE = ("avx2", "fma", "avx512f", "avx512_vnni")
ALDER_LAKE = ("avx2", "fma", "avx_vnni")
SKYLAKE = ("avx2", "fma", "avx512f")
ZEN_3 = ("avx2", "fma")
ARM = ()


@pytest.mark.parametrize("weights", get_args(Weights))
@pytest.mark.parametrize("flags", [ICE_LAKE, ALDER_LAKE, SKYLAKE, ZEN_3, ARM])
def test_only_quantized_activations_without_vnni_are_computed_in_fp32(
    flags: tuple[str, ...], weights: Weights
) -> None:
    found = properties("float32", weights, Cpu("", flags, 1))
    assert found.pop("INFERENCE_PRECISION_HINT") == "f32"
    saturates = weights in ("hybrid", "qat") and flags in (SKYLAKE, ZEN_3)
    assert found == ({"LP_TRANSFORMS_MODE": False} if saturates else {})


def test_what_is_not_8_bit_is_computed_in_what_is_asked_for() -> None:
    assert properties("bfloat16", "qat", Cpu("", ICE_LAKE, 1)) == {
        "INFERENCE_PRECISION_HINT": "bf16"
    }
