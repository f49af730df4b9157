"""Camera, solids and lights in, depth, figures and lit pixels out: how a rendered room is seen."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image

from datasets.scenes.solids import Paint, Placed, Solid, Vec, dot

NEAR_M = 0.05  # nothing nearer than this is drawn
SHADOW_STEP = 3  # shadows are traced for each third row and column and enlarged: soft, and cheaper


class Camera(NamedTuple):
    """Pinhole: position, three orthonormal axes; focal length, height and width in pixels."""

    position: Vec
    right: Vec
    up: Vec
    forward: Vec
    focal: float
    height: int
    width: int

    def ray(self, row, column) -> list:
        """Direction (three numbers or arrays) through an image point, 1 long along `forward`:
        t times the direction ends at z-depth t."""
        x = (column - self.width / 2) / self.focal
        y = (self.height / 2 - row) / self.focal
        axes = zip(self.right, self.up, self.forward, strict=True)
        return [right * x + up * y + forward for right, up, forward in axes]

    def rays(self) -> ndarray:
        """Directions (3, H, W) through the pixels' centres."""
        rows, columns = np.arange(self.height)[:, None], np.arange(self.width)[None, :]
        return np.stack(self.ray(rows + 0.5, columns + 0.5))

    def window(self, solid: Solid) -> tuple[slice, slice]:
        """Rows and columns that hold the solid; all of them if it reaches behind the camera."""
        rows, columns = [], []
        offset = [c - p for c, p in zip(solid.center, self.position, strict=True)]
        seen = (self.right, self.up, self.forward)
        x, y, z = ((dot(to, offset), [dot(to, half) for half in solid.axes]) for to in seen)
        for signs in product((-1, 1), repeat=3):
            depth_m = z[0] + dot(signs, z[1])
            if depth_m < NEAR_M:
                return slice(0, self.height), slice(0, self.width)
            rows.append(self.height / 2 - self.focal * (y[0] + dot(signs, y[1])) / depth_m)
            columns.append(self.width / 2 + self.focal * (x[0] + dot(signs, x[1])) / depth_m)
        return _pixels(rows, self.height), _pixels(columns, self.width)


def _pixels(values: list[float], size: int) -> slice:
    """The pixels from the smallest to the largest value, cut to 0..size."""
    start, stop = math.floor(min(values)), math.ceil(max(values))
    return slice(min(max(start, 0), size), min(max(stop, 0), size))


class Room(NamedTuple):
    """The inside of the box from `low` to `high`, floor at y = 0; `side` and `back` are walls."""

    low: Vec
    high: Vec
    floor: Paint
    ceiling: Paint
    side: Paint
    back: Paint


