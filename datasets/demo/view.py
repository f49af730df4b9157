"""Solids in metres go in, in any order; image, labels and true depth of the nearest come out.

The world's x points right, y up, z ahead of the camera, which stands over (0, 0) and looks down by
`pitch`. A pixel's ray is (x, y, 1) before the camera: what it travels is depth along the axis.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size
from datasets.demo.scene import Camera

NEAR_M, FAR_M = 0.15, 300.0
LIGHT = np.array([-0.45, 0.8, -0.4], np.float32)  # towards the light
AMBIENT = 0.62
SHADOW_M = 0.35  # how far a soft shadow reaches over the ground
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)

# A colour, or points (n, 3) in metres from the solid's middle and normals (n, 3) -> colours (n, 3).
Paint = Sequence[float] | ndarray | Callable[[ndarray, ndarray], ndarray]
# Shape, middle (x, y, z), half sizes, number of the colour: a part of something larger.
Part = tuple[str, tuple[float, float, float], tuple[float, float, float], int]


class View:
    """A picture under construction: image float32 (H, W, 3), ids uint8 (H, W) as positions in
    `names`, depth_m float32 (H, W), all of the surface that is nearest so far."""

    def __init__(self, size: Size, names: Sequence[str], focal: float, pitch: float, eye_m: float):
        self.names, (height, width) = list(names), size
        self.camera = Camera(focal, focal, width / 2, height / 2)
        self.position = np.array([0, eye_m, 0], np.float32)
        cos, sin = np.cos(pitch), np.sin(pitch)
        # rows: the camera's right, down and ahead, in the world
        self.axes = np.array([[1, 0, 0], [0, -cos, -sin], [0, -sin, cos]], np.float32)
        y, x = ((np.arange(n) + 0.5 - n / 2) / focal for n in size)
        rays = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0), -1)
        self.rays = (rays @ self.axes).astype(np.float32)  # (H, W, 3), in the world
        self.image = np.zeros((*size, 3), np.float32)
        self.ids = np.zeros(size, np.uint8)
        self.depth_m = np.full(size, FAR_M, np.float32)
        self.ground_m = self.depth_m  # depth of the ground, where it is shaded

    def id_of(self, name: str) -> int:
        """The label of a name; a new one is added."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def build(
        self,
        name: str,
        parts: Sequence[Part],
        at: Sequence[float],
        size: Sequence[float],
        colors: Sequence[Paint],
        yaw: float = 0.0,
        shadow: bool = True,
    ) -> None:
        """Something of several parts, whose places and sizes are shares of `size` (3, metres)."""
        if shadow and at[1] == 0:
            self.shade(at, size, yaw)
        for shape, middle, half, color in parts:
            center = np.asarray(at) + (np.asarray(middle) * size) @ _turn(yaw)
            self.put(name, shape, center, np.asarray(half) * size, colors[color], yaw)

    def put(
        self,
        name: str,
        shape: str,
        center: Sequence[float],
        half: Sequence[float],
        paint: Paint,
        yaw: float = 0.0,
    ) -> None:
        """A `box`, a `ball` or a `shell` (a box seen from within), turned about the vertical."""
        center, half, turn = (
            np.asarray(center, np.float32),
            np.asarray(half, np.float32),
            _turn(yaw),
        )
        window = self._window(center, half, turn)
        directions = self.rays[window] @ turn.T / half  # in the unit solid
        origin = turn @ (self.position - center) / half
        t = _hits(shape, origin, directions)
        hit = (t > NEAR_M) & (t < self.depth_m[window])
        if not hit.any():
            return
        points = origin + t[hit][:, None] * directions[hit]
        normals = points / half
        if shape != "ball":
            normals = np.eye(3, dtype=np.float32)[np.abs(points).argmax(1)] * np.sign(points)
        normals *= (-1 if shape == "shell" else 1) / np.linalg.norm(normals, axis=1)[:, None]
        colors = paint(points * half, normals) if callable(paint) else np.asarray(paint, np.float32)
        light = AMBIENT + (1 - AMBIENT) * np.clip(normals @ (turn @ LIGHT), -0.3, 1)
        self.image[window][hit] = colors * light[:, None]
        self.ids[window][hit] = self.id_of(name)
        self.depth_m[window][hit] = t[hit]

    def shade(self, at: Sequence[float], half: Sequence[float], yaw: float) -> None:
        """The soft shadow of what will stand there, over the ground that is still to be seen."""
        turn, foot = _turn(yaw), np.array([at[0], 0, at[2]], np.float32)
        reach = np.array([half[0] + SHADOW_M, 0.01, half[2] + SHADOW_M], np.float32)
        window = self._window(foot, reach, turn)
        points = self.rays[window] * self.depth_m[window][..., None] + self.position - foot
        out = np.maximum(np.abs(points @ turn.T) - np.asarray(half), 0)
        dark = np.clip(1 - np.hypot(out[..., 0], out[..., 2]) / SHADOW_M, 0, 1) ** 2
        dark *= 0.5 * (self.depth_m[window] == self.ground_m[window])
        self.image[window] *= 1 - dark[..., None]

    def _window(self, center: ndarray, half: ndarray, turn: ndarray) -> tuple[slice, slice]:
        """The rows and columns that a solid may cover."""
        seen = ((CORNERS * half) @ turn + center - self.position) @ self.axes.T
        (height, width), ahead = self.ids.shape, seen[:, 2]
        if ahead.max() < NEAR_M:
            return slice(0), slice(0)
        if ahead.min() < NEAR_M:
            return slice(0, height), slice(0, width)
        x, y = (seen[:, :2] / ahead[:, None] * self.camera[:2] + self.camera[2:]).T
        low, high = (
            np.clip([y.min(), x.min()], 0, None),
            np.clip([y.max() + 2, x.max() + 2], 0, None),
        )
        return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


