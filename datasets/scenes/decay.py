"""An undamaged Canvas in, decay painted on it and its mask out: stains, cracks, losses."""

from __future__ import annotations

import math

import numpy as np

from datasets.scenes.canvas import (
    Array,
    Canvas,
    Rng,
    Stroke,
    cells,
    grid,
    mix,
    noise,
    ramp,
    soften,
    tint,
)
from datasets.scenes.marks import THIN, lines, spot

FAINT = 0.25  # opacity: dirt, burns and light leaks are labelled from here on


def light_leak(canvas: Canvas, rng: Rng) -> Array:
    """Light that got into the camera: a glow from one edge, yellow to red as it fades."""
    x, y = grid(canvas.shape)
    height, width = canvas.shape
    depth, along, span = (
        (x / width + 0 * y, y, height),
        (1 - x / width + 0 * y, y, height),
        (y / height + 0 * x, x, width),
    )[rng.integers(3)]
    wave = 0.05 * noise(rng, canvas.shape, 160 * canvas.unit, 2)
    fall = ramp(depth + wave, rng.uniform(0.4, 0.9), -0.05)
    middle, half = rng.uniform(0.2, 0.8), rng.uniform(0.16, 0.4)
    strength = fall * (1 - ramp(np.abs(along / span - middle + 2 * wave), 0, half) ** 2)
    glow = mix(tint(rng, (214, 40, 16), (226, 70, 10)), (255, 168, 40), ramp(strength, 0.2, 0.6))
    glow = mix(glow, (255, 246, 190), ramp(strength, 0.6, 1))
    canvas.blend(glow, np.minimum(1.25 * strength, 0.95))
    return 1.25 * strength >= FAINT


def staining(canvas: Canvas, rng: Rng) -> Array:
    """Water that dried: a translucent brown area inside a darker tide line, older lines in it."""
    field = patches(canvas, rng, rng.integers(1, 4), (28, 58), 0.35, light=True)
    color = tint(rng, (156, 106, 50), (176, 134, 60), (126, 88, 54), (146, 124, 66))
    wet = ramp(field, 0, 0.02) * rng.uniform(0.45, 0.65)
    rim = ramp(field, 0, 0.02) * ramp(field, 0.12, 0.03)
    old = ramp(np.abs(field - rng.uniform(0.25, 0.45)), 0.04, 0)
    tinted = canvas.image * color / 255 + 0.22 * color  # darkens what is light, dulls what is dark
    tinted = mix(tinted, color * 0.4, np.maximum(0.55 * rim, 0.3 * old))
    canvas.blend(tinted, np.maximum(wet, rim * 0.9))
    return field > 0


def dirt(canvas: Canvas, rng: Rng) -> Array:
    """Grime: dark, gritty smudges with soft edges."""
    field = patches(canvas, rng, rng.integers(2, 6), (14, 32), 0.55, light=True)
    grit = 0.78 + 0.35 * noise(rng, canvas.shape, 5 * canvas.unit, 2)
    opacity = ramp(field, -0.15, 0.4) * 0.95
    color = tint(rng, (38, 34, 30), (30, 34, 32), (56, 48, 38), spread=8)
    canvas.blend(color, np.clip(opacity * grit, 0, 1))
    return opacity >= FAINT


def fold(canvas: Canvas, rng: Rng) -> Array:
    """Creases across the object: one side lit, the other dark, the ridge worn white in places."""
    x, y = grid(canvas.shape)
    mask = np.zeros(canvas.shape, bool)
    first = rng.uniform(0, math.pi)
    for angle in first + np.arange(rng.integers(1, 3)) * rng.uniform(1.2, 1.9):
        left, top = (rng.uniform(0.25, 0.75, 2) * canvas.shape[::-1]).tolist()
        side = (x - left) * math.cos(angle) + (y - top) * math.sin(angle)
        side = side + 1.5 * canvas.unit * noise(rng, canvas.shape, 60 * canvas.unit, 2)
        band = rng.uniform(4, 6.5) * canvas.pen
        slope = ramp(np.abs(side), band, 0)
        canvas.blend((250, 248, 240), 0.55 * slope * (side > 0))
        canvas.blend((16, 12, 12), 0.6 * slope * (side <= 0))
        worn = ramp(noise(rng, canvas.shape, 12 * canvas.unit, 3), -0.3, 0.5)
        canvas.blend((244, 240, 230), 0.8 * worn * ramp(np.abs(side), 1.5, 0.5))
        mask |= np.abs(side) < band * 0.85
    return mask


def peel(canvas: Canvas, rng: Rng) -> Array:
    """Flaking: of the cells in a patch some are gone, down to the pale ground, some curl up."""
    size = max(rng.uniform(10, 17) * canvas.unit, 5.0)
    flakes = cells(rng, canvas.shape, size)
    field = patches(canvas, rng, rng.integers(2, 5), (20, 42))
    rows = np.clip(flakes.y, 0, canvas.shape[0] - 1).astype(int)
    columns = np.clip(flakes.x, 0, canvas.shape[1] - 1).astype(int)
    loose = field[rows, columns] > 0
    lost = loose & (rng.random(len(loose)) < 0.5)
    mask, bare, curled = loose[flakes.index], lost[flakes.index], (loose & ~lost)[flakes.index]
    x, y = grid(canvas.shape)
    lean = (x - flakes.x[flakes.index] + y - flakes.y[flakes.index]) / size
    canvas.blend((255, 252, 244), curled * np.clip(0.2 - 0.4 * lean, 0, 0.6))
    canvas.blend((10, 8, 8), curled * np.clip(0.5 * lean, 0, 0.6))
    canvas.blend((250, 246, 236), 0.85 * curled * ramp(flakes.gap, 3.2, 1.6))
    ground = tint(rng, (226, 218, 200), (212, 202, 186), (236, 232, 222))
    ground = ground * (1 + 0.07 * noise(rng, canvas.shape, 6 * canvas.unit, 3))[..., None]
    canvas.blend(ground, 0.96 * bare)
    step = max(round(2 * canvas.unit), 1)
    shadow = bare & ~np.roll(bare, (step, step), (0, 1))
    canvas.blend((30, 22, 18), 0.65 * soften(shadow, 0.8) * bare)
    return mask


