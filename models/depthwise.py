"""Depthwise convolutions of timm's encoders, trained faster in half precision on a CPU.

torch's gradients of a depthwise convolution with a stride, or with a kernel above 3x3, take 4 to 25
times as long in bfloat16 as in float32, and half of a training step of EfficientNet-Lite0. So these
gradients are made in float32, of one image at a time, which is never in memory beside the others.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling
from torch.nn import functional as F


def is_slow(module: nn.Module) -> bool:
    """Whether torch's gradients of this layer are slow in half precision."""
    if not isinstance(module, nn.Conv2d) or type(module).__name__ not in ("Conv2d", "Conv2dSame"):
        return False
    depthwise = module.groups == module.in_channels == module.out_channels > 1
    large = max(*module.stride, *(side - 2 for side in module.kernel_size)) > 1
    plain = module.dilation == (1, 1) and module.bias is None and module.padding_mode == "zeros"
    return depthwise and large and plain and not isinstance(module.padding, str)


def use_float32_gradients(module: nn.Module) -> None:
    """Give a layer that is slow the gradients of this file; its weights and their names stay."""
    same = type(module).__name__ == "Conv2dSame"  # timm's, padded as TensorFlow does
    module.__class__ = DepthwiseConv
    cast(DepthwiseConv, module).same = same


class DepthwiseConv(nn.Conv2d):
    """A convolution of each channel by itself. same: padded so that the output has 1/stride of the
    input's size, rounded up."""

    same: bool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, h, w)"""
        (rows, columns), padding = self.stride, self.padding
        if self.same:
            high, wide = (
                max((-(-size // stride) - 1) * stride + kernel - size, 0)
                for size, stride, kernel in zip(
                    x.shape[2:], self.stride, self.kernel_size, strict=True
                )
            )
            x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            padding = (0, 0)
        device = x.device.type
        half = torch.is_autocast_enabled(device) and device == "cpu" and x.dtype != torch.float64
        if not (half and torch.is_grad_enabled()) or is_compiling():
            return F.conv2d(x, self.weight, None, self.stride, padding, 1, self.groups)
        x = x.to(torch.get_autocast_dtype(device))
        return Float32Gradients.apply(x, self.weight, (rows, columns), padding)


class Float32Gradients(torch.autograd.Function):
    """See the top of this file."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        """x (N, C, H, W) in half precision, weight (C, 1, k, k) in float32."""
        ctx.save_for_backward(x, weight)
        ctx.settings = (None, list(stride), list(padding), [1, 1], False, [0, 0], len(weight))
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and weight."""
        x, weight = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        of_x = torch.empty_like(x) if wanted[0] else None
        of_weight = torch.zeros_like(weight)
        rounded = weight.to(x.dtype).float()
        for i in range(len(x)):
            image, change = x[i : i + 1].float(), gradient[i : i + 1].float()
            by_x, by_weight, _ = torch.ops.aten.convolution_backward(
                change, image, rounded, *ctx.settings, wanted
            )
            if of_x is not None:
                of_x[i : i + 1] = by_x
            if wanted[1]:
                of_weight += by_weight
        return of_x, of_weight if wanted[1] else None, None, None
