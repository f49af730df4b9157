"""A network and an image of any size -> predictions, tile by tile, in memory that a tile sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

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
    neighbouring tiles both see; the seam runs through their middle, so that no kept pixel is closer
    than half of it to a border the image does not have. flip: average with the mirrored image.
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
        for row in spans(height, self.tile, self.overlap):
            for column in spans(width, self.tile, self.overlap):
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
        image = self.compute.image(window)
        with self.compute.autocast():
            found = self.model(image, outputs)
            if not self.flip:
                return found
            mirrored = self.model(image.flip(-1), outputs)
        return {name: (found[name].float() + mirrored[name].flip(-1)) / 2 for name in found}


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Evenly spread tiles along one axis; each shares at least `overlap` pixels with the next."""
    if not tile or length <= tile:
        return [Span(0, length, 0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    seams = [0, *((a + tile + b) // 2 for a, b in pairwise(starts)), length]
    return [
        Span(start, start + tile, *seam)
        for start, seam in zip(starts, pairwise(seams), strict=True)
    ]
