"""A seed goes in; a furnished room with somebody in it comes out: labels, and true depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size, finish
from datasets.demo.scene import THINGS, Scene
from datasets.demo.view import MODELS, Paint, Pose, View, figure, speckle, striped

# Model; half width, height and half depth in metres; place: `wall` (along one), `loose` (about the
# room), or the height in metres at which it hangs; colour; nothing, or how it is `striped`.
FURNITURE = THINGS["furniture"]
SHELL = ("wall", "floor", "ceiling")
FIGURES = ("person", "mask", "foreground", "figure", "object")
WORDS = (*SHELL, *FIGURES, *FURNITURE)
HANGING = 10.0  # added to z where places on walls are kept: they are free above what stands


def draw_room(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """A room of 3 to 6 m with some of the named pieces, or of all where none is named."""
    focal = size[1] * rng.uniform(0.75, 0.95)
    view = View(size, SHELL, focal, rng.uniform(0.1, 0.3), rng.uniform(1.3, 1.75))
    room = Room(view, rng)
    wanted = [name for name in names if name not in (*SHELL, *FIGURES)] or list(FURNITURE)
    for name in map(str, rng.permutation(wanted)[: rng.integers(6, 11)]):
        room.furnish(name, FURNITURE.get(name) or unknown(name))
    person = next((name for name in FIGURES if name in names), "person")
    for _ in range(1 + (rng.random() < 0.25)):
        room.admit(person)
    x, z = room.to_world(rng.uniform(-1, 1), rng.uniform(1, room.back))  # a lamp at the ceiling
    points = view.position + view.rays * view.depth_m[..., None]
    light = 0.62 + 0.75 / (1 + np.square(points - (x, room.tall, z)).sum(-1, keepdims=True) / 4)
    image = finish(rng, view.image * light * rng.uniform(0.85, 1.1, 3), 0.012)
    front = view.ids == view.id_of(person)
    return Scene(image, view.ids, tuple(view.names), front, view.depth_m, view.camera)


class Room:
    """Walls about the camera, turned by `yaw`, sizes in metres, and what stands within."""

    def __init__(self, view: View, rng: Generator) -> None:
        self.view, self.rng, self.yaw = view, rng, rng.uniform(-0.45, 0.45)
        self.half, self.back, self.tall = rng.uniform((1.5, 3.2, 2.4), (2.6, 6, 3))
        self.taken: list[tuple[float, float, float]] = []  # x, z, radius in the room
        x, z = self.to_world(0, self.back / 2 - 0.4)
        half, look = (self.half, self.tall / 2, self.back / 2 + 0.4), papered(rng, self.tall)
        view.put("wall", "shell", Pose((x, self.tall / 2, z), half, self.yaw), look)
        up = view.position[1] + view.rays[..., 1] * view.depth_m
        view.ids[up < 0.001], view.ids[up > self.tall - 0.001] = 1, 2
        view.ground_m = np.where(view.ids == 1, view.depth_m, np.inf)

    def to_world(self, x: float, z: float) -> tuple[float, float]:
        """The world's x and z of a place in the room."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return x * cos + z * sin, z * cos - x * sin

    def furnish(self, name: str, piece: list) -> None:
        """Set a piece about the room, along a wall or upon one, if there is a free place."""
        model, size, place, color, look = piece
        wide, _, deep = size = np.asarray(size) * self.rng.uniform(0.88, 1.12)
        up = 0.0 if isinstance(place, str) else place
        for _ in range(8):
            if place == "loose":
                x, z = self.rng.uniform((0.5 - self.half, 2), (self.half - 0.5, self.back))
                turn, reach = self.rng.uniform(-3, 3), max(wide, deep)
            else:
                side = self.rng.choice([-1, 0, 0, 1])
                x = side * (self.half - deep - 0.01) or self.rng.uniform(-1, 1) * (self.half - wide)
                z = self.rng.uniform(2, self.back - 0.5) if side else self.back - deep - 0.01
                turn, reach = side * np.pi / 2, wide
            if self.takes(x, z + HANGING * (up > 0), reach):
                break
        else:
            return
        tones = np.outer((1, 0.85, 0.6, 1.4), color * self.rng.uniform(0.8, 1.15, 3))
        colors = [striped(tone, *look) if look else tone for tone in tones]
        x, z = self.to_world(x, z)
        self.view.build(name, MODELS[model], Pose((x, up, z), size, self.yaw + turn), colors)

    def admit(self, name: str) -> None:
        """Somebody stands where he is seen."""
        camera, cos, sin = self.view.camera, np.cos(self.yaw), np.sin(self.yaw)
        for _ in range(30):
            z = self.rng.uniform(1.8, self.back)
            x = self.rng.uniform(-0.75, 0.75) * z * camera.cx / camera.fx
            there, ahead = x * cos - z * sin, z * cos + x * sin
            within = abs(there) < self.half - 0.3 and ahead < self.back - 0.3
            if within and self.takes(there, ahead, 0.25):
                break
        figure(self.rng, self.view, name, (x, 0, z), self.rng.uniform(0, 6))

    def takes(self, x: float, z: float, reach: float) -> bool:
        """Whether a place is free; it is taken then."""
        free = all(np.hypot(x - a, z - b) > 0.8 * (reach + c) for a, b, c in self.taken)
        self.taken += [(x, z, reach)] * free
        return free


def papered(rng: Generator, tall: float) -> Paint:
    """Boards or tiles below, papered walls with a skirting, a pale ceiling."""
    wall, floor = rng.uniform(0.5, 0.95, 3), np.array([0.6, 0.42, 0.25]) * rng.uniform(0.7, 1.35, 3)
    is_striped, is_tiled, pitch = rng.random() < 0.4, rng.random() < 0.4, rng.uniform(0.15, 0.5)

    def paint(points: ndarray, normals: ndarray) -> ndarray:
        along = np.where(np.abs(normals[:, 0]) > 0.5, points[:, 2], points[:, 0])
        color = wall * np.where(is_striped & (along / pitch % 1 < 0.5), 0.86, 1)[:, None]
        color[points[:, 1] < 0.1 - tall / 2] = (0.85, 0.83, 0.8)
        x, z = points[normals[:, 1] > 0.5][:, ::2].T
        row = np.floor(x / 0.18)
        grain = speckle(x / 0.4, z / 0.4) if is_tiled else speckle(row, z / 1.1 + row * 0.37)
        color[normals[:, 1] > 0.5] = floor * (0.72 + 0.45 * grain)[:, None]
        color[normals[:, 1] < -0.5] = (0.95, 0.94, 0.91)
        return color

    return paint


def unknown(name: str) -> list:
    """A piece for a class that nothing is known of: its size and colour follow from its name."""
    rng = np.random.default_rng(list(name.encode()))
    model = str(rng.choice(["box", "ball", "table"]))
    return [model, rng.uniform(0.2, 0.6, 3), "loose", rng.random(3), ()]
