"""A seed goes in; an old picture on a table, sound and rich in edges, comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size, blend, box, grid, noise, polygon, somewhere, stroke
from datasets.demo.room import draw_room
from datasets.demo.street import draw_street

VIEW = "Photographic depiction"


class Canvas(NamedTuple):
    """image: float32 (H, W, 3), 0 to 1. inside: bool (H, W), where the object lies. backing: the
    colour under its surface. unit: a 256th of the longer side, in pixels. about: its metadata."""

    image: ndarray
    inside: ndarray
    backing: ndarray
    unit: float
    about: dict[str, str]

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.inside.shape

    def lay(self, cover: ndarray, color: ndarray | Sequence[float]) -> ndarray:
        """Lay a colour over the picture where `cover` says, which is given back."""
        blend(self.image, cover, color)
        return cover

    def pen(self, lines: list[ndarray], width: float) -> ndarray:
        """Lines, so many units wide."""
        return stroke(self.size, lines, width * self.unit)

    def place(self, rng: Generator) -> tuple[float, float]:
        """A point of the object."""
        return somewhere(rng, self.size)


def lay_out(rng: Generator, size: Size) -> Canvas:
    """One of the contents on one of the materials; what frames it is no damage."""
    middle, sides, (y, x) = np.array(size[::-1]) / 2, np.array(size[::-1]), grid(size)
    material, content = (str(rng.choice(list(table))) for table in (MATERIALS, CONTENTS))
    tone, sepia, backing = MATERIALS[material]
    image = rng.uniform(0.1, 0.75) * (0.85 + 0.3 * noise(rng, size, 40, 3)[..., None])
    image = (image * rng.uniform(0.85, 1.1, 3)).astype(np.float32)
    share, rim, tilt = rng.uniform(0.87, 0.97), rng.uniform(0, 0.16), rng.normal(0, 0.015)
    blend(image, 0.6 * polygon(size, box(middle + 3, *(sides * share), tilt)), (0, 0, 0))
    paper = np.asarray(tone, np.float32) * (0.9 + 0.2 * noise(rng, size, 5, 4)[..., None])
    picture = CONTENTS[content](rng, size).astype(np.float32)
    if sepia or (content == VIEW and rng.random() < 0.6):
        warm = rng.uniform(0, 1) * np.array([0.03, -0.02, -0.1], np.float32)
        picture = 0.08 + 0.85 * (picture @ np.array([0.3, 0.59, 0.11]))[..., None] + warm
    blend(paper, polygon(size, box(middle, *(sides * (share - rim)), tilt)), picture)
    if rim > 0.06:  # a printed frame
        frame = [box(middle, *(sides * (share - rim * part)), tilt) for part in (0.6, 0.75)]
        blend(paper, 0.8 * stroke(size, frame, 1.2), (0.15, 0.1, 0.1))
    weave = 0.5 + 0.5 * np.sin(x * 2) * np.sin(y * 2) if sepia is None else noise(rng, size, 80, 2)
    fall = ((x - middle[0]) / sides[0]) ** 2 + ((y - middle[1]) / sides[1]) ** 2
    paper *= ((0.9 + 0.2 * weave) * (1 - rng.uniform(0, 0.9) * fall))[..., None]
    sheet = polygon(size, box(middle, *(sides * share), tilt))
    blend(image, sheet, paper)
    ground = np.asarray(backing, np.float32) * np.float32(rng.uniform(0.9, 1.1))
    about = {"material": material, "content": content}
    return Canvas(image, sheet > 0.5, ground, max(size) / 256, about)


def view(rng: Generator, size: Size) -> ndarray:
    """A street or a room with somebody in it."""
    draw = draw_room if rng.random() < 0.5 else draw_street
    return draw(rng, size, ()).image / np.float32(255)


def document(rng: Generator, size: Size) -> ndarray:
    """Printed lines, and a figure: dark edges that are no damage."""
    (height, width), pitch, words = size, rng.uniform(7, 11), []
    image = np.ones((*size, 3), np.float32) * np.float32(rng.uniform(0.8, 0.95))
    for top in np.arange(0.1 * height, 0.88 * height, pitch):
        left = (0.5 if top > 0.5 * height else 0.14) * width
        right = width * (0.86 if rng.random() < 0.8 else rng.uniform(0.5, 0.86))
        while left < right:
            word = rng.uniform(6, 26)
            words.append(box((left + word / 2, top), word, pitch * 0.32))
            left += word + 5
    blend(image, 0.8 * polygon(size, *words) * (noise(rng, size, 90) > 0.25), (0.16, 0.12, 0.1))
    middle, sides = (0.3 * width, 0.69 * height), np.array([0.33 * width, 0.35 * height])
    frames = [box(middle, *(sides * share)) for share in np.linspace(0.1, 1, 8)]
    blend(image, 0.7 * stroke(size, frames, 1), (0.16, 0.12, 0.1))
    return image


def pattern(rng: Generator, size: Size) -> ndarray:
    """Tiles with discs, in lively colours, yellow among them."""
    tones, side = rng.uniform(0.15, 0.9, (4, 3)), rng.uniform(24, 48)
    tones[0] = (0.85, 0.7, 0.25)
    y, x = (along / side for along in grid(size))
    off = np.hypot(y % 1 - 0.5, x % 1 - 0.5)
    image = tones[((y // 1 + x // 1) % 2).astype(int)]
    for radius, tone in ((0.42, tones[2]), (0.25, tones[3])):
        blend(image, np.clip((radius - off) * side, 0, 1), tone)
    joint = 0.5 - np.maximum(np.abs(y % 1 - 0.5), np.abs(x % 1 - 0.5))
    blend(image, np.clip(1.5 - joint * side, 0, 1), (0.3, 0.28, 0.26))
    return image


# Tone, whether it is a print in sepia or grey (None: woven), colour under the surface.
MATERIALS = {
    "Paper": ((0.93, 0.9, 0.82), False, (0.83, 0.78, 0.68)),
    "Film emulsion": ((0.9, 0.88, 0.84), True, (0.8, 0.8, 0.78)),
    "Canvas": ((0.85, 0.8, 0.7), None, (0.72, 0.62, 0.47)),
}
CONTENTS: dict[str, Callable[[Generator, Size], ndarray]] = {
    VIEW: view,
    "Artistic depiction": lambda rng, size: np.round(view(rng, size) * 4.5) / 4,  # flat tones
    "Line art": document,
    "Geometric patterns": pattern,
}
