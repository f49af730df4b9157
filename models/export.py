"""A network -> a file that runs without this code: torch.export (.pt2) or ONNX."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.unet import UNet


class Exportable(nn.Module):
    """The network as one graph for every size: image float32 (N, 3, H, W) in [0, 1], H and W above
    the encoder's stride -> predictions by output name."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Crops by index: a slice would ask whether it is the whole, and fix the sizes seen."""
        rows = torch.arange(image.shape[-2], device=image.device)
        columns = torch.arange(image.shape[-1], device=image.device)
        found = self.model.whole(self.model.padded(image))
        return {
            name: prediction.index_select(-2, rows).index_select(-1, columns)
            for name, prediction in found.items()
        }


@torch.no_grad()
def export(model: UNet, path: Path) -> None:
    """Write the network for any batch and image size; ValueError unless it is .pt2 or .onnx."""
    module = Exportable(model).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    stride = model.encoder.stride
    example = torch.rand(2, 3, 3 * stride + 1, 4 * stride + 3)
    auto = torch.export.Dim.AUTO
    sizes = {"image": {0: auto, 2: auto, 3: auto}}
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=sizes), path)
    elif path.suffix == ".onnx":
        try:
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=["image"],
                output_names=list(model.spec.heads),
                dynamic_shapes=sizes,
                dynamo=True,
                verbose=False,
            )
        except ImportError as error:
            raise ValueError(
                f"--export {path}: needs `pip install onnx onnxscript`: {error}"
            ) from None
    else:
        raise ValueError(f"--export {path}: expected a name that ends in .pt2 or .onnx")
