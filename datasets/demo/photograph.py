"""A seed goes in; an old picture on a table, sound and rich in edges, comes out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size, blend, box, cells, ellipse, grid, noise, polygon, stroke


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


def lay_out(rng: Generator, size: Size) -> Canvas:
    """One of the contents on one of the materials; what frames it is no damage."""
    middle, sides = np.array(size[::-1]) / 2, np.array(size[::-1])
    material, content = (str(rng.choice(list(table))) for table in (MATERIALS, CONTENTS))
    tone, sepia, weave, backing = MATERIALS[material]
    image = rng.uniform(0.1, 0.75) * (0.85 + 0.3 * noise(rng, size, 40, 3)[..., None])
    image = (image * rng.uniform(0.85, 1.1, 3)).astype(np.float32)
    share, rim, tilt = rng.uniform(0.87, 0.97), rng.uniform(0, 0.16), rng.normal(0, 0.015)
    blend(image, 0.6 * polygon(size, box(middle + 3, *(sides * share), tilt)), (0, 0, 0))
    paper = np.asarray(tone, np.float32) * (0.9 + 0.2 * noise(rng, size, 5, 4)[..., None])
    picture = CONTENTS[content](rng, size).astype(np.float32)
    if sepia:
        warm = rng.uniform(0.1, 1)
        dark = np.array([0.05 + 0.12 * warm, 0.06 + 0.04 * warm, 0.07])
        light = np.array([0.95, 0.95 - 0.06 * warm, 0.95 - 0.22 * warm])
        picture = dark + (picture @ np.array([0.3, 0.59, 0.11]))[..., None] * (light - dark)
    blend(paper, polygon(size, box(middle, *(sides * (share - rim)), tilt)), picture)
    if rim > 0.06:  # a printed frame
        frame = [box(middle, *(sides * (share - rim * part)), tilt) for part in (0.6, 0.75)]
        blend(paper, 0.8 * stroke(size, frame, 1.2), (0.15, 0.1, 0.1))
    y, x = grid(size)
    grain = {"fibres": noise(rng, size, 80, 2), "canvas": 0.5 + 0.5 * np.sin(x * 2) * np.sin(y * 2)}
    boards = noise(rng, (size[0], size[1] // 12 + 2), 30, 2).repeat(12, 1)[:, : size[1]]
    paper *= 0.9 + 0.2 * (grain | {"boards": boards})[weave][..., None]
    fall = ((x - middle[0]) / sides[0]) ** 2 + ((y - middle[1]) / sides[1]) ** 2
    paper *= 1 - rng.uniform(0, 0.9) * fall[..., None]
    sheet = polygon(size, box(middle, *(sides * share), tilt))
    blend(image, sheet, paper)
    ground = np.asarray(backing, np.float32) * np.float32(rng.uniform(0.9, 1.1))
    about = {"material": material, "content": content}
    return Canvas(image, sheet > 0.5, ground, max(size) / 256, about)


def portrait(rng: Generator, size: Size) -> ndarray:
    """Head and shoulders before a backdrop, with or without a hat."""
    image = rng.uniform(0.25, 0.75, 3) * (0.75 + 0.5 * noise(rng, size, 3, 3)[..., None])
    cx, cy, r = size[1] * rng.uniform(0.42, 0.58), size[0] * 0.4, min(size) * rng.uniform(0.15, 0.2)
    coat, hair = rng.uniform(0.05, 0.6, 3), rng.uniform(0.04, 0.5) * np.array([1, 0.8, 0.6])
    skin, white, black = (
        np.array([0.92, 0.72, 0.58]) * rng.uniform(0.6, 1.05),
        (0.93,) * 3,
        (0.1,) * 3,
    )
    lip, hat = (0.55, 0.25, 0.22), rng.random() < 0.5
    rows = [(0, 4.1, 2.5, 2.6, coat), (0, 2.4, 0.4, 1, white), (0, 1, 0.5, 0.8, skin * 0.85)]
    rows += [(s * 0.75, 2.6, 0.4, 0.9, coat * 0.6) for s in (-1, 1)]
    rows += [(0, -0.2, 1.05, 1.3, hair), (0, 0, 0.85, 1.15, skin), (0, 0.65, 0.3, 0.07, lip)]
    rows += [(s * 0.36, -0.1, 0.15, 0.09, white) for s in (-1, 1)]
    rows += [(s * 0.36, -0.1, 0.07, 0.08, black) for s in (-1, 1)]
    rows += [(s * 0.38, -0.3, 0.2, 0.05, hair) for s in (-1, 1)] + [(0, 0.25, 0.1, 0.2, skin * 0.8)]
    rows += [(0, -1.25, 0.85, 0.6, coat * 0.9), (0, -0.85, 1.6, 0.2, coat * 0.7)] * hat
    for x, y, wide, high, color in rows:
        blend(image, ellipse(size, cx + x * r, cy + y * r, wide * r, high * r), color)
    return image


def landscape(rng: Generator, size: Size) -> ndarray:
    """Sky, hills, a house, trees and a fence."""
    (height, width), (y, _) = size, grid(size)
    image = np.array([0.62, 0.75, 0.9]) * (0.75 + 0.35 * (y + np.zeros(size)) / height)[..., None]
    blend(image, np.clip(noise(rng, size, 4, 4) * 3 - 1.4, 0, 1) * 0.8, (0.97,) * 3)
    for i in range(3):
        ridge = height * (0.27 + 0.13 * i + 0.22 * noise(rng, (1, width), 3 + i, 4))
        tone = np.array([0.35, 0.5, 0.3]) * rng.uniform(0.6, 1.1) + 0.12 * (2 - i)
        blend(
            image,
            np.clip(y - ridge, 0, 1),
            tone * (0.75 + 0.5 * noise(rng, size, 30, 3)[..., None]),
        )
    cx, base, w = width * rng.uniform(0.25, 0.75), height * 0.78, width * rng.uniform(0.18, 0.3)
    blend(image, polygon(size, box((cx, base - 0.3 * w), w, 0.6 * w)), rng.uniform(0.5, 0.9, 3))
    roof = [(cx - 0.6 * w, base - 0.6 * w), (cx, base - 1.1 * w), (cx + 0.6 * w, base - 0.6 * w)]
    blend(image, polygon(size, roof), (0.45, 0.2, 0.15))
    panes = [box((cx + dx * w, base - 0.35 * w), 0.16 * w, 0.22 * w) for dx in (-0.3, 0, 0.3)]
    blend(image, polygon(size, *panes), (0.1, 0.12, 0.18))
    for _ in range(rng.integers(2, 6)):
        x, foot, r = (
            width * rng.random(),
            height * rng.uniform(0.7, 0.9),
            width * rng.uniform(0.05, 0.1),
        )
        blend(image, polygon(size, box((x, foot - r), 0.25 * r, 2 * r)), (0.25, 0.16, 0.1))
        crown = ellipse(size, x, foot - 2.4 * r, r, 1.3 * r) * (noise(rng, size, 50, 2) > 0.3)
        blend(image, crown, np.array([0.15, 0.32, 0.12]) * rng.uniform(0.7, 1.5))
    posts = [np.array([(x, height * 0.85), (x, height * 0.95)]) for x in range(0, width, 14)]
    rail = np.array([(0, height * 0.88), (width, height * 0.88)])
    blend(image, stroke(size, [*posts, rail], 2), (0.32, 0.25, 0.2))
    return image


def document(rng: Generator, size: Size) -> ndarray:
    """Printed lines, a heading and a hatched figure: dark edges that are no damage."""
    height, width = size
    image = np.ones((*size, 3)) * np.array([0.93, 0.88, 0.76]) * rng.uniform(0.85, 1)
    ink, pitch, figure = np.array([0.16, 0.12, 0.1]), rng.uniform(7, 11), rng.random() < 0.6
    words = [box((width / 2, 0.085 * height), width * rng.uniform(0.3, 0.6), pitch * 0.7)]
    for top in np.arange(0.14 * height, 0.88 * height, pitch):
        left = (0.5 if figure and top > 0.5 * height else 0.14) * width
        right = width * (0.86 if rng.random() < 0.8 else rng.uniform(0.5, 0.86))
        while left < right:
            word = rng.uniform(6, 26)
            words.append(box((left + word / 2, top), word, pitch * 0.32))
            left += word + 5
    blend(image, 0.8 * polygon(size, *words) * (noise(rng, size, 90) > 0.25), ink)
    if figure:
        starts = np.arange(0.15 * width, 0.42 * width, 4)
        hatch = [np.array([(x, 0.53 * height), (x + 9, 0.85 * height)]) for x in starts]
        frame = box((0.3 * width, 0.69 * height), 0.33 * width, 0.35 * height)
        blend(image, 0.7 * stroke(size, [*hatch, frame], 1), ink)
        disc = ellipse(size, 0.3 * width, 0.69 * height, 0.1 * width, 0.12 * height)
        blend(image, disc, (0.75, 0.7, 0.6))
    return image


def pattern(rng: Generator, size: Size) -> ndarray:
    """A mosaic or tiles with discs in lively colours, yellow among them."""
    tones, side = rng.uniform(0.15, 0.9, (6, 3)), rng.uniform(24, 48)
    tones[0] = (0.85, 0.7, 0.25)
    if rng.random() < 0.4:
        nearest, edge = cells(rng, size, 60)
        image = tones[nearest % 6]
        blend(image, np.clip(2 - edge, 0, 1), (0.25, 0.22, 0.2))
        return image
    y, x = (along / side for along in grid(size))
    off = np.hypot(y % 1 - 0.5, x % 1 - 0.5)
    image = tones[((y // 1 + x // 1) % 2).astype(int)]
    for radius, tone in ((0.42, tones[2]), (0.25, tones[rng.integers(3, 6)])):
        blend(image, np.clip((radius - off) * side, 0, 1), tone)
    joint = 0.5 - np.maximum(np.abs(y % 1 - 0.5), np.abs(x % 1 - 0.5))
    blend(image, np.clip(1.5 - joint * side, 0, 1), (0.3, 0.28, 0.26))
    return image


# tone, whether it is a print in sepia or grey, weave, colour under the surface
MATERIALS = {
    "Paper": ((0.93, 0.9, 0.82), False, "fibres", (0.83, 0.78, 0.68)),
    "Film emulsion": ((0.9, 0.88, 0.84), True, "fibres", (0.8, 0.8, 0.78)),
    "Canvas": ((0.85, 0.8, 0.7), False, "canvas", (0.72, 0.62, 0.47)),
    "Wood": ((0.75, 0.62, 0.42), False, "boards", (0.62, 0.46, 0.3)),
}
CONTENTS = {
    "Photographic depiction": portrait,
    "Artistic depiction": landscape,
    "Line art": document,
    "Geometric patterns": pattern,
}
