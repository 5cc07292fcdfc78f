"""OpenVINO, in the environment that has it (`make test-openvino`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.openvino

BUNDLED = Path(__file__).parents[4] / "training" / "miniature" / "model"


def test_the_pinned_packages_work_together_without_torchvision() -> None:
    import nncf
    import openvino
    import openvino_genai
    import openvino_tokenizers
    from diffusers import AutoencoderKL
    from optimum.intel import OVStableDiffusionPipeline

    assert importlib.util.find_spec("torchvision") is None
    assert all((nncf, openvino_genai, openvino_tokenizers, OVStableDiffusionPipeline))
    vae = AutoencoderKL.from_pretrained(BUNDLED / "vae", torch_dtype=torch.float32).eval()
    vae.forward = lambda latents: vae.decode(latents, return_dict=False)[0]
    latents = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vae(latents)
        converted = openvino.convert_model(vae, example_input=latents)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch.testing.assert_close(torch.from_numpy(compiled(latents)[0]), expected, atol=1e-4, rtol=0)
