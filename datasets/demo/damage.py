"""A sound picture goes in; it comes out with some of ARTeFACT's 15 kinds of damage, labelled.

A painter changes the image and returns where the surface looks changed, (H, W) from 0 to 1: shadows
and soft margins stay inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo import paint
from datasets.demo.paint import Size, blob, box, noise
from datasets.demo.photograph import Canvas, lay_out
from datasets.demo.scene import Scene, plain
from datasets.task import IGNORE

CLEAN = "clean"
SOUND_SHARE = 0.08  # of the pictures have no damage
INKS = ((0.75, 0.08, 0.12), (0.1, 0.2, 0.7), (0.42, 0.1, 0.5))


def draw_photograph(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """An old picture with 2 to 5 of the task's kinds of damage, or with none."""
    on = lay_out(rng, size)
    known, count = [name for name in PAINTERS if name in names], int(rng.integers(2, 6))
    count = 0 if rng.random() < SOUND_SHARE else min(count, len(known))
    chosen = set(rng.choice(known, count, replace=False).tolist())
    ids, table = np.zeros(size, np.uint8), on.image[~on.inside]
    for i, name in enumerate(PAINTERS):
        if name in chosen:
            ids[PAINTERS[name](rng, on) > 0.5] = i + 1
    front = (ids > 0) & on.inside
    ids[~on.inside], on.image[~on.inside] = IGNORE, table
    image = paint.finish(rng, on.image, rng.uniform(0.005, 0.025))
    return Scene(image, ids, (CLEAN, *PAINTERS), front, about=on.about)


def _blobs(rng: Generator, on: Canvas, small: float, large: float, rough: float) -> ndarray:
    """One to three ragged blobs as `blob`; radii in units."""
    radii = rng.uniform(small, large, rng.integers(1, 4)) * on.unit
    return np.max([blob(rng, on.size, on.place(rng), radius, rough) for radius in radii], 0)


def staining(rng: Generator, on: Canvas) -> ndarray:
    """Soft brown tide marks with a darker rim."""
    inner = _blobs(rng, on, 28, 60, 0.5)
    cover = np.clip(inner * 12, 0, 1)
    depth = cover * (0.75 + 0.5 * np.exp(-((inner / 0.07) ** 2)))
    on.image[:] *= 1 - depth[..., None] * np.array([0.22, 0.4, 0.64]) * rng.uniform(0.9, 1.1)
    return cover


def lightleak(rng: Generator, on: Canvas) -> ndarray:
    """Light that came in from a side: red at its rim, yellow to white at the edge."""
    (y, x), (height, width) = paint.grid(on.size), on.size
    edge = (y + 0 * x, height - y + 0 * x, x + 0 * y, width - x + 0 * y)[rng.integers(4)]
    reach = rng.uniform(50, 110) * on.unit * (0.4 + noise(rng, on.size, 2.5, 2))
    glow = np.clip(1.15 - edge / reach, 0, 1)
    light = np.stack([glow**0.7, 0.75 * glow**1.5, 0.3 * glow**3], -1)
    on.image[:] = 1 - (1 - on.image) * (1 - light)
    return glow > 0.18


def dirt(rng: Generator, on: Canvas) -> ndarray:
    """Smears of dark grains."""
    cover = np.clip(_blobs(rng, on, 22, 48, 0.9) * 8, 0, 1)
    on.lay(cover * (0.35 + 0.5 * (noise(rng, on.size, 110, 2) > 0.5)), (0.12, 0.1, 0.07))
    return cover


def fold(rng: Generator, on: Canvas) -> ndarray:
    """A crease across the object: a lit and a shaded side, paint lost on its ridge."""
    (cx, cy), (y, x), reach = on.place(rng), paint.grid(on.size), rng.uniform(4.5, 7) * on.unit
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.25)
    away = (x - cx) * np.sin(angle) - (y - cy) * np.cos(angle) + 3 * noise(rng, on.size, 5) - 1.5
    cover = np.clip(1.5 * (1 - np.abs(away) / reach), 0, 1)
    on.image[:] += (0.35 * np.tanh(away / reach * 2) * cover)[..., None]
    ridge = np.clip(1.8 - np.abs(away), 0, 1) * (noise(rng, on.size, 60, 2) > 0.42)
    on.lay(0.9 * ridge, on.backing + 0.1)
    return np.abs(away) < reach * 0.8


