"""Asks a network about images of any size, tile by tile or resized to its training size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as images

from datasets.task import Classes, Label, Mask
from utils.compute import Compute

Area = tuple[slice, slice, slice]  # images of the batch, their rows and columns
AT_ONCE = 2**20  # pixels that are predicted together, unless one tile has more: 1024x1024
PROBABILITY = "_probability"
CONFIDENCE = "_confidence"
AUTO = 0.0  # a scale that follows the dpi of each image
SCALES = (0.75, 1.0, 1.25)  # each of a multiple of four is whole
CACHED = 2**17  # numbers of a prediction that are looked at together: half a megabyte
BACK_AT_ONCE = 2**21  # pixels of a batch that are brought back to their own size at once: 1024x2048


class Part(NamedTuple):
    """What is answered at once. area: of what is answered for in targets (N, ...); pixels: of the
    images that these are; predictions: (n, C, ...) by output name, on the device."""

    area: tuple[Any, ...]
    pixels: int
    predictions: dict[str, Tensor]


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
    tta: what to average over: "flips", the mirrored image too; "scales", each tile at SCALES of its
    size, and tiles then start at multiples of four strides. size: (H, W) of training for a task
    that resizes: images are resized to it, which needs no tiles, and predictions back. scale: for
    other tasks: the image is given to the network so many times as large, and what it says is
    brought back.

    model: a `models.UNet`, whose `stride` divides every height and width inside it.
    """

    model: Any
    compute: Compute
    tile: int = 0
    overlap: int = 0
    tta: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    scale: float = 1.0

    @torch.inference_mode()
    def __call__(self, image: Tensor, outputs: tuple[str, ...]) -> Iterator[Part]:
        """Image uint8 (N, 3, H, W) -> its predictions, part by part. Every pixel has one answer; so
        has each image where an output asks for one: the mean of what its tiles say."""
        self.model.eval()
        num, _, height, width = image.shape
        if self.size:
            parts = self._resized(image, outputs, self.size)
        else:
            parts = (self._tiled if self.scale == 1 else self._scaled)(image, outputs)
        per_image: dict[str, Tensor] = {}
        for (some, rows, columns), predictions in parts:
            pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
            for name in [name for name in predictions if self.model.heads[name].per_image]:
                share = predictions.pop(name).float() * (pixels / (height * width))
                per_image.setdefault(name, share.new_zeros(num, *share.shape[1:]))[some] += share
            if predictions:
                num_pixels = (some.stop - some.start) * pixels
                yield Part((some, ..., rows, columns), num_pixels, predictions)
        if per_image:
            yield Part((slice(0, num), ...), num * height * width, per_image)

    @torch.inference_mode()
    def labels(
        self,
        image: Tensor,
        outputs: tuple[str, ...],
        advance: Callable[[int], object] = lambda num: None,
        probabilities: bool = False,
        confidence: bool = False,
    ) -> dict[str, Tensor]:
        """Image uint8 (N, 3, H, W) -> by output name, on the host, what targets would say: class id
        or 0 and 1 as uint8 (N, H, W), depth as float32 (N, H, W). advance: is told how many more
        tiles are done, N times `num_tiles` in all. probabilities: `NAME_probability` too, uint16
        (N, channels, ...), of which 65535 is 1, for outputs of classes. confidence:
        `NAME_confidence` too, uint8 (N, H, W), of which 255 is 1: how likely what a pixel is said
        to be is, for classes and masks."""
        num, size = len(image), tuple(image.shape[-2:])
        predicted = {}  # made before what the network leaves free, or they would lie in the midst
        for name in outputs:
            output = self.model.spec.outputs[name]
            dtype = getattr(torch, output.dtype)
            predicted[name] = torch.empty(num, *output.target_shape(size), dtype=dtype)
            if probabilities and isinstance(output, Classes | Mask | Label):
                shape = num, output.channels, *(() if output.per_image else size)
                predicted[name + PROBABILITY] = torch.empty(shape, dtype=torch.uint16)
            if confidence and isinstance(output, Classes | Mask):
                predicted[name + CONFIDENCE] = torch.empty(num, *size, dtype=torch.uint8)
        total, done, told = num * self.num_tiles(*size), 0, 0
        for index, pixels, predictions in self(image, outputs):
            for name in list(predictions):  # which are gone before the next tile is predicted
                head, prediction = self.model.heads[name], predictions.pop(name)
                names = name, name + PROBABILITY, name + CONFIDENCE
                here = {key: predicted[key][index] for key in names if key in predicted}
                for rows in _strips(prediction):
                    strip = prediction[rows]
                    if names[2] in here:
                        labels, most = head.likeliest(strip)
                        here[names[2]][rows] = most.mul_(255).round_().to(torch.uint8)
                    else:
                        labels = head.to_labels(strip)
                    here[name][rows] = labels
                    if names[1] in here:
                        shares = head.probabilities(strip).mul_(65535).round_().int()
                        here[names[1]][rows] = shares.to(torch.uint16)
                del prediction, strip, labels
            done = min(done + pixels, num * prod(size))  # what an image says as a whole comes last
            now = total * done // (num * prod(size))
            advance(now - told)
            told = now
        return predicted

    def num_tiles(self, height: int, width: int) -> int:
        """How many tiles an image of this size is predicted in."""
        if self.size:
            return 1
        lengths, unit = self._seen(height, width), self._unit
        return prod(len(spans(length, self.tile, self.overlap, unit)) for length in lengths)

    @property
    def _unit(self) -> int:
        """Pixels of which tiles are multiples: poolings are those of the whole at each scale."""
        return self.model.stride * (4 if "scales" in self.tta else 1)

    def _tiled(
        self, image: Tensor, outputs: tuple[str, ...]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        """What each tile says of the part of it that is kept."""
        for row, column, predictions in self._tiles(image, outputs):
            rows, columns = (slice(s.first - s.start, s.last - s.start) for s in (row, column))
            area = slice(0, len(image)), slice(*row[2:]), slice(*column[2:])
            kept = {
                name: self.model.heads[name].part(predictions.pop(name), rows, columns)
                for name in outputs
            }
            yield area, kept

    def _scaled(
        self, image: Tensor, outputs: tuple[str, ...]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        """As `_tiled`, of the image at another scale; a few rows at once come back to their own."""
        num, _, height, width = image.shape
        small = images.resize(image, list(self._seen(height, width)), antialias=True)
        down, across = height / small.shape[-2], width / small.shape[-1]
        for row, column, predictions in self._tiles(small, outputs):
            top, bottom = round(row.first * down), round(row.last * down)
            columns = slice(round(column.first * across), round(column.last * across))
            step = max(1, BACK_AT_ONCE // (num * max(1, columns.stop - columns.start)))
            for first in range(top, bottom if columns.stop > columns.start else top, step):
                rows = slice(first, min(first + step, bottom))
                yield (
                    (slice(0, num), rows, columns),
                    {
                        name: p
                        if self.model.heads[name].per_image
                        else between(between(p, -2, rows, down, row), -1, columns, across, column)
                        for name, p in predictions.items()
                    },
                )
            predictions.clear()  # before there are others

    def _tiles(
        self, image: Tensor, outputs: tuple[str, ...]
    ) -> Iterator[tuple[Span, Span, dict[str, Tensor]]]:
        """Rows and columns of each tile, and what the network says of them. Tiles of one size in a
        row are predicted together, up to AT_ONCE pixels."""
        num, _, height, width = image.shape
        columns = spans(width, self.tile, self.overlap, self._unit)
        for row in spans(height, self.tile, self.overlap, self._unit):
            band = image[..., row.start : row.stop, :]
            for some in _together(columns, AT_ONCE // (num * (row.stop - row.start))):
                windows = [band[..., column.start : column.stop] for column in some]
                window = windows[0] if len(some) == 1 else torch.cat(windows)  # (n N, 3, h, w)
                predictions = self._window(window, outputs)
                for i, column in enumerate(some):
                    its = slice(i * num, (i + 1) * num)
                    yield row, column, {name: p[its] for name, p in predictions.items()}
                del predictions  # before there are others

    def _seen(self, height: int, width: int) -> tuple[int, int]:
        """The size at which an image is given to the network."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def _resized(
        self, image: Tensor, outputs: tuple[str, ...], size: tuple[int, int]
    ) -> Iterator[tuple[Area, dict[str, Tensor]]]:
        """Logits scale better than labels, but take room: a few images, or rows of one, at once."""
        num, _, height, width = image.shape
        predictions = self._window(images.resize(image, list(size), antialias=True), outputs)
        at_once = min(num, max(1, BACK_AT_ONCE // (height * width)))
        rows = max(1, BACK_AT_ONCE // (at_once * width))
        for first in range(0, num, at_once):
            some = slice(first, min(first + at_once, num))
            for top in range(0, height, rows):
                band = slice(top, min(top + rows, height))
                parts = {
                    name: p[some]
                    if self.model.heads[name].per_image
                    else enlarged(p[some], (height, width), band)
                    for name, p in predictions.items()
                }
                yield (some, band, slice(0, width)), parts

    def _window(self, window: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        """Predictions for one tile, uint8 (N, 3, h, w), by output name."""
        image = self.compute.image(window)
        if not self.tta:
            with self.compute.autocast():
                return self.model(image, outputs)
        (height, width), heads = image.shape[-2:], self.model.heads
        # padded before it is mirrored: both images' poolings take the same pixels together
        image = F.pad(image, (0, -width % self._unit, 0, -height % self._unit), mode="replicate")
        scales = SCALES if "scales" in self.tta else (1.0,)
        ways = [(s, flip) for s in scales for flip in (False, True)[: 1 + ("flips" in self.tta)]]
        means: dict[str, Tensor] = {}
        for scale, flip in ways:
            seen = _resized_by(image, scale)
            with self.compute.autocast():
                found = self.model(seen.flip(-1) if flip else seen, outputs)
            for name in outputs:
                said, head = found.pop(name).float(), heads[name]
                said = head.mirrored(said) if flip else said
                if not head.per_image:
                    said = head.part(_resized_by(said, 1 / scale), slice(height), slice(width))
                means[name] = means.get(name, 0) + said / len(ways)
        return means


def _strips(prediction: Tensor) -> Iterator[tuple[Any, ...]]:
    """Where in (N, C, H, W) there are so few rows, on a CPU, that its cache has room for them."""
    if prediction.dim() < 4 or prediction.device.type != "cpu":
        yield (...,)
        return
    height, step = prediction.shape[-2], max(1, CACHED // prediction[..., :1, :].numel())
    for top in range(0, height, step):
        yield ..., slice(top, min(top + step, height)), slice(None)


def _resized_by(image: Tensor, scale: float) -> Tensor:
    """An image, or what is said of it, (N, C, H, W) so many times as large."""
    if scale == 1:
        return image
    size = [round(side * scale) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=scale < 1)


def _together(columns: list[Span], most: int) -> Iterator[list[Span]]:
    """Neighbours of one width, so many that they are `most` pixels wide together, or one."""
    for length, group in groupby(columns, lambda span: span.stop - span.start):
        alike, num = list(group), max(1, most // length)
        yield from (alike[i : i + num] for i in range(0, len(alike), num))


def between(prediction: Tensor, dim: int, where: slice, ratio: float, tile: Span) -> Tensor:
    """What a tile says of some rows or columns (`dim`) of an image `ratio` times as large, float32:
    between the two that are nearest to each, as torch's interpolate does."""
    prediction, device = prediction.float(), prediction.device
    centres = (torch.arange(where.start, where.stop, device=device) + 0.5) / ratio - 0.5
    last = prediction.shape[dim] - 1
    centres = (centres - tile.start).clamp(0, last)
    first = centres.long()
    share = (centres - first).view(-1, *[1] * (-1 - dim))
    second = (first + 1).clamp(max=last)
    return torch.lerp(
        prediction.index_select(dim, first), prediction.index_select(dim, second), share
    )


def enlarged(prediction: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of a prediction (N, C, h, w) resized to `size` (H, W): (N, C, rows, W), float32.

    Bilinear between the centres of pixels, as torch's interpolate does without antialiasing.
    """
    prediction = prediction.float()
    if rows == slice(0, size[0]):
        return F.interpolate(prediction, size, mode="bilinear")
    height = prediction.shape[-2]
    centres = torch.arange(rows.start, rows.stop, device=prediction.device) + 0.5
    centres = (centres * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = centres.long()
    below, share = (above + 1).clamp(max=height - 1), (centres - above)[:, None]
    band = torch.lerp(prediction[..., above, :], prediction[..., below, :], share)
    return F.interpolate(band, (len(centres), size[1]), mode="bilinear")


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
