"""Random crops, flips, turns and zooms for training, which move image and targets alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datasets.task import IGNORE, NO_DEPTH, Depth, Label, Normals, Output, Sample, Task

CROP_TRIES = 3  # positions looked at before a crop of a single label is accepted
RARE_SHARE = 1 / 3  # of the crops, placed so that they hold a pixel of a class drawn at random
RARE_PIXELS = 1 << 18  # of a larger image every second, third, ... row and column is looked at
ROTATE_SHARE = 0.5
JITTER_SHARE, JITTER = 0.8, 0.3  # brightness, contrast, saturation: times 1 - JITTER to 1 + JITTER
BLUR_SHARE, BLUR_SIGMA = 0.1, (0.3, 1.5)


class Box(NamedTuple):
    """A rectangle of source pixels; it may reach outside the image."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: Tensor) -> Tensor:
        """What of the box lies inside `pixels` (..., H, W), without a copy."""
        rows = slice(max(self.top, 0), self.top + self.height)
        columns = slice(max(self.left, 0), self.left + self.width)
        return pixels[..., rows, columns]

    def cut_filled(self, pixels: Tensor, fill: float) -> Tensor:
        """All of the box, (..., height, width), `fill` where it lies outside."""
        bottom = self.top + self.height - pixels.shape[-2]
        right = self.left + self.width - pixels.shape[-1]
        outside = [max(over, 0) for over in (-self.left, -self.top, right, bottom)]
        inside = self.cut(pixels)
        return F.pad(inside, outside, fill=fill) if any(outside) else inside


class Move(NamedTuple):
    """One draw: what happens to the positions of pixels, in the order in which it happens.

    `box` is cut from the source and resized to the training size plus `margin` (rows, columns) on
    each side. That is rotated by `angle` degrees (counter-clockwise) about its centre and loses the
    margin: its corners hold real pixels where the image has them. `flip` mirrors it, and `turns`
    quarter turns (counter-clockwise) follow. `zoom`: how many times larger things look than without
    augmentation.
    """

    box: Box
    margin: tuple[int, int]
    angle: float
    flip: bool
    zoom: float
    turns: int = 0

    def apply(self, pixels: Tensor, size: tuple[int, int], smooth: bool, fill: float) -> Tensor:
        """Move (C, H, W) to (C, *size): `smooth` interpolates, else the nearest pixel is copied."""
        rows, columns = self.margin
        pixels = self.box.cut_filled(pixels, fill)
        pixels = _resize(pixels, (size[0] + 2 * rows, size[1] + 2 * columns), smooth)
        if self.angle:
            method = InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST
            pixels = F.rotate(pixels, self.angle, method)  # what it uncovers goes with the margin
        pixels = pixels[..., rows : rows + size[0], columns : columns + size[1]]
        pixels = F.horizontal_flip(pixels) if self.flip else pixels
        return torch.rot90(pixels, self.turns, (-2, -1)).contiguous()


