"""A network and an image of any size -> predictions, tile by tile, in memory that a tile sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.compute import Compute

Area = tuple[slice, slice]  # rows and columns


class Span(NamedTuple):
    """One tile along one axis: what the network sees, and the part of it that is kept."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Predictor:
    """A network with the way it is asked.

    tile: longest side in pixels that is predicted at once; 0 is any. overlap: pixels that
    neighbouring tiles both see. Both are rounded up to multiples of the network's stride, on which
    every tile starts: its poolings then take the same pixels together as those of the whole image.
    The seam runs through the middle of the overlap. So tiles say what the whole would have said, if
    the network sees no farther than half the overlap. One that sees farther differs near the seams,
    by less than if both answers were averaged there: the one farther from its tile's border counts.
    flip: average with the mirrored image.

    model: a `models.UNet`, whose `stride` divides every height and width inside it.
    """

    model: nn.Module
    compute: Compute
    tile: int = 0
    overlap: int = 0
    flip: bool = False

    @torch.inference_mode()
    def __call__(
        self, image: Tensor, outputs: tuple[str, ...]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        """Image uint8 (N, 3, H, W) -> for each tile the area of the image that it answers for, and
        its predictions (N, C, h, w) by output name, on the device."""
        self.model.eval()
        height, width = image.shape[-2:]
        stride = self.model.stride
        for row in spans(height, self.tile, self.overlap, stride):
            for column in spans(width, self.tile, self.overlap, stride):
                window = image[..., row.start : row.stop, column.start : column.stop]
                kept = (
                    ...,
                    slice(row.first - row.start, row.last - row.start),
                    slice(column.first - column.start, column.last - column.start),
                )
                found = self._window(window, outputs)
                area = slice(row.first, row.last), slice(column.first, column.last)
                yield area, {name: prediction[kept] for name, prediction in found.items()}

    def _window(self, window: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        """Predictions for one tile, uint8 (N, 3, h, w), each (N, C, h, w)."""
        image = self.compute.image(window)
        if not self.flip:
            with self.compute.autocast():
                return self.model(image, outputs)
        (height, width), stride = image.shape[-2:], self.model.stride
        # padded before it is mirrored: both images' poolings take the same pixels together
        image = F.pad(image, (0, -width % stride, 0, -height % stride), mode="replicate")
        with self.compute.autocast():
            found, mirrored = self.model(image, outputs), self.model(image.flip(-1), outputs)
        both = {name: (found[name].float() + mirrored[name].flip(-1)) / 2 for name in found}
        return {name: prediction[..., :height, :width] for name, prediction in both.items()}


def spans(length: int, tile: int, overlap: int, stride: int = 1) -> list[Span]:
    """Evenly spread tiles along one axis; each shares at least `overlap` pixels with the next.

    Tiles start at multiples of `stride` and, but for the last, are as long as one.
    """
    units, size, shared = (-(-pixels // stride) for pixels in (length, tile, overlap))
    size = max(size, shared + 1)
    if not tile or units <= size:
        return [Span(0, length, 0, length)]
    count = -(-(units - shared) // (size - shared))
    starts = [i * (units - size) // (count - 1) * stride for i in range(count)]
    stops = [min(start + size * stride, length) for start in starts]
    seams = [0, *((b + a) // 2 for a, b in zip(stops, starts[1:], strict=False)), length]
    return [Span(*ends, *seam) for *ends, seam in zip(starts, stops, pairwise(seams), strict=True)]
