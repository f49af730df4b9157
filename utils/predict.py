"""Ask a network about images of any size: tile by tile, in memory that a tile sets, or resized to
its training size. What comes out has the images' own size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as images

from utils.compute import Compute

Area = tuple[slice, slice, slice]  # images of the batch, rows, columns: indexes (N, H, W)
AT_ONCE = 2**21  # pixels of a batch that are brought back to their own size at once: 1024x2048


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
    flip: average with the mirrored image. size: (H, W) of training for a task that resizes: images
    are resized to it, which needs no tiles, and predictions back.

    model: a `models.UNet`, whose `stride` divides every height and width inside it.
    """

    model: Any
    compute: Compute
    tile: int = 0
    overlap: int = 0
    flip: bool = False
    size: tuple[int, int] | None = None

    @torch.inference_mode()
    def __call__(
        self, image: Tensor, outputs: tuple[str, ...]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        """Image uint8 (N, 3, H, W) -> part by part the area of the batch that is answered for, and
        its predictions (n, C, h, w) by output name, on the device. Every pixel has one answer."""
        self.model.eval()
        if self.size:
            yield from self._resized(image, outputs, self.size)
        else:
            yield from self._tiled(image, outputs)

    @torch.inference_mode()
    def labels(self, image: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        """Image uint8 (3, H, W) -> by output name what is decided for each pixel, (H, W) on the
        host: class id or 0 and 1 as uint8, depth as float32."""
        decided = {}
        for area, predictions in self(image[None], outputs):
            for name, prediction in predictions.items():
                part = self.model.heads[name].to_labels(prediction).cpu()
                if name not in decided:
                    decided[name] = torch.empty(1, *image.shape[-2:], dtype=part.dtype)
                decided[name][area] = part
        return {name: found[0] for name, found in decided.items()}

    def _tiled(
        self, image: Tensor, outputs: tuple[str, ...]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        num, _, height, width = image.shape
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
                area = slice(0, num), slice(row.first, row.last), slice(column.first, column.last)
                yield area, {name: prediction[kept] for name, prediction in found.items()}

    def _resized(
        self, image: Tensor, outputs: tuple[str, ...], size: tuple[int, int]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        """Logits scale better than labels, but take room: a few images, or rows of one, at once."""
        num, _, height, width = image.shape
        found = self._window(images.resize(image, list(size), antialias=True), outputs)
        at_once = min(num, max(1, AT_ONCE // (height * width)))
        rows = max(1, AT_ONCE // (at_once * width))
        for first in range(0, num, at_once):
            some = slice(first, min(first + at_once, num))
            for top in range(0, height, rows):
                band = slice(top, min(top + rows, height))
                yield (
                    (some, band, slice(0, width)),
                    {name: enlarged(p[some], (height, width), band) for name, p in found.items()},
                )

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


def enlarged(prediction: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of a prediction (N, C, h, w) resized to `size` (H, W): (N, C, rows, W), float32.

    Bilinear between the centres of pixels, as torch's interpolate does without antialiasing.
    """
    prediction = prediction.float()
    if rows == slice(0, size[0]):
        return F.interpolate(prediction, size, mode="bilinear")
    height = prediction.shape[-2]
    places = torch.arange(rows.start, rows.stop, device=prediction.device) + 0.5
    places = (places * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = places.long()
    below, share = (above + 1).clamp(max=height - 1), (places - above)[:, None]
    found = torch.lerp(prediction[..., above, :], prediction[..., below, :], share)
    return F.interpolate(found, (len(places), size[1]), mode="bilinear")


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
    ends = zip(starts, stops, pairwise(seams), strict=True)
    return [Span(start, stop, *seam) for start, stop, seam in ends]