def peel(rng: Generator, on: Canvas) -> ndarray:
    """Paint that lifts in flakes with shadows between them; every other one has fallen."""
    cover = (_blobs(rng, on, 24, 50, 0.6) > 0).astype(np.float32)
    nearest, edge = paint.cells(rng, on.size, 110)
    pale = np.array([0.86, 0.87, 0.9]) - 0.1 * noise(rng, on.size, 60)[..., None]
    on.lay(cover * np.where(nearest % 2, 1, 0.2), pale)
    on.lay(cover * np.clip(2.2 - edge, 0, 1), (0.12, 0.11, 0.12))
    return cover


def burn_marks(rng: Generator, on: Canvas) -> ndarray:
    """Charred black within, scorched brown about it."""
    inner = _blobs(rng, on, 20, 42, 0.5)
    on.lay(0.8 * np.clip(inner * 4, 0, 1), (0.33, 0.16, 0.05))
    on.lay(0.97 * np.clip(inner * 5 - 1.3, 0, 1), (0.03, 0.025, 0.02))
    return inner > 0.1


def material_loss(rng: Generator, on: Canvas) -> ndarray:
    """A corner torn off and holes, which show the plain backing below a torn rim."""
    corner, reach = rng.choice([0.04, 0.96], 2) * on.size[::-1], rng.uniform(30, 70) * on.unit
    torn = blob(rng, on.size, corner, reach, 0.7)
    inner = np.maximum(_blobs(rng, on, 22, 50, 0.7), torn)
    cover = np.clip(inner * 25, 0, 1)
    on.lay(cover, on.backing * (0.93 + 0.14 * noise(rng, on.size, 100, 2)[..., None]))
    lit = np.roll(inner, (2, 2), (0, 1)) > inner  # the surface throws a shadow from above left
    on.lay(cover * lit * np.clip(0.12 - inner, 0, 0.1) * 6, (0.1, 0.08, 0.06))
    return cover


def sticker(rng: Generator, on: Canvas) -> ndarray:
    """A printed label, stuck on at an angle."""
    at, tilt, ink = on.place(rng), rng.normal(0, 0.3), INKS[rng.integers(3)]
    wide, high = rng.uniform((48, 36), (84, 56)) * on.unit
    cover = on.lay(paint.polygon(on.size, box(at, wide, high, tilt)), (0.97, 0.97, 0.98))
    ends = np.array([(-0.35, 0), (0.35, 0)]) * wide
    lines = [paint.turned(ends + (0, row * high), at, tilt) for row in (-0.22, 0, 0.22)]
    on.lay(on.pen([*lines, box(at, 0.88 * wide, 0.83 * high, tilt)], 2.7), ink)
    return cover


def stamp(rng: Generator, on: Canvas) -> ndarray:
    """A round postmark of blotchy ink: two rings, strokes between them, bars within."""
    at, tilt, t = on.place(rng), rng.uniform(0, np.pi), np.linspace(0, 2 * np.pi, 61)
    radius, blotchy = rng.uniform(24, 38) * on.unit, 0.5 + 0.5 * noise(rng, on.size, 30, 2)
    ring = radius * np.stack([np.cos(t), np.sin(t)], 1)
    letters = [np.stack([0.74 * point, 0.88 * point]) for point in ring[::4]]
    bars = [radius * np.array([(-0.45, row), (0.45, row)]) for row in (-0.25, 0, 0.25)]
    lines = [paint.turned(line, at, tilt) for line in (ring, 0.62 * ring, *letters, *bars)]
    disc = paint.ellipse(on.size, *at, radius * 1.04, radius * 1.04)
    on.lay(np.maximum(0.9 * on.pen(lines, 2.8), 0.22 * disc) * blotchy, INKS[rng.integers(3)])
    return disc


