"""A random generator and a size -> an undamaged photograph, painting, print or pattern."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.scenes.canvas import (
    Array,
    Canvas,
    Rng,
    cells,
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

# What shows below a lost layer. None: nothing, one sees the table.
SUPPORTS = {
    "Paper": None,
    "Parchment": None,
    "Textile": None,
    "Film emulsion": (218, 214, 206),
    "Glass": None,
    "Canvas": (186, 164, 130),
    "Wood": (150, 112, 74),
    "Lime plaster": (206, 198, 186),
    "Ceramic": (188, 120, 86),
    "Tesserae": (162, 154, 142),
}
SKIES = ((120, 160, 205), (205, 200, 190), (225, 150, 100), (90, 110, 140), (160, 190, 200))
LANDS = ((96, 112, 60), (60, 84, 62), (130, 104, 66), (84, 78, 92), (150, 138, 84))
BRIGHTS = (
    (178, 60, 44),
    (214, 160, 60),
    (52, 84, 128),
    (70, 112, 74),
    (222, 206, 170),
    (110, 62, 90),
)
SEPIA = ((44, 24, 14), (238, 216, 176))
BLACK_AND_WHITE = ((20, 20, 22), (240, 240, 236))
INKS = ((34, 26, 22), (58, 38, 24), (24, 26, 36))
TABLES = ((38, 36, 40), (22, 22, 24), (96, 70, 48), (128, 96, 66), (150, 152, 154), (58, 68, 80))


def landscape(rng: Rng, shape: tuple[int, int]) -> Array:
    """Sky, clouds, sun, ridges that darken towards us, trees: float32 (H, W, 3)."""
    x, y = grid(shape)
    height, width = shape
    horizon = rng.uniform(0.3, 0.6) * height
    picture = mix(tint(rng, *SKIES), tint(rng, *SKIES) * 0.4 + 150, ramp(y, 0, horizon) + 0 * x)
    clouds = noise(rng, shape, height * 0.2, 4, 3)
    picture = mix(picture, (244, 238, 228), 0.7 * ramp(clouds, 0.1, 0.9))
    sun = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, horizon)) / height
    disc = rng.uniform(0.03, 0.08)
    picture = mix(picture, (255, 244, 206), ramp(sun, disc * 1.3, disc))
    land, layers = tint(rng, *LANDS), int(rng.integers(2, 5))
    for layer in range(layers):
        near = (layer + 1) / layers
        ridge = horizon + (near * 0.6 - 0.15) * (height - horizon)
        ridge = ridge + noise(rng, (1, width), width * 0.3, 5) * 0.12 * height
        texture = 1 + (0.1 + 0.25 * near) * noise(rng, shape, 20 * near * height / 256 + 2, 4)
        color = (land * near * 0.8 + (1 - near) * 170) * texture[..., None]
        picture = mix(picture, color, ramp(y - ridge, -0.7, 0.7))
    trees = []
    for _ in range(rng.integers(0, 6)):
        foot = rng.uniform((0, 0.7), (1, 0.95)) * (width, height)
        size = height * rng.uniform(0.1, 0.2)
        trees.append((foot - [[0, 0], [0, size]], size * 0.07))
        leaves = foot - (0, 1.1 * size) + rng.normal(0, 0.22, (25, 2)) * size
        trees += [(leaf[None], size * rng.uniform(0.1, 0.35)) for leaf in leaves]
    texture = 1 + 0.3 * noise(rng, shape, 8 * height / 256, 2)
    return mix(picture, land * 0.35 * texture[..., None], draw(shape, trees))


def portrait(rng: Rng, shape: tuple[int, int]) -> Array:
    """A sitter before a wall: shoulders, neck, hair, a face lit from a side: float32 (H, W, 3)."""
    x, y = grid(shape)
    height, width = shape
    side, size = 1 - 2 * int(rng.integers(2)), height * rng.uniform(0.15, 0.22)
    x, y = (x - width * rng.uniform(0.4, 0.6)) / size, (y - height * rng.uniform(0.36, 0.48)) / size
    wall = tint(rng, (96, 84, 70), (60, 64, 70), (150, 140, 126), (74, 40, 34))
    picture = wall * (1 + 0.25 * noise(rng, shape, height * 0.4, 4) - 0.06 * side * x)[..., None]
    skin = tint(rng, (214, 170, 140), (150, 104, 78), (196, 150, 120))
    hair = tint(rng, *INKS, (120, 84, 50))
    coat = tint(rng, *BRIGHTS, *INKS, (40, 40, 44))
    lit = np.clip(0.8 - 0.35 * side * x, 0.35, 1.2)
    folds = 1 + 0.15 * noise(rng, shape, size * 0.8, 3)

    def oval(
        center_x: float, center_y: float, wide: float, tall: float, soft: float = 0.05
    ) -> Array:
        return ramp(np.hypot((x - center_x) / wide, (y - center_y) / tall), 1 + soft, 1 - soft)

    parts = [
        (hair, oval(0, -0.25 + rng.uniform(0, 0.5), 0.95, rng.uniform(1.1, 1.5)), folds),
        (coat, oval(0, 3.2, rng.uniform(1.8, 2.4), 2.0), folds * lit),
        (skin * 0.8, oval(0, 1.1, 0.36, 0.7), lit),
        (tint(rng, (236, 230, 216), *BRIGHTS), oval(0, 1.75, 0.6, 0.35), folds * lit),
        (skin, oval(0, 0, 0.72, 1), lit),
        (hair, oval(0, -0.85, 0.75, rng.uniform(0.25, 0.45)), folds),
        (skin * 0.7, oval(side * -0.04, 0.15, 0.1, 0.28, 0.5), lit),
        ((140, 60, 52), oval(0, 0.52, 0.24, 0.07, 0.4), lit),
    ]
    parts += [(hair * 0.5, oval(eye, -0.12, 0.13, 0.07, 0.4), lit) for eye in (-0.28, 0.28)]
    parts += [(hair * 0.8, oval(eye, -0.3, 0.2, 0.05, 0.5), lit) for eye in (-0.28, 0.28)]
    for color, alpha, shade in parts:
        picture = mix(picture, np.asarray(color) * shade[..., None], alpha)
    return picture


def still_life(rng: Rng, shape: tuple[int, int]) -> Array:
    """Fruit and jars on a table, each lit from the upper left: float32 (H, W, 3)."""
    x, y = grid(shape)
    height, width = shape
    edge = height * rng.uniform(0.5, 0.65)
    board = tint(rng, (120, 84, 52), (150, 130, 104), (70, 58, 48))
    wall = tint(rng, (70, 66, 58), (110, 96, 78), (48, 52, 56))
    picture = mix(wall, board, ramp(y - edge + 0 * x, -1, 1))
    picture = picture * (1 + 0.15 * noise(rng, shape, height * 0.3, 4))[..., None]
    for step in np.linspace(0, 1, int(rng.integers(4, 9))):
        size, tall = height * rng.uniform(0.08, 0.16), float(rng.choice([1.0, 1.1, 1.9]))
        u = (x - width * rng.uniform(0.1, 0.9)) / size
        v = (y - edge - step * (height - edge) * 0.6) / (size * tall) + 0.8
        shadow = ramp(np.hypot((u - 0.4) / 1.2, (v - 0.95) * tall / 0.3), 1.1, 0.5)
        picture = picture * (1 - 0.5 * shadow)[..., None]
        gloss = ramp(np.hypot(u + 0.4, v + 0.4), 0.3, 0.1)
        light = np.clip(0.85 - 0.45 * (u + v), 0.25, 1.5) + 0.6 * gloss
        body = tint(rng, *BRIGHTS, spread=12) * light[..., None]
        picture = mix(picture, body, ramp(np.hypot(u, v), 1.03, 0.97))
    return picture


def scene(rng: Rng, shape: tuple[int, int]) -> Array:
    """One of the three above, float32 (H, W, 3); drawn at half size, which is fast and soft."""
    half = ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    picture = (landscape, portrait, still_life)[rng.integers(3)](rng, half)
    sheet = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(sheet.resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


def grey(picture: Array) -> Array:
    """Luma of (H, W, 3) in [0, 255]: float32 (H, W)."""
    return 0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]


def photograph(rng: Rng, inset: Array, material: str) -> Array:
    """A soft, grainy scene in black and white, sepia or faded colour, some with a white border."""
    shape = inset.shape
    picture = scene(rng, shape)
    tone = ramp(grey(picture) + 10 * rng.standard_normal(shape, np.float32), 0, 225)
    tone = (tone + np.sqrt(tone)) / 2  # a print lifts the shadows
    dark, light = SEPIA if rng.random() < 0.5 else BLACK_AND_WHITE
    toned = mix(dark, light, tone)
    if rng.random() < 0.55:
        toned += (picture - toned) * rng.uniform(0.6, 0.9)
    picture = toned * (1 - 0.3 * ramp(inset, min(shape) * 0.3, 0))[..., None]
    if material != "Glass" and rng.random() < 0.6:
        frame = min(shape) * rng.uniform(0.02, 0.05)
        white = tint(rng, (232, 226, 210), (244, 242, 238), spread=5)
        picture = mix(picture, white, ramp(inset, frame + 0.5, frame - 0.5))
    return picture


def painting(rng: Rng, inset: Array, material: str) -> Array:
    """A scene in thick brush strokes on canvas weave, wood grain or plaster, under varnish."""
    shape = inset.shape
    picture, unit = scene(rng, shape), min(shape) / 256
    sheet = Image.fromarray(picture.astype(np.uint8))
    relief = Image.new("L", sheet.size, 128)
    brush, ridge = ImageDraw.Draw(sheet), ImageDraw.Draw(relief)
    flow, count = noise(rng, shape, 70 * unit, 2) * 2, 1100
    spots = (rng.random((count, 2)) * (shape[1], shape[0])).astype(int)
    lengths, widths = rng.uniform(4, 10, count) * unit, rng.uniform(2, 6, count) * unit
    colors = picture[spots[:, 1], spots[:, 0]] + rng.uniform(-16, 16, (count, 1))
    angles = flow[spots[:, 1], spots[:, 0]] + rng.uniform(-0.3, 0.3, count)
    steps = np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]
    heights = rng.integers(70, 190, count)
    colors = np.clip(colors, 0, 255).astype(int).tolist()
    for start, end, color, size, high in zip(
        spots - steps, spots + steps, colors, widths, heights.tolist(), strict=True
    ):
        ends, pen = [*start.tolist(), *end.tolist()], max(2, round(size))
        brush.line(ends, fill=tuple(color), width=pen)
        ridge.line(ends, fill=high, width=pen)
    high = np.asarray(relief.filter(ImageFilter.GaussianBlur(0.8 * unit)), np.float32)
    picture = np.asarray(sheet, np.float32) * 0.8 + picture * 0.2
    x, y = grid(shape)
    if material == "Canvas":
        high = high + 14 * (np.abs(x % 3 - 1.5) + np.abs(y % 3 - 1.5) - 1.5)
    elif material == "Wood":
        high = high + 30 * noise(rng, shape, 4 * unit, 2, 14)
    else:
        high = high + 40 * noise(rng, shape, 12 * unit, 4)
    picture = picture + 0.3 * (high - np.roll(high, (1, 1), (0, 1)))[..., None]
    varnish = 1 - rng.uniform(0, 0.25) * (0.6 + 0.4 * noise(rng, shape, 90 * unit, 2))[..., None]
    return picture * varnish ** np.float32([0.3, 0.5, 1.0])


def sheet_of(rng: Rng, inset: Array, *colors: tuple[int, int, int]) -> Array:
    """An old sheet of paper or parchment, cloudy, fibrous and browner at its edge."""
    shape = inset.shape
    clouds = 0.05 * noise(rng, shape, min(shape) * 0.4, 5)
    clouds = clouds + 0.02 * rng.standard_normal(shape, np.float32)
    page = tint(rng, *colors, spread=6) * (1 + clouds)[..., None]
    return mix(page, page * np.float32([0.86, 0.78, 0.62]), ramp(inset, min(shape) * 0.09, 0))


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


def palette(rng: Rng, count: int) -> Array:
    """`count` colours of glaze, stone or yarn, float32 (count, 3)."""
    yarns = (*BRIGHTS, (236, 226, 200), (44, 44, 60))
    return np.stack([tint(rng, *yarns, spread=20) for _ in range(count)])


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


class Content(NamedTuple):
    """What may be seen: its ARTeFACT content, `render(rng, inset, material)` -> (H, W, 3)."""

    name: str
    render: Callable[[Rng, Array, str], Array]
    materials: tuple[str, ...]
    rough: float  # how uneven the object's edge is, in pixels for a scene of 256


CONTENTS = (
    Content("Photographic depiction", photograph, ("Glass",), 0.0),
    Content("Photographic depiction", photograph, ("Film emulsion",), 0.3),
    Content("Photographic depiction", photograph, ("Paper",), 0.6),
    Content("Artistic depiction", painting, ("Canvas",), 0.8),
    Content("Artistic depiction", painting, ("Wood",), 0.5),
    Content("Artistic depiction", painting, ("Lime plaster",), 3.0),
    Content("Line art", manuscript, ("Parchment", "Paper"), 3.0),
    Content("Line art", engraving, ("Paper",), 1.0),
    Content("Line art", atlas, ("Paper", "Parchment"), 1.0),
    Content("Geometric patterns", mosaic, ("Tesserae",), 4.0),
    Content("Geometric patterns", tiles, ("Ceramic",), 1.0),
    Content("Geometric patterns", cloth, ("Textile",), 2.0),
)


def lay_out(rng: Rng, height: int, width: int) -> Canvas:
    """One of the contents, undamaged, on a table that takes 4 to 13 % of the pixels."""
    shape = (height, width)
    unit = min(shape) / 256
    content = CONTENTS[rng.integers(len(CONTENTS))]
    material = content.materials[rng.integers(len(content.materials))]
    inset = place(rng, shape, content.rough * unit)
    table = tint(rng, *TABLES) * (1 + 0.06 * noise(rng, shape, 60 * unit, 6))[..., None]
    support = table * 0.75
    if SUPPORTS[material]:
        grainy = 1 + 0.1 * noise(rng, shape, 8 * unit, 3)
        support = tint(rng, SUPPORTS[material]) * grainy[..., None]
    shadowed = table * (0.4 + 0.6 * ramp(inset, 0, -8 * unit))[..., None]
    canvas = Canvas(shadowed, inset, support, material, content.name)
    canvas.blend(content.render(rng, inset, material), np.ones(shape, np.float32))
    return canvas


def place(rng: Rng, shape: tuple[int, int], rough: float) -> Array:
    """`Canvas.inset` of a slightly turned sheet with uneven edges and round corners."""
    unit = min(shape) / 256
    x, y = grid(shape)
    x = x - shape[1] / 2 + rng.uniform(-2, 2) * unit
    y = y - shape[0] / 2 + rng.uniform(-2, 2) * unit
    angle, corner = rng.uniform(-0.025, 0.025), rng.uniform(2, 16) * unit
    across = shape[1] / 2 - np.abs(x + angle * y)
    down = shape[0] / 2 - np.abs(y - angle * x)
    rounded = corner - np.hypot(np.maximum(corner - across, 0), np.maximum(corner - down, 0))
    inset = np.where(rounded < corner, rounded, np.minimum(across, down))
    inset = inset + rough * noise(rng, shape, 32 * unit, 4)
    outside = int(rng.uniform(0.04, 0.13) * inset.size)
    return (inset - np.partition(inset.ravel(), outside)[outside]).astype(np.float32)
