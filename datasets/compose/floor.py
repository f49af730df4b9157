"""Finds the floor of a room in its depth map: a plane before the camera.

Camera coordinates: x to the right, y down, z ahead along the optical axis, which depth follows too:
the point at a pixel is its depth times its ray (x, y, 1).
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy import ndarray

PITCHES = np.radians(np.arange(-7.5, 50.1, 2.5))  # how far a hand-held camera looks down
ROLLS = np.radians(np.arange(-6.0, 6.1, 3.0))
SEARCHED_M = (0.7, 2.2)  # heights of the camera above what may be the largest level surface
HEIGHTS_M = (1.15, 1.95)  # above a floor: what is nearer below it is a table or a bed
STEEPEST = 0.75  # tangent of the pitch beyond which a "floor" is most often something else
LEANING = 0.2  # sine of the roll beyond which it is a slope
BIN_M = 0.05
MIN_SHARE = 0.04  # of the picture that the floor must fill
MAX_BELOW = 0.03  # of the picture that may lie below it: mirrors, stairs, errors of the sensor
TOLERANCES_M = (0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.03, 0.02, 0.02)
SAMPLED = 40  # rows that are looked at


class Pinhole(NamedTuple):
    """A camera without distortion: focal length and optical centre, in pixels of the picture."""

    focal: float
    center_x: float
    center_y: float

    def rays(self, height: int, width: int, step: int = 1) -> tuple[ndarray, ndarray]:
        """x (1, W) and y (H, 1), float32, of the ray through the middle of each step-th pixel."""
        x = (np.arange(0, width, step) + 0.5 - self.center_x) / self.focal
        y = (np.arange(0, height, step) + 0.5 - self.center_y) / self.focal
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)


class Floor(NamedTuple):
    """The points p with down @ p = height_m. down: unit vector (3), in camera coordinates."""

    down: tuple[float, float, float]
    height_m: float

    def depth(self, camera: Pinhole, height: int, width: int) -> ndarray:
        """Depth in metres (H, W) of this plane alone; 0 at and above the horizon."""
        x, y = camera.rays(height, width)
        towards = self.down[0] * x + self.down[1] * y + self.down[2]
        below = towards > 1e-3
        return np.where(below, self.height_m / np.where(below, towards, 1), 0)

    def mask(self, depth_m: ndarray, camera: Pinhole) -> ndarray:
        """Bool (H, W): which points lie on the floor, within 3 cm and 2 % of their depth."""
        x, y = camera.rays(*depth_m.shape)
        off = depth_m * (self.down[0] * x + (self.down[1] * y + self.down[2])) - self.height_m
        return (np.abs(off) <= 0.03 + 0.02 * depth_m) & (depth_m > 0)


def find_floor(depth_m: ndarray, camera: Pinhole) -> Floor | None:
    """The lowest large level surface of a room seen upright; None where there is none.

    depth_m: (H, W), 0 where unknown. Each tilt of the camera puts all points into bins of height;
    the fullest bin with little below it is the floor, which least squares over its points refine.
    """
    step = max(1, depth_m.shape[0] // SAMPLED)
    z = depth_m[::step, ::step].astype(np.float32)
    x, y = camera.rays(*depth_m.shape, step)
    points = np.stack([z * x, z * y, z])[:, z > 0]  # (3, n)
    if points.shape[1] < 3 / MIN_SHARE:
        return None
    first, last = (round(height / BIN_M) for height in SEARCHED_M)
    most, best = 0.0, None
    for roll, pitch in itertools.product(ROLLS, PITCHES):
        down = np.array([np.sin(roll), np.cos(roll) * np.cos(pitch), np.cos(roll) * np.sin(pitch)])
        heights = (down.astype(np.float32)[:, None] * points).sum(axis=0) / BIN_M
        bins = np.clip(heights, 0, last + 3).astype(int)  # the last one is all below
        share = np.bincount(bins, minlength=last + 4) / points.shape[1]
        pairs = share[:-1] + share[1:]  # a floor may lie on the border of two bins
        below = np.cumsum(share[::-1])[::-1][3:]  # leaves out the next bin: the floor's noise
        pairs = np.where(below[:last] <= MAX_BELOW, pairs[:last], 0)[first:]
        at = int(pairs.argmax())
        if pairs[at] > max(most, MIN_SHARE):
            most, best = pairs[at], (down, (first + at + 1) * BIN_M)
    return _refine(*best, points) if best else None


def _refine(down: ndarray, height_m: float, points: ndarray) -> Floor | None:
    """Least squares of m @ p = 1, m = down / height, over the points near the plane, again and
    again: the nearer a point, the more it weighs (Tukey's biweight), for walls begin on the floor.

    None if what comes out is not a floor.
    """
    p = points.astype(np.float64)
    m = down.astype(np.float64) / height_m
    for tolerance in TOLERANCES_M:
        off = np.abs(m[0] * p[0] + m[1] * p[1] + m[2] * p[2] - 1) * height_m
        weight = np.maximum(1 - (off / (tolerance + 0.008 * p[2])) ** 2, 0) ** 2
        squares = np.array([[(weight * a * b).sum() for b in p] for a in p])  # (3, 3)
        if (weight > 0).sum() < 12 or np.linalg.cond(squares) > 1e8:
            return None
        m = np.linalg.solve(squares, (weight * p).sum(axis=1))
        height_m = 1 / float(np.sqrt((m * m).sum()))
    x, y, z = (float(part) * height_m for part in m)
    level = abs(x) < LEANING and y > 0 and -0.2 < z / y < STEEPEST
    if not level or not HEIGHTS_M[0] <= height_m <= HEIGHTS_M[1]:
        return None
    return Floor((x, y, z), height_m)
