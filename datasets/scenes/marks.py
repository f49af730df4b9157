"""A Canvas in, marks drawn on it and their mask out: stamps, notes, scratches, holes, hairs."""

from __future__ import annotations

import math

import numpy as np

from datasets.scenes.canvas import (
    Array,
    Canvas,
    Rng,
    Stroke,
    draw,
    fill,
    letters,
    noise,
    soften,
    text,
    tint,
    turn,
)

THIN = 2.0  # pixels: no line or speck is labelled narrower


def stamp(canvas: Canvas, rng: Rng) -> Array:
    """An owner's stamp: a ring or a box with letters and a date bar, unevenly inked."""
    strokes, is_round = [], rng.random() < 0.65
    size, alphabet = rng.uniform(32, 46) * canvas.unit, letters(rng, 9)
    pen, high = max(size * 0.045, 1.1), size * 0.26
    if is_round:
        ring = np.linspace(0, 2 * math.pi, 49)
        ring = np.stack([np.cos(ring), np.sin(ring)], 1) * size
        strokes += [(ring, pen * 1.7), (ring * 0.6, pen)]
        for angle in np.arange(0, 2 * math.pi, 0.27):
            letter = alphabet[rng.integers(9)]
            upright = [part * high - (0.3 * high, 0.94 * size) for part in letter]
            strokes += [(turn(part, angle), pen) for part in upright]
        strokes += text(rng, alphabet, -0.42 * size, -0.15 * size, 0.9 * size, size * 0.3)
    else:
        box = np.array([[-1.2, -0.6], [1.2, -0.6], [1.2, 0.6], [-1.2, 0.6], [-1.2, -0.6]]) * size
        strokes += [(box, pen * 1.7), (box * (0.92, 0.86), pen)]
        for row in (-0.42, 0.1):
            strokes += text(rng, alphabet, -0.98 * size, row * size, 2 * size, 0.33 * size)
    angle, center = rng.uniform(-0.7, 0.7), spot(canvas, rng, light=True)
    strokes = [(turn(points, angle, *center), width) for points, width in strokes]
    ink = ink_at(canvas, rng, center, (176, 30, 44), (40, 56, 160), (104, 44, 140), (150, 24, 70))
    press = np.clip(0.85 + 0.35 * noise(rng, canvas.shape, 14 * canvas.unit, 3), 0.35, 0.95)
    return lines(canvas, strokes, ink, press)


def writing(canvas: Canvas, rng: Rng) -> Array:
    """Notes in a joined, slanted hand, in an ink of their own, across whatever lies below."""
    strokes, size = [], max(rng.uniform(12, 19) * canvas.unit, 7.0)
    pen, angle = max(2.1 * canvas.unit, 1.6), rng.uniform(-0.5, 0.5)
    for row in range(rng.integers(1, 4)):
        x = rng.uniform(0, 2) * size
        for _ in range(rng.integers(2, 5)):
            word = scribble(rng, int(rng.integers(3, 8))) * size + (x, row * 1.7 * size)
            strokes.append((word, pen))
            x = word[-1, 0] + 0.6 * size
    middle = np.concatenate([word for word, _ in strokes]).mean(0)
    center = spot(canvas, rng, light=True)
    strokes = [(turn(word - middle, angle, *center), width) for word, width in strokes]
    inks = (30, 50, 150), (20, 90, 80), (170, 34, 40), (62, 30, 130), (60, 62, 70)
    ink = ink_at(canvas, rng, center, *inks)
    return lines(canvas, strokes, ink, 0.92)


def scribble(rng: Rng, count: int) -> Array:
    """A joined word of `count` letters about 1 high from (0, 0) on: each is one turn of a loop."""
    letter = np.arange(14 * count) // 14  # of each point
    tall = rng.choice([0.4, 0.45, 0.5, 1.0, 1.1, -0.6], count)[letter]
    wide, loop = rng.uniform(0.35, 0.8, count)[letter], rng.uniform(-0.05, 0.3, count)[letter]
    phase = np.arange(14 * count) * (2 * math.pi / 14)
    down = -tall * (1 - np.cos(phase)) / 2
    return np.stack([np.cumsum(wide) / 14 - loop * np.sin(phase) - 0.35 * down, down], 1)


def scratch(canvas: Canvas, rng: Rng) -> Array:
    """Long bright lines, straight or slightly bent, most of them side by side."""
    strokes, main = [], rng.uniform(0, math.pi)
    for _ in range(rng.integers(4, 10)):
        angle = main + rng.normal(0, 0.15) if rng.random() < 0.8 else rng.uniform(0, math.pi)
        along = np.linspace(-0.5, 0.5, 12) * rng.uniform(60, 220) * canvas.unit
        bend = rng.normal(0, 6) * canvas.unit * np.cos(np.linspace(-1.5, 1.5, 12))
        line = turn(np.stack([along, bend], 1), angle, *spot(canvas, rng))
        strokes.append((line, rng.uniform(1.1, 2) * canvas.pen))
    skips = np.clip(0.9 + 0.3 * noise(rng, canvas.shape, 16 * canvas.unit, 3), 0.4, 1)
    return lines(canvas, strokes, tint(rng, (252, 250, 242), (246, 246, 210), spread=4), skips)


