"""Flat shapes as coverage, float32 (H, W) from 0 to 1: noise, strokes, outlines, blobs."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw

Size = tuple[int, int]  # height and width
Vector = Sequence[float] | ndarray  # a point, a direction, sides or a colour
FINE = 3  # outlines are drawn so many times larger, for smooth edges
TURNS = np.linspace(0, 2 * np.pi, 61)
SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
RING = np.stack([np.cos(TURNS), np.sin(TURNS)], 1)  # about the origin


def noise(rng: Generator, size: Size, hills: float, octaves: int = 1) -> ndarray:
    """Smooth noise from 0 to 1, about so many hills along the longer side; octaves refine it."""
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        step = max(size) / (hills * 2**octave)
        coarse = rng.random((int(size[0] / step) + 2, int(size[1] / step) + 2), np.float32)
        total += np.asarray(Image.fromarray(coarse).resize(size[::-1], 3)) / 2**octave
    return np.clip(total / (2 - 2.0 ** (1 - octaves)), 0, 1)


def grid(size: Size) -> tuple[ndarray, ndarray]:
    """y (H, 1) and x (1, W) of the middles of the pixels."""
    y, x = (np.arange(n, dtype=np.float32) + 0.5 for n in size)
    return y[:, None], x[None, :]


def turned(points: ndarray, center: Vector, angle: float) -> ndarray:
    """Points (n, 2) about the origin, turned and moved to a centre."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(center)


def blob(rng: Generator, size: Size, at: Vector, radius: float, rough: float) -> ndarray:
    """How far inside a ragged blob a pixel is: 1 in the middle, 0 on its outline, less outside."""
    (y, x), stretch = grid(size), rng.uniform(0.7, 1.4)
    away = np.hypot((x - at[0]) * stretch, (y - at[1]) / stretch) / radius
    return 1 - away + rough * (noise(rng, size, max(size) / radius * 1.6, 4) - 0.5)


def walk(
    rng: Generator, start: Vector, angle: float, long: float, turn: float, curl: float = 0
) -> ndarray:
    """Points (n, 2) of a line that turns at random at each step, and by `curl` all the way."""
    angles = angle + np.cumsum(rng.normal(curl, turn, max(2, int(long / 5))))
    steps = 5 * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.asarray(start) + np.concatenate([[(0, 0)], np.cumsum(steps, 0)])


def blend(image: ndarray, cover: ndarray, color: Vector) -> None:
    """Lay a colour, or a picture (H, W, 3), over the image where `cover` says, in place."""
    image += cover[..., None] * (np.asarray(color, np.float32) - image)


def finish(rng: Generator, image: ndarray, grain: float) -> ndarray:
    """Values from 0 to 1 with a camera's grain, as uint8."""
    image = image + rng.normal(0, grain, (*image.shape[:2], 1)).astype(np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


class Canvas(NamedTuple):
    """image: float32 (H, W, 3), 0 to 1. inside: bool (H, W), where the object lies. backing: the
    colour under its surface. unit: a 256th of the longer side, in pixels. about: its metadata."""

    size: Size
    image: ndarray
    inside: ndarray
    backing: ndarray
    unit: float
    about: dict[str, str]

    def lay(self, cover: ndarray, color: Vector) -> ndarray:
        """Lay a colour over the picture where `cover` says, which is given back."""
        blend(self.image, cover, color)
        return cover

    def pen(self, lines: Iterable[ndarray], width: float = 0) -> ndarray:
        """Lines, each (n, 2) points (x, y), so many units wide; 0: what they enclose."""
        sheet = Image.new("L", (self.size[1] * FINE, self.size[0] * FINE))
        pen, wide = ImageDraw.Draw(sheet), max(1, round(width * self.unit * FINE))
        for line in lines:
            points = (line * FINE).ravel().tolist()
            if width:
                pen.line(points, 255, wide, "curve")
            else:
                pen.polygon(points, 255)
        return np.asarray(sheet.reduce(FINE), np.float32) / 255

    def place(self, rng: Generator) -> ndarray:
        """A point (x, y) off the margins."""
        return rng.uniform(0.1, 0.9, 2) * self.size[::-1]