def dust(rng: Generator, on: Canvas) -> ndarray:
    """Many pale specks on a part of the surface."""
    part = blob(rng, on.size, on.place(rng), rng.uniform(60, 110) * on.unit, 1) > 0
    places = [(x, y) for x, y in rng.random((260, 2)) * on.size[::-1] if part[int(y), int(x)]]
    specks = [at + rng.uniform(-2.8, 2.8, (6, 2)) * on.unit for at in places]
    return on.lay(paint.polygon(on.size, *specks), (0.93, 0.95, 0.96))


def scratch(rng: Generator, on: Canvas) -> ndarray:
    """Straight, thin, bright lines, side by side."""
    angles, longs = rng.normal(rng.uniform(0, 3), 0.1, 9), rng.uniform(45, 150, 9) * on.unit
    ways = list(zip(angles, longs, strict=True))[: rng.integers(4, 10)]
    lines = [paint.walk(rng, on.place(rng), angle, long, 0.01) for angle, long in ways]
    return on.lay(on.pen(lines, 2.4), (0.97, 0.98, 0.94))


def writing(rng: Generator, on: Canvas) -> ndarray:
    """A few words in a pen's hand, slanting."""
    at, tilt, lines = on.place(rng), rng.normal(0, 0.2), []
    for row in range(rng.integers(2, 4)):
        left = -rng.uniform(30, 60)
        while left < 50:
            t = np.linspace(0, rng.uniform(20, 45), 50)
            rise = (4 + 4 * (np.sin(t * 0.31 + left) > 0.4)) * np.cos(t * 0.9)
            x = left + t + 3.5 * np.sin(t * 0.9 + 1) + 0.35 * rise
            lines.append(paint.turned(np.stack([x, 17 * row - rise], 1) * on.unit, at, tilt))
            left = float(x.max()) + 8
    on.lay(on.pen(lines, 2), INKS[rng.integers(2)])
    return on.pen(lines, 3)


def cracks(rng: Generator, on: Canvas) -> ndarray:
    """Dark, jagged lines that branch, with a lit edge."""
    lines, long = [], max(on.size)
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(1, 3)):
        start = on.place(rng) - 0.35 * long * np.array([np.cos(angle), np.sin(angle)])
        lines.append(paint.walk(rng, start, angle, long * rng.uniform(0.5, 1), 0.3))
        for at in lines[-1][3 :: rng.integers(6, 14)]:
            aside = angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.3)
            lines.append(paint.walk(rng, at, aside, long * rng.uniform(0.06, 0.25), 0.4))
    on.lay(0.6 * on.pen([line + 1.2 for line in lines], 1.6), (0.9, 0.88, 0.82))
    on.lay(on.pen(lines, 2), (0.05, 0.04, 0.04))
    return on.pen(lines, 3.2)


def puncture(rng: Generator, on: Canvas) -> ndarray:
    """Small round holes, black, with a pale raised rim."""
    places = [(*on.place(rng), rng.uniform(4.5, 8) * on.unit) for _ in range(rng.integers(3, 8))]
    rims, holes = (
        np.max([paint.ellipse(on.size, x, y, r * part, r * part) for x, y, r in places], 0)
        for part in (1, 0.65)
    )
    on.lay(rims, (0.9, 0.87, 0.8))
    on.lay(holes, (0.01, 0.01, 0.01))
    return rims


def hair(rng: Generator, on: Canvas) -> ndarray:
    """Dark threads that curl."""
    curls, longs = rng.normal(0, 0.12, rng.integers(3, 7)), rng.uniform(70, 150, 7)
    starts = [(on.place(rng), rng.uniform(0, 6)) for _ in curls]
    ways = zip(starts, longs, curls, strict=False)
    lines = [paint.walk(rng, *start, long, 0.08, curl) for start, long, curl in ways]
    on.lay(0.92 * on.pen(lines, 1.6), (0.06, 0.05, 0.05))
    return on.pen(lines, 2.6)


# By class name as `plain` spells it, in the order in which they came over the picture.
PAINTERS: dict[str, Callable[[Generator, Canvas], ndarray]] = {
    plain(painter.__name__): painter
    for painter in (staining, lightleak, dirt, fold, peel, burn_marks, material_loss, sticker)
    + (stamp, dust, scratch, writing, cracks, puncture, hair)
}
