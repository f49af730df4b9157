"""Features -> one full-size feature map, by blocks that double the size and join a skip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoder import conv_block


class Double(torch.autograd.Function):
    """Bilinear upsampling by two, (N, C, H, W) -> (N, C, 2H, 2W), in the precision of its input.

    Its adjoint is a depthwise convolution of stride 2 over the gradient with its border repeated,
    several times faster on a CPU than torch's own, which also would be run in float32 by autocast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Nothing is kept for the backward pass."""
        with torch.autocast(x.device.type, enabled=False):
            return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Each pixel went to 4x4 pixels with the weights (1, 3, 3, 1) / 4 in both directions."""
        channels = gradient.shape[1]
        taps = gradient.new_tensor([0.25, 0.75, 0.75, 0.25])
        kernel = (taps[:, None] * taps).expand(channels, 1, 4, 4)
        padded = F.pad(gradient, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, kernel, stride=2, groups=channels)


class Join(nn.Module):
    """Twice as large and beside its skip: (N, below, H, W), (N, skip, 2H, 2W) -> one tensor."""

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(N, skip + below, 2H, 2W)."""
        return torch.cat([skip, Double.apply(below).to(skip.dtype)], 1)


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
            self.centre = conv_block(nn.MaxPool2d(2), features[-1], centre, convs[0], norm, dropout)
        channels = centre or width * 2 ** len(skips)
        blocks = []
        for skip in reversed(skips):
            channels = max(width, channels // 2)
            blocks.append(conv_block(Join(), below + skip, channels, convs[1], norm, dropout))
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
