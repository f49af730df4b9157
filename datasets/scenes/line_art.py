"""A random generator and a size -> a manuscript, an engraving or a map on an old sheet."""

from __future__ import annotations

import math

import numpy as np

from datasets.scenes.canvas import (
    Array,
    Rng,
    draw,
    fill,
    grid,
    letters,
    mix,
    noise,
    ramp,
    text,
    tint,
    turn,
)
from datasets.scenes.depictions import INKS, grey, scene


def manuscript(rng: Rng, inset: Array, material: str) -> Array:
    """Ruled rows of upright letters in one or two columns, red headings, a painted initial."""
    shape, (height, width) = inset.shape, inset.shape
    unit = min(shape) / 256
    page = sheet_of(rng, inset, (226, 208, 168), (236, 222, 190), (214, 190, 146), (238, 232, 214))
    size, alphabet = max(rng.uniform(8, 13) * unit, 5.0), letters(rng, 12)
    step = size * rng.uniform(1.6, 2.0)
    columns = 1 + int(width > height * 0.9 and rng.random() < 0.5)
    ink, red, rules = [], [], []
    span = width * 0.8 / columns
    tall = int(rng.integers(2, 4)) * (rng.random() < 0.7)  # rows the initial takes
    for column in range(columns):
        left = width * 0.1 + column * (span + 0.02 * width)
        for row, y in enumerate(np.arange(height * 0.1, height * 0.9 - size, step)):
            indent = tall * step if column == 0 and row < tall else 0
            rules.append((np.array([[left, y + size], [left + span * 0.94, y + size]]), 0.6))
            length = (span * 0.94 - indent) * (rng.uniform(0.4, 1) if rng.random() < 0.15 else 1)
            target = red if rng.random() < 0.08 else ink
            target += text(rng, alphabet, left + indent, y, length, size)
    page = mix(page, tint(rng, (150, 110, 90)), 0.35 * draw(shape, rules))
    worn = 0.88 + 0.2 * noise(rng, shape, 30 * unit, 3)
    page = mix(page, tint(rng, *INKS), np.clip(worn * draw(shape, ink), 0, 1))
    page = mix(page, tint(rng, (160, 44, 30)), np.clip(worn * draw(shape, red), 0, 1))
    if tall:
        box = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (tall - 0.25) * step
        x, y = width * 0.1, height * 0.1
        ground = tint(rng, (40, 66, 120), (150, 40, 36), (50, 92, 60))
        page = mix(page, ground, fill(shape, box + (x, y)))
        corner, size = box[2] * 0.15 + (x, y), step * tall * 0.7
        gold = [(part * size + corner, step * 0.25) for part in alphabet[0]]
        gold += [(np.concatenate([box, box[:1]]) + (x, y), 1.6 * unit)]
        page = mix(page, tint(rng, (214, 172, 70), (226, 206, 150)), draw(shape, gold))
    return page


def engraving(rng: Rng, inset: Array, material: str) -> Array:
    """A scene in hatched lines, thicker where it is darker, in a frame with a printed caption."""
    shape, (height, width) = inset.shape, inset.shape
    unit = min(shape) / 256
    page = sheet_of(rng, inset, (236, 228, 206), (228, 214, 182), (240, 238, 230))
    tone = ramp(grey(scene(rng, shape)), 25, 215)
    x, y = grid(shape)
    angle, period = rng.uniform(-0.6, 0.6), max(rng.uniform(3.0, 4.2) * unit, 3.0)
    wave = noise(rng, shape, 80 * unit, 2) * 2 * period
    ink = np.zeros(shape, np.float32)
    for turned, until in ((angle, 0.9), (angle + rng.uniform(0.8, 1.4), 0.45)):
        phase = (x * math.sin(turned) + y * math.cos(turned) + wave) / period
        comb = np.abs(phase % 1 - 0.5) * 2
        ink = np.maximum(ink, ramp(comb, tone / until - 0.25, tone / until + 0.25) * (tone < until))
    pad = rng.uniform(0.05, 0.09) * min(shape)
    caption = rng.uniform(0.06, 0.09) * height
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    corners = corners * (width * 0.88 - 2 * pad, height * 0.88 - 2 * pad - caption)
    corners = corners + (width * 0.06 + pad, height * 0.06 + pad)
    lines = [(corners, 1.3)]
    size = max(caption * 0.5, 5.0)
    left, top = corners[3] + (0.2 * width, size * 0.7)
    lines += text(rng, letters(rng, 9), left, top, width * 0.45, size)
    ink = np.maximum(ink * fill(shape, corners), draw(shape, lines))
    return mix(page, tint(rng, *INKS, (96, 40, 24)), 0.9 * ink)


def atlas(rng: Rng, inset: Array, material: str) -> Array:
    """A printed map: tinted land, contour lines, a river, roads, a grid, towns with names."""
    shape, (height, width) = inset.shape, inset.shape
    unit = min(shape) / 256
    page = sheet_of(rng, inset, (240, 234, 214), (232, 222, 196))
    high = noise(rng, shape, 110 * unit, 3)
    page = mix(page, tint(rng, (190, 206, 160), (222, 204, 160)), 0.6 * ramp(high, 0.0, 0.06))
    page = mix(page, tint(rng, (160, 196, 214), (190, 206, 206)), 0.8 * ramp(high, -0.5, -0.54))
    levels = high * rng.uniform(5, 8)
    slope = np.hypot(*np.gradient(levels)) + 1e-3
    lines = ramp(np.minimum(levels % 1, 1 - levels % 1) / slope, 1.0, 0.3)
    page = mix(page, tint(rng, (150, 96, 60), (110, 90, 70)), 0.6 * lines)
    walks = []
    for _ in range(3):
        trail = np.stack([np.linspace(-0.5, 0.5, 40) * width, np.zeros(40)], 1)
        trail += noise(rng, (2, 40), 12, 3).T * 0.2 * min(shape)
        walks.append(turn(trail, rng.uniform(0, 3.1), width / 2, height / 2))
    page = mix(page, (80, 130, 170), draw(shape, [(walks[0], 2.2)]))
    page = mix(page, (70, 50, 40), draw(shape, [(walk, 2.6) for walk in walks[1:]]))
    page = mix(page, (238, 220, 160), draw(shape, [(walk, 1.4) for walk in walks[1:]]))
    ink, size, alphabet = [], max(7 * unit, 5.0), letters(rng, 9)
    for part in np.arange(0.1, 0.95, rng.uniform(0.15, 0.25)):
        ink += [(np.array([[part * width, 0], [part * width, height]]), 0.5)]
        ink += [(np.array([[0, part * height], [width, part * height]]), 0.5)]
    for x, y in rng.uniform(0.1, 0.85, (9, 2)) * (width, height):
        ink += [(np.array([[x, y]]), 4 * unit)]
        length = size * rng.uniform(3, 7)
        ink += text(rng, alphabet, x + 4 * unit, y - size, length, size)
    return mix(page, (52, 44, 40), 0.85 * draw(shape, ink))


def sheet_of(rng: Rng, inset: Array, *colors: tuple[int, int, int]) -> Array:
    """An old sheet of paper or parchment, cloudy, fibrous and browner at its edge."""
    shape = inset.shape
    clouds = 0.05 * noise(rng, shape, min(shape) * 0.4, 5)
    clouds = clouds + 0.02 * rng.standard_normal(shape, np.float32)
    page = tint(rng, *colors, spread=6) * (1 + clouds)[..., None]
    return mix(page, page * np.float32([0.86, 0.78, 0.62]), ramp(inset, min(shape) * 0.09, 0))