def cracks(canvas: Canvas, rng: Rng) -> Array:
    """A net of age cracks, or cracks that run and fork: dark, between faintly lit raised lips."""
    color, lip = tint(rng, (24, 17, 14), (40, 29, 22), spread=8), (236, 224, 204)
    if rng.random() < 0.5:
        net = cells(rng, canvas.shape, max(rng.uniform(10, 20) * canvas.unit, 7))
        inside = patches(canvas, rng, rng.integers(1, 3), (50, 80), light=True)
        wide = rng.uniform(1.5, 2.5) * canvas.pen * ramp(inside, -0.3, 0.1)  # gap: twice a distance
        canvas.blend(lip, 0.4 * ramp(net.gap, wide + 2.5, wide + 1) * (inside > 0))
        canvas.blend(color, 0.95 * ramp(net.gap, wide + 0.8, wide - 0.8) * (inside > 0))
        return (net.gap < np.maximum(wide + 0.6, THIN)) & (inside > 0)
    strokes = []
    for _ in range(rng.integers(2, 5)):
        start, angle = spot(canvas, rng, light=True), rng.uniform(0, 2 * math.pi)
        fork(strokes, rng, start, angle, rng.uniform(2.2, 3.2) * canvas.pen, canvas.unit)
    lines(canvas, [(points, width + 1.6) for points, width in strokes], lip, 0.4)
    return lines(canvas, strokes, color, 0.95)


def fork(
    strokes: list[Stroke], rng: Rng, start: Array, angle: float, width: float, unit: float
) -> None:
    """Add a crack that wanders from `start`, there `width` pixels wide, and thinner branches."""
    turns = angle + np.cumsum(rng.normal(0, 0.35, rng.integers(8, 22)))
    steps = np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(4, 9, (len(turns), 1)) * unit
    points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
    strokes += [(points[: len(points) // 2 + 1], width), (points[len(points) // 2 :], width * 0.75)]
    for place in rng.choice(len(turns), 3, replace=False):
        if width > 1.3:
            side = turns[place] + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
            fork(strokes, rng, points[place], side, width * 0.62, unit * 0.8)


def burn_marks(canvas: Canvas, rng: Rng) -> Array:
    """Scorched paper or paint: charred black in the middle, brown, then yellow at the margin."""
    field = patches(canvas, rng, rng.integers(1, 4), (18, 36), 0.3)
    heat = mix((190, 118, 40), (76, 38, 14), ramp(field, 0.0, 0.3))
    heat = mix(heat, (14, 11, 10), ramp(field, 0.28, 0.45))
    ash = ramp(noise(rng, canvas.shape, 5 * canvas.unit, 2), 0.4, 1) * ramp(field, 0.45, 0.6)
    opacity = ramp(field, -0.08, 0.25) * 0.97
    canvas.blend(mix(heat, (124, 120, 114), 0.7 * ash), opacity)
    return opacity >= FAINT


def material_loss(canvas: Canvas, rng: Rng) -> Array:
    """Pieces torn out: what lies below shows, behind a pale torn rim and in the edge's shadow."""
    field = patches(canvas, rng, rng.integers(1, 5), (18, 36), 0.5)
    hole, inward = field > 0, field * 27 * canvas.unit  # about pixels from the edge
    canvas.blend(canvas.support, ramp(inward, -0.5, 0.5))
    step = max(round(4 * canvas.unit), 1)
    shadow = hole & ~np.roll(hole, (step, step), (0, 1))
    canvas.blend((8, 6, 6), 0.7 * soften(shadow, 1.5) * hole)
    canvas.blend((238, 232, 216), 0.85 * ramp(inward, -0.5, 0.5) * ramp(inward, 3.0, 1.6))
    return hole


def patches(
    canvas: Canvas,
    rng: Rng,
    count: int,
    radius: tuple[float, float],
    rough: float = 0.5,
    light: bool = False,
) -> Array:
    """Ragged blobs: float32 (H, W), 1 in their middle, 0 on the outline, negative outside.

    `radius`: smallest and largest, in pixels at 256; `rough`: of the outline, as a share of it.
    """
    x, y = grid(canvas.shape)
    field = np.full(canvas.shape, -9, np.float32)
    for _ in range(count):
        left, top = spot(canvas, rng, light)
        angle, oval = rng.uniform(0, math.pi), rng.uniform(0.7, 1.4)
        size = rng.uniform(*radius) * canvas.unit
        sine, cosine = math.sin(angle), math.cos(angle)
        u = ((x - left) * cosine + (y - top) * sine) * (oval / size)
        v = ((y - top) * cosine - (x - left) * sine) * (1 / oval / size)
        field = np.maximum(field, 1 - np.sqrt(u * u + v * v))
    return field + rough * noise(rng, canvas.shape, sum(radius) / 2 * canvas.unit, 5)
