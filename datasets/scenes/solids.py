"""Shapes, sizes and paints in, solids that rays can hit out: what things in a rendered room are.

Only + - * / and sqrt touch the numbers, which IEEE 754 rounds the same on every machine.
Axes: x right, y up, z ahead, in metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import ndarray

Vec = tuple[float, float, float]
Paint = Callable[[ndarray, ndarray, ndarray], ndarray]
"""(p, q, pixel), each (n,) in metres: two coordinates on a surface and a pixel's width there ->
colour (3, n), linear (the square of the display's), 0 to 1."""


def dot(a, b):
    """Scalar product over the first axis, in a fixed order of additions."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class Solid(NamedTuple):
    """A unit sphere, box or drum, stretched along three orthogonal half axes around a centre.

    taper: a drum's radius is 1 + taper * y, for y from -1 to 1 along its second axis.
    shines: its colour is the light that it sends, whatever falls on it.
    """

    shape: str
    center: Vec
    axes: tuple[Vec, Vec, Vec]
    paint: Paint
    taper: float = 0.0
    shines: bool = False

    def inverse(self) -> list[Vec]:
        """Rows that turn a vector of the world into the unit shape's coordinates."""
        return [tuple(c / dot(axis, axis) for c in axis) for axis in self.axes]

    def hit(self, origin, direction) -> tuple[ndarray, list, list]:
        """Where rays enter: t, infinite for a miss; then the rays' origin and direction as the unit
        shape sees them. Origin and direction have three components, numbers or arrays."""
        rows = self.inverse()
        start = [o - c for o, c in zip(origin, self.center, strict=True)]
        start = [dot(row, start) for row in rows]
        ahead = [dot(row, direction) for row in rows]
        if self.shape == "sphere":
            t = _hit_sphere(start, ahead)
        else:
            t = (
                _hit_box(start, ahead)
                if self.shape == "box"
                else _hit_drum(start, ahead, self.taper)
            )
        return np.where(t > 1e-3, t, np.inf), start, ahead

    def normal(self, point: ndarray) -> tuple[ndarray, ndarray]:
        """Outward normals at surface points (3, n) of the unit shape: its own, and in the world."""
        local = point.copy()
        if self.shape == "box":
            face = np.argmax(np.abs(point), axis=0)
            local[face != np.arange(3)[:, None]] = 0.0
        elif self.shape == "drum":
            local[1] = -self.taper * (1 + self.taper * point[1])
            cap = np.abs(point[1]) > 1 - 1e-6
            local[:, cap] = 0.0
            local[1, cap] = point[1, cap]
        world = np.stack([dot(column, local) for column in zip(*self.inverse(), strict=True)])
        return local, world / np.sqrt(dot(world, world))


def _hit_sphere(o, d) -> ndarray:
    """|o + t d| = 1, the smaller t."""
    a, b, c = dot(d, d), dot(o, d), dot(o, o) - 1
    under = b * b - a * c
    return np.where(under > 0, (-b - np.sqrt(np.maximum(under, 0))) / a, np.inf)


def _hit_box(o, d) -> ndarray:
    """The last of the three slabs that the ray enters, if it has left none before."""
    entry, leave = -np.inf, np.inf
    for start, ahead in zip(o, d, strict=True):
        ahead = _not_zero(ahead)
        middle, half = -start / ahead, 1 / np.abs(ahead)
        entry, leave = np.maximum(entry, middle - half), np.minimum(leave, middle + half)
    return np.where(entry < leave, entry, np.inf)


def _hit_drum(o, d, taper: float) -> ndarray:
    """x^2 + z^2 = (1 + taper y)^2 between y = -1 and 1, or one of the two lids."""
    radius = 1 + taper * o[1]
    a = _not_zero(d[0] * d[0] + d[2] * d[2] - taper * taper * d[1] * d[1])
    b = o[0] * d[0] + o[2] * d[2] - taper * radius * d[1]
    under = b * b - a * (o[0] * o[0] + o[2] * o[2] - radius * radius)
    root = np.sqrt(np.maximum(under, 0))
    best = np.inf
    for t in ((-b - root) / a, (-b + root) / a):
        good = (under > 0) & (np.abs(o[1] + t * d[1]) <= 1) & (t > 0)
        best = np.minimum(best, np.where(good, t, np.inf))
    slope = _not_zero(d[1])
    for lid in (-1.0, 1.0):
        t = (lid - o[1]) / slope
        x, z, edge = o[0] + t * d[0], o[2] + t * d[2], 1 + taper * lid
        best = np.minimum(best, np.where((x * x + z * z <= edge * edge) & (t > 0), t, np.inf))
    return best


def _not_zero(value: ndarray) -> ndarray:
    return np.where(np.abs(value) < 1e-12, 1e-12, value)


# Solids as a builder thinks of them.


def ball(center: Vec, half: Vec, paint: Paint) -> Solid:
    """An ellipsoid along the axes, half its size given."""
    return Solid("sphere", center, _along(half), paint)


def box(center: Vec, half: Vec, paint: Paint, shines: bool = False) -> Solid:
    """A box along the axes, half its size given."""
    return Solid("box", center, _along(half), paint, shines=shines)


def drum(
    center: Vec, radius: float, half: float, paint: Paint, taper: float = 0.0, shines: bool = False
) -> Solid:
    """An upright drum, `half` its height given; a pot or a shade with a taper."""
    return Solid("drum", center, _along((radius, half, radius)), paint, taper, shines)


def _along(half: Vec) -> tuple[Vec, Vec, Vec]:
    return (half[0], 0.0, 0.0), (0.0, half[1], 0.0), (0.0, 0.0, half[2])


def limb(a: Vec, b: Vec, radius: float, paint: Paint, flat: float = 1.0) -> Solid:
    """An ellipsoid from a to b and a little further; `flat`: its thickness over its width."""
    bone = rod(a, b, radius, paint, flat)
    half = bone.axes[1]
    extra = 1 + 0.45 * radius / math.sqrt(dot(half, half))
    axes = (bone.axes[0], tuple(extra * c for c in half), bone.axes[2])
    return bone._replace(shape="sphere", axes=axes)


def rod(
    a: Vec, b: Vec, radius: float, paint: Paint, flat: float = 1.0, taper: float = 0.0
) -> Solid:
    """A drum whose lids are around a and b; taper -0.9: nearly a point at b."""
    half = tuple((y - x) / 2 for x, y in zip(a, b, strict=True))
    length = math.sqrt(dot(half, half))
    aside = (1.0, 0.0, 0.0) if abs(half[1]) > 0.95 * length else (0.0, 1.0, 0.0)
    wide = _cross(half, aside)
    scale = radius / math.sqrt(dot(wide, wide))
    wide = tuple(c * scale for c in wide)
    thin = tuple(c * flat / length for c in _cross(wide, half))
    center = tuple((x + y) / 2 for x, y in zip(a, b, strict=True))
    return Solid("drum", center, (wide, half, thin), paint, taper)


def _cross(a: Vec, b: Vec) -> Vec:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def both(*solids: Solid) -> list[Solid]:
    """The solids and their mirror images at x = 0."""
    mirrored = []
    for solid in solids:
        center, *axes = ((-x, y, z) for x, y, z in (solid.center, *solid.axes))
        mirrored.append(solid._replace(center=center, axes=tuple(axes)))
    return [*solids, *mirrored]


class Thing(NamedTuple):
    """Solids around the origin, standing on y = 0, front towards +z.

    half_x, half_z: half of the rectangle that it covers on the ground.
    """

    solids: list[Solid]
    half_x: float
    half_z: float


class Placed(NamedTuple):
    """A thing in a room: its solids there, its place on the floor, where its front looks (x, z)."""

    solids: list[Solid]
    x: float
    z: float
    front: tuple[float, float]
    half_x: float
    half_z: float

    @property
    def radius(self) -> float:
        """Of the circle on the floor that holds it, metres."""
        return math.sqrt(self.half_x * self.half_x + self.half_z * self.half_z)


def place(thing: Thing, x: float, z: float, front: tuple[float, float], scale=1.0) -> Placed:
    """Turn the thing's +z to the unit vector `front`, enlarge it, and move it to (x, 0, z)."""

    def turn(v: Vec) -> Vec:
        a, b, c = (scale * part for part in v)
        return a * front[1] + c * front[0], b, c * front[1] - a * front[0]

    solids = []
    for solid in thing.solids:
        a, b, c = turn(solid.center)
        axes = tuple(turn(axis) for axis in solid.axes)
        solids.append(solid._replace(center=(a + x, b, c + z), axes=axes))
    return Placed(solids, x, z, front, thing.half_x * scale, thing.half_z * scale)
