"""A seed goes in; a street seen from a car comes out: labels by class name, and true depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size, blend, finish, noise
from datasets.demo.scene import THINGS, Scene
from datasets.demo.view import MODELS, Paint, Pose, View, figure, speckle, striped

GROUND, VEHICLES = THINGS["street"], THINGS["vehicles"]  # colours; model and half sizes in metres
POSTS = THINGS["posts"]  # name, model, height in metres, colours
MOVING = ("person", "rider", *VEHICLES)
REST = ("building", "wall", "fence", "pole", "trafficlight", "trafficsign", "vegetation", "sky")
WORDS = (*GROUND, *MOVING, *REST, "static", "dynamic")
SIDES = (-1, 1)


def draw_street(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """A straight street with houses, traffic and people."""
    focal = size[1] * rng.uniform(0.75, 0.95)
    view = View(size, ("sky", *WORDS), focal, rng.uniform(0.02, 0.07), rng.uniform(1.3, 1.8))
    kerbs, tracks = (rng.uniform(3.2, 6.5), rng.uniform(2.2, 4.2)), rng.random() < 0.35
    sky = np.array([0.35, 0.58, 0.9]) if rng.random() < 0.6 else np.array([0.68, 0.72, 0.76])
    fade = np.clip(np.linspace(0, 1.8, size[0]), 0, 1)[:, None, None]
    view.image[:] = sky + fade * (np.array([0.85, 0.9, 0.95]) - sky)
    blend(view.image, np.clip(noise(rng, size, 5, 4) * 3 - 1.4, 0, 0.9), (0.96, 0.96, 0.97))
    _ground(rng, view, kerbs, tracks)
    for side, kerb in zip(SIDES, kerbs, strict=True):
        _houses(rng, view, side, kerb + rng.uniform(3, 8))
        _sidewalk(rng, view, side, kerb)
    _traffic(rng, view, kerbs, tracks)
    haze = 1 - np.exp(-view.depth_m / rng.uniform(120, 350))
    blend(view.image, haze * (view.ids > 0), (0.78, 0.82, 0.86))
    light = rng.uniform(0.55, 1.1) * rng.uniform(0.93, 1.07, 3)
    front = np.isin(view.ids, [view.id_of(name) for name in MOVING])
    image = finish(rng, view.image * light, 0.015)
    return Scene(image, view.ids, tuple(view.names), front, view.depth_m, view.camera)


def _ground(rng: Generator, view: View, kerbs: tuple[float, float], tracks: bool) -> None:
    """Bands along the street, from left to right; one that is not there has no width."""
    outer = [str(name) for name in rng.choice(["terrain", "ground"], 2, p=[0.65, 0.35])]
    bands = [outer[0], "sidewalk", "parking", "railtrack", "road", "parking", "sidewalk", outer[1]]
    walks, bays = rng.uniform(2.2, 4, 2), 2.1 * (rng.random(2) < 0.4)
    rails, left = 2.6 * tracks, -kerbs[0] - bays[0] - walks[0]
    widths = [walks[0], bays[0], rails, sum(kerbs) - rails, bays[1], walks[1]]
    edges = left + np.cumsum([0, *widths])
    hit = -view.rays[..., 1] > view.position[1] / 250
    t = view.position[1] / -view.rays[..., 1][hit]
    (x, z), middle = (view.rays[hit] * t[:, None])[:, ::2].T, (kerbs[1] - kerbs[0]) / 2
    band = np.digitize(x, edges)
    inside = x - np.array([left - 9, *edges])[band]  # metres from the band's left edge
    is_a = {name: (np.array(bands) == name)[band] for name in GROUND}
    color = np.array([GROUND[name] for name in bands], np.float32)[band]
    color *= (0.86 + speckle(x * 6, z * 3) * (0.3 / (1 + z / 12)))[:, None]
    color[is_a["terrain"] & (speckle(x * 9, z * 4) > 0.6)] *= 0.8
    color[is_a["sidewalk"] & ((inside % 0.6 < 0.05) | (z % 0.8 < 0.05)) & (z < 25)] *= 0.82
    color[is_a["railtrack"] & (z % 0.9 < 0.3)] *= 0.6
    color[is_a["railtrack"] & (np.abs(np.abs(inside - 1.3) - 0.7) < 0.07)] = 0.74
    marks = (np.abs(x - middle) < 0.08) & (z % 6 < 3) | (np.abs(z - 14) < 1.4) & (x % 1.1 < 0.5)
    color[is_a["road"] & marks | is_a["parking"] & ((z % 5 < 0.15) | (inside < 0.12))] = 0.86
    color[inside < 0.12] *= 1.25
    view.image[hit], view.depth_m[hit] = color, t
    view.ids[hit] = np.array([view.id_of(name) for name in bands], np.uint8)[band]
    view.ground_m = view.depth_m.copy()


def house(rng: Generator) -> Paint:
    """A front with rows of windows, and a roof."""
    tone = np.clip(np.array([0.72, 0.6, 0.5]) * rng.uniform(0.6, 1.25, 3), 0.2, 0.95)
    frame, glass = rng.uniform(0.3, 0.9), rng.uniform(0.12, 0.4) * np.array([0.9, 1, 1.15])

    def paint(points: ndarray, normals: ndarray) -> ndarray:
        across = np.where(np.abs(normals[:, 0]) > 0.5, points[:, 2], points[:, 0]) / 2.1
        up = points[:, 1] / 3 + 9
        color = tone * (0.94 + 0.1 * speckle(across * 6, up * 24))[:, None]
        u, v = np.abs(across % 1 - 0.5), np.abs(up % 1 - 0.55)
        color[(u < 0.29) & (v < 0.33)] = frame
        pane = (u < 0.23) & (u > 0.025) & (v < 0.28)
        color[pane] = glass * (0.6 + 0.8 * speckle(across, up)[pane])[:, None]
        color[np.abs(normals[:, 1]) > 0.5] = (0.4, 0.2, 0.16)
        return color

    return paint


def leaves(rng: Generator) -> Paint:
    """Foliage: speckled light and dark."""
    tone = np.array([0.26, 0.44, 0.14]) * rng.uniform(0.7, 1.3)

    def paint(points: ndarray, normals: ndarray) -> ndarray:
        fine, coarse = speckle(*(points * 7).T), speckle(*(points * 2.5).T)
        return tone * (0.55 + 0.5 * fine + 0.35 * coarse)[:, None]

    return paint


def _houses(rng: Generator, view: View, side: int, edge: float) -> None:
    """Houses side by side from near to far; in gaps a wall, a fence or a hedge, and a tree."""
    wall = striped(np.array([0.62, 0.42, 0.36]), 1, 0.2, 0.2, 1.6)
    fence, z = striped(np.array([0.45, 0.33, 0.24]), 2, 0.28, 0.5, 0.35), rng.uniform(2, 8)
    while z < 110:
        long, tall, deep = rng.uniform(7, 16) / 2, rng.uniform(5, 17) / 2, rng.uniform(4, 7)
        look, name = house(rng), "building"
        if rng.random() < 0.28:
            kinds = {"wall": wall, "fence": fence, "vegetation": leaves(rng)}
            name = str(rng.choice(list(kinds)))
            look, tall, deep = kinds[name], rng.uniform(0.6, 1.1), 0.12
            _tree(rng, view, side * (edge + rng.uniform(2, 6)), z + long)
        middle, half = (side * (edge + deep), tall, z + long), (deep, tall, long - 0.05)
        view.put(name, "box", Pose(middle, half), look)
        z += 2 * long


def _tree(rng: Generator, view: View, x: float, z: float) -> None:
    colors, size = [(0.34, 0.25, 0.18), leaves(rng)], rng.uniform(1.2, 1.9) * np.ones(3)
    view.build("vegetation", MODELS["tree"], Pose((x, 0, z), size), colors)


def _sidewalk(rng: Generator, view: View, side: int, kerb: float) -> None:
    """Posts with lamps, lights and signs, trees, people, bins and boxes."""
    for z in np.arange(rng.uniform(6, 12), 60, rng.uniform(9, 16)):
        _post(rng, view, side * (kerb + 0.4), z)
    for _ in range(rng.integers(1, 4)):
        _tree(rng, view, side * (kerb + rng.uniform(1, 5)), rng.uniform(10, 50))
    for _ in range(rng.integers(1, 4)):
        at = (side * (kerb + rng.uniform(0.6, 3)), 0, rng.uniform(5, 24))
        figure(rng, view, "person", at, rng.uniform(0, 6))
    for name, tone in (("static", (0.1, 0.32, 0.25)), ("dynamic", (0.9, 0.35, 0.12))):
        if rng.random() < 0.5:
            at = (side * (kerb + rng.uniform(0.8, 2.5)), 0, rng.uniform(5, 18))
            view.build(name, MODELS["box"], Pose(at, rng.uniform(0.4, 1, 3)), [tone])


def _post(rng: Generator, view: View, x: float, z: float) -> None:
    """A lamp post, a traffic light or a sign."""
    name, model, tall, colors = POSTS[rng.integers(len(POSTS))]
    view.put("pole", "box", Pose((x, tall / 2, z), (0.08, tall / 2, 0.08)), (0.5, 0.52, 0.53))
    view.build(name, MODELS[model], Pose((x, tall, z), (1, 1, 1)), colors)


def _traffic(rng: Generator, view: View, kerbs: tuple[float, float], tracks: bool) -> None:
    """What drives ahead and comes towards us, parks at the kerbs, and cycles."""
    cars = [("car", x, rng.uniform(6, 20)) for x in (-kerbs[0] - 0.9, kerbs[1] + 0.9)]
    for x, towards in ((kerbs[1] - 1.9, False), (1.7 - kerbs[0], True)):
        z = rng.uniform(5, 14)
        for _ in range(rng.integers(1, 4)):
            kind = str(rng.choice(["car", "truck", "bus"], p=[0.6, 0.2, 0.2]))
            if towards and tracks:
                kind, x = str(rng.choice(["train", "car"], p=[0.7, 0.3])), 1.3 - kerbs[0]
            long = VEHICLES[kind][1][2] + rng.uniform(1, 7)
            cars.append((kind, x, z + long))
            z += 2 * long
    for vehicle, x, z in cars[rng.integers(0, 3) :]:
        body = rng.uniform(0.1, 0.95, 3) if vehicle != "bus" else np.array([0.9, 0.7, 0.15])
        glass, lamp = (0.12, 0.15, 0.19), (0.9, 0.08, 0.06) if x > 0 else (1, 0.97, 0.8)
        colors = [body, body * 0.5 if vehicle == "truck" else glass, (0.07,) * 3, lamp]
        model, half = VEHICLES[vehicle]
        view.build(vehicle, MODELS[model], Pose((x, 0, z), half), colors)
    for cycle in ("bicycle", "motorcycle"):
        if rng.random() < 0.65:
            x, z = (kerbs[1] - kerbs[0]) / 2 + rng.uniform(-1.6, 1.6), rng.uniform(4.5, 11)
            yaw, colors = rng.uniform(0.3, 2.8), [rng.uniform(0.1, 0.8, 3), (0.6,) * 3, (0.08,) * 3]
            view.build(cycle, MODELS["cycle"], Pose((x, 0, z), VEHICLES[cycle][1], yaw), colors)
            if rng.random() < 0.75:
                figure(rng, view, "rider", (x, 0.3, z), yaw)
