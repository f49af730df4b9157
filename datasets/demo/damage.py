"""A picture goes in; each painter adds one of ARTeFACT's 15 kinds of damage and gives back where:
(H, W) from 0 to 1, wherever the surface looks changed, soft margins included."""

from collections.abc import Callable

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import RING, SQUARE, Canvas, blob, grid, noise, turned, walk
from datasets.demo.scene import plain

INKS = ((0.75, 0.08, 0.12), (0.1, 0.2, 0.7), (0.42, 0.1, 0.5))


def _blobs(rng: Generator, on: Canvas, small: float, large: float, rough: float) -> ndarray:
    """One to three ragged blobs as `blob`; radii in units."""
    radii = rng.uniform(small, large, rng.integers(1, 4)) * on.unit
    return np.max([blob(rng, on.size, on.place(rng), radius, rough) for radius in radii], 0)


def _threads(rng: Generator, on: Canvas, spread: float, turn: float, curl: float) -> list[ndarray]:
    """A few lines as `walk`; spread: by how much their directions differ, in radians."""
    angle, longs = rng.uniform(0, 6), rng.uniform(50, 150, rng.integers(3, 8)) * on.unit
    ways = [(on.place(rng), rng.normal(angle, spread), long) for long in longs]
    return [walk(rng, *way, turn, rng.normal(0, curl)) for way in ways]


def _print(rng: Generator, on: Canvas, rim: ndarray, lines: list[ndarray], paper: float) -> ndarray:
    """A sheet within a rim, more or less opaque, and lines of ink on it, both of half size 1."""
    at, tilt, half = on.place(rng), rng.normal(0, 0.4), rng.uniform(24, 40) * on.unit
    sheet = on.lay(paper * on.pen([turned(1.06 * half * rim, at, tilt)]), (0.97, 0.97, 0.98))
    ink = on.pen([turned(half * line, at, tilt) for line in lines], 2.8)
    on.lay(ink * (0.6 + 0.4 * noise(rng, on.size, 30, 2)), INKS[rng.integers(3)])
    return sheet / paper


def staining(rng: Generator, on: Canvas) -> ndarray:
    """Soft brown tide marks with a darker rim."""
    inner = _blobs(rng, on, 28, 60, 0.5)
    cover = np.clip(inner * 12, 0, 1)
    depth = cover * (0.75 + 0.5 * np.exp(-((inner / 0.07) ** 2)))
    on.image[:] *= 1 - depth[..., None] * np.array([0.22, 0.4, 0.64]) * rng.uniform(0.9, 1.1)
    return cover


def lightleak(rng: Generator, on: Canvas) -> ndarray:
    """Light that came in from one side: red at its rim, yellow to white at the edge."""
    reach = rng.uniform(50, 110) * on.unit * (0.4 + noise(rng, on.size, 2.5, 2))
    glow = np.clip(1.15 - grid(on.size)[1][:, :: rng.choice([-1, 1])] / reach, 0, 1)
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
    (cx, cy), (y, x), reach = on.place(rng), grid(on.size), rng.uniform(4.5, 7) * on.unit
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.25)
    away = (x - cx) * np.sin(angle) - (y - cy) * np.cos(angle) + 3 * noise(rng, on.size, 5) - 1.5
    cover = np.clip(1.5 * (1 - np.abs(away) / reach), 0, 1)
    on.image[:] += (0.35 * np.tanh(away / reach * 2) * cover)[..., None]
    ridge = np.clip(1.8 - np.abs(away), 0, 1) * (noise(rng, on.size, 60, 2) > 0.42)
    on.lay(0.9 * ridge, on.backing + 0.1)
    return np.abs(away) < reach * 0.8


def peel(rng: Generator, on: Canvas) -> ndarray:
    """Paint that lifts in pale flakes with shadows between them; some have fallen."""
    cover = (_blobs(rng, on, 24, 50, 0.6) > 0).astype(np.float32)
    one, two = (noise(rng, on.size, 20, 2) - 0.5 for _ in range(2))
    on.lay(cover * np.where(one * two > 0, 1, 0.2), (0.82, 0.83, 0.86))
    on.lay(cover * (np.minimum(abs(one), abs(two)) < 0.03), (0.12, 0.11, 0.12))
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
    inner = blob(rng, on.size, corner, reach, 0.7)
    cover = np.clip(np.maximum(_blobs(rng, on, 22, 50, 0.7), inner) * 25, 0, 1)
    on.lay(cover, on.backing * (0.93 + 0.14 * noise(rng, on.size, 100, 2)[..., None]))
    on.lay(cover * (1 - np.roll(cover, (2, 2), (0, 1))), (0.3, 0.25, 0.2))  # the rim's shadow
    return cover


