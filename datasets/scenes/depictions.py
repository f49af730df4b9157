"""A random generator and a size -> a photograph or a painting of a landscape, sitter or table."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.scenes.canvas import Array, Rng, draw, grid, mix, noise, ramp, tint

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


def scene(rng: Rng, shape: tuple[int, int]) -> Array:
    """One of the three below, float32 (H, W, 3); drawn at half size, which is fast and soft."""
    half = ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    picture = (landscape, portrait, still_life)[rng.integers(3)](rng, half)
    sheet = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(sheet.resize(shape[::-1], Image.Resampling.BICUBIC), np.float32)


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


def grey(picture: Array) -> Array:
    """Luma of (H, W, 3) in [0, 255]: float32 (H, W)."""
    return 0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]
