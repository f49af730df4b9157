"""Solids in metres go in, in any order; image, labels and true depth of the nearest come out.

The world's x points right, y up, z ahead of the camera, which stands over (0, 0) and looks down by
`pitch`. A pixel's ray is (x, y, 1) before the camera: what it travels is depth along the axis.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size, Vector, finish
from datasets.demo.scene import THINGS, Scene

NEAR_M, FAR_M = 0.15, 300.0
LIGHT = np.array([-0.45, 0.8, -0.4], np.float32)  # towards the light
AMBIENT = 0.62
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)

# A colour, or across and up in metres on a form's face (n,) -> colours (n, 3).
Paint = Vector | Callable[[ndarray, ndarray], ndarray]


class View:
    """A picture under construction: image float32 (H, W, 3), ids uint8 (H, W) as positions in
    `names`, depth_m float32 (H, W), normals (H, W, 3), of the surface that is nearest so far."""

    def __init__(self, rng: Generator, size: Size, names: Sequence[str], pitch: float) -> None:
        """A camera at the height of somebody's eye."""
        self.rng, self.names, self.focal = rng, list(names), size[1] * rng.uniform(0.75, 0.95)
        self.position = np.array([0, rng.uniform(1.3, 1.75), 0], np.float32)
        cos, sin = np.cos(pitch), np.sin(pitch)
        # rows: the camera's right, down and ahead, in the world
        self.axes = np.array([[1, 0, 0], [0, -cos, -sin], [0, -sin, cos]], np.float32)
        y, x = ((np.arange(n) + 0.5 - n / 2) / self.focal for n in size)
        rays = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0)).astype(np.float32)
        self.rays = np.tensordot(self.axes.T, rays, 1)  # (3, H, W), in the world
        self.image = np.zeros((*size, 3), np.float32)
        self.ids = np.zeros(size, np.uint8)
        self.depth_m = np.full(size, FAR_M, np.float32)
        self.normals = np.zeros((*size, 3), np.float32) - self.axes[2]  # in the world

    def id_of(self, name: str) -> int:
        """The label of a name; a new one is added."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def build(
        self, name: str, model: str, at: Vector, half: Vector, yaw: float, paints: Sequence[Paint]
    ) -> None:
        """Something of several parts, standing at a place (x, y, z): they are shares of `half`."""
        for shape, middle, part, color in THINGS["models"][model]:
            center = np.asarray(at) + np.multiply(middle, half) @ _turn(yaw)
            self.put(name, shape, center, np.multiply(part, half), yaw, paints[color])

    def put(self, name: str, form: str, at: Vector, half: Vector, yaw: float, paint: Paint) -> None:
        """A `box`, a `ball` or a `shell` (a box seen from within): its middle (x, y, z), its half
        sizes, both in metres; yaw: how far it is turned about the vertical, in radians."""
        center, half, turn = np.asarray(at, np.float32), np.asarray(half, np.float32), _turn(yaw)
        window = self._window(center, half, turn)
        # in the unit solid
        directions = np.tensordot(turn / half[:, None], self.rays[:, *window], 1)
        origin = turn @ (self.position - center) / half
        t = _hits(form, origin, directions)
        hit = (t > NEAR_M) & (t < self.depth_m[window])
        points = origin + (t[hit] * directions[:, hit]).T
        normals = points / half
        if form != "ball":
            normals = np.eye(3, dtype=np.float32)[np.abs(points).argmax(1)] * np.sign(points)
        normals *= (-1 if form == "shell" else 1) / np.linalg.norm(normals, axis=1)[:, None]
        (x, y, z), (aside, up, _) = (points * half).T, np.abs(normals.T) > 0.5
        across, up = np.where(aside, z, x), np.where(up, z, y)  # on the face
        color = paint(across, up) if callable(paint) else np.asarray(paint)
        light = AMBIENT + (1 - AMBIENT) * np.clip(normals @ (turn @ LIGHT), -0.3, 1)
        self.image[window][hit] = color * light[:, None]
        self.ids[window][hit] = self.id_of(name)
        self.depth_m[window][hit] = t[hit]
        self.normals[window][hit] = normals @ turn

    def person(self, name: str, at: Vector, yaw: float) -> None:
        """Put somebody there, in clothes of any colour."""
        uniform = self.rng.uniform
        skin, hair = uniform((0.4, 0.3, 0.2), (0.95, 0.7, 0.56)), uniform(0.04, 0.4, 3)
        colors = [uniform(0.08, 0.9, 3), uniform(0.05, 0.45, 3), skin, hair]
        self.build(name, "person", at, [uniform(1.45, 1.9)] * 3, yaw, colors)

    def scene(self, light: ndarray, front: Sequence[str]) -> Scene:
        """What a camera makes of it under a light, a factor for each pixel or colour."""
        shown = np.isin(self.ids, [self.id_of(name) for name in front])
        image = finish(self.rng, self.image * light, 0.014)
        normals = self.normals @ self.axes.T * (1, -1, -1)
        return Scene(image, self.ids, tuple(self.names), shown, {}, self.depth_m, normals)

    def _window(self, at: ndarray, half: ndarray, turn: ndarray) -> tuple[slice, slice]:
        """The rows and columns that a form may cover."""
        corners = (CORNERS * half) @ turn + at - self.position
        *across, ahead = self.axes @ corners.T
        if ahead.min() < NEAR_M:  # around or behind the camera
            return (slice(None), slice(None)) if ahead.max() > NEAR_M else (slice(0), slice(0))
        middle = np.array(self.ids.shape[::-1])[:, None] / 2
        x, y = np.array(across) / ahead * self.focal + middle
        rows, columns = (slice(max(0, int(n.min())), max(0, int(n.max() + 2))) for n in (y, x))
        return rows, columns


@lru_cache
def _turn(yaw: float) -> ndarray:
    """The rotation (3, 3) that brings the world into a form's own axes."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)


def _hits(shape: str, origin: ndarray, directions: ndarray) -> ndarray:
    """How far rays (3, H, W) travel to the unit form, (H, W); inf: they miss it."""
    if shape == "ball":
        a, b = np.square(directions).sum(0), np.tensordot(origin, directions, 1)
        root = b * b - a * (origin @ origin - 1)
        return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    inverse = 1 / np.where(np.abs(directions) < 1e-9, np.float32(1e-9), directions)
    one, two = ((end - origin[:, None, None]) * inverse for end in (-1, 1))
    enter, leave = np.minimum(one, two).max(0), np.maximum(one, two).min(0)
    return np.where(enter < leave, leave if shape == "shell" else enter, np.inf)


def speckle(x: ndarray, y: ndarray) -> ndarray:
    """A number from 0 to 1 for each cell of whole coordinates, the same every time."""
    return np.sin(np.floor(x) * 12.9898 + np.floor(y) * 78.233) * 43758.5453 % 1


def striped(color: Vector, p: float, u: float, q: float, v: float, tone: float) -> Paint:
    """A paint: `tone` times as bright on shares u, v of the periods p, q, metres across and up."""
    return lambda x, y: np.outer(np.where((x % p < u * p) & (y % q < v * q), tone, 1), color)
