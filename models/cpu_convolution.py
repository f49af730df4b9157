"""Convolutions on a CPU whose vectors are 256 bits wide (AVX2), in float32: quicker training.

torch finds the gradient of 3x3 weights there at half the speed of the other two passes, or less.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

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
    return torch.cpu.get_capabilities().get("l2_cache_size") or 1 << 20


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