class Furniture(NamedTuple):
    """model: its parts. size: half width, height and half depth in metres. place: `wall` (along
    one), `loose` (about the room), or the height in metres at which it hangs. look: its paint."""

    model: list[Part]
    size: tuple[float, float, float]
    place: str | float
    color: tuple[float, float, float]
    look: str


def _models() -> tuple[dict[str, list[Part]], dict[str, Furniture]]:
    """What `things.json` says; `boxes` and `balls` stand on both sides of the middle."""
    models, things = {}, json.loads(Path(__file__).with_name("things.json").read_text())
    for name, rows in things["models"].items():
        sides = [(row, side) for row in rows for side in (1, -1)[: 1 + (len(row[0]) > 4)]]
        models[name] = [
            (r[0][:4].removesuffix("e"), (s * r[1][0], *r[1][1:]), *r[2:]) for r, s in sides
        ]
    named = things["furniture"].items()
    return models, {name: Furniture(models[row[0]], *row[1:]) for name, row in named}


MODELS, FURNITURE = _models()


def _turn(yaw: float) -> ndarray:
    """The rotation (3, 3) that brings the world into a solid's own axes."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)


def _hits(shape: str, origin: ndarray, directions: ndarray) -> ndarray:
    """How far rays (H, W, 3) travel to the unit solid, (H, W); inf: they miss it."""
    if shape == "ball":
        a = np.einsum("...i,...i", directions, directions)
        b = directions @ origin
        root = b * b - a * (origin @ origin - 1)
        return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    inverse = 1 / np.where(np.abs(directions) < 1e-9, np.float32(1e-9), directions)
    one, two = (-1 - origin) * inverse, (1 - origin) * inverse
    enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
    return np.where(enter < leave, leave if shape == "shell" else enter, np.inf)


def speckle(*coordinates: ndarray) -> ndarray:
    """A number from 0 to 1 for each cell of whole coordinates, the same every time."""
    total = np.int64(0)
    for coordinate, prime in zip(coordinates, (73856093, 19349663, 83492791), strict=False):
        total = total ^ np.floor(coordinate).astype(np.int64) * prime
    total = (total ^ (total >> 13)) * 1274126177
    return ((total >> 16) & 255) / np.float32(255)


def striped(first: Paint, second: Paint, joint: Callable[[ndarray], ndarray]) -> Paint:
    """A paint: the second colour where `joint` says so of the points (n, 3), else the first."""
    return lambda points, _: np.where(joint(points)[:, None], np.asarray(second), np.asarray(first))


def figure(rng: Generator, view: View, name: str, at: Sequence[float], tall: float, yaw: float):
    """Put a person of that height there, in clothes of any colour."""
    skin = np.array([0.88, 0.66, 0.52]) * rng.uniform(0.45, 1.08)
    clothes, hair = (rng.uniform(0.08, 0.9, 3), rng.uniform(0.05, 0.45, 3)), rng.uniform(0.04, 0.4)
    view.build(name, MODELS["person"], at, (tall,) * 3, [*clothes, skin, (hair,) * 3], yaw)
