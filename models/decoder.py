"""The expanding path of a U-Net: blocks that double the size and join a skip."""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting
from torch.nn import functional as F

from models.encoder import conv3x3, conv_block, initialise


class UpConv(nn.ConvTranspose2d):
    """Nearest-neighbour doubling and a 3x3 convolution in one operation, 4/9 of the work.

    In one dimension, with weights u, v, w and pixels a, b, c:

        pixels            a         b         c
        doubled         a   a     b   b     c   c
        convolved               +-----+             left copy of b:   u a + (v + w) b
                                    +-----+         right copy of b:  (u + v) b + w c

    In a doubled row two of three neighbours are the same pixel, so their weights can be added
    before any pixel is seen. Read the other way, from b to the four outputs that it reaches:

        outputs         a   a     b   b     c   c
        times b             w   v+w u+v     u

    Pixels two outputs apart, each spread over four of them: a transposed convolution of stride 2
    whose four taps are sums of the three weights, (w, v + w, u + v, u). Along H and W together
    they are 4x4 sums of the 3x3 weights. An output costs 2x2 multiplications, not 3x3, and the
    doubled tensor, four times larger, is never made.

    The weights are stored as a transposed convolution has them, (inputs, channels, 3, 3), turned
    round. Where the doubled tensor has fewer pixels than channels, nearly all the time goes into
    weights, of which 3x3 are fewer: there it is made.
    """

    sums: Tensor

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__(inputs, channels, 3, bias=False)
        taps = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])  # of (w, v, u)
        self.register_buffer("sums", torch.kron(taps, taps), persistent=False)  # (16, 9)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # its size is given
        """(N, inputs, H, W) -> (N, channels, 2H, 2W)"""
        inputs, channels = self.weight.shape[:2]
        # an exported graph takes every size, so one way
        if not is_exporting() and 4 * x.shape[2] * x.shape[3] < inputs:
            doubled = F.interpolate(x, scale_factor=2.0)
            return F.conv_transpose2d(doubled, self.weight, self.bias, padding=1)
        weights = self.weight.permute(0, 2, 3, 1).reshape(inputs, 9, channels)
        taps = (self.sums @ weights).view(inputs, 4, 4, channels).permute(0, 3, 1, 2)
        return self.spread(x, taps)

    def spread(self, x: Tensor, taps: Tensor) -> Tensor:
        """x as above and taps (inputs, channels, 4, 4) -> (N, channels, 2H, 2W)"""
        return F.conv_transpose2d(x, taps, self.bias, stride=2, padding=1)


class JoinConv(nn.Module):
    """A 3x3 convolution over a skip beside the doubled deeper feature, as U-Net concatenates them.

    A convolution adds up what each input channel gives. So the sum over the skip's channels and the
    sum over the deeper feature's can be taken apart, and nothing has to be concatenated:

        conv([skip, up]) = conv_skip(skip) + conv_up(up)
    """

    def __init__(self, deep: int, skip: int, channels: int, norm: str) -> None:
        super().__init__()
        self.deep = UpConv(deep, channels)
        self.skip = conv3x3(skip, channels, norm)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """(N, deep, H, W) and (N, skip, 2H, 2W) -> (N, channels, 2H, 2W)"""
        return self.deep(deep) + self.skip(skip)


class Decoder(nn.Module):
    """The expanding path: `centre` channels at the bottom, halved at each scale down to `width`.

    centre: channels of the bottleneck, which pools the last feature once more; 0 leaves it out, for
    encoders whose last feature is the bottom. With centre = 2^depth * width this is the decoder of
    Ronneberger 2015, its up-convolution taken together with the convolution that follows; with half
    of that, the one of the mask + depth course. steps: doublings past the finest feature, by blocks
    that have no skip; -1 ends at the second finest. convs: of the centre, of each block. coarse:
    whether what the other blocks put out has readers too, in training. channels: of every block,
    finest first.
    """

    def __init__(
        self,
        features: list[int],
        width: int,
        centre: int,
        steps: int,
        convs: tuple[int, int],
        norm: str,
        dropout: float,
        coarse: bool = False,
    ) -> None:
        super().__init__()
        skips, deep = (features, centre) if centre else (features[:-1], features[-1])
        self.centre = None
        if centre:
            first = [nn.MaxPool2d(2), conv3x3(features[-1], centre, norm)]
            self.centre = conv_block(first, centre, convs[0], norm, dropout)
        self.unread = max(0, -steps)  # finest features that are left out
        skips = [0] * steps + skips[self.unread :]
        channels = centre or width * 2 ** len(skips)
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        for skip in reversed(skips):
            channels = max(width, channels // 2)
            join = JoinConv(deep, skip, channels, norm) if skip else UpConv(deep, channels)
            self.blocks.append(conv_block([join], channels, convs[1], norm, dropout))
            deep = channels
            self.channels.insert(0, deep)
        self.coarse = coarse
        self.apply(initialise)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features, finest first -> (N, channels, H, W) at the decoder's last scale, then the
        coarser ones if they have readers."""
        if self.centre is not None:
            features = [*features, self.centre(features[-1])]
        *skips, x = features[self.unread :]
        scales: list[Tensor] = []
        for block, skip in zip_longest(self.blocks, reversed(skips)):
            x = block(x) if skip is None else block(x, skip)
            scales = [x, *scales] if self.coarse and self.training else [x]
        return scales
