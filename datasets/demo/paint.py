"""Flat shapes as coverage, float32 (H, W) from 0 to 1: noise, strokes, outlines, blobs, cracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw

Size = tuple[int, int]  # height and width
FINE = 3  # outlines are drawn so many times larger, for smooth edges


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


def _drawn(size: Size, draw: Callable[[ImageDraw.ImageDraw], None]) -> ndarray:
    image = Image.new("L", (size[1] * FINE, size[0] * FINE))
    draw(ImageDraw.Draw(image))
    return np.asarray(image.reduce(FINE), np.float32) / 255


def stroke(size: Size, lines: Sequence[ndarray], width: float) -> ndarray:
    """Lines, each (n, 2) points (x, y), so many pixels wide."""
    wide, fine = max(1, round(width * FINE)), [(np.asarray(line) * FINE).ravel() for line in lines]
    return _drawn(size, lambda draw: [draw.line(p.tolist(), 255, wide, "curve") for p in fine])


def polygon(size: Size, *outlines: Sequence) -> ndarray:
    """Filled outlines of points (x, y)."""
    fine = [(np.asarray(outline) * FINE).ravel().tolist() for outline in outlines]
    return _drawn(size, lambda draw: [draw.polygon(points, 255) for points in fine])


def turned(points: ndarray, center: Sequence[float], angle: float) -> ndarray:
    """Points (n, 2) about the origin, turned and moved to a centre."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points) @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(center)


def box(center: Sequence[float], wide: float, high: float, angle: float = 0.0) -> ndarray:
    """The four corners of a rectangle, and the first again."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * (wide / 2, high / 2)
    return turned(corners, center, angle)


def ellipse(size: Size, cx: float, cy: float, rx: float, ry: float) -> ndarray:
    """A filled ellipse with a smooth edge."""
    y, x = grid(size)
    return np.clip((1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry) + 0.5, 0, 1)


def blob(rng: Generator, size: Size, at: Sequence[float], radius: float, rough: float) -> ndarray:
    """How far inside a ragged blob a pixel is: 1 in the middle, 0 on its outline, less outside."""
    (y, x), stretch = grid(size), rng.uniform(0.7, 1.4)
    away = np.hypot((x - at[0]) * stretch, (y - at[1]) / stretch) / radius
    return 1 - away + rough * (noise(rng, size, max(size) / radius * 1.6, 4) - 0.5)


def somewhere(rng: Generator, size: Size) -> tuple[float, float]:
    """A point (x, y) off the margins."""
    return size[1] * rng.uniform(0.1, 0.9), size[0] * rng.uniform(0.1, 0.9)


def walk(rng: Generator, start: Sequence, angle: float, long: float, turn: float, curl: float = 0):
    """Points (n, 2) of a line that turns at random at each step, and by `curl` all the way."""
    count = max(2, int(long / 5))
    angles = angle + np.cumsum(rng.normal(curl, turn, count))
    steps = 5 * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.asarray(start) + np.concatenate([[(0, 0)], np.cumsum(steps, 0)])


def cells(rng: Generator, size: Size, count: int) -> tuple[ndarray, ndarray]:
    """Voronoi cells: the nearest of so many points (H, W), and by how many pixels it is nearer."""
    y, x = grid(size)
    cell, near, second = np.zeros(size, np.int64), np.full(size, np.inf, np.float32), np.inf
    for i, (py, px) in enumerate((rng.random((count, 2)) * size).astype(np.float32)):
        distance = (y - py) ** 2 + (x - px) ** 2
        second = np.minimum(second, np.maximum(near, distance))
        cell[distance < near] = i
        near = np.minimum(near, distance)
    return cell, np.sqrt(second) - np.sqrt(near)


def blend(image: ndarray, cover: ndarray, color: Sequence[float] | ndarray) -> None:
    """Lay a colour, or a picture (H, W, 3), over the image where `cover` says, in place."""
    image += cover[..., None] * (np.asarray(color, np.float32) - image)


def finish(rng: Generator, image: ndarray, grain: float) -> ndarray:
    """Values from 0 to 1 with a camera's grain, as uint8."""
    image = image + rng.normal(0, grain, (*image.shape[:2], 1)).astype(np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
