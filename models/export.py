"""Exports a network as a file of torch.export (.pt2) or ONNX, to run without this code."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.task import UserError
from models.fold import fold_norms
from models.unet import UNet
from utils.files import write_whole

SIZES = {0: "batch", 2: "height", 3: "width"}  # that are free
ABOUT = ("kind", "classes", "colors", "values", "unit", "max_depth")  # of an output, in a file


class Exportable(nn.Module):
    """The network as one graph for every size: image float32 (N, 3, H, W) in [0, 1], H and W above
    the network's stride -> predictions by output name."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Crops by padding less than nothing: a slice would ask whether it is the whole, and fix
        the sizes seen."""
        padded, (height, width) = self.model.pad_to_stride(image), image.shape[-2:]
        less = (0, width - padded.shape[-1], 0, height - padded.shape[-2])
        return {
            name: prediction if self.model.heads[name].per_image else F.pad(prediction, less)
            for name, prediction in self.model.forward_padded(padded).items()
        }


class FixedPadding(nn.Module):
    """timm's Conv2dSame of sizes that its stride divides, as all are here: it pads as TensorFlow
    does, by an amount that it reckons from the size, which a graph for every size took minutes to
    reason about."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        sides = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        (top, bottom), (left, right) = (
            (both // 2, both - both // 2)
            for both in (max((size - 1) * apart + 1 - step, 0) for size, step, apart in sides)
        )
        self.padding = left, right, top, bottom

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> what the convolution gives"""
        conv = self.conv
        settings = conv.stride, 0, conv.dilation, conv.groups
        return F.conv2d(F.pad(x, self.padding), conv.weight, conv.bias, *settings)


def export(model: UNet, path: Path) -> None:
    """Write the network for any batch and image size; UserError unless it is .pt2 or .onnx, and
    where it cannot be written."""
    makers = {".pt2": _program, ".onnx": _onnx}
    if path.suffix not in makers:
        raise UserError(f"--export {path}: expected a name that ends in .pt2, .onnx, .pt or /")
    data = makers[path.suffix](model)  # whole before any of it is written
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"--export {path}: cannot be written: {error.strerror}") from None


def metadata(model: UNet) -> dict[str, str]:
    """What a file says of itself: texts, of which `outputs` is JSON by output name."""
    outputs = {
        name: {key: value for key, value in output.to_json().items() if key in ABOUT}
        for name, output in model.spec.outputs.items()
    }
    mean, std = (values.flatten().tolist() for values in (model.mean, model.std))
    return {
        "producer": "Manyhead",
        "input": "float32 (batch, 3, height, width): red, green, blue from 0 to 1",
        "normalisation": f"inside: (image - mean) / std, mean {mean}, std {std}",
        "outputs": json.dumps(outputs),
    }


@torch.no_grad()
def _program(model: UNet) -> bytes:
    file = io.BytesIO()
    module, example = _exportable(model)
    auto = dict.fromkeys(SIZES, torch.export.Dim.AUTO)
    program = torch.export.export(module, example, dynamic_shapes={"image": auto})
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata(model))})
    return file.getvalue()


@torch.no_grad()
def _onnx(model: UNet) -> bytes:
    module, example = _exportable(model)
    try:
        program: Any = torch.onnx.export(
            module,
            example,
            input_names=["image"],
            output_names=list(model.spec.outputs),
            dynamic_shapes={"image": SIZES},
            dynamo=True,
            verbose=False,
        )
    except ImportError as error:
        raise UserError(f"--export: .onnx needs `pip install onnx onnxscript`: {error}") from None
    file = program.model_proto  # a new one each time
    for output in file.graph.output:  # by name, not by the sum that they are of the padded ones
        dims = output.type.tensor_type.shape.dim
        for at in SIZES.keys() & range(len(dims)):
            dims[at].dim_param = SIZES[at]
    for key, value in metadata(model).items():
        file.metadata_props.add(key=key, value=value)
    return file.SerializeToString()


def _exportable(model: UNet) -> tuple[nn.Module, tuple[Tensor]]:
    """The graph's module, and an image to trace it with."""
    example = torch.rand(2, 3, 3 * model.stride + 1, 4 * model.stride + 3)
    model = fold_norms(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and type(child).__name__ == "Conv2dSame":
                setattr(parent, name, FixedPadding(child))
    return Exportable(model).eval(), (example,)
