"""A seed and a size -> a labelled scene: a damaged photograph, painting, manuscript or print."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from datasets.damage import CLASSES
from datasets.scenes.canvas import (
    Array,
    Canvas,
    Rng,
    Stroke,
    cells,
    draw,
    fill,
    grid,
    letters,
    mix,
    noise,
    ramp,
    soften,
    text,
    tint,
    turn,
)
from datasets.scenes.pictures import lay_out
from datasets.task import IGNORE

THIN = 2.0  # pixels: no line or speck is labelled narrower
FAINT = 0.25  # opacity: dirt, burns and light leaks are labelled from here on


class DamageScene(NamedTuple):
    """image: uint8 (H, W, 3). labels: uint8 (H, W), position in CLASSES, 255 on the table."""

    image: Array
    labels: Array
    material: str
    content: str


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


def lines(
    canvas: Canvas, strokes: list[Stroke], color: Array, opacity: float | Array = 1.0
) -> Array:
    """Draw strokes in a colour -> their mask, at least THIN pixels wide."""
    canvas.blend(color, draw(canvas.shape, strokes) * opacity)
    return draw(canvas.shape, strokes, THIN) >= 0.5


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


# In the order they are laid on: what tints or removes a layer first, what lies loose on top last.
PAINTERS = {
    "Lightleak": light_leak,
    "Staining": staining,
    "Dirt": dirt,
    "Fold": fold,
    "Peel": peel,
    "Cracks": cracks,
    "Burn marks": burn_marks,
    "Material loss": material_loss,
    "Stamp": stamp,
    "Writing": writing,
    "Scratch": scratch,
    "Puncture": puncture,
    "Sticker": sticker,
    "Dust": dust,
    "Hair": hair,
}


def kinds_of(seed: int) -> list[str]:
    """The 2 to 5 kinds of damage in a scene, in the order of PAINTERS.

    Each block of 15 seeds deals every kind equally often, 2, 3, 4 or 5 times, in other company;
    100 seeds in a row hold five whole blocks, hence each kind at least 16 times.
    """
    names = list(PAINTERS)
    block, count = seed // len(names), 2 + seed // len(names) % 4
    offsets = np.random.default_rng([block, 2]).permutation(len(names))[:count]
    return [names[i] for i in sorted((seed + offsets) % len(names))]


def render_damage(seed: int, height: int, width: int) -> DamageScene:
    """The scene of `seed` at a size, the same bytes every time; its damage is what `labels` says.

    Where kinds overlap, the one laid on last has the label. Outside the labels the image changes
    only near them: smooth outlines, a sticker's shadow, the lips of cracks, what is below FAINT.
    """
    canvas = lay_out(np.random.default_rng([seed, 0]), height, width)
    labels, rng = np.zeros((height, width), np.uint8), np.random.default_rng([seed, 1])
    for kind in kinds_of(seed):
        labels[PAINTERS[kind](canvas, rng)] = list(CLASSES).index(kind)
    labels[canvas.inset <= 0] = IGNORE
    image = canvas.develop(np.random.default_rng([seed, 3]))
    return DamageScene(image, labels, canvas.material, canvas.content)
