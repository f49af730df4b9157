"""Features -> one full-size feature map, by blocks that double the size and join a skip."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoder import ConvBlock
from models.recompute import Recomputable


class UpBlock(Recomputable):
    """Bilinear upsampling to the skip's size, concatenation, convolutions."""

    def __init__(self, below: int, skip: int, channels: int, convs: int, norm: str, dropout: float):
        super().__init__()
        self.block = ConvBlock(below + skip, channels, convs, norm, dropout)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(N, below, h, w) and (N, skip, H, W) -> (N, channels, H, W)."""
        up = F.interpolate(below, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.block(torch.cat([skip, up.to(skip.dtype)], 1))


class Decoder(nn.Module):
    """The expanding path: `centre` channels at the bottom, halved at each scale down to `width`.

    centre: 0 leaves the centre out, for encoders whose last feature has been worked on already.
    With centre = 2^depth * width this is the decoder of Ronneberger 2015; with half of that, the
    one of the mask + depth course. convs: of the centre, of each block.
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
        *skips, last = features
        self.centre = ConvBlock(last, centre, convs[0], norm, dropout) if centre else nn.Identity()
        below = centre or last
        channels = centre or width * 2 ** len(skips)
        blocks = []
        for skip in reversed(skips):
            channels = max(width, channels // 2)
            blocks.append(UpBlock(below, skip, channels, convs[1], norm, dropout))
            below = channels
        self.blocks = nn.ModuleList(blocks)
        self.channels = below

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features, finest first -> (N, channels, H, W) at the finest feature's size."""
        *skips, last = features
        x = self.centre(last)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        return x
