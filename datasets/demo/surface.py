"""A seed goes in; a surface with marks, of one kind for each class of any task, comes out."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo import paint
from datasets.demo.damage import PAINTERS
from datasets.demo.paint import Size, noise
from datasets.demo.photograph import Canvas
from datasets.demo.scene import THINGS, Camera, Scene

GROUND = ("background", "clean", "none", "normal", "good", "ok", "other", "rest", "void")
SHOWN = 0.75  # of the pictures hold a given class
DISTANCE_M, RELIEF_M = 1.0, 0.25  # to the lowest point of the surface, and how far it may rise


def draw_surface(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """Marks of most classes, over each other, on a ground that fits them.

    The camera looks straight down on a smooth height field that is lit from the side.
    """
    kinds = [name for name in names if name not in GROUND]
    named = THINGS["surfaces"].items()
    tone, texture = next(look for word, look in named if word in " ".join(kinds))
    grain = rng.random(size if texture == "grain" else (size[0], 1), np.float32)
    image = rng.uniform(0.75, 1.2) * (0.82 + 0.36 * noise(rng, size, 4, 5)) * (0.9 + 0.2 * grain)
    image = (image[..., None] * np.asarray(tone)).astype(np.float32)
    on = Canvas(image, np.ones(size, bool), np.float32([0.9, 0.88, 0.85]), max(size) / 256, {})
    ids, relief = np.zeros(size, np.uint8), noise(rng, size, 2.5, 2)
    for number in rng.permutation(len(kinds))[rng.binomial(len(kinds), 1 - SHOWN) :]:
        ids[draw_mark(rng, on, kinds[number], number, len(kinds)) > 0.5] = number + 1
    slope = np.gradient(relief, axis=1) + np.gradient(relief, axis=0)
    light = (np.clip(1 + 3 * slope, 0.5, 1.5) * (0.8 + 0.4 * relief))[..., None]
    depth_m = (DISTANCE_M - RELIEF_M * relief).astype(np.float32)
    camera = Camera(size[1], size[1], size[1] / 2, size[0] / 2)
    image = paint.finish(rng, on.image * light, 0.015)
    return Scene(image, ids, ("", *kinds), ids > 0, depth_m, camera)


def draw_mark(rng: Generator, on: Canvas, name: str, number: int, count: int) -> ndarray:
    """Where a class is seen: its look is known by its name, else by its place among the others."""
    known = (look for word, look in THINGS["marks"].items() if word in name)
    hue = colorsys.hls_to_rgb(number / max(count, 1), 0.35 + 0.3 * (number % 2), 0.75)
    shape, color = next(known, (THINGS["any mark"][number % len(THINGS["any mark"])], hue))
    cover = np.clip(leaves(rng, on) if shape == "leaves" else PAINTERS[shape](rng, on), 0, 1)
    mottled = np.asarray(color) * (0.8 + 0.4 * noise(rng, on.size, 30, 2)[..., None])
    return on.lay(0.85 * cover, mottled) / 0.85


def leaves(rng: Generator, on: Canvas) -> ndarray:
    """Pointed ovals with a jagged rim."""
    t = np.linspace(0, 1, 24)
    side = np.stack([t, 0.28 * np.sin(np.pi * t) ** 0.8 * (1 + 0.08 * np.sin(30 * t))], 1)
    leaf = np.concatenate([side, side[::-1] * (1, -1)]) * 256 * on.unit
    scales = rng.uniform(0.12, 0.28, rng.integers(2, 7))
    outlines = (paint.turned(leaf * s, on.place(rng), rng.uniform(0, 6)) for s in scales)
    return paint.polygon(on.size, *outlines)
