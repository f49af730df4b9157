"""A seed goes in; a surface with one kind of shape for each class of any task comes out."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo import paint
from datasets.demo.paint import Size, blend, noise, somewhere
from datasets.demo.scene import Camera, Scene

GROUND = ("background", "clean", "none", "normal", "good", "ok", "other", "rest", "void")
SHOWN = 0.75  # of the pictures hold a given class
DISTANCE_M, RELIEF_M = 1.0, 0.25  # to the lowest point of the surface, and how far it may rise


def draw_surface(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """Shapes of every class, over each other, on a ground that fits them.

    The camera looks straight down on a smooth height field that is lit from the side.
    """
    shapes = [name for name in names if name not in GROUND]
    tone, texture = next(look for word, look in GROUNDS.items() if word in " ".join(shapes))
    grain = rng.random(size if texture == "grain" else (size[0], 1), np.float32)
    image = np.asarray(tone) * rng.uniform(0.75, 1.2) * (0.9 + 0.2 * grain)[..., None]
    image = image * (0.82 + 0.36 * noise(rng, size, 4, 5)[..., None])
    ids, relief = np.zeros(size, np.uint8), noise(rng, size, 2.5, 2)
    for number in rng.permutation(len(shapes))[: 2 + int(SHOWN * len(shapes))]:
        if rng.random() < SHOWN:
            shape, color = look_of(shapes[number], number, len(shapes))
            cover = np.clip(SHAPES[shape](rng, size), 0, 1)
            mottled = np.asarray(color) * (0.8 + 0.4 * noise(rng, size, 30, 2)[..., None])
            blend(image, 0.92 * cover, mottled)
            relief = relief + rng.uniform(0.15, 0.35) * paint.soften(cover)
            ids[cover > 0.5] = number + 1
    slope = np.gradient(relief, axis=1) + np.gradient(relief, axis=0)
    image *= (np.clip(1 + 3 * slope, 0.5, 1.5) * (0.8 + 0.4 * relief))[..., None]
    camera = Camera(size[1], size[1], size[1] / 2, size[0] / 2)
    depth_m = (DISTANCE_M - RELIEF_M * relief).astype(np.float32)
    image = paint.finish(rng, image.astype(np.float32), 0.015)
    return Scene(image, ids, ("", *shapes), ids > 0, depth_m, camera)


def look_of(name: str, number: int, count: int) -> tuple[str, Sequence[float]]:
    """The shape and colour of a class: known by its name, else by its place among the others."""
    for word, look in KNOWN.items():
        if word in name:
            return look
    color = colorsys.hls_to_rgb(number / max(count, 1), 0.35 + 0.3 * (number % 2), 0.75)
    return list(SHAPES)[number % len(SHAPES)], color


def _patches(rng: Generator, size: Size) -> ndarray:
    return (
        paint.blob(rng, size, somewhere(rng, size), max(size) * rng.uniform(0.12, 0.25), 0.6) * 15
    )


def _boxes(rng: Generator, size: Size) -> ndarray:
    sides = rng.uniform(0.1, 0.3, (rng.integers(1, 4), 2)) * max(size)
    return paint.polygon(
        size, *(paint.box(somewhere(rng, size), *s, rng.uniform(0, 3)) for s in sides)
    )


def _leaves(rng: Generator, size: Size) -> ndarray:
    t = np.linspace(0, 1, 24)
    side = np.stack([t, 0.28 * np.sin(np.pi * t) ** 0.8 * (1 + 0.08 * np.sin(30 * t))], 1)
    leaf = np.concatenate([side, side[::-1] * (1, -1)])
    scales = rng.uniform(0.12, 0.28, rng.integers(2, 7)) * max(size)
    leaves = (paint.turned(leaf * s, somewhere(rng, size), rng.uniform(0, 6)) for s in scales)
    return paint.polygon(size, *leaves)


def _discs(rng: Generator, size: Size) -> ndarray:
    radii = rng.uniform(0.025, 0.07, rng.integers(3, 9)) * max(size)
    return np.max([paint.ellipse(size, *somewhere(rng, size), r, r) for r in radii], 0)


SHAPES: dict[str, Callable[[Generator, Size], ndarray]] = {
    "patches": _patches,
    "boxes": _boxes,
    "leaves": _leaves,
    "discs": _discs,
    "lines": lambda rng, size: paint.stroke(
        size, paint.streaks(rng, size, rng.uniform(0, 3), 0.7), max(size) / 80
    ),
    "streaks": lambda rng, size: paint.stroke(
        size, paint.streaks(rng, size, np.pi / 2, 0.25), max(size) / 32
    ),
    "branches": lambda rng, size: paint.stroke(
        size, paint.branches(rng, size), max(size) * rng.uniform(0.008, 0.018)
    ),
}
# What a class's name contains -> how it looks.
KNOWN = {
    "crack": ("branches", (0.1, 0.09, 0.08)),
    "scratch": ("lines", (0.92, 0.93, 0.95)),
    "inclusion": ("streaks", (0.12, 0.12, 0.14)),
    "patch": ("patches", (0.3, 0.31, 0.34)),
    "leaf": ("leaves", (0.25, 0.55, 0.15)),
    "hole": ("discs", (0.03, 0.03, 0.03)),
    "stain": ("patches", (0.45, 0.3, 0.15)),
    "rust": ("patches", (0.6, 0.28, 0.1)),
    "cell": ("discs", (0.55, 0.2, 0.5)),
}
# What one of them contains -> the ground's colour and texture.
GROUNDS = {
    "crack": ((0.62, 0.6, 0.57), "grain"),
    "inclusion": ((0.55, 0.56, 0.58), "brushed"),
    "leaf": ((0.38, 0.27, 0.18), "grain"),
    "": ((0.6, 0.57, 0.52), "grain"),
}
