"""A scene while it is drawn, and the tools that draw it: noise, strokes, cells, letters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array = np.ndarray
Rng = np.random.Generator
Stroke = tuple[Array, float]  # points (n, 2) as x, y and the width, in pixels; one point is a dot

SUBPIXELS = 3  # strokes are drawn this much larger, then averaged


@dataclass
class Canvas:
    """A scene while it is drawn; all arrays have the same H and W.

    image: float32 (H, W, 3) in [0, 255]. inset: float32 (H, W), pixels inside the object's edge,
    negative on the table. support: float32 (H, W, 3), what a lost layer uncovers.
    """

    image: Array
    inset: Array
    support: Array
    material: str
    content: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.inset.shape

    @property
    def unit(self) -> float:
        """Sizes are given for a scene whose shorter side is 256 pixels; this scales them."""
        return min(self.shape) / 256

    @property
    def pen(self) -> float:
        """The scale of line widths: they grow with the scene, but never become thinner."""
        return max(self.unit, 1.0)

    def blend(self, color: Array | tuple[int, ...], alpha: Array) -> None:
        """Mix a colour, (3,) or (H, W, 3), into the object by `alpha`, (H, W) in [0, 1]."""
        down, across = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        if not len(down):
            return
        box = slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)  # most damage is small
        color = np.asarray(color, np.float32)
        color = color[box] if color.ndim == 3 else color
        alpha = alpha[box] * ramp(self.inset[box], -0.5, 0.5)
        self.image[box] = mix(self.image[box], color, alpha)

    def develop(self, rng: Rng) -> Array:
        """The scene as the camera stores it, uint8 (H, W, 3): uneven light and sensor noise."""
        light = 1 + rng.uniform(0.02, 0.06) * noise(rng, self.shape, max(self.shape), 1)
        grain = rng.standard_normal(self.shape, np.float32) * rng.uniform(1.0, 3.0)
        return np.clip(self.image * light[..., None] + grain[..., None] + 0.5, 0, 255).astype(
            np.uint8
        )


def ramp(values: Array, low: float | Array, high: float | Array) -> Array:
    """0 up to `low`, 1 from `high` on, linear between; `high` < `low` turns it round."""
    return np.clip((values - low) / (high - low), 0, 1)


def mix(first: Array | tuple, second: Array | tuple, share: Array) -> Array:
    """Colours between `first` and `second`, (3,) or (H, W, 3), for `share` (H, W): (H, W, 3)."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * share[..., None].astype(np.float32)


def tint(rng: Rng, *colors: tuple[int, int, int], spread: float = 14) -> Array:
    """One of the colours, a little varied: float32 (3,)."""
    color = np.array(colors[rng.integers(len(colors))], np.float32)
    return np.clip(color + rng.uniform(-spread, spread, 3), 0, 255).astype(np.float32)


def noise(
    rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 3, stretch: float = 1.0
) -> Array:
    """Value noise, float32 (H, W) about 0, mostly in [-1, 1].

    It sums grids of `cell`, `cell` / 2, ... pixels; the cells are `stretch` times as wide as high.
    """
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        size = (int(shape[0] / step) + 3, int(shape[1] / step / stretch) + 3)
        grid = rng.random(size, np.float32) * 2 - 1
        smooth = Image.fromarray(grid).resize(shape[::-1], Image.Resampling.BICUBIC)
        total += np.asarray(smooth) * 0.5**octave
    return total


def grid(shape: tuple[int, int]) -> tuple[Array, Array]:
    """x (1, W) and y (H, 1) of the pixel centres, float32."""
    height, width = shape
    return (
        np.arange(width, dtype=np.float32)[None] + 0.5,
        np.arange(height, dtype=np.float32)[:, None] + 0.5,
    )


def soften(mask: Array, radius: float) -> Array:
    """Gaussian blur of a mask or alpha in [0, 1]: float32 (H, W)."""
    sheet = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(sheet, np.float32) / 255


def draw(shape: tuple[int, int], strokes: list[Stroke], least: float = 0.0) -> Array:
    """The share of each pixel that strokes, at least `least` pixels wide, cover: float32 (H, W)."""
    sheet = Image.new("L", (shape[1] * SUBPIXELS, shape[0] * SUBPIXELS))
    brush = ImageDraw.Draw(sheet)
    for points, width in strokes:
        width = max(width, least) * SUBPIXELS
        points = points * SUBPIXELS
        if len(points) == 1:
            brush.ellipse([*(points[0] - width / 2), *(points[0] + width / 2)], fill=255)
        else:
            joint = "curve" if width > 5 else None
            brush.line(points.ravel().tolist(), fill=255, width=max(1, round(width)), joint=joint)
    return np.asarray(sheet.reduce(SUBPIXELS), np.float32) / 255


