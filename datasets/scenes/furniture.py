"""A random generator in, a piece of furniture in metres out: the background of a rendered room."""

from __future__ import annotations

from numpy.random import Generator

from datasets.scenes.paints import (
    dim,
    dots,
    hue,
    plain,
    scenery,
    spines,
    stripes,
    tiles,
    timber,
    wood,
)
from datasets.scenes.solids import Paint, Solid, Thing, ball, both, box, drum


def bookcase(rng: Generator) -> Thing:
    half, rows = rng.uniform(0.4, 0.75), int(rng.integers(3, 6))
    row, body = rng.uniform(0.32, 0.4), wood(timber(rng))
    height = rows * row + 0.06
    books = spines([hue(rng) for _ in range(7)], row, rng.uniform(0, 9))
    solids = [box((0, height / 2, -0.15), (half, height / 2, 0.02), body)]
    solids += both(box((half, height / 2, 0), (0.02, height / 2, 0.16), body))
    for y in [0.05 + number * row for number in range(rows + 1)]:
        solids.append(box((0, y, 0), (half, 0.018, 0.155), body))
    for y in [0.05 + (number + 0.5) * row for number in range(rows)]:
        solids.append(box((0, y, -0.04), (half - 0.02, row / 2, 0.1), books))
    return Thing(solids, half, 0.18)


def cabinet(rng: Generator) -> Thing:
    """Four drawers with knobs, and a trinket on top."""
    half, height = rng.uniform(0.4, 0.8), rng.uniform(0.5, 0.95)
    tone = timber(rng) if rng.random() < 0.5 else hue(rng)
    body, front, knob = wood(tone), wood(dim(tone, 0.75)), plain((0.6, 0.5, 0.2))
    solids = [
        box((0, height / 2 + 0.04, 0), (half, height / 2 - 0.04, 0.22), body),
        box((0, height, 0), (half + 0.03, 0.02, 0.25), body),
        box((0, 0.04, -0.02), (half - 0.03, 0.04, 0.19), wood(dim(tone, 0.4))),
    ]
    for y in (0.32 * height, 0.75 * height):
        solids += both(
            box((half / 2, y, 0.22), (half / 2 - 0.03, 0.19 * height, 0.015), front),
            ball((half / 2, y, 0.25), (0.025, 0.025, 0.025), knob),
        )
    solids += trinket(rng, rng.uniform(-0.6, 0.6) * half, height + 0.02)
    return Thing(solids, half, 0.25)


def table(rng: Generator) -> Thing:
    half_x, half_z = rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.45)
    height, top = rng.uniform(0.45, 0.78), wood(timber(rng))
    solids = [box((0, height, 0), (half_x, 0.025, half_z), top)]
    for z in (0.06 - half_z, half_z - 0.06):
        solids += both(box((half_x - 0.06, height / 2, z), (0.03, height / 2, 0.03), top))
    solids += trinket(rng, rng.uniform(-0.5, 0.5) * half_x, height + 0.025)
    return Thing(solids, half_x, half_z)


def trinket(rng: Generator, x: float, y: float) -> list[Solid]:
    """A vase, a ball, a pile of books or a lamp at (x, y, 0)."""
    pick, paint = rng.integers(4), plain(hue(rng))
    if pick == 0:
        neck = drum((x, y + 0.27, 0), 0.045, 0.05, paint, 0.3)
        return [ball((x, y + 0.13, 0), (0.1, 0.13, 0.1), paint), neck]
    if pick == 1:
        return [ball((x, y + 0.1, 0), (0.1, 0.1, 0.1), stripes(hue(rng), hue(rng), 0.1))]
    if pick == 2:
        piles = [(rng.uniform(0.1, 0.16), y + 0.025 + 0.05 * number) for number in range(3)]
        return [box((x, at, 0), (half, 0.024, 0.09), plain(hue(rng))) for half, at in piles]
    stand = drum((x, y + 0.12, 0), 0.03, 0.12, paint)
    return [stand, drum((x, y + 0.32, 0), 0.12, 0.09, lampshade(rng), -0.3, shines=True)]


def lampshade(rng: Generator) -> Paint:
    return plain(hue(rng, (0.1, 0.5), (0.95, 1.0), near=0.12), 0.1)


def chair(rng: Generator) -> Thing:
    frame, seat = wood(timber(rng)), plain(hue(rng))
    solids = [
        box((0, 0.45, 0), (0.21, 0.03, 0.21), seat),
        box((0, 0.78, -0.2), (0.2, 0.14, 0.02), frame),
        *both(box((0.19, 0.21, 0.19), (0.02, 0.21, 0.02), frame)),
        *both(box((0.19, 0.45, -0.2), (0.02, 0.45, 0.02), frame)),
    ]
    return Thing(solids, 0.22, 0.22)