@dataclass(frozen=True)
class TrainTransform:
    """Augmentation as a function of sample and seed, whichever worker runs it, in whatever order.

    With `task.resize` the image is resized to `size` (height, width) times a zoom, drawn
    log-uniformly from `task.zoom`, and cut to `size`; otherwise a crop is taken at native scale
    times the zoom. Outside the image (where it is smaller than the crop, or a rotation uncovers a
    corner) the image is 0, `classes` and `mask` are IGNORE, `depth` is NO_DEPTH. Labels and depths
    are copied from the nearest pixel, never interpolated.

    Depth with a unit is divided by the zoom, as if the camera had moved closer (Eigen, Puhrsch and
    Fergus 2014, "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network"), and
    becomes NO_DEPTH where that exceeds `max_depth`. Relative depth is kept.

    Labels can be sparse, and classes rare. A third of the crops hold a pixel of a class that is
    drawn from those of the image, each as likely, as nnU-Net does (Isensee et al. 2021). For the
    others, of CROP_TRIES positions the first is taken whose crop (before rotation) holds two labels
    of a `classes` or `mask` target, otherwise one that holds any label.
    """

    task: Task
    size: tuple[int, int]

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The augmented sample, of this size. Every bit of `seed`, 0 or larger, counts."""
        rng = np.random.default_rng(seed)  # torch.Generator would use the lower 32 bits alone
        move = self._draw(sample, rng)
        image = move.apply(sample.image, self.size, smooth=True, fill=0)
        outputs = {output.name: output for output in self.task.outputs}
        targets = {
            name: MOVES[outputs[name].kind](target, move, self.size, outputs[name])
            for name, target in sample.targets.items()
        }
        return Sample(_recolor(image, rng), targets, sample.key)

    def _draw(self, sample: Sample, rng: np.random.Generator) -> Move:
        (height, width), (full_height, full_width) = self.size, sample.image.shape[-2:]
        low, high = self.task.zoom
        zoom = low * (high / low) ** rng.random()
        source = (full_height, full_width) if self.task.resize else self.size
        crop = tuple(max(1, round(side / zoom)) for side in source)  # source pixels
        box = self._place(sample, crop, rng)
        angle = 0.0
        if self.task.rotate and rng.random() < ROTATE_SHARE:
            angle = rng.uniform(-self.task.rotate, self.task.rotate)
        flip = self.task.flip and rng.random() < 0.5
        turns = 0
        if not self.task.upright:
            turns = int(rng.integers(4)) if height == width else 2 * int(rng.integers(2))

        # The rotated crop's bounding box, less the crop, is the margin.
        cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
        rows = max(0, math.ceil((height * cos + width * sin - height) / 2))
        columns = max(0, math.ceil((width * cos + height * sin - width) / 2))
        above, beside = round(rows * crop[0] / height), round(columns * crop[1] / width)
        top, left = box.top - above, box.left - beside
        window = Box(top, left, box.height + 2 * above, box.width + 2 * beside)
        return Move(window, (rows, columns), angle, flip, zoom, turns)

    def _place(self, sample: Sample, crop: tuple[int, int], rng: np.random.Generator) -> Box:
        """A position for the crop (height, width), uniform where it, or the image, has room."""
        labels = [t for t in sample.targets.values() if t.dtype == torch.uint8 and t.ndim == 2]
        rooms = [full - side for full, side in zip(sample.image.shape[-2:], crop, strict=True)]
        if labels and any(rooms) and rng.random() < RARE_SHARE:
            pixel = _pixel_of_a_class(labels[rng.integers(len(labels))], rng)
            if pixel:
                tops = (at - int(rng.integers(side)) for at, side in zip(pixel, crop, strict=True))
                top, left = (
                    min(max(at, min(room, 0)), max(room, 0))
                    for at, room in zip(tops, rooms, strict=True)
                )
                return Box(top, left, *crop)
        best, most = None, -1
        for _ in range(CROP_TRIES if any(rooms) else 1):
            top, left = (int(rng.integers(min(room, 0), max(room, 0) + 1)) for room in rooms)
            box = Box(top, left, *crop)
            count = max((_count_labels(box.cut(label)) for label in labels), default=2)
            if count > most:
                best, most = box, count
            if most >= 2:
                break
        return best


def _pixel_of_a_class(target: Tensor, rng: np.random.Generator) -> tuple[int, int] | None:
    """Row and column of a pixel of one of the classes of a target uint8 (H, W), None without."""
    step = math.ceil(math.sqrt(target.numel() / RARE_PIXELS))
    thin = target[::step, ::step].numpy()
    present = np.flatnonzero(np.bincount(thin.ravel(), minlength=256)[:IGNORE])
    if not len(present):
        return None
    rows, columns = np.nonzero(thin == rng.choice(present))
    one = rng.integers(len(rows))
    return step * int(rows[one]), step * int(columns[one])


def _resize(pixels: Tensor, size: tuple[int, int], smooth: bool) -> Tensor:
    """(C, H, W) to (C, *size): bilinear with antialiasing, or the nearest pixel."""
    method = InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST_EXACT
    return F.resize(pixels, list(size), method, antialias=smooth)


def _recolor(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Other light, other camera: colour jitter and, now and then, blur. uint8 (3, H, W)."""
    if rng.random() < JITTER_SHARE:
        brightness, contrast, saturation = (
            float(f) for f in rng.uniform(1 - JITTER, 1 + JITTER, 3)
        )
        image = F.adjust_brightness(image, brightness)
        image = F.adjust_contrast(image, contrast)
        image = F.adjust_saturation(image, saturation)
    if rng.random() < BLUR_SHARE:
        image = F.gaussian_blur(image, [5, 5], [rng.uniform(*BLUR_SIGMA)])
    return image


def move_values(target: Tensor, move: Move, size: tuple[int, int], output: Output) -> Tensor:
    """Values follow their pixels: copied from the nearest one, never interpolated."""
    return move.apply(target[None], size, smooth=False, fill=output.fill)[0]


def move_depth(target: Tensor, move: Move, size: tuple[int, int], output: Depth) -> Tensor:
    """Depth with a unit is as if the camera had moved `zoom` times closer; relative depth stays."""
    depth = move_values(target, move, size, output)
    if not output.unit:
        return depth
    closer = depth / move.zoom
    return closer.where((depth >= 0) & (closer <= output.max_depth), NO_DEPTH)


def move_normals(target: Tensor, move: Move, size: tuple[int, int], output: Normals) -> Tensor:
    """Vectors turn with the image, counter-clockwise, and are mirrored with it."""
    x, y, z = move_values(target, move, size, output)
    cos, sin = math.cos(math.radians(move.angle)), math.sin(math.radians(move.angle))
    x, y = cos * x - sin * y, sin * x + cos * y
    x = -x if move.flip else x
    for _ in range(move.turns):
        x, y = -y, x
    return torch.stack([x, y, z])


def keep_label(target: Tensor, move: Move, size: tuple[int, int], output: Label) -> Tensor:
    """What is said of an image holds for each part of it."""
    return target


# kind -> how a target follows the pixels of its image
MOVES: dict[str, Callable[[Tensor, Move, tuple[int, int], Any], Tensor]] = {
    "classes": move_values,
    "mask": move_values,
    "depth": move_depth,
    "normals": move_normals,
    "label": keep_label,
}


def _count_labels(target: Tensor) -> int:
    """0, 1, or 2 for two and more labels (IGNORE is none) in a target uint8 (H, W)."""
    lowest, highest = target.min(), target.masked_fill(target == IGNORE, 0).max()
    return 0 if lowest == IGNORE else 1 + int(lowest < highest)