class ZBuffer:
    """The nearest surface of every pixel, whatever the order of the draws.

    depth_m: float32 (H, W) along the optical axis. normal, color: float32 (3, H, W), colour linear.
    solid: int32 (H, W), 0 the floor, negative the rest of the room's shell, n > 0 the n-th solid.
    figure, shines: bool (H, W).
    """

    def __init__(self, camera: Camera, room: Room) -> None:
        self.camera = camera
        self.rays = camera.rays()
        self.normal = np.zeros(self.rays.shape, np.float32)
        self.color = np.zeros(self.rays.shape, np.float32)
        self.solid = np.zeros(self.rays.shape[1:], np.int32)
        self.figure = np.zeros(self.rays.shape[1:], bool)
        self.shines = np.zeros(self.rays.shape[1:], bool)
        self.depth_m = self._draw_room(room)
        self.depth_room_m = self.depth_m.copy()
        self.num_solids = 0

    def _draw_room(self, room: Room) -> ndarray:
        """Where the rays leave the room's box: each along the axis whose wall it meets first."""
        exits = []
        for axis, start in enumerate(self.camera.position):
            d = np.where(np.abs(self.rays[axis]) < 1e-9, 1e-9, self.rays[axis])
            exits.append((np.where(d > 0, room.high[axis], room.low[axis]) - start) / d)
        t = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
        up, on_x, on_y = self.rays[1] > 0, exits[0] == t, exits[1] == t
        faces = (
            (on_y & ~up, 1, room.floor),
            (on_y & up, 1, room.ceiling),
            (on_x & ~on_y, 0, room.side),
            (~on_x & ~on_y, 2, room.back),
        )
        for number, (face, axis, paint) in enumerate(faces):
            where = np.nonzero(face)
            distance, rays = t[where], [d[where] for d in self.rays]
            x, y, z = (o + distance * d for o, d in zip(self.camera.position, rays, strict=True))
            slant = np.sqrt(dot(rays, rays)) / np.maximum(np.abs(rays[axis]), 1e-3)
            pixel = distance / self.camera.focal * np.minimum(slant, 4)
            p, q = ((z, y), (x, z), (x, y))[axis]
            self.color[(slice(None), *where)] = paint(p, q, pixel)
            self.normal[(axis, *where)] = -np.sign(rays[axis])
            self.solid[where] = -number
        return t.astype(np.float32)

    def draw(self, solid: Solid, figure: bool = False) -> None:
        """Keep the solid's surface where it is nearer than what was drawn before."""
        self.num_solids += 1
        rows, columns = self.camera.window(solid)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        t, start, ahead = solid.hit(self.camera.position, self.rays[:, rows, columns])
        depth_m = t.astype(np.float32)
        near = np.nonzero((depth_m < self.depth_m[rows, columns]) & (depth_m > NEAR_M))
        if not len(near[0]):
            return
        t = t[near]
        point = np.stack([o + t * d[near] for o, d in zip(start, ahead, strict=True)])
        local, normal = solid.normal(point)
        for half, axis in zip(point, solid.axes, strict=True):
            half *= math.sqrt(dot(axis, axis))  # unit shape -> metres
        lid = (np.abs(local[1]) > 0.9) & (solid.shape != "sphere")
        p, q = point[0] + point[2], np.where(lid, point[0] - point[2], point[1])
        where = (near[0] + rows.start, near[1] + columns.start)
        self.depth_m[where] = depth_m[near]
        self.normal[(slice(None), *where)] = normal
        self.color[(slice(None), *where)] = solid.paint(p, q, t / self.camera.focal)
        self.solid[where] = self.num_solids
        self.figure[where] = figure
        self.shines[where] = solid.shines


class Light(NamedTuple):
    """Linear colours: `ambient` from everywhere, `lamp` and `day` (a window) from a place."""

    ambient: Vec
    lamp: Vec
    lamp_at: Vec
    day: Vec
    day_at: Vec


def illuminate(buffer: ZBuffer, room: Room, light: Light, standing: list[Placed]) -> ndarray:
    """The light from each visible point to the camera: linear float32 (3, H, W).

    `standing` things shade the room's shell from the lamp, and darken the floor where they stand.
    """
    point = [o + buffer.depth_m * d for o, d in _float32_rays(buffer, slice(None))]
    facing = dot(buffer.normal, [np.float32(c) for c in buffer.camera.forward])
    ambient = np.float32(0.9) + (buffer.normal[1] - facing) * np.float32(0.25)
    lit = np.where(buffer.solid > 0, np.float32(1), lamp_shadow(buffer, light.lamp_at, standing))
    lamp = lit * _from_point(point, buffer.normal, light.lamp_at, 0.0, 5.0)
    day = _from_point(point, buffer.normal, light.day_at, 0.35, 9.0)
    corners = _corners(point, buffer.normal, room)
    floor = np.nonzero(buffer.solid == 0)
    corners[floor] *= _contact(point[0][floor], point[2][floor], standing)
    color = np.empty_like(buffer.color)
    for channel, albedo in enumerate(buffer.color):
        sources = ((light.ambient, ambient), (light.lamp, lamp), (light.day, day))
        total = sum(np.float32(tint[channel]) * amount for tint, amount in sources)
        color[channel] = np.where(buffer.shines, albedo * np.float32(1.2), albedo * total * corners)
    return color


def _float32_rays(buffer: ZBuffer, step: slice) -> list[tuple[np.float32, ndarray]]:
    """(origin, direction) along x, y and z."""
    rays = buffer.rays[:, step, step].astype(np.float32)
    return [(np.float32(o), d) for o, d in zip(buffer.camera.position, rays, strict=True)]


