"""A UNet that merges tokens or has quantizers in it, as OpenVINO's graph of one shape.

optimum-intel traces a UNet with a shape of its own choice, odd on purpose; how many tokens are
merged, and which places are destinations, would be constants of that shape. So it is converted
here, with the shape that it is made for.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn


class _Denoiser(nn.Module):
    """The UNet with the arguments and the output that optimum-intel's pipeline has."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """The prediction, float32 of `sample`'s shape."""
        predicted: Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return predicted


def convert_unet(unet: Any, plain: Any, half: bool) -> Any:
    """Convert `unet` as it is.

    Args:
        unet: a UNet2DConditionModel in float32; it may merge tokens, and have NNCF's quantizers.
        plain: the openvino.Model of the same UNet without these, of a fixed shape: names and
            shapes of inputs and output are its.
        half: whether the weights are stored as fp16.

    Returns:
        An openvino.Model.
    """
    import openvino
    from openvino._offline_transformations import compress_model_transformation

    shapes = {
        port.get_any_name(): tuple(port.get_partial_shape().to_shape()) for port in plain.inputs
    }
    with torch.no_grad():
        example = {
            "sample": torch.randn(shapes["sample"]),
            "timestep": torch.ones(shapes["timestep"], dtype=torch.int64),
            "encoder_hidden_states": torch.randn(shapes["encoder_hidden_states"]),
        }
        # The tracer runs the UNet twice and compares: noise lets quantizers round to either side.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            model = openvino.convert_model(_Denoiser(unet), example_input=example)
    for port in model.inputs:
        name = next(name for name in example if name in port.get_names())
        port.get_node().set_partial_shape(openvino.PartialShape(list(shapes[name])))
        port.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({plain.outputs[0].get_any_name()})
    model.validate_nodes_and_infer_types()
    if half:
        compress_model_transformation(model)
    return model
