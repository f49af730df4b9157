"""Features -> one full-size feature map, by blocks that double the size and join a skip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn import functional as F

from models.encoder import activation, conv3x3, convolutions
from models.recompute import Block, Stage


class UpConv(nn.ConvTranspose2d):
    """3x3 transposed convolution of a tensor whose every pixel is first made 2x2, without making
    them: a 3x3 convolution, but its weights are stored turned round, (inputs, channels, 3, 3).

    Only four sums of the 3x3 weights ever meet one pixel of the smaller tensor on the way to one of
    the larger: together a transposed convolution, 4x4, stride 2. It takes 4/9 of the
    multiplications, and the four times larger tensor never exists. Where that has fewer pixels than
    channels it is made: its convolution has fewer weights, which take the time there.
    """

    sums: Tensor

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__(inputs, channels, 3, bias=False)
        met = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])  # along H and along W
        self.register_buffer("sums", torch.kron(met, met), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, channels, 2H, 2W)"""
        inputs, channels = self.weight.shape[:2]
        # an exported graph takes every size, so one way
        if not is_exporting() and 4 * x.shape[2] * x.shape[3] < inputs:
            return F.conv_transpose2d(F.interpolate(x, scale_factor=2.0), self.weight, padding=1)
        last = self.weight.permute(0, 2, 3, 1).reshape(inputs, 9, channels)
        taps = (self.sums @ last).view(inputs, 4, 4, channels).permute(0, 3, 1, 2)
        return F.conv_transpose2d(x, taps, stride=2, padding=1)


class JoinConv(nn.Module):
    """3x3 convolution over a skip beside what is below, activated and upsampled to its size.

    They are never concatenated: the sum over input channels is taken in two parts.
    """

    def __init__(
        self, below: int, skip: int, channels: int, norm: str, before: list[nn.Module]
    ) -> None:
        super().__init__()
        self.below = Stage(*before, UpConv(below, channels))
        self.skip = conv3x3(skip, channels, norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(N, below, H, W) and (N, skip, 2H, 2W) -> (N, channels, 2H, 2W)"""
        return self.below(below) + self.skip(skip)


class Decoder(nn.Module):
    """The expanding path: `centre` channels at the bottom, halved at each scale down to `width`.

    centre: pools the last feature once more and works on it; 0 leaves it out, for encoders whose
    last feature is the bottom. With centre = 2^depth * width this is the decoder of Ronneberger
    2015, its up-convolution taken together with the convolution that follows; with half of that,
    the one of the mask + depth course. doublings: from the finest feature's size to the image's;
    blocks for them have no skip. convs: of the centre, of each block.

    Norm and activation after a block belong to what comes next, after the last one to the heads:
    there `models.recompute` can make them again instead of keeping what they put out.
    """

    def __init__(
        self,
        features: list[int],
        width: int,
        centre: int,
        doublings: int,
        convs: tuple[int, int],
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        skips, below = (features, centre) if centre else (features[:-1], features[-1])
        self.centre, before = None, []
        if centre:
            first = Stage(nn.MaxPool2d(2), conv3x3(features[-1], centre, norm))
            self.centre = Block(*convolutions(first, centre, convs[0], norm))
            before = activation(norm, centre, dropout)
        skips = [0] * doublings + skips
        channels = centre or width * 2 ** len(skips)
        blocks = []
        for skip in reversed(skips):
            channels = max(width, channels // 2)
            if skip:
                first = JoinConv(below, skip, channels, norm, before)
            else:
                first = Stage(*before, UpConv(below, channels))
            blocks.append(Block(*convolutions(first, channels, convs[1], norm)))
            before = activation(norm, channels, dropout)
            below = channels
        self.blocks = nn.ModuleList(blocks)
        self.channels = below

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features, finest first -> (N, channels, H, W) at the image's size, before norm and
        activation."""
        if self.centre is not None:
            features = [*features, self.centre(features[-1])]
        *skips, x = features
        for block, skip in zip_longest(self.blocks, reversed(skips)):
            x = block(x) if skip is None else block(x, skip)
        return x