def fill(shape: tuple[int, int], points: Array) -> Array:
    """The share of each pixel inside a polygon (n, 2) of x, y: float32 (H, W)."""
    sheet = Image.new("L", (shape[1] * SUBPIXELS, shape[0] * SUBPIXELS))
    ImageDraw.Draw(sheet).polygon((points * SUBPIXELS).ravel().tolist(), fill=255)
    return np.asarray(sheet.reduce(SUBPIXELS), np.float32) / 255


def turn(points: Array, angle: float, x: float = 0.0, y: float = 0.0) -> Array:
    """Points (n, 2) turned about the origin, then moved to (x, y)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    across, down = points[:, 0], points[:, 1]
    return np.stack([across * cosine - down * sine + x, across * sine + down * cosine + y], 1)


class Cells(NamedTuple):
    """A Voronoi pattern: each pixel's cell, how much further the second centre is, the centres."""

    index: Array  # int (H, W)
    gap: Array  # float32 (H, W), pixels; about twice the distance to the border
    x: Array  # float32 (cells,)
    y: Array


def cells(rng: Rng, shape: tuple[int, int], size: float, jitter: float = 0.9) -> Cells:
    """Cells about `size` pixels wide with wavy borders; `jitter` 0 makes squares, 1 chaos."""
    rows, columns = (int(side / size) + 5 for side in shape)  # two beyond every side
    where = rng.uniform(-0.5, 0.5, (2, rows, columns)) * jitter
    center_x = ((np.arange(columns) - 1.5 + where[0]) * size).astype(np.float32).ravel()
    center_y = ((np.arange(rows)[:, None] - 1.5 + where[1]) * size).astype(np.float32).ravel()
    x, y = grid(shape)
    x = x + 0.15 * jitter * size * noise(rng, shape, size, 2)
    y = y + 0.15 * jitter * size * noise(rng, shape, size, 2)
    home = np.clip((y / size).astype(int) + 2, 1, rows - 2) * columns
    home += np.clip((x / size).astype(int) + 2, 1, columns - 2)
    nearest = np.full(shape, np.inf, np.float32)
    second, index = nearest.copy(), home.copy()
    for step in (0, -1, 1, -columns, columns, -columns - 1, -columns + 1, columns - 1, columns + 1):
        cell = home + step
        distance = np.sqrt((x - center_x.take(cell)) ** 2 + (y - center_y.take(cell)) ** 2)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        index[closer] = cell[closer]
        nearest = np.minimum(nearest, distance)
    return Cells(index, second - nearest, center_x, center_y)


def letters(rng: Rng, count: int) -> list[list[Array]]:
    """An invented upright alphabet: `count` letters, each some strokes (n, 2) in a box 0.6 x 1."""
    alphabet = []
    for _ in range(count):
        stem = np.array([[0.1, rng.choice([0.0, 0.3, 0.3])], [0.1, 1.0]])
        bows = [
            np.array([[0.1, 0.35], [0.5, 0.4], [0.5, rng.choice([0.7, 1.0])]]),
            np.array([[0.1, 0.95], [0.35, 1.0], [0.5, 0.75]]),
            np.array([[0.1, 0.65], [0.45, 0.6]]),
            np.array([[0.45, 0.35], [0.45, rng.choice([1.0, 1.25])]]),
        ]
        picks = rng.choice(len(bows), rng.integers(1, 4), replace=False)
        alphabet.append([stem, *(bows[pick] for pick in picks)])
    return alphabet


def text(
    rng: Rng, alphabet: list[list[Array]], x: float, y: float, length: float, size: float
) -> list[Stroke]:
    """A row of printed words, `size` high and `length` pixels long; (x, y) is its top left."""
    strokes, end, pen = [], x + length, max(0.155 * size, 0.9)
    while x + size < end:
        for letter in rng.integers(len(alphabet), size=rng.integers(2, 9)):
            if x + 0.7 * size > end:
                break
            strokes += [(part * size + (x, y), pen) for part in alphabet[letter]]
            x += 0.72 * size
        x += 0.6 * size
    return strokes
