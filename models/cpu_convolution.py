"""Convolutions whose gradients torch is slow to find on a CPU, found another way.

In float32, where vectors are 256 bits wide (AVX2), the gradient of 3x3 weights takes twice as long
as each of the other two passes, or more: `WithOwnGradient`.

In half precision, gradients of a depthwise convolution with a stride, or with a kernel above 3x3,
take 4 to 25 times as long as in float32, and half of a training step of EfficientNet-Lite0. So they
are made in float32, of one image at a time, which is never in memory beside the others:
`Float32Gradients`.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling
from torch.nn import functional as F

from models.decoder import UpConv

CHUNK = 0.25  # of a core's cache: what is there of both tensors, beside the sums
LIMITS = 768, 4096  # pixels of a chunk: with fewer, sums are added to too often


class Convolution(nn.Conv2d):
    """As torch's 3x3 with a margin of 1."""

    @staticmethod
    def replaces(layer: nn.Module) -> bool:
        """Whether the layer is such a one."""
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or layer.groups > 1:
            return False
        sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        return sizes == ((3, 3), (1, 1), (1, 1), (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, channels, H, W)"""
        if not (self.training and is_quicker(x, self.weight, 1)):
            return super().forward(x)
        return WithOwnGradient.apply(x, self.weight, self.bias, 1)


class UpConvolution(UpConv):
    """As the plain one."""

    def spread(self, x: Tensor, taps: Tensor) -> Tensor:
        """As the plain one's."""
        if not (self.training and is_quicker(x, taps, 2)):
            return super().spread(x, taps)
        return WithOwnGradient.apply(x, taps, None, 2)


def is_quicker(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether `weight_gradient` beats torch's, by bench_convolution.py.

    torch's is slow where an image does not fit in a core's own cache. With AVX-512 it never is.
    """
    if is_compiling() or not torch.is_grad_enabled() or not weight.requires_grad:
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX2" or len(x) < torch.get_num_threads():
        return False
    first, second = weight.shape[:2]  # inputs and channels, or the other way round
    channels = first + second if stride == 1 else first + second * stride**2
    large = 4 * channels * x.shape[2] * x.shape[3] > 1.2 * core_cache()
    return large and min(first, second) >= 16


@cache
def core_cache() -> int:
    """Bytes of the cache that a core has for itself."""
    tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.9 does not
    return (tell().get("l2_cache_size") if tell else 0) or 1 << 20


class WithOwnGradient(torch.autograd.Function):
    """A convolution whose weights get their gradient by `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        """x (N, C, H, W), weight as torch has it: stride 2 means the 4x4 transposed one."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.biases = stride, None if bias is None else [len(bias)]
        if stride == 1:
            return F.conv2d(x, weight, bias, padding=1)
        return F.conv_transpose2d(x, weight, bias, stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        stride = ctx.stride
        wanted = ctx.needs_input_grad[0], False, ctx.biases is not None
        of_x, _, of_bias = torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            ctx.biases,
            [stride] * 2,
            [1, 1],
            [1, 1],
            stride > 1,
            [0, 0],
            1,
            wanted,
        )
        small, large = (gradient, x) if stride == 1 else (x, gradient)
        return of_x, weight_gradient(small, large, stride), of_bias, None


@torch.library.custom_op("manyhead::weight_gradient", mutates_args=())
def weight_gradient(small: Tensor, large: Tensor, stride: int) -> Tensor:
    """The gradient of 3x3 weights, or with stride 2 of 4x4 transposed ones, by matrix products.

    small (N, S, H, W), large (N, L, stride H, stride W): of what goes in and what comes out, the
    one of which each pixel meets every tap, and the other -> (S, L, taps, taps):

        sum over n, i, j of small[n, :, i, j] large[n, :, stride i + y - 1, stride j + x - 1]

    Nothing is copied but where an image ends, and to part odd and even rows for a stride of 2. The
    rows of an image are read as if they were one. So the first pixel of a row meets the last one
    of the row before, which is taken out again at the end. Rows are taken in chunks that stay in
    the cache while all taps read them, of as many images at once as there are threads.
    """
    small, large = (t.permute(0, 2, 3, 1).contiguous() for t in (small, large))
    (num, height, width, inner), outer = small.shape, large.shape[3]
    taps = stride + 2
    count = taps // stride  # rows of taps that meet the same rows, one below the other
    at_once = -(-num // -(-num // torch.get_num_threads()))
    sums = small.new_zeros(stride, count, at_once, inner, taps * outer)
    pixels = min(max(CHUNK * core_cache() / 4 / (inner + outer), LIMITS[0]), LIMITS[1])
    rows = -(-height // max(1, round(height * width / pixels)))
    for phase, some in enumerate(sums):
        part = large[:, (phase - 1) % stride :: stride]  # what rows phase, phase + stride.. meet
        first = (phase - 1) // stride
        for n, row in product(range(0, num, at_once), range(0, height, rows)):
            a = small[n : n + at_once, row : row + rows]
            low, high = row + first - 1, row + a.shape[1] + first + count
            b = part[n : n + at_once, max(0, low) : high]
            if stride > 1 or low < 0 or high > height:
                b = F.pad(b, (0, 0, 0, 0, max(0, -low), max(0, high - height))).contiguous()
            _add_products(some, a, b, stride)
        for edge, column, tap, up in ((0, -1, 0, -1), (-1, 0, taps - 1, 1)):
            a = small[:, :, edge].reshape(-1, inner)
            b = F.pad(part[:, :, column], (0, 0, -(first + up), first + up + count - 1))
            for i in range(count):
                over = a.T @ b[:, i : i + height].reshape(-1, outer)
                some[i, 0].view(inner, taps, outer)[:, tap] -= over
    total = sums.sum(2).permute(2, 1, 0, 3).reshape(inner, taps, taps, outer)
    return total.contiguous().permute(0, 3, 1, 2)


@weight_gradient.register_fake
def _(small: Tensor, large: Tensor, stride: int) -> Tensor:
    taps = stride + 2
    return small.new_empty(small.shape[1], taps, taps, large.shape[1]).permute(0, 3, 1, 2)


def _add_products(sums: Tensor, a: Tensor, b: Tensor, stride: int) -> None:
    """Add what rows of a (N, rows, width, inner) have with b, which begins a row above them, to the
    sums (rows of taps, N, inner, taps * outer).

    The pixels of a row lie one after the other: read as one long row of a matrix, `taps` of them
    have the whole row of taps. A matrix's rows must not overlap, as those of neighbouring pixels
    would: so they are `steps` pixels apart, and there is a product for each of the `steps` starts.
    """
    num, height, width, inner = a.shape
    wide, outer = b.shape[2:]
    taps, pitch = stride + 2, stride * outer
    steps = -(-taps // stride)
    for start in range(steps):
        length = len(range(start, height * width, steps))
        size, strides = (num, inner, length), (a.stride(0), 1, steps * inner)
        left = a.as_strided(size, strides, a.storage_offset() + start * inner)
        size, strides = (num, length, taps * outer), (b.stride(0), steps * pitch, 1)
        origin = b.storage_offset() + (wide - 1) * outer + start * pitch
        for i, total in enumerate(sums[:, :num]):
            total.baddbmm_(left, b.as_strided(size, strides, origin + i * wide * outer))


def is_slow(module: nn.Module) -> bool:
    """Whether torch's gradients of this layer, a depthwise one, are slow in half precision."""
    if not isinstance(module, nn.Conv2d) or type(module).__name__ not in ("Conv2d", "Conv2dSame"):
        return False
    depthwise = module.groups == module.in_channels == module.out_channels > 1
    large = max(*module.stride, *(side - 2 for side in module.kernel_size)) > 1
    plain = module.dilation == (1, 1) and module.bias is None and module.padding_mode == "zeros"
    return depthwise and large and plain and not isinstance(module.padding, str)


def use_float32_gradients(module: nn.Module) -> None:
    """Give a layer that is slow `Float32Gradients`; its weights and their names stay."""
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
