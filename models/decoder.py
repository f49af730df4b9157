"""Features -> one full-size feature map, by blocks that double the size and join a skip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from models.encoder import conv3x3, conv_block
from models.recompute import Stage

PARTS = 4  # a batch is doubled in so many parts while it is trained on


class JoinedConv(torch.autograd.Function):
    """Convolution 3x3 of a skip (N, S, 2H, 2W) and of `below` (N, B, H, W), doubled, side by side.

    Keeps what it is given, not the four times larger tensor that the convolution sees: that is made
    again in the backward pass, and never exists for more than a part of the batch, nor does its
    gradient. Everything in the precision of the inputs, which is one.
    """

    @staticmethod
    def forward(
        ctx: Any, below: Tensor, skip: Tensor, weight: Tensor, bias: Tensor | None, parts: int
    ) -> Tensor:
        """weight (C, S + B, 3, 3), bias (C,) or None -> (N, C, 2H, 2W)."""
        ctx.save_for_backward(below, skip, weight)
        for_skip, for_below = weight.split([skip.shape[1], below.shape[1]], 1)
        with torch.autocast(below.device.type, enabled=False):
            total = F.conv2d(skip, for_skip, bias, padding=1)
            if parts == 1:  # one graph for every batch size, for those who export it
                return total.add_(F.conv2d(_doubled(below), for_below, padding=1))
            for some, of_total in zip(below.chunk(parts), total.chunk(parts), strict=True):
                of_total.add_(F.conv2d(_doubled(some), for_below, padding=1))
            return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `below`, skip, weight and bias; weights' are summed in float32."""
        below, skip, weight = ctx.saved_tensors
        for_skip, for_below = weight.split([skip.shape[1], below.shape[1]], 1)
        of_below = torch.empty_like(below)
        of_weight = torch.zeros_like(
            for_below, dtype=torch.promote_types(weight.dtype, torch.float32)
        )
        with torch.autocast(below.device.type, enabled=False):
            chunks = (tensor.chunk(PARTS) for tensor in (below, gradient, of_below))
            for some, change, found in zip(*chunks, strict=True):
                of_weight += conv2d_weight(_doubled(some), for_below.shape, change, padding=1)
                doubled = (*some.shape[:2], *change.shape[2:])
                found.copy_(_halved(conv2d_input(doubled, for_below, change, padding=1)))
            beside = conv2d_weight(skip, for_skip.shape, gradient, padding=1)
            of_weight = torch.cat([beside, of_weight.to(beside.dtype)], 1)
            of_skip = of_bias = None
            if ctx.needs_input_grad[1]:
                of_skip = conv2d_input(skip.shape, for_skip, gradient, padding=1)
            if ctx.needs_input_grad[3]:
                of_bias = gradient.sum((0, 2, 3))
        return of_below, of_skip, of_weight, of_bias, None


def _doubled(x: Tensor) -> Tensor:
    """Bilinear upsampling by two: (N, C, H, W) -> (N, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _halved(gradient: Tensor) -> Tensor:
    """The adjoint of `_doubled`: (N, C, 2H, 2W) -> (N, C, H, W).

    A pixel went to 4x4 pixels with the weights (1, 3, 3, 1) / 4 along both axes, which is a
    depthwise convolution of stride 2 over the gradient with its border repeated: on a CPU several
    times faster than torch's own, which autocast moreover runs in float32.
    """
    channels = gradient.shape[1]
    taps = gradient.new_tensor([0.25, 0.75, 0.75, 0.25])
    kernel = (taps[:, None] * taps).expand(channels, 1, 4, 4)
    padded = F.pad(gradient, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel, stride=2, groups=channels)


class JoinConv(nn.Module):
    """3x3 convolution over a skip beside an upsampled tensor, which are never concatenated.

    Its weight is that of one convolution over both, (channels, skip + below, 3, 3); the sum over
    input channels is taken in two parts.
    """

    def __init__(self, below: int, skip: int, channels: int, bias: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(skip + below, channels, 3, padding=1, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(N, below, H, W) and (N, skip, 2H, 2W) -> (N, channels, 2H, 2W)."""
        device = below.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else below.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        parts = PARTS if torch.is_grad_enabled() else 1
        weight = self.weight.to(dtype)
        return JoinedConv.apply(below.to(dtype), skip.to(dtype), weight, bias, parts)


class Decoder(nn.Module):
    """The expanding path: `centre` channels at the bottom, halved at each scale down to `width`.

    centre: pools the last feature once more and works on it; 0 leaves it out, for encoders whose
    last feature is the bottom. With centre = 2^depth * width this is the decoder of Ronneberger
    2015 with bilinear upsampling; with half of that, the one of the mask + depth course. convs: of
    the centre, of each block.
    """

    def __init__(
        self,
        features: list[int],
        width: int,
        centre: int,
        convs: tuple[int, int],
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        skips, below = (features, centre) if centre else (features[:-1], features[-1])
        self.centre = None
        if centre:
            first = Stage(nn.MaxPool2d(2), conv3x3(features[-1], centre, norm))
            self.centre = conv_block(first, centre, convs[0], norm, dropout)
        channels = centre or width * 2 ** len(skips)
        blocks = []
        for skip in reversed(skips):
            channels = max(width, channels // 2)
            first = JoinConv(below, skip, channels, bias=norm == "none")
            blocks.append(conv_block(first, channels, convs[1], norm, dropout))
            below = channels
        self.blocks = nn.ModuleList(blocks)
        self.channels = below

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features, finest first -> (N, channels, H, W) at the finest feature's size."""
        if self.centre is not None:
            features = [*features, self.centre(features[-1])]
        *skips, x = features
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        return x
