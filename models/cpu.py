"""Kernels that train a network faster on a CPU: equal numbers, up to rounding.

`use_cpu_kernels(model)` puts them on a finished network from outside; names of weights stay as they
are. Where a processor has matrix instructions for half precision, convolutions are quick, and
torch's kernels for norm, ReLU and sums of gradients are a third of a training step.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling
from torch.nn import functional as F

from models.cpu_convolution import Convolution, UpConvolution, is_slow, use_float32_gradients
from models.decoder import UpConv
from models.encoder import Block, UNetEncoder
from models.recompute import once
from models.unet import UNet

Moments = tuple[Tensor, Tensor]  # mean and variance (divided by the count) of each channel
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes that they take


def use_cpu_kernels(model: UNet) -> None:
    """Batch norm takes the ReLU behind it in, other ReLUs compare bits, gradients that meet where a
    feature has several readers are added to a new tensor, and convolutions find the gradient of
    their weights themselves where that is quicker."""
    for module in [*model.modules()]:
        if isinstance(module, Block):
            for (_, layer), (name, follower) in pairwise(module.named_children()):
                if isinstance(layer, nn.BatchNorm2d) and type(follower) is nn.ReLU:
                    layer.__class__ = BatchNormReLU
                    setattr(module, name, nn.Identity())
        elif is_slow(module):
            use_float32_gradients(module)
        elif type(module) is nn.ReLU:
            module.__class__ = BitReLU
        elif type(module) is UNetEncoder:
            module.__class__ = BranchingEncoder
        elif type(module) is UpConv:
            module.__class__ = UpConvolution
        elif Convolution.replaces(module):
            module.__class__ = Convolution
    for decoder in model.decoders.values() if len(model.decoders) > 1 else ():
        if _take_branch not in decoder._forward_pre_hooks.values():
            decoder.register_forward_pre_hook(_take_branch)


class BatchNormReLU(nn.BatchNorm2d):
    """As torch's, with a ReLU behind it.

    On a CPU looking for the moments takes longer than applying them, so they are two operations.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        few = x.numel() <= x.shape[1]  # torch refuses one value per channel; none change nothing
        if not self.training or is_compiling() or few:
            return F.relu(super().forward(x))
        moments = once(lambda: self._moments(x))
        return StandardiseReLU.apply(x, self.weight, self.bias, *moments, self.eps)

    @torch.no_grad()
    def _moments(self, x: Tensor) -> Moments:
        """The moments of this batch, which the running ones take in."""
        mean, var = batch_moments(x)
        num = x.numel() // x.shape[1]
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (num / (num - 1)), self.momentum)
        return mean, var


class BitReLU(nn.ReLU):
    """As torch's, by `relu_`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any floating-point tensor, overwritten if `inplace`."""
        if not self.training or is_compiling():
            return super().forward(x)
        return ReLUOnBits.apply(x, self.inplace)


class BranchingEncoder(UNetEncoder):
    """Gives skip and next block a branch each."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """As the plain one."""
        features = []
        for block in self.blocks:
            skip, x = branches(block(x))
            features.append(skip)
        return features


def _take_branch(decoder: nn.Module, inputs: tuple[list[Tensor]]) -> tuple[list[Tensor]]:
    """A branch of every feature for this decoder; another stays in the list, for the next one."""
    (features,) = inputs
    own, features[:] = zip(*map(branches, features), strict=True)
    return (list(own),)


def branches(x: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor twice, for two readers, whose gradients are added to a new tensor.

    Autograd would add one to the other: in half precision on a CPU that takes three times as long.
    """
    return Branches.apply(x) if torch.is_grad_enabled() else (x, x)


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


class ReLUOnBits(torch.autograd.Function):
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
        """The gradient of x."""
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
        """The gradients of x, weight and bias."""
        x, weight, mean, var, y = ctx.saved_tensors
        gradient = relu_backward(gradient, y)
        del y
        scale = (var + ctx.eps).rsqrt()
        gradients = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, [True] * 3
        )
        return *gradients, None, None, None


class Branches(torch.autograd.Function):
    """See `branches`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views of x."""
        ctx.set_materialize_grads(False)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first: Tensor | None, second: Tensor | None) -> Tensor | None:
        """The sum of the gradients; a branch that nothing read has none."""
        if first is None or second is None:
            return second if first is None else first
        return first + second


@torch.library.custom_op("manyhead::batch_moments", mutates_args=())
def batch_moments(x: Tensor) -> Moments:
    """By torch's kernel, which fake tensors do not have. Half precision is summed in float32."""
    mean, var = x.new_zeros((2, x.shape[1]), dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.batch_norm_update_stats(x, mean, var, 0.0)


@batch_moments.register_fake
def _(x: Tensor) -> Moments:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)