def lamp_shadow(buffer: ZBuffer, lamp: Vec, things: list[Placed]) -> ndarray:
    """How much of the lamp the room's shell sees, also behind solids: float32 (H, W), 0 to 1."""
    step = slice(SHADOW_STEP // 2, None, SHADOW_STEP)
    depth_m = buffer.depth_room_m[step, step]
    point = [o + depth_m * d for o, d in _float32_rays(buffer, step)]
    to_lamp = [np.float32(c) - x for c, x in zip(lamp, point, strict=True)]
    lit = np.full(depth_m.shape, 255, np.uint8)
    for thing in things:
        for solid in thing.solids:
            if max(dot(axis, axis) for axis in solid.axes) > 0.0025:
                lit[solid.hit(point, to_lamp)[0] < 1] = 0
    size = (buffer.camera.width, buffer.camera.height)
    soft = Image.fromarray(lit).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(soft, np.float32) / np.float32(255)


def _from_point(point, normal: ndarray, source: Vec, wrap: float, reach: float) -> ndarray:
    """Lambert's cosine times a falloff that is 1/2 at `sqrt(reach)` metres: float32 (H, W).

    `wrap` > 0 lets the light of a wide source come round corners."""
    wrap, reach = np.float32(wrap), np.float32(reach)
    to_source = [np.float32(c) - x for c, x in zip(source, point, strict=True)]
    square = dot(to_source, to_source)
    cosine = dot(to_source, normal) / np.sqrt(square + np.float32(1e-4))
    return np.maximum(cosine + wrap, 0) / (1 + wrap) * (reach / (reach + square))


def _corners(point, normal: ndarray, room: Room) -> ndarray:
    """Ambient occlusion of the room's edges, above 0.1 and at most 1: float32 (H, W)."""
    open_share = np.ones_like(point[0])
    for x, across, low, high in zip(point, normal, room.low, room.high, strict=True):
        away = np.maximum(np.minimum(x - np.float32(low), np.float32(high) - x), 0)
        away = away + 2 * np.abs(across)  # a surface is not darkened by what it faces
        open_share *= np.float32(0.5) + np.float32(0.5) * away / (away + np.float32(0.1))
    return open_share


def _contact(x: ndarray, z: ndarray, things: list[Placed]) -> ndarray:
    """How dark floor points (n,) are under and around things: float32 (n,), 0.35 to 1."""
    shadow = np.ones_like(x)
    soft = np.float32(0.012)
    for thing in things:
        a, b = (np.float32(c) for c in thing.front)
        right, ahead = x - np.float32(thing.x), z - np.float32(thing.z)
        out_z = np.maximum(np.abs(right * a + ahead * b) - np.float32(0.7 * thing.half_z), 0)
        out_x = np.maximum(np.abs(right * b - ahead * a) - np.float32(0.7 * thing.half_x), 0)
        shadow *= 1 - np.float32(0.65) * (soft / (soft + out_x * out_x + out_z * out_z))
    return np.maximum(shadow, np.float32(0.35))


def expose(rng: Generator, color: ndarray, solid: ndarray) -> ndarray:
    """Linear light (3, H, W) -> uint8 (H, W, 3): tone curve, smooth outlines, exposure, noise."""
    level = np.sqrt(np.minimum(color / (np.float32(0.85) + np.float32(0.15) * color), 1))
    padded = np.pad(level, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    ids = np.pad(solid, 1, mode="edge")
    edge = (ids[:-2, 1:-1] != solid) | (ids[2:, 1:-1] != solid)
    edge |= (ids[1:-1, :-2] != solid) | (ids[1:-1, 2:] != solid)
    level = np.where(edge, level / 2 + around / 8, level) * 255 + np.float32(rng.uniform(-6, 6))
    grain = rng.integers(-3, 4, level.shape, np.int8) + rng.integers(-3, 4, level.shape, np.int8)
    level = np.clip(level + grain + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(level.transpose(1, 2, 0))
