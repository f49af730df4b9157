"""Layers that can see a batch again: without counting it twice, and with the same channels dropped.

`seen`: what they found, or drew, in the last batch of training. `known`: what they did in the batch
that they are about to see again, else None; see `models.recompute`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling
from torch.nn import functional as F

Moments = tuple[Tensor, Tensor]  # mean and variance (divided by the count) of each channel
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes that they take


class BatchNormReLU(nn.BatchNorm2d):
    """As torch's, with a ReLU behind it.

    On a CPU looking for the moments takes longer than applying them, so they are two operations.
    """

    seen: Moments | tuple[()] = ()
    known: Moments | tuple[()] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        few = x.numel() <= x.shape[1]  # torch refuses one value per channel; none change nothing
        if not self.training or is_compiling() or few:
            return F.relu(super().forward(x))
        if x.device.type != "cpu":
            if self.known is None:
                return F.relu(super().forward(x))
            return F.relu(F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps))
        self.seen = self.known or self._look(x)
        return StandardiseReLU.apply(x, self.weight, self.bias, *self.seen, self.eps)

    @torch.no_grad()
    def _look(self, x: Tensor) -> Moments:
        """The moments of this batch, which the running ones take in."""
        mean, var = batch_moments(x)
        num = x.numel() // x.shape[1]
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (num / (num - 1)), self.momentum)
        return mean, var


class ReLU(nn.ReLU):
    """As torch's, by `relu_` where a CPU trains."""

    def forward(self, x: Tensor) -> Tensor:
        """Any floating-point tensor, overwritten if `inplace`."""
        if not self.training or is_compiling() or x.device.type != "cpu":
            return super().forward(x)
        return BitReLU.apply(x, self.inplace)


class ChannelDropout(nn.Dropout2d):
    """As torch's."""

    seen: Tensor | None = None  # (N, C, 1, 1), what the channels were multiplied by
    known: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not self.training or is_compiling():
            return super().forward(x)
        if self.known is None:
            self.seen = super().forward(x.new_ones(*x.shape[:2], 1, 1))
        else:
            self.seen = self.known
        return x * self.seen


def relu_(x: Tensor) -> Tensor:
    """ReLU in place, by comparing bits as integers: three times as fast in half precision.

    Where the sign is set, integers go the other way round: -0 is the least, minus infinity is
    -1 / eps, and above it is only what is not a number. That stays as it is.
    """
    torch.threshold_(_bits(x), -1 / torch.finfo(x.dtype).eps, 0)
    return x


def relu_backward(gradient: Tensor, y: Tensor) -> Tensor:
    """The gradient where y, which a ReLU put out, is positive, else 0."""
    return torch.ops.aten.threshold_backward(_bits(gradient), _bits(y), 0).view(y.dtype)


def _bits(x: Tensor) -> Tensor:
    return x.view(INTEGERS[x.itemsize])


class BitReLU(torch.autograd.Function):
    """See `relu_`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        """x of any shape"""
        if inplace:
            ctx.mark_dirty(x)
        y = relu_(x if inplace else x.clone())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Of x."""
        return relu_backward(gradient, *ctx.saved_tensors), None


class StandardiseReLU(torch.autograd.Function):
    """ReLU of (x - mean) / sqrt(var + eps) * weight + bias, where mean and var are those of x, and
    have their part in its gradient (Ioffe and Szegedy 2015)."""

    clear_saved_tensors_on_access = True  # where torch knows of it: y can go, see below

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        """x (N, C, H, W), the others (C,)"""
        y = relu_(F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps))
        ctx.save_for_backward(x, weight, mean, var, y)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, weight and bias."""
        x, weight, mean, var, y = ctx.saved_tensors
        gradient = relu_backward(gradient, y)
        del y
        found = torch.ops.aten.native_batch_norm_backward(
            gradient,
            x,
            weight,
            None,
            None,
            mean,
            (var + ctx.eps).rsqrt(),
            True,
            ctx.eps,
            [True] * 3,
        )
        return *found, None, None, None


def forked(x: Tensor, readers: int) -> tuple[Tensor, ...]:
    """The tensor once for each of its readers, whose gradients are added to a new tensor.

    Autograd would add one to the other: in half precision on a CPU that takes three times as long.
    """
    return Fork.apply(x, readers) if readers > 1 and torch.is_grad_enabled() else (x,) * readers


class Fork(torch.autograd.Function):
    """See `forked`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, readers: int) -> tuple[Tensor, ...]:
        """Views of x."""
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for _ in range(readers))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        """None of those that read nothing."""
        first, *others = (g for g in gradients if g is not None)
        for gradient in others:
            first = first + gradient
        return first, None


@torch.library.custom_op("manyhead::batch_moments", mutates_args=())
def batch_moments(x: Tensor) -> Moments:
    """By torch's kernel, which fake tensors do not have. Half precision is summed in float32."""
    none = x.new_zeros((2, x.shape[1]), dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.batch_norm_update_stats(x, *none, 0.0)


@batch_moments.register_fake
def _(x: Tensor) -> Moments:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)
