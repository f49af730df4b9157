"""A random generator and a size -> a mosaic, glazed tiles or woven cloth."""

from __future__ import annotations

import numpy as np

from datasets.scenes.canvas import Array, Rng, cells, grid, mix, noise, ramp, tint
from datasets.scenes.depictions import BRIGHTS


def mosaic(rng: Rng, inset: Array, material: str) -> Array:
    """Small stones set in rings, waves or lozenges of few colours."""
    shape, (height, width) = inset.shape, inset.shape
    stones = cells(rng, shape, max(rng.uniform(7, 11) * min(shape) / 256, 5), 0.45)
    x, y = stones.x - width * rng.uniform(0.2, 0.8), stones.y - height * rng.uniform(0.2, 0.8)
    waves = y + 0.12 * height * np.sin(x / width * 15)
    order = (np.hypot(x, y), np.abs(x) + np.abs(y), waves)[rng.integers(3)]
    colors = palette(rng, 4)
    picked = (order / (min(shape) * rng.uniform(0.08, 0.16))).astype(int) % 4
    stone = colors[picked] + rng.uniform(-26, 26, (len(picked), 1))
    return mix((150, 140, 126), stone[stones.index], ramp(stones.gap, 0.8, 2.4))


def tiles(rng: Rng, inset: Array, material: str) -> Array:
    """Glazed tiles, all with one mirrored ornament, between pale joints."""
    shape = inset.shape
    x, y = grid(shape)
    size = min(shape) * rng.uniform(0.28, 0.5)
    u, v = np.abs(x / size % 1 - 0.5), np.abs(y / size % 1 - 0.5)  # 0 in the middle of a tile
    u, v = np.maximum(u, v), np.minimum(u, v)
    a, b, c, d = rng.uniform(8, 30, 4)
    ornament = np.sin(a * u + 2 * np.cos(b * v)) + np.cos(c * v * u * 4 + d)
    pale, (first, second) = tint(rng, (236, 232, 220), (224, 206, 150)), palette(rng, 2)
    glaze = mix(pale, first, ramp(ornament, 0.2, 0.35))
    glaze = mix(glaze, second * 0.8, ramp(-ornament, 0.7, 0.85))
    glaze = glaze * (1 + 0.06 * noise(rng, shape, size / 2, 3))[..., None]
    return mix(glaze, (206, 200, 190), ramp((0.5 - u) * size, 1.6, 0.8))


def cloth(rng: Rng, inset: Array, material: str) -> Array:
    """Woven bands of stepped lozenges, with the thread showing."""
    shape = inset.shape
    x, y = grid(shape)
    thread = max(min(shape) / 256 * 3, 2)
    u, v = np.floor(x / thread), np.floor(y / thread)
    period, band = int(rng.integers(10, 22)), int(rng.integers(16, 30))
    steps = np.abs(u % period - period // 2) + np.abs(v % band - band // 2)
    kinds = (steps / rng.uniform(2.5, 5)).astype(int) + (v // band).astype(int)
    yarn = palette(rng, 5)[kinds % 5]
    over, under = (x / thread + (v % 2) * 0.5) % 1 - 0.5, y / thread % 1 - 0.5
    weave = 1 + 0.14 * np.abs(over) + 0.3 * np.abs(under)
    return yarn * (weave * (0.82 + 0.08 * noise(rng, shape, 40, 4)))[..., None]


def palette(rng: Rng, count: int) -> Array:
    """`count` colours of glaze, stone or yarn, float32 (count, 3)."""
    yarns = (*BRIGHTS, (236, 226, 200), (44, 44, 60))
    return np.stack([tint(rng, *yarns, spread=20) for _ in range(count)])
