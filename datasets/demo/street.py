"""A seed goes in; a street seen from a car comes out: labels by class name, and true depth."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from datasets.demo.paint import Size, blend, noise
from datasets.demo.scene import THINGS, Scene
from datasets.demo.view import Paint, View, speckle, striped

GROUND, VEHICLES = THINGS["street"], THINGS["vehicles"]  # colours; model and half sizes in metres
POSTS = THINGS["posts"]  # name, model, height in metres, colours
MOVING = ("person", "rider", *VEHICLES)
REST = ("building", "wall", "fence", "pole", "trafficlight", "trafficsign", "vegetation", "sky")
WORDS = (*GROUND, *MOVING, *REST, "static", "dynamic")
BANDS, WIDTHS = zip(*THINGS["bands"], strict=True)  # from left to right, metres
LOW = THINGS["walls"]  # name, colour, how it is `striped`


def draw_street(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """A straight street with houses, traffic and people."""
    view, has_rails = View(rng, size, ("sky", *WORDS), rng.uniform(0.02, 0.07)), rng.random() < 0.35
    view.image[:] = rng.uniform((0.35, 0.58, 0.76), (0.68, 0.72, 0.9))
    blend(view.image, np.linspace(0, 1.8, size[0])[:, None].clip(0, 1), (0.85, 0.9, 0.95))
    blend(view.image, np.clip(noise(rng, size, 5, 4) * 3 - 1.4, 0, 0.9), (0.96, 0.96, 0.97))
    kerbs = _ground(rng, view, has_rails)
    for side, kerb in zip((-1, 1), kerbs, strict=True):
        _houses(rng, view, side, kerb + side * rng.uniform(3, 8))
        _sidewalk(rng, view, side, kerb)
    _traffic(rng, view, kerbs, has_rails)
    haze = 1 - np.exp(-view.depth_m / rng.uniform(120, 350))
    blend(view.image, haze * (view.ids > 0), (0.78, 0.82, 0.86))
    return view.scene(rng.uniform(0.55, 1.1) * rng.uniform(0.93, 1.07, 3), MOVING)


def _ground(rng: Generator, view: View, has_rails: bool) -> tuple[float, float]:
    """Draw the bands; where the kerbs of road and rails are, x in metres."""
    there = np.array([1, rng.random() < 0.4, has_rails, 1, rng.random() < 0.4, 1])
    widths = np.array(WIDTHS[1:-1]) * rng.uniform(0.8, 1.4, 6) * there
    edges = np.cumsum([-rng.uniform(3, 5) - widths[:3].sum(), *widths])
    hit = -view.rays[1] > view.position[1] / 250
    t = view.position[1] / -view.rays[1][hit]
    x, _, z = view.rays[:, hit] * t
    band = np.digitize(x, edges)
    inside = x - np.array([edges[0] - 9, *edges])[band]  # metres from the band's left edge
    is_a = {name: (np.array(BANDS) == name)[band] for name in GROUND}
    color = np.array([GROUND[name] for name in BANDS], np.float32)[band]
    color *= (0.86 + speckle(x * 6, z * 3) * (0.3 / (1 + z / 12)))[:, None]
    color[is_a["sidewalk"] & ((inside % 0.6 < 0.05) | (z % 0.8 < 0.05)) & (z < 25)] *= 0.82
    color[is_a["railtrack"] & (z % 0.9 < 0.3)] *= 0.6
    color[is_a["railtrack"] & (np.abs(np.abs(inside - 1.3) - 0.7) < 0.07)] = 0.74
    marks = (np.abs(inside - widths[3] / 2) < 0.08) & (z % 6 < 3)
    marks |= (np.abs(z - 14) < 1.4) & (x % 1.1 < 0.5)
    color[is_a["road"] & marks | is_a["parking"] & (z % 5 < 0.15)] = 0.86
    color[inside < 0.12] *= 1.25
    view.image[hit], view.depth_m[hit], view.normals[hit] = color, t, (0, 1, 0)
    view.ids[hit] = np.array([view.id_of(name) for name in BANDS], np.uint8)[band]
    return edges[2], edges[4]


def _houses(rng: Generator, view: View, side: int, front: float) -> None:
    """Houses side by side from near to far; in gaps a wall, a fence or a hedge, and a tree."""
    z = rng.uniform(2, 8)
    while z < 110:
        name, (tall, long, deep) = "building", rng.uniform((2.5, 3, 2), (8.5, 8, 4))
        tone = np.clip((0.72, 0.6, 0.5) * rng.uniform(0.6, 1.25, 3), 0.2, 0.95)
        look = [rng.uniform(1.6, 2.6), 0.5, 3, 0.55, rng.uniform(0.15, 0.6)]  # windows
        if rng.random() < 0.28:
            name, tone, look = LOW[rng.integers(len(LOW))]
            tall, deep = rng.uniform(0.6, 1.1), 0.12
            _tree(rng, view, front + side * rng.uniform(2, 6), z + long)
        at, half = (front + side * deep, tall, z + long), (deep, tall, long)
        view.put(name, "box", at, half, 0, striped(tone, *look))
        z += 2 * long + 0.1


def _tree(rng: Generator, view: View, x: float, z: float) -> None:
    leaf, bark = rng.uniform((0.2, 0.32, 0.1), (0.34, 0.54, 0.18)), (0.34, 0.25, 0.18)
    paints: list[Paint] = [bark, lambda u, v: np.outer(0.6 + 0.8 * speckle(u * 5, v * 5), leaf)]
    view.build("vegetation", "tree", (x, 0, z), [rng.uniform(1.2, 1.9)] * 3, 0, paints)


def _sidewalk(rng: Generator, view: View, side: int, kerb: float) -> None:
    """Posts with lamps, lights and signs; trees, people, bins and boxes."""
    x = kerb + side * 0.4
    for z in np.arange(rng.uniform(6, 12), 60, rng.uniform(9, 16)):
        name, model, tall, colors = POSTS[rng.integers(len(POSTS))]
        view.put("pole", "box", (x, tall / 2, z), (0.08, tall / 2, 0.08), 0, (0.5, 0.52, 0.53))
        view.build(name, model, (x, tall, z), (1, 1, 1), 0, colors)
    for what in rng.choice(["tree", "person", "static", "dynamic"], 6, p=[0.3, 0.4, 0.15, 0.15]):
        x, z = kerb + side * rng.uniform(0.8, 3.5), rng.uniform(5, 26)
        if what == "tree":
            _tree(rng, view, x, 2 * z)
        elif what == "person":
            view.person("person", (x, 0, z), rng.uniform(0, 6))
        else:
            tone = (0.1, 0.32, 0.25) if what == "static" else (0.9, 0.35, 0.12)
            view.build(str(what), "box", (x, 0, z), rng.uniform(0.4, 1, 3), 0, [tone])


def _traffic(rng: Generator, view: View, kerbs: tuple[float, float], has_rails: bool) -> None:
    """What drives ahead and comes towards us, parks at the kerbs, and cycles."""
    ahead, towards = ["car", "bus", "truck"], ["car", "bus", "train" if has_rails else "truck"]
    lanes = ((kerbs[1] - 1.9, ahead), (kerbs[0] + 1.5, towards), (kerbs[1] + 0.9, ["car"]))
    for x, vehicles in lanes:
        for z in np.arange(rng.uniform(10, 22), 60, rng.uniform(19, 30)):
            vehicle = str(rng.choice(vehicles))
            body = rng.uniform(0.1, 0.95, 3) if vehicle != "bus" else np.array([0.9, 0.7, 0.15])
            glass = body * 0.5 if vehicle == "truck" else (0.12, 0.15, 0.19)
            colors = [body, glass, (0.07,) * 3, (0.9, 0.08, 0.06) if x > 0 else (1, 0.97, 0.8)]
            view.build(vehicle, VEHICLES[vehicle][0], (x, 0, z), VEHICLES[vehicle][1], 0, colors)
    for vehicle in ("bicycle", "motorcycle"):
        if rng.random() < 0.65:
            at, yaw = rng.uniform((-1.6, 0, 4.5), (1.6, 0, 11)), rng.uniform(0.3, 2.8)
            colors = [rng.uniform(0.1, 0.8, 3), (0.6,) * 3, (0.08,) * 3]
            view.build(vehicle, VEHICLES[vehicle][0], at, VEHICLES[vehicle][1], yaw, colors)
            if rng.random() < 0.75:
                view.person("rider", at + (0, 0.3, 0), yaw)
