"""A random generator in, a figure about one unit high out: the foreground of a rendered room."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numpy.random import Generator

from datasets.scenes.paints import dim, dots, fur, hue, plain, stripes
from datasets.scenes.solids import Paint, Solid, Thing, ball, both, box, drum, limb, rod

BLACK = plain((0.01, 0.01, 0.012))
WHITE = plain((0.8, 0.8, 0.76))


def coat(rng: Generator) -> tuple[Paint, Paint]:
    """The fur of an animal, and a paler one for its muzzle and paws."""
    a = hue(rng, (0.3, 0.85), (0.3, 0.95), near=0.07)
    b = hue(rng, (0.05, 0.5), (0.15, 0.9), near=0.08)
    pale = tuple(min(0.85, 0.5 * c + 0.35) for c in a)
    shift = rng.uniform(0, 9)
    return fur(a, b, rng.choice([0.0, 0.4, 0.5]), shift), fur(pale, pale, 0.0, shift)


def dog(rng: Generator) -> Thing:
    """Standing, with a collar; hanging or pointed ears."""
    (hair, pale), (ear, _) = coat(rng), coat(rng)
    wag, step = rng.uniform(-0.2, 0.2), rng.uniform(-0.08, 0.08)
    solids = [
        ball((0, 0.52, -0.02), (0.15, 0.16, 0.36), hair),
        ball((0, 0.54, 0.2), (0.175, 0.2, 0.2), hair),
        ball((0, 0.52, -0.26), (0.155, 0.17, 0.18), hair),
        limb((0, 0.58, 0.26), (0, 0.8, 0.4), 0.12, hair),
        rod((0, 0.68, 0.3), (0, 0.7, 0.36), 0.145, plain(hue(rng))),
        ball((0, 0.86, 0.42), (0.145, 0.14, 0.16), hair),
        ball((0, 0.8, 0.58), (0.08, 0.075, 0.13), pale),
        ball((0, 0.835, 0.7), (0.035, 0.03, 0.03), BLACK),
        limb((0.05, 0.73, 0.63), (0.06, 0.66, 0.65), 0.03, plain((0.7, 0.12, 0.15)), 0.4),
        limb((0, 0.6, -0.38), (wag, 0.9, -0.56), 0.045, hair),
        *both(ball((0.065, 0.905, 0.55), (0.024, 0.028, 0.02), BLACK)),
    ]
    if rng.random() < 0.5:
        solids += both(limb((0.1, 0.97, 0.4), (0.18, 0.76, 0.42), 0.07, ear, 0.5))
    else:
        solids += both(rod((0.08, 0.92, 0.4), (0.12, 1.1, 0.38), 0.035, ear, 0.6, -0.9))
    for x in (-0.1, 0.1):
        for hip, foot in ((0.24, 0.24 + 10 * x * step), (-0.28, -0.28 - 10 * x * step)):
            solids.append(limb((x, 0.52, hip), (x, 0.03, foot), 0.065, hair))
            solids.append(ball((x, 0.03, foot + 0.03), (0.055, 0.03, 0.08), pale))
    return Thing(solids, 0.22, 0.6)


def cat(rng: Generator) -> Thing:
    """Sitting, the tail around its feet; half of the cats are tabby."""
    hair, pale = coat(rng)
    if rng.random() < 0.5:
        color = hue(rng, (0.3, 0.85), (0.4, 0.95), near=0.07)
        hair = stripes(color, dim(color, 0.25), rng.uniform(0.06, 0.1), across=True)
    iris, nose = plain(hue(rng, near=0.25)), plain((0.7, 0.2, 0.22))
    side = float(rng.choice([-1, 1]))
    solids = [
        ball((0, 0.33, -0.04), (0.19, 0.33, 0.22), hair),
        ball((0, 0.45, 0.06), (0.15, 0.22, 0.16), pale),
        ball((0, 0.78, 0.07), (0.19, 0.16, 0.165), hair),
        ball((0, 0.735, 0.2), (0.085, 0.06, 0.06), pale),
        ball((0, 0.765, 0.255), (0.025, 0.018, 0.015), nose),
        limb((0.0, 0.05, -0.22), (side * 0.28, 0.05, -0.15), 0.05, hair),
        limb((side * 0.27, 0.05, -0.16), (side * 0.3, 0.05, 0.16), 0.05, hair),
        limb((side * 0.3, 0.05, 0.14), (side * 0.16, 0.05, 0.27), 0.04, pale),
    ]
    solids += both(
        rod((0.11, 0.86, 0.06), (0.15, 1.04, 0.05), 0.045, hair, 0.5, -0.9),
        ball((0.08, 0.82, 0.205), (0.038, 0.036, 0.02), iris),
        ball((0.08, 0.82, 0.222), (0.012, 0.03, 0.008), BLACK),
        limb((0.075, 0.46, 0.13), (0.08, 0.03, 0.19), 0.058, hair),
        ball((0.08, 0.035, 0.22), (0.058, 0.035, 0.075), pale),
        ball((0.17, 0.16, 0.0), (0.09, 0.16, 0.19), hair),
    )
    return Thing(solids, 0.28, 0.28)


def robot(rng: Generator) -> Thing:
    """A toy of boxes, with a panel of lights and arms at any height."""
    metal, second = plain(hue(rng), 0.1), plain(hue(rng), 0.1)
    grey, teeth = plain((0.4, 0.42, 0.45)), stripes((0.02, 0.02, 0.02), (0.7, 0.7, 0.7), 0.03)
    lights = dots((0.05, 0.06, 0.08), hue(rng, (0.6, 0.9), (0.95, 1.0)), 0.075)
    lamp = ball((0, 0.99, 0), (0.035, 0.035, 0.035), plain(hue(rng, (0.5, 0.9), (1.0, 1.0))))
    solids = [
        box((0, 0.47, 0), (0.19, 0.17, 0.13), metal),
        box((0, 0.49, 0.13), (0.12, 0.1, 0.012), lights),
        drum((0, 0.66, 0), 0.06, 0.04, grey),
        box((0, 0.79, 0), (0.16, 0.11, 0.12), second),
        box((0, 0.735, 0.12), (0.09, 0.018, 0.01), teeth),
        drum((0, 0.93, 0), 0.012, 0.04, grey),
        lamp._replace(shines=True),
    ]
    solids += both(
        ball((0.07, 0.825, 0.115), (0.042, 0.042, 0.03), WHITE),
        ball((0.07, 0.825, 0.142), (0.02, 0.02, 0.012), BLACK),
        rod((0.18, 0.79, 0), (0.2, 0.79, 0), 0.04, grey),
        drum((0.1, 0.18, 0), 0.055, 0.13, grey),
        box((0.1, 0.035, 0.03), (0.075, 0.035, 0.11), second),
    )
    for side in (-1, 1):
        shoulder = (side * 0.21, 0.58, 0)
        hand = (side * 0.3, 0.34 + rng.uniform(-0.05, 0.5), 0.12)
        solids += [ball(joint, (0.06, 0.06, 0.06), second) for joint in (shoulder, hand)]
        solids.append(rod(shoulder, hand, 0.038, grey))
    return Thing(solids, 0.3, 0.16)


def person(rng: Generator) -> Thing:
    """A child or an adult in shirt and trousers, arms anywhere, short or long hair."""
    skin = plain(hue(rng, (0.3, 0.6), (0.35, 0.95), near=0.06), 0.1)
    hair = fur(hue(rng, (0.3, 0.8), (0.08, 0.7), near=0.07), (0, 0, 0), 0.0, 0.0)
    a, b = hue(rng), hue(rng)
    shirt = (plain(a), stripes(a, b, 0.09, across=True), dots(a, b, 0.1))[rng.integers(3)]
    trousers, shoes = plain(hue(rng, (0.2, 0.8), (0.15, 0.6))), plain(hue(rng))
    stride = rng.uniform(-0.07, 0.07)
    waist = ((0.115, 0.0, 0.0), (0.0, 0.11, 0.0), (0.0, 0.0, 0.078))
    solids = [
        ball((0, 0.87, 0), (0.095, 0.115, 0.1), skin),
        ball((0, 0.905, -0.022), (0.107, 0.105, 0.105), hair),
        ball((0, 0.86, 0.1), (0.014, 0.018, 0.016), skin),
        drum((0, 0.75, 0), 0.04, 0.04, skin),
        ball((0, 0.6, 0), (0.13, 0.17, 0.09), shirt),
        drum((0, 0.54, 0), 1.0, 0.11, shirt, 0.06)._replace(axes=waist),
        ball((0, 0.43, 0), (0.118, 0.08, 0.088), trousers),
        *both(ball((0.035, 0.88, 0.09), (0.015, 0.018, 0.01), BLACK)),
    ]
    if rng.random() < 0.5:
        solids.append(ball((0, 0.8, -0.06), (0.11, 0.15, 0.07), hair))
    for side in (-1, 1):
        step = side * stride
        leg = rod((side * 0.06, 0.44, 0), (side * 0.07, 0.04, step), 0.055, trousers, 1.0, -0.12)
        solids += [leg, ball((side * 0.07, 0.03, step + 0.03), (0.048, 0.03, 0.085), shoes)]
        out, up, ahead = rng.uniform(0.02, 0.12), rng.uniform(-0.17, 0.2), rng.uniform(-0.05, 0.14)
        shoulder, elbow = (
            (side * 0.125, 0.69, 0),
            (side * (0.15 + out), 0.56 + 0.2 * up, 0.3 * ahead),
        )
        hand = (side * (0.17 + out), 0.54 + up, ahead)
        solids += [limb(shoulder, elbow, 0.047, shirt), limb(elbow, hand, 0.034, skin)]
        solids.append(ball(hand, (0.036, 0.036, 0.036), skin))
    return Thing(solids, 0.22, 0.12)


def plant(rng: Generator) -> Thing:
    """A pot with broad leaves, or with a cactus."""
    pot = (plain(hue(rng)), stripes(hue(rng), hue(rng), 0.12, across=True))[rng.integers(2)]
    solids = [
        drum((0, 0.15, 0), 0.16, 0.15, pot, 0.22),
        drum((0, 0.3, 0), 0.205, 0.02, pot),
        drum((0, 0.31, 0), 0.17, 0.015, plain((0.05, 0.03, 0.02))),
    ]
    solids += cactus(rng) if rng.random() < 0.3 else leaves(rng)
    return Thing(solids, 0.25, 0.25)


def cactus(rng: Generator) -> list[Solid]:
    ribs = stripes(hue(rng, near=0.33), hue(rng, value=(0.3, 0.4), near=0.36), 0.05)
    solids = [limb((0, 0.3, 0), (0, 0.97, 0), 0.14, ribs)]
    for side in (-1, 1):
        y = rng.uniform(0.5, 0.65)
        solids.append(limb((side * 0.1, y, 0), (side * 0.27, y + 0.03, 0), 0.06, ribs))
        solids.append(limb((side * 0.26, y, 0), (side * 0.27, y + 0.22, 0), 0.06, ribs))
    return solids


def leaves(rng: Generator) -> list[Solid]:
    solids, green = [], rng.uniform(0.24, 0.38)
    for number in range(15):
        x, z = bearing(rng, 1.0)
        if number % 2:
            x, z = -x, -z
        reach, top = rng.uniform(0.12, 0.38), rng.uniform(0.5, 1.0)
        color = hue(rng, value=(0.4, 0.9), near=green)
        leaf = stripes(color, dim(color, 0.7), 0.05)
        root, tip = (0.04 * x, 0.3, 0.04 * z), (reach * x, top, reach * z)
        bend = (0.5 * tip[0], 0.075 + 0.75 * top, 0.5 * tip[2])
        solids += [limb(root, bend, 0.018, leaf), limb(bend, tip, 0.085, leaf, 0.2)]
    return solids


def bearing(rng: Generator, spread: float) -> tuple[float, float]:
    """A unit vector (x, z) within 2 atan(spread) of -z, where the camera is; no sine needed."""
    t = rng.uniform(-spread, spread)
    return 2 * t / (1 + t * t), (t * t - 1) / (1 + t * t)


class Figure(NamedTuple):
    """How to make a figure and how to show it.

    height_m: range of its height. share: range of its height in the image, over the
    image's, as far as height_m allows. spread: it turns up to 2 atan(spread) away from the camera.
    """

    make: Callable[[Generator], Thing]
    height_m: tuple[float, float]
    share: tuple[float, float]
    spread: float


FIGURES = (
    Figure(dog, (0.65, 1.1), (0.42, 0.62), 0.75),
    Figure(cat, (0.45, 0.9), (0.4, 0.62), 0.5),
    Figure(robot, (0.6, 1.4), (0.45, 0.75), 0.4),
    Figure(person, (0.85, 1.85), (0.6, 0.78), 0.5),
    Figure(plant, (0.7, 1.4), (0.45, 0.75), 1.0),
)
