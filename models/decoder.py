"""Features -> one full-size feature map, by blocks that double the size and join a skip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from models.encoder import conv3x3, conv_block
from models.recompute import Stage


class DoubledConv(torch.autograd.Function):
    """Convolution 3x3 of a bilinearly doubled tensor: (N, C, H, W) -> (N, D, 2H, 2W).

    Keeps its input, not the four times larger tensor that the convolution sees: that is made again
    in the backward pass, and gone before its gradient is made. All in the precision of the input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """weight (D, C, 3, 3), in the dtype of x."""
        ctx.save_for_backward(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(_doubled(x), weight, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """First the weight's gradient, then the input's."""
        x, weight = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            for_x, for_weight = ctx.needs_input_grad
            weight_gradient = x_gradient = None
            if for_weight:
                weight_gradient = conv2d_weight(_doubled(x), weight.shape, gradient, padding=1)
            if for_x:
                shape = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
                x_gradient = _halved(conv2d_input(shape, weight, gradient, padding=1))
            return x_gradient, weight_gradient


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
    input channels is taken in two parts. Nothing is kept but the two inputs.
    """

    def __init__(self, below: int, skip: int, channels: int, bias: bool) -> None:
        super().__init__()
        self.split = [skip, below]
        conv = nn.Conv2d(skip + below, channels, 3, padding=1, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(N, below, H, W) and (N, skip, 2H, 2W) -> (N, channels, 2H, 2W)."""
        device = below.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else below.dtype
        for_skip, for_below = self.weight.split(self.split, 1)
        beside = F.conv2d(skip, for_skip, self.bias, padding=1)
        return beside.add_(DoubledConv.apply(below.to(dtype), for_below.to(dtype)))


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