def puncture(canvas: Canvas, rng: Rng) -> Array:
    """Pin and worm holes: round, black, with a raised pale rim."""
    holes, rims = [], []
    for center in (spot(canvas, rng, light=True) for _ in range(rng.integers(3, 6))):
        for _ in range(rng.integers(1, 6)):
            width = rng.uniform(4, 9) * canvas.pen
            where = (center + rng.normal(0, 18, 2) * canvas.unit)[None]
            holes.append((where, width))
            rims.append((where, width + 3 * canvas.pen))
    mask = lines(canvas, rims, (226, 216, 196), 0.85)
    lines(canvas, holes, (10, 8, 8), 0.97)
    return mask


def sticker(canvas: Canvas, rng: Rng) -> Array:
    """A label glued on: round or a rounded box, with a coloured border and two printed words."""
    around = np.linspace(0, 2 * math.pi, 65)[:-1]
    power, wide = (1.0, 1.0) if rng.random() < 0.35 else (0.22, rng.uniform(1.2, 1.8))
    size, angle = rng.uniform(22, 34) * canvas.unit, rng.uniform(-0.6, 0.6)
    center = spot(canvas, rng)
    corner = np.stack([np.cos(around), np.sin(around)], 1)
    outline = np.sign(corner) * np.abs(corner) ** power * (wide * size, size)
    face = fill(canvas.shape, turn(outline, angle, *center))
    step = max(round(2 * canvas.unit), 1)
    canvas.blend((12, 10, 10), 0.55 * soften(np.roll(face, (step, step), (0, 1)), step))  # shadow
    paper = tint(rng, (244, 242, 234), (240, 226, 150), (190, 214, 226), (236, 176, 150))
    canvas.blend(paper, face)
    border = np.concatenate([outline, outline[:1]]) * 0.86
    print_color = tint(rng, (170, 36, 40), (36, 60, 120), (30, 30, 34), (30, 100, 70))
    strokes, alphabet = [(border, max(size * 0.07, 1.0))], letters(rng, 6)
    for row in (-0.5, 0.08):
        left, length = -0.62 * wide * size, 1.3 * wide * size
        strokes += text(rng, alphabet, left, row * size, length, size * 0.4)
    strokes = [(turn(points, angle, *center), width) for points, width in strokes]
    canvas.blend(print_color, 0.9 * draw(canvas.shape, strokes))
    return face >= 0.5


def dust(canvas: Canvas, rng: Rng) -> Array:
    """Clusters of tiny bright specks."""
    specks = []
    for _ in range(rng.integers(2, 5)):
        center, spread = spot(canvas, rng), rng.uniform(14, 34) * canvas.unit
        for where in rng.normal(center, spread, (int(rng.integers(40, 100)), 2)):
            specks.append((where[None], rng.uniform(1.4, 3.4) * canvas.pen))
    return lines(canvas, specks, tint(rng, (246, 246, 244), (232, 228, 216), spread=6), 0.92)


def hair(canvas: Canvas, rng: Rng) -> Array:
    """Curly dark hairs: Bezier curves of degree 6 (de Casteljau), control points far apart."""
    strokes, time = [], np.linspace(0, 1, 60)[:, None]
    for _ in range(rng.integers(3, 7)):
        curve = spot(canvas, rng, light=True) + rng.normal(0, 75, (7, 1, 2)) * canvas.unit
        while len(curve) > 1:
            curve = curve[:-1] * (1 - time) + curve[1:] * time
        strokes.append((curve[0], rng.uniform(1.4, 2.1) * canvas.pen))
    return lines(canvas, strokes, tint(rng, (24, 18, 16), (50, 32, 20), spread=6), 0.95)


def spot(canvas: Canvas, rng: Rng, light: bool = False) -> Array:
    """A point x, y on the object, off its edge: float32 (2,); `light`: the lightest of four."""
    spots = (rng.uniform(0.12, 0.88, (4, 2)) * canvas.shape[::-1]).astype(np.float32)
    brightness = [canvas.image[int(y), int(x)].sum() for x, y in spots]
    return spots[np.argmax(brightness) if light else 0]


def ink_at(canvas: Canvas, rng: Rng, center: Array, *colors: tuple[int, int, int]) -> Array:
    """One of two colours drawn: the one that differs more from what lies around a point."""
    (x, y), reach = center.astype(int), max(round(16 * canvas.unit), 1)
    around = canvas.image[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach]
    first, second = tint(rng, *colors), tint(rng, *colors)
    return max(first, second, key=lambda color: float(np.abs(around - color).sum()))


def lines(
    canvas: Canvas, strokes: list[Stroke], color: Array, opacity: float | Array = 1.0
) -> Array:
    """Draw strokes in a colour -> their mask, at least THIN pixels wide."""
    canvas.blend(color, draw(canvas.shape, strokes) * opacity)
    return draw(canvas.shape, strokes, THIN) >= 0.5
