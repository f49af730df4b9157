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
from datasets.demo.paint import Size, blend, blob, box, ellipse, noise, polygon, somewhere, stroke
from datasets.demo.photograph import Canvas, lay_out
from datasets.demo.scene import Scene, plain
from datasets.task import IGNORE

CLEAN = "clean"
SOUND_SHARE = 0.08  # of the pictures have no damage
INKS = ((0.75, 0.08, 0.12), (0.1, 0.2, 0.7), (0.42, 0.1, 0.5))


def draw_photograph(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """An old picture with 2 to 5 of the task's kinds of damage, or with none."""
    canvas = lay_out(rng, size)
    known, count = [name for name in PAINTERS if name in names], rng.integers(2, 6)
    count = 0 if rng.random() < SOUND_SHARE else min(int(count), len(known))
    chosen = set(rng.choice(known, count, replace=False).tolist())
    ids, table = np.zeros(size, np.uint8), canvas.image[~canvas.inside]
    for i, name in enumerate(PAINTERS):
        if name in chosen:
            ids[PAINTERS[name](rng, canvas) > 0.5] = i + 1
    front = (ids > 0) & canvas.inside
    ids[~canvas.inside] = IGNORE
    canvas.image[~canvas.inside] = table
    image = paint.finish(rng, canvas.image, rng.uniform(0.005, 0.025))
    return Scene(image, ids, (CLEAN, *PAINTERS), front, about=canvas.about)


def _blobs(rng: Generator, canvas: Canvas, small: float, large: float, rough: float) -> ndarray:
    """One to three ragged blobs as `blob`; radii in units."""
    radii = rng.uniform(small, large, rng.integers(1, 4)) * canvas.unit
    places = [somewhere(rng, canvas.size) for _ in radii]
    inner = [blob(rng, canvas.size, at, r, rough) for at, r in zip(places, radii, strict=True)]
    return np.max(inner, 0)


def staining(rng: Generator, canvas: Canvas) -> ndarray:
    """Soft brown tide marks with a darker rim."""
    inner = _blobs(rng, canvas, 28, 60, 0.5)
    cover = np.clip(inner * 12, 0, 1)
    depth = cover * (0.75 + 0.5 * np.exp(-((inner / 0.07) ** 2)))
    canvas.image[:] *= 1 - depth[..., None] * np.array([0.22, 0.4, 0.64]) * rng.uniform(0.9, 1.1)
    return cover


def lightleak(rng: Generator, canvas: Canvas) -> ndarray:
    """Light that came in from a side: red at its rim, yellow to white at the edge."""
    (y, x), (height, width) = paint.grid(canvas.size), canvas.size
    edge = (y + 0 * x, height - y + 0 * x, x + 0 * y, width - x + 0 * y)[rng.integers(4)]
    reach = rng.uniform(50, 110) * canvas.unit * (0.4 + noise(rng, canvas.size, 2.5, 2))
    glow = np.clip(1.15 - edge / reach, 0, 1)
    light = np.stack([glow**0.7, 0.75 * glow**1.5, 0.3 * glow**3], -1)
    canvas.image[:] = 1 - (1 - canvas.image) * (1 - light)
    return glow > 0.18


def dirt(rng: Generator, canvas: Canvas) -> ndarray:
    """Smears of dark grains."""
    cover = np.clip(_blobs(rng, canvas, 22, 48, 0.9) * 8, 0, 1)
    grains = 0.35 + 0.5 * (noise(rng, canvas.size, 110, 2) > 0.5)
    blend(canvas.image, cover * grains, (0.12, 0.1, 0.07))
    return cover


def fold(rng: Generator, canvas: Canvas) -> ndarray:
    """A crease across the object: a lit and a shaded side, paint lost on its ridge."""
    (cx, cy), (y, x) = somewhere(rng, canvas.size), paint.grid(canvas.size)
    angle, reach = (
        rng.choice([0, np.pi / 2]) + rng.normal(0, 0.25),
        rng.uniform(4.5, 7) * canvas.unit,
    )
    away = (
        (x - cx) * np.sin(angle) - (y - cy) * np.cos(angle) + 3 * noise(rng, canvas.size, 5) - 1.5
    )
    cover = np.clip(1.5 * (1 - np.abs(away) / reach), 0, 1)
    canvas.image[:] += (0.35 * np.tanh(away / reach * 2) * cover)[..., None]
    ridge = np.clip(1.8 - np.abs(away), 0, 1) * (noise(rng, canvas.size, 60, 2) > 0.42)
    blend(canvas.image, 0.9 * ridge, canvas.backing + 0.1)
    return np.abs(away) < reach * 0.8


def peel(rng: Generator, canvas: Canvas) -> ndarray:
    """Paint that lifts in flakes with shadows between them; every other one has fallen."""
    cover = (_blobs(rng, canvas, 24, 50, 0.6) > 0).astype(np.float32)
    nearest, edge = paint.cells(rng, canvas.size, 110)
    pale = np.array([0.86, 0.87, 0.9]) - 0.1 * noise(rng, canvas.size, 60)[..., None]
    blend(canvas.image, cover * np.where(nearest % 2, 1, 0.2), pale)
    blend(canvas.image, cover * np.clip(2.2 - edge, 0, 1), (0.12, 0.11, 0.12))
    return cover


def burn_marks(rng: Generator, canvas: Canvas) -> ndarray:
    """Charred black within, scorched brown about it."""
    inner = _blobs(rng, canvas, 20, 42, 0.5)
    blend(canvas.image, 0.8 * np.clip(inner * 4, 0, 1), (0.33, 0.16, 0.05))
    blend(canvas.image, 0.97 * np.clip(inner * 5 - 1.3, 0, 1), (0.03, 0.025, 0.02))
    return inner > 0.1


def material_loss(rng: Generator, canvas: Canvas) -> ndarray:
    """A corner torn off and holes, which show the plain backing below a torn rim."""
    inner, corner = _blobs(rng, canvas, 22, 50, 0.7), rng.choice([0.04, 0.96], 2)
    reach = rng.uniform(30, 70) * canvas.unit
    inner = np.maximum(inner, blob(rng, canvas.size, corner * canvas.size[::-1], reach, 0.7))
    cover = np.clip(inner * 25, 0, 1)
    blend(
        canvas.image,
        cover,
        canvas.backing * (0.93 + 0.14 * noise(rng, canvas.size, 100, 2)[..., None]),
    )
    lit = np.roll(inner, (2, 2), (0, 1)) > inner  # the surface throws a shadow from above left
    blend(canvas.image, cover * lit * np.clip(0.12 - inner, 0, 0.1) * 6, (0.1, 0.08, 0.06))
    return cover


def sticker(rng: Generator, canvas: Canvas) -> ndarray:
    """A printed label, stuck on at an angle."""
    at, tilt, u = np.array(somewhere(rng, canvas.size)), rng.normal(0, 0.3), canvas.unit
    wide, high, ink = rng.uniform(48, 84) * u, rng.uniform(36, 56) * u, INKS[rng.integers(3)]
    cover = polygon(canvas.size, box(at, wide, high, tilt))
    blend(canvas.image, cover, (0.97, 0.97, 0.98))
    blend(
        canvas.image, stroke(canvas.size, [box(at, wide - 7 * u, high - 7 * u, tilt)], 2.5 * u), ink
    )
    ends = np.array([(-0.35, 0), (0.35, 0)]) * wide
    lines = [paint.turned(ends + (0, row * high), at, tilt) for row in (-0.22, 0, 0.22)]
    blend(canvas.image, stroke(canvas.size, lines, 3 * u), ink)
    return cover


def stamp(rng: Generator, canvas: Canvas) -> ndarray:
    """A round postmark of blotchy ink: two rings, strokes between them, bars within."""
    at, tilt, u = somewhere(rng, canvas.size), rng.uniform(0, np.pi), canvas.unit
    radius, t = rng.uniform(24, 38) * u, np.linspace(0, 2 * np.pi, 61)
    ring = radius * np.stack([np.cos(t), np.sin(t)], 1)
    letters = [np.stack([0.74 * point, 0.88 * point]) for point in ring[::4]]
    bars = [radius * np.array([(-0.45, row), (0.45, row)]) for row in (-0.25, 0, 0.25)]
    lines = [paint.turned(line, at, tilt) for line in (ring, 0.62 * ring, *letters, *bars)]
    disc = ellipse(canvas.size, *at, radius * 1.04, radius * 1.04)
    ink = np.maximum(0.9 * stroke(canvas.size, lines, 2.8 * u), 0.22 * disc)
    blend(
        canvas.image,
        ink * np.clip(0.5 + 0.8 * noise(rng, canvas.size, 30, 2), 0, 1),
        INKS[rng.integers(3)],
    )
    return disc


def dust(rng: Generator, canvas: Canvas) -> ndarray:
    """Many pale specks on a part of the surface."""
    part = blob(
        rng, canvas.size, somewhere(rng, canvas.size), rng.uniform(60, 110) * canvas.unit, 1
    )
    places = (rng.random((260, 2)) * canvas.size[::-1]).astype(int)
    specks = [
        at + rng.uniform(-2.3, 2.3, (6, 2)) * canvas.unit for at in places if part[at[1], at[0]] > 0
    ]
    cover = polygon(canvas.size, *specks)
    blend(canvas.image, 0.95 * cover, (0.93, 0.95, 0.96))
    return stroke(canvas.size, [np.concatenate([s, s[:1]]) for s in specks], 1) + cover


def scratch(rng: Generator, canvas: Canvas) -> ndarray:
    """Straight, thin, bright lines, side by side."""
    cover = stroke(
        canvas.size, paint.streaks(rng, canvas.size, rng.uniform(0, 3), 0.6), 2.4 * canvas.unit
    )
    blend(canvas.image, cover, (0.97, 0.98, 0.94))
    return cover


def writing(rng: Generator, canvas: Canvas) -> ndarray:
    """A few words in a pen's hand, slanting."""
    at, tilt, u, lines = somewhere(rng, canvas.size), rng.normal(0, 0.2), canvas.unit, []
    for row in range(rng.integers(2, 4)):
        left = -rng.uniform(30, 60)
        while left < 50:
            t = np.linspace(0, rng.uniform(20, 45), 50)
            rise = (4 + 4 * (np.sin(t * 0.31 + left) > 0.4)) * np.cos(t * 0.9)
            x = left + t + 3.5 * np.sin(t * 0.9 + 1) + 0.35 * rise
            lines.append(paint.turned(np.stack([x, 17 * row - rise], 1) * u, at, tilt))
            left = float(x.max()) + 8
    blend(canvas.image, 0.95 * stroke(canvas.size, lines, 2 * u), INKS[rng.integers(2)])
    return stroke(canvas.size, lines, 3 * u)


def cracks(rng: Generator, canvas: Canvas) -> ndarray:
    """Dark, jagged lines that branch, with a lit edge."""
    lines, u = paint.branches(rng, canvas.size), canvas.unit
    blend(
        canvas.image,
        0.6 * stroke(canvas.size, [line + 1.2 for line in lines], 1.6 * u),
        (0.9, 0.88, 0.82),
    )
    blend(canvas.image, stroke(canvas.size, lines, 2 * u), (0.05, 0.04, 0.04))
    return stroke(canvas.size, lines, 3.2 * u)


def puncture(rng: Generator, canvas: Canvas) -> ndarray:
    """Small round holes, black, with a pale raised rim."""
    mask = np.zeros(canvas.size, np.float32)
    for _ in range(rng.integers(3, 8)):
        (x, y), r = somewhere(rng, canvas.size), rng.uniform(4.5, 8) * canvas.unit
        rim, hole = (ellipse(canvas.size, x, y, part * r, part * r) for part in (1, 0.65))
        blend(canvas.image, rim, (0.9, 0.87, 0.8))
        blend(canvas.image, hole, (0.01, 0.01, 0.01))
        mask = np.maximum(mask, rim)
    return mask


def hair(rng: Generator, canvas: Canvas) -> ndarray:
    """Dark threads that curl."""
    lines = [
        paint.walk(
            rng, somewhere(rng, canvas.size), rng.uniform(0, 6), rng.uniform(70, 150), 0.08, curl
        )
        for curl in rng.normal(0, 0.12, rng.integers(3, 7))
    ]
    blend(canvas.image, 0.92 * stroke(canvas.size, lines, 1.6 * canvas.unit), (0.06, 0.05, 0.05))
    return stroke(canvas.size, lines, 2.6 * canvas.unit)


# By class name as `plain` spells it, in the order in which they came over the picture.
PAINTERS: dict[str, Callable[[Generator, Canvas], ndarray]] = {
    plain(painter.__name__): painter
    for painter in (staining, lightleak, dirt, fold, peel, burn_marks, material_loss, sticker)
    + (stamp, dust, scratch, writing, cracks, puncture, hair)
}