def sticker(rng: Generator, on: Canvas) -> ndarray:
    """A printed label, stuck on at an angle."""
    edge = SQUARE * (1, rng.uniform(0.6, 0.9))
    rows = [np.array([(-0.7, y), (0.7, y)]) for y in (-0.3, 0, 0.3)]
    return _print(rng, on, edge, [0.85 * edge, *rows], 1)


def stamp(rng: Generator, on: Canvas) -> ndarray:
    """A round postmark of blotchy ink: two rings, strokes between them, bars within."""
    letters = [np.stack([0.74 * point, 0.88 * point]) for point in RING[::4]]
    bars = [np.array([(-0.45, y), (0.45, y)]) for y in (-0.25, 0, 0.25)]
    return _print(rng, on, RING, [RING, 0.62 * RING, *letters, *bars], 0.2)


def dust(rng: Generator, on: Canvas) -> ndarray:
    """Many pale specks about a place."""
    places = on.place(rng) + rng.normal(0, 28, (140, 1, 2)) * on.unit
    specks = places + rng.uniform(-2.8, 2.8, (140, 6, 2)) * on.unit
    return on.lay(on.pen(specks), (0.93, 0.95, 0.96))


def scratch(rng: Generator, on: Canvas) -> ndarray:
    """Straight, thin, bright lines, side by side."""
    return on.lay(on.pen(_threads(rng, on, 0.1, 0.01, 0), 2.4), (0.97, 0.98, 0.94))


def writing(rng: Generator, on: Canvas) -> ndarray:
    """Words in a pen's hand, slanting, in two or three rows."""
    at, tilt, lines = on.place(rng), rng.normal(0, 0.2), []
    for row in range(rng.integers(2, 4)):
        for left in np.arange(-55, 40, 36) + rng.uniform(-12, 12):
            t = np.linspace(0, rng.uniform(16, 34), 40)
            rise = (4 + 4 * (np.sin(t * 0.31 + left) > 0.4)) * np.cos(t * 0.9)
            x = left + t + 3.5 * np.sin(t * 0.9 + 1) + 0.35 * rise
            lines.append(turned(np.stack([x, 17 * row - rise], 1) * on.unit, at, tilt))
    on.lay(on.pen(lines, 2), INKS[rng.integers(2)])
    return on.pen(lines, 3)


def cracks(rng: Generator, on: Canvas) -> ndarray:
    """Dark, jagged lines that branch."""
    angle, long = rng.uniform(0, 2 * np.pi), max(on.size)
    lines = [walk(rng, on.place(rng), angle, long * rng.uniform(0.5, 1), 0.3)]
    for at in lines[0][3 :: rng.integers(4, 9)]:
        aside = angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.3)
        lines.append(walk(rng, at, aside, long * rng.uniform(0.06, 0.3), 0.4))
    on.lay(on.pen(lines, 2), (0.05, 0.04, 0.04))
    return on.pen(lines, 3.2)


def puncture(rng: Generator, on: Canvas) -> ndarray:
    """Small round holes, black, with a pale raised rim."""
    places = [(on.place(rng), rng.uniform(4.5, 8) * on.unit) for _ in range(rng.integers(3, 8))]
    rims = on.lay(on.pen([at + RING * r for at, r in places]), (0.9, 0.87, 0.8))
    on.lay(on.pen([at + RING * r * 0.65 for at, r in places]), (0.01, 0.01, 0.01))
    return rims


def hair(rng: Generator, on: Canvas) -> ndarray:
    """Dark threads that curl."""
    lines = _threads(rng, on, 9, 0.08, 0.12)
    on.lay(0.92 * on.pen(lines, 1.6), (0.06, 0.05, 0.05))
    return on.pen(lines, 2.6)


# By class name as `plain` spells it, in the order in which they came over the picture.
PAINTERS: dict[str, Callable[[Generator, Canvas], ndarray]] = {
    plain(painter.__name__): painter
    for painter in (staining, lightleak, dirt, fold, peel, burn_marks, material_loss, sticker)
    + (stamp, dust, scratch, writing, cracks, puncture, hair)
}
