"""Colours and sizes in, paints of a rendered room out: functions from surface points to colour.

Patterns come from floor, comparisons and tables of noise: no sine or power whose last bit depends
on the machine. Lines fade as they get thinner than a pixel, so that far walls do not flicker.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.scenes.solids import Paint, Vec

Range = tuple[float, float]


def hue(
    rng: Generator, saturation: Range = (0.45, 0.9), value: Range = (0.5, 0.95), near: float = -1.0
) -> Vec:
    """A random colour, linear; `near`, from 0 to 1: its hue is within 0.05 of this one."""
    angle = rng.random() if near < 0 else near + rng.uniform(-0.05, 0.05)
    r, g, b = colorsys.hsv_to_rgb(angle % 1.0, rng.uniform(*saturation), rng.uniform(*value))
    return r * r, g * g, b * b


def timber(rng: Generator) -> Vec:
    """A random brown."""
    return hue(rng, (0.35, 0.75), (0.3, 0.85), near=0.07)


def dim(color: Vec, factor: float) -> Vec:
    """A darker colour of the same hue."""
    return tuple(c * factor for c in color)


def _noise_tables() -> tuple[ndarray, ndarray, ndarray]:
    """Tables (256, 256) in 0..1 that wrap: white noise, noise of all grains, coarse noise."""
    white = np.random.default_rng(224).random((256, 256))
    layers = [white]
    for octave in range(5):
        layer = layers[-1]
        for axis in (0, 1):
            layer = (layer + np.roll(layer, 1 << octave, axis)) / 2
        layers.append(layer)
    layers = [_stretch(layer) * (number + 1) for number, layer in enumerate(layers)]
    coarse = layers[-1]
    for shift in (1, 2, 4):
        for axis in (0, 1):
            coarse = coarse + np.roll(coarse, shift, axis)
    return white, _stretch(sum(layers)), _stretch(coarse)


def _stretch(table: ndarray) -> ndarray:
    return (table - table.min()) / (table.max() - table.min())


WHITE, GRAIN, COARSE = _noise_tables()


def noise(p: ndarray, q: ndarray, per_metre: float, table: ndarray = GRAIN) -> ndarray:
    """Noise (n,) in 0..1, constant on cells of 1 / per_metre metres."""
    rows, columns = (np.floor(x * per_metre).astype(np.int64) & 255 for x in (p, q))
    return table[rows, columns]


def draw(cells: ndarray, number: int) -> ndarray:
    """A random value in 0..1 for each cell; `number` tells apart the draws of one paint."""
    return noise(cells, np.full_like(cells, number), 1.0, WHITE)


def line(x: ndarray, period: float, width: float, pixel: ndarray) -> ndarray:
    """How much of the pixel at x, 0 to 1, is on lines `width` wide around multiples of `period`."""
    away = np.abs(_from_nearest(x, period))
    return np.clip((width / 2 - away) / pixel + 0.5, 0, 1) * np.minimum(1, width / pixel)


def _from_nearest(x: ndarray, period: float) -> ndarray:
    return x - period * np.floor(x / period + 0.5)


def mix(a, b, share: ndarray) -> ndarray:
    """Colour a where share is 0, b where it is 1: (3, n)."""
    return np.stack([x + (y - x) * share for x, y in zip(a, b, strict=True)])


def shade(color, factor: ndarray) -> ndarray:
    """A colour, three numbers or (3, n), times a factor per point (n,)."""
    return np.stack([c * factor for c in color])


def plain(color: Vec, grain: float = 0.25, per_metre: float = 120.0) -> Paint:
    """One colour with a grain; a strong one looks like cloth or carpet."""
    return lambda p, q, pixel: shade(color, 1 + grain * (noise(p, q, per_metre) - 0.5))


def wood(color: Vec) -> Paint:
    """Furniture: a grain along p."""
    return lambda p, q, pixel: shade(color, 0.75 + 0.5 * noise(p * 0.12, q, 150.0))


def boards(color: Vec, width: float) -> Paint:
    """Floor boards along q, each with its own tone, and dark joints."""

    def paint(p, q, pixel):
        column = np.floor(p / width)
        q = q + 3.7 * draw(column, 0)
        tone = noise(column, np.floor(q / 1.3), 1.0, WHITE) * 0.5 + 0.55
        tone = tone + 0.35 * (noise(p, q * 0.1, 180.0) - 0.5)
        joints = np.maximum(line(p, width, 0.008, pixel), line(q, 1.3, 0.008, pixel))
        return shade(color, tone * (1 - 0.6 * joints))

    return paint


def tiles(a: Vec, b: Vec, size: float) -> Paint:
    """A chequerboard with pale joints."""

    def paint(p, q, pixel):
        cells = np.floor(p / size) + np.floor(q / size)
        joints = np.maximum(line(p, size, 0.012, pixel), line(q, size, 0.012, pixel))
        face = mix(a, b, cells - 2 * np.floor(cells / 2))
        return mix(shade(face, 0.85 + 0.3 * noise(p, q, 90.0)), (0.5, 0.48, 0.44), joints)

    return paint


def bricks(a: Vec, b: Vec, width: float) -> Paint:
    """Bricks of colours between a and b in courses, every second one shifted by half a brick."""

    def paint(p, q, pixel):
        height = 0.35 * width
        course = np.floor(q / height)
        p = p + width / 2 * (course - 2 * np.floor(course / 2))
        tone = noise(np.floor(p / width), course, 1.0, WHITE)
        joints = np.maximum(line(p, width, 0.012, pixel), line(q, height, 0.012, pixel))
        face = shade(mix(a, b, tone), 0.85 + 0.3 * noise(p, q, 90.0))
        return mix(face, (0.5, 0.48, 0.44), joints)

    return paint


def stripes(a: Vec, b: Vec, period: float, across: bool = False) -> Paint:
    """Upright stripes, or with `across` rings."""

    def paint(p, q, pixel):
        share = line(q if across else p, period, period / 2, pixel)
        return shade(mix(a, b, share), 0.92 + 0.16 * noise(p, q, 90.0))

    return paint


def dots(a: Vec, b: Vec, period: float) -> Paint:
    """Dots of colour b on a."""

    def paint(p, q, pixel):
        x, y = _from_nearest(p, period), _from_nearest(q, period)
        share = np.clip((0.28 * period - np.sqrt(x * x + y * y)) / pixel + 0.5, 0, 1)
        return shade(mix(a, b, share), 0.92 + 0.16 * noise(p, q, 90.0))

    return paint


def fur(a: Vec, b: Vec, patches: float, shift: float) -> Paint:
    """Hair of colour a with patches of b: none at `patches` 0, all over at 1."""

    def paint(p, q, pixel):
        spots = np.clip((patches - noise(p + shift, q - shift, 90.0, COARSE)) * 9 + 0.5, 0, 1)
        spots = spots * (patches > 0)
        return shade(mix(a, b, spots), 0.65 + 0.7 * noise(p, q * 0.4, 320.0))

    return paint


def spines(colors: list[Vec], height: float, shift: float) -> Paint:
    """A row of books around q = 0 in a shelf `height` metres high, of many colours and heights."""
    palette = np.array(colors)

    def paint(p, q, pixel):
        at = (p + shift) / 0.045
        book = np.floor(at)
        pick = draw(book, 3)
        color = palette[np.floor(pick * len(colors)).astype(np.int64)].T
        band = line(q - height * (0.1 + 0.3 * pick), height, 0.02, pixel)
        color = mix(color, (0.8, 0.7, 0.4), 0.7 * band)
        edge = at - book - 0.5
        return shade(
            color,
            np.where(q > height * (0.18 + 0.3 * draw(book, 9)), 0.08, 1.1 - 1.4 * edge * edge),
        )

    return paint


def scenery(sky: Vec, land: Vec, height: float, shift: float) -> Paint:
    """Sky, sun and hills around q = 0, `height` metres high: a painting, or what a window shows."""

    def paint(p, q, pixel):
        up = q / height + 0.5
        color = mix(sky, (0.85, 0.9, 0.95), np.clip(0.9 - up, 0, 1))
        x, y = p - height * (0.3 * shift - 0.15), q - 0.22 * height
        sun = np.clip((0.12 * height - np.sqrt(x * x + y * y)) / pixel + 0.5, 0, 1)
        color = mix(color, (1.0, 0.75, 0.25), sun)
        for level, tone in ((0.5, 0.9), (0.32, 0.5)):
            crest = level + 0.35 * (noise(p / height + shift + level, p * 0, 40.0) - 0.5)
            color = mix(color, dim(land, tone), np.clip((crest - up) * 40, 0, 1))
        return color

    return paint