def sofa(rng: Generator) -> Thing:
    half, color = rng.uniform(0.6, 0.95), hue(rng)
    cloth, cushion = plain(color), dots(hue(rng), hue(rng), 0.09)
    solids = [
        box((0, 0.2, 0), (half, 0.2, 0.36), cloth),
        box((0, 0.45, -0.28), (half, 0.36, 0.1), cloth),
        ball((rng.uniform(-0.5, 0.5) * half, 0.6, -0.1), (0.2, 0.17, 0.09), cushion),
    ]
    solids += both(
        box((half, 0.28, 0), (0.09, 0.28, 0.37), cloth),
        box((half / 2, 0.43, 0.05), (half / 2 - 0.06, 0.05, 0.3), plain(color, 0.4)),
    )
    return Thing(solids, half + 0.09, 0.38)


def floor_lamp(rng: Generator) -> Thing:
    height, metal = rng.uniform(1.2, 1.6), plain((0.08, 0.08, 0.09))
    solids = [
        drum((0, 0.015, 0), 0.15, 0.015, metal),
        drum((0, height / 2, 0), 0.018, height / 2, metal),
        drum((0, height, 0), 0.19, 0.14, lampshade(rng), -0.3, shines=True),
    ]
    return Thing(solids, 0.19, 0.19)


def toy_ball(rng: Generator) -> Thing:
    radius = rng.uniform(0.1, 0.2)
    paint = stripes(hue(rng), hue(rng), radius * 0.8, across=True)
    return Thing([ball((0, radius, 0), (radius, radius, radius), paint)], radius / 2, radius / 2)


def crate(rng: Generator) -> Thing:
    half, height = rng.uniform(0.15, 0.28), rng.uniform(0.12, 0.3)
    paint = (wood(timber(rng)), tiles(hue(rng), hue(rng), 0.12))[rng.integers(2)]
    solids = [box((0, height, 0), (half, height, half), paint)]
    if rng.random() < 0.5:
        size = (half * 0.6, 0.09, half * 0.6)
        solids.append(box((0.03, 2 * height + 0.09, 0), size, plain(hue(rng))))
    return Thing(solids, half, half)


def picture(rng: Generator) -> Thing:
    """A framed painting; like everything that hangs, its back is at z = 0."""
    half_x, half_y, y = rng.uniform(0.2, 0.5), rng.uniform(0.18, 0.38), rng.uniform(1.45, 1.7)
    canvas = (
        scenery(hue(rng), hue(rng), 2 * half_y, rng.uniform(0, 1)),
        dots(hue(rng), hue(rng), 0.17),
        tiles(hue(rng), hue(rng), 0.15),
    )[rng.integers(3)]
    solids = [
        box((0, y, 0.015), (half_x, half_y, 0.015), wood(timber(rng))),
        box((0, y, 0.03), (half_x - 0.04, half_y - 0.04, 0.005), canvas),
    ]
    return Thing(solids, half_x, 0.02)


def window(rng: Generator) -> Thing:
    """A bright view behind bars, between curtains half of the time."""
    half_x, half_y, y = rng.uniform(0.45, 0.75), rng.uniform(0.45, 0.65), 1.6
    frame, land = plain((0.75, 0.74, 0.7), 0.1), hue(rng, value=(0.3, 0.6), near=0.3)
    view = scenery((0.25, 0.5, 1.0), land, 2 * half_y, rng.uniform(0, 1))
    solids = [
        box((0, y, 0.01), (half_x, half_y, 0.01), view, shines=True),
        box((0, y - half_y, 0.06), (half_x + 0.1, 0.03, 0.08), frame),
        box((0, y + half_y, 0.03), (half_x, 0.04, 0.03), frame),
        box((0, y, 0.03), (0.025, half_y, 0.02), frame),
        box((0, y + 0.1, 0.03), (half_x, 0.02, 0.02), frame),
        *both(box((half_x, y, 0.03), (0.04, half_y, 0.03), frame)),
    ]
    if rng.random() < 0.5:
        cloth, drop = stripes(hue(rng), hue(rng), 0.1), half_y + 0.2
        solids += both(box((half_x + 0.1, y - 0.1, 0.08), (0.14, drop, 0.03), cloth))
    return Thing(solids, half_x + 0.24, 0.1)


def door(rng: Generator) -> Thing:
    color = timber(rng) if rng.random() < 0.5 else hue(rng)
    panel = wood(dim(color, 0.7))
    solids = [
        box((0, 1.02, 0.01), (0.5, 1.02, 0.015), plain((0.7, 0.68, 0.62), 0.1)),
        box((0, 1.0, 0.03), (0.42, 0.98, 0.01), wood(color)),
        ball((0.34, 0.98, 0.07), (0.035, 0.035, 0.035), plain((0.6, 0.5, 0.15))),
        *both(box((0.2, 0.5, 0.04), (0.15, 0.34, 0.008), panel)),
        *both(box((0.2, 1.4, 0.04), (0.15, 0.34, 0.008), panel)),
    ]
    return Thing(solids, 0.5, 0.05)


ALONG_WALLS = (bookcase, bookcase, cabinet, cabinet, sofa, table, door)  # backs to a wall
LOOSE = (table, chair, chair, floor_lamp, toy_ball, crate)  # anywhere on the floor
