"""A seed goes in; a furnished room with somebody in it comes out: labels, and true depth."""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.paint import Size
from datasets.demo.scene import THINGS, Scene
from datasets.demo.view import View, striped

# Model; half width, height and half depth in metres; place: `wall` (along one), `loose` (about the
# room), or the height in metres at which it hangs; colour; nothing, or how it is `striped`.
FURNITURE = THINGS["furniture"]
UNKNOWN = list(FURNITURE.values())  # what a class looks like that nothing is known of
SHELL = ("wall", "floor", "ceiling")
FIGURES = ("person", "mask", "foreground", "figure", "object")
WORDS = (*SHELL, *FIGURES, *FURNITURE)
HANGING = 10.0  # added to z where places on walls are kept: they are free above what stands


def draw_room(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """A room of 3 to 6 m with some of the named pieces, or of all where none is named."""
    room = Room(rng, size)
    wanted = [name for name in names if name not in (*SHELL, *FIGURES)] or list(FURNITURE)
    person, view = next((name for name in FIGURES if name in names), "person"), room.view
    room.admit(person)
    for name in map(str, rng.permutation(wanted)[: rng.integers(6, 11)]):
        room.furnish(name, FURNITURE.get(name) or UNKNOWN[len(name) % len(UNKNOWN)])
    lamp = room.to_world(rng.uniform(-1, 1), room.tall, rng.uniform(1, room.back))
    away = view.position + np.moveaxis(view.rays * view.depth_m, 0, 2) - lamp
    light = 0.62 + 0.75 / (1 + np.square(away).sum(2, keepdims=True) / 4)
    return view.scene(light * rng.uniform(0.85, 1.1, 3), (person,))


class Room:
    """Walls about the camera, turned by `yaw`, sizes in metres, and what stands within."""

    def __init__(self, rng: Generator, size: Size) -> None:
        self.view, self.rng = View(rng, size, SHELL, rng.uniform(0.1, 0.3)), rng
        self.yaw = rng.uniform(-0.45, 0.45)
        self.half, self.back, self.tall = rng.uniform((1.5, 3.2, 2.4), (2.6, 6, 3))
        self.taken: list[tuple[float, float, float]] = []  # x, z, radius in the room
        wall, floor = rng.uniform(0.5, 0.95, 3), (0.6, 0.42, 0.25) * rng.uniform(0.7, 1.35, 3)
        paper = striped(wall, rng.uniform(0.15, 0.5), 0.5, 1, 1, rng.uniform(0.8, 1))
        at, deep = self.to_world(0, self.tall / 2, self.back / 2 - 0.4), self.back / 2 + 0.4
        self.view.put("wall", "shell", at, (self.half, self.tall / 2, deep), self.yaw, paper)
        for label, side, tone in ((1, 1, floor), (2, -1, 0.94)):
            there = self.view.normals[..., 1] * side > 0.9
            self.view.ids[there] = label
            self.view.image[there] *= tone / wall

    def to_world(self, x: float, up: float, z: float) -> ndarray:
        """A place in the room, in the world."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([x * cos + z * sin, up, z * cos - x * sin])

    def furnish(self, name: str, piece: list) -> None:
        """Set a piece about the room, along a wall or upon one, if there is a free place."""
        model, size, place, color, look = piece
        wide, _, deep = size = np.asarray(size) * self.rng.uniform(0.88, 1.12)
        up, hung = (0.0, 0.0) if isinstance(place, str) else (place, HANGING)
        for _ in range(8):
            side, z = self.rng.choice([-1, 0, 0, 1]), self.rng.uniform(2, self.back - 0.5)
            x, turn = self.rng.uniform(-1, 1) * (self.half - wide), side * np.pi / 2
            if place == "loose":
                turn = self.rng.uniform(-3, 3)
            elif side:
                x = side * (self.half - deep - 0.01)
            else:
                z = self.back - deep - 0.01
            far = (np.hypot(x - a, z + hung - b) / (wide + c) for a, b, c in self.taken)
            if min(far) > 0.8:
                self.taken.append((x, z + hung, wide))
                tones = np.outer((1, 0.85, 0.6, 1.4), color * self.rng.uniform(0.8, 1.15, 3))
                colors = [striped(tone, *look) if look else tone for tone in tones]
                at = self.to_world(x, up, z)
                self.view.build(name, model, at, size, self.yaw + turn, colors)
                return

    def admit(self, name: str) -> None:
        """Somebody stands where he is seen: near the middle of the picture."""
        z, most = self.rng.uniform(1.8, min(self.back - 0.3, 3.6)), self.half - 0.3
        x = np.clip(z * (self.rng.uniform(-0.4, 0.4) - np.tan(self.yaw)), -most, most)
        self.taken.append((x, z, 0.25))
        self.view.person(name, self.to_world(x, 0, z), self.rng.uniform(0, 6))
