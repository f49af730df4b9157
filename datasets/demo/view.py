"""Solids in metres go in, in any order; image, labels and true depth of the nearest come out.

The world's x points right, y up, z ahead of the camera, which stands over (0, 0) and looks down by
`pitch`. A pixel's ray is (x, y, 1) before the camera: what it travels is depth along the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size
from datasets.demo.scene import THINGS, Camera

NEAR_M, FAR_M = 0.15, 300.0
LIGHT = np.array([-0.45, 0.8, -0.4], np.float32)  # towards the light
AMBIENT = 0.62
SHADOW_M = 0.35  # how far a soft shadow reaches over the ground
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)

# A colour, or points (n, 3) in metres from the solid's middle and normals (n, 3) -> colours (n, 3).
Paint = Sequence[float] | ndarray | Callable[[ndarray, ndarray], ndarray]
# Shape, middle (x, y, z), half sizes, number of the colour: a part of something larger.
Part = tuple[str, tuple[float, float, float], tuple[float, float, float], int]


class Pose(NamedTuple):
    """The middle (x, y, z) of a solid, or where something stands; half sizes, both in metres; how
    far it is turned about the vertical, in radians."""

    at: Sequence[float] | ndarray
    half: Sequence[float] | ndarray
    yaw: float = 0.0


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

    def build(self, name: str, parts: list[Part], pose: Pose, colors: Sequence[Paint]) -> None:
        """Something of several parts, on the ground with its shadow; they are shares of `half`."""
        at, half, yaw = pose
        if at[1] == 0:
            self._shade(pose)
        for shape, middle, part, color in parts:
            center = np.asarray(at) + (np.asarray(middle) * half) @ _turn(yaw)
            self.put(name, shape, Pose(center, np.asarray(part) * half, yaw), colors[color])

    def put(self, name: str, shape: str, pose: Pose, paint: Paint) -> None:
        """A `box`, a `ball` or a `shell` (a box seen from within)."""
        center, half = (np.asarray(value, np.float32) for value in pose[:2])
        turn, window = _turn(pose.yaw), self._window(pose)
        directions = self.rays[window] @ turn.T / half  # in the unit solid
        origin = turn @ (self.position - center) / half
        t = _hits(shape, origin, directions)
        hit = (t > NEAR_M) & (t < self.depth_m[window])
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

    def _shade(self, pose: Pose) -> None:
        """The soft shadow of what will stand there, over the ground that is still to be seen."""
        reach = np.array([pose.half[0] + SHADOW_M, 0.01, pose.half[2] + SHADOW_M])
        window = self._window(pose._replace(half=reach))
        points = self.rays[window] * self.depth_m[window][..., None] + self.position - pose.at
        out = np.maximum(np.abs(points @ _turn(pose.yaw).T) - np.asarray(pose.half), 0)
        dark = np.clip(1 - np.hypot(out[..., 0], out[..., 2]) / SHADOW_M, 0, 1) ** 2
        dark *= 0.5 * (self.depth_m[window] == self.ground_m[window])
        self.image[window] *= 1 - dark[..., None]

    def _window(self, pose: Pose) -> tuple[slice, slice]:
        """The rows and columns that a solid may cover."""
        corners = (CORNERS * pose.half) @ _turn(pose.yaw) + pose.at - self.position
        *across, ahead = (corners @ self.axes.T).T
        if ahead.min() < NEAR_M:  # around or behind the camera
            return (slice(None), slice(None)) if ahead.max() > NEAR_M else (slice(0), slice(0))
        x, y = np.array(across) / ahead * self.camera.fx + np.array(self.camera[2:])[:, None]
        top, left, bottom, right = (
            max(0, int(end)) for end in (y.min(), x.min(), y.max() + 2, x.max() + 2)
        )
        return slice(top, bottom), slice(left, right)


def _mirrored(rows: list) -> list[Part]:
    """Parts; `boxes` and `balls` stand on both sides of the middle."""
    sides = [(row, side) for row in rows for side in (1, -1)[: 1 + (len(row[0]) > 4)]]
    return [(r[0][:4].removesuffix("e"), (s * r[1][0], *r[1][1:]), *r[2:]) for r, s in sides]


MODELS = {name: _mirrored(rows) for name, rows in THINGS["models"].items()}


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


def striped(color: ndarray, axis: int, period: float, share: float, tone: float) -> Paint:
    """A paint: so many times as bright on a share of each period (metres) along an axis."""
    return lambda p, _: color * np.where(p[:, axis] % period < share * period, tone, 1)[:, None]


def figure(rng: Generator, view: View, name: str, at: Sequence[float], yaw: float) -> None:
    """Put somebody there, in clothes of any colour."""
    skin, tall = np.array([0.88, 0.66, 0.52]) * rng.uniform(0.45, 1.08), rng.uniform(1.45, 1.9)
    coat, legs, hair = rng.uniform(0.08, 0.9, 3), rng.uniform(0.05, 0.45, 3), rng.uniform(0.04, 0.4)
    view.build(name, MODELS["person"], Pose(at, (tall,) * 3, yaw), [coat, legs, skin, (hair,) * 3])
