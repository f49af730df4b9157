"""Puts a cut-out figure into a room: a picture, its exact mask and, where the room has one, depth.

The figure is a board upright at its contact point: a drawn pixel of the floor, on which its lowest
opaque row stands. Its size follows from its height in metres, the camera and the floor; all of it
has the depth of the contact point, and what the room has nearer hides it.
"""

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageFilter

from datasets.compose.floor import Floor, Pinhole

OPAQUE = 128  # alpha from here on belongs to the mask
TRIES = 10  # contact points drawn before a figure and a room are given up
TALLEST, SMALLEST = 0.95, 0.16  # of a figure, as a share of the picture's height
NEAREST_M = 0.9
MAX_ENLARGED = 1.7  # a figure is not shown at more than this times its own pixels
MAX_HIDDEN = 0.3  # share of the figure that the room may hide
GUESSED = 0.6  # without depth, what is lower than this share of the picture counts as floor
MIN_INSIDE = 0.85  # share of the figure that must be in the picture
STANDING = 0.7  # share of the figure's foot that must be over the floor
# Heights in metres by width / height of a figure of unknown kind: people stand, chairs and people
# that sit, cupboards and groups, tables and sofas.
HEIGHTS_M = ((0.5, 1.55, 1.9), (0.75, 1.05, 1.5), (1.2, 0.95, 1.55), (np.inf, 0.7, 1.0))


class View(NamedTuple):
    """What a camera sees of a room: uint8 (H, W, 3) RGB; metric depth uint16 (H, W) in millimetres,
    0 where unknown, or None; the camera; its floor, None where none is known."""

    image: ndarray
    depth_mm: ndarray | None
    camera: Pinhole
    floor: Floor | None


class Composite(NamedTuple):
    """image: uint8 (H, W, 3), RGB. alpha: uint8 (H, W), how much of each pixel is the figure.

    mask: uint8 (H, W), 255 where alpha is at least OPAQUE, else 0. depth_mm: uint16 (H, W) or None.
    contact: row and column of the pixel that the figure stands on.
    """

    image: ndarray
    alpha: ndarray
    mask: ndarray
    depth_mm: ndarray | None
    contact: tuple[int, int]


class Figure(NamedTuple):
    """A cut-out as it stands in the picture: RGB float32 (H, W, 3); alpha float32 (H, W) in [0, 1],
    of what is not hidden; its contact point, the depth there, and rows and columns of its feet."""

    color: ndarray
    alpha: ndarray
    row: int
    column: int
    depth_mm: int
    feet: tuple[ndarray, ndarray]


def trim(cutout: Image.Image) -> Image.Image | None:
    """The RGBA cut-out without the rows and columns that hold nothing opaque; None if all do."""
    box = cutout.getchannel("A").point(lambda alpha: 255 * (alpha >= OPAQUE)).getbbox()
    return cutout.crop(box) if box else None


def draw_height(rng: Generator, cutout: Image.Image) -> float:
    """A plausible height in metres of a trimmed figure of which only the shape is known."""
    shape = cutout.width / cutout.height
    return rng.uniform(*next(bounds for limit, *bounds in HEIGHTS_M if shape <= limit))


def assume_floor(rng: Generator) -> Floor:
    """The floor of a room without depth: a camera at eye level that looks down a little."""
    pitch = rng.uniform(0.1, 0.35)
    return Floor((0.0, float(np.cos(pitch)), float(np.sin(pitch))), rng.uniform(1.3, 1.7))


def compose(
    rng: Generator, room: View, cutout: Image.Image, height_m: float, size: tuple[int, int]
) -> Composite | None:
    """Put a trimmed RGBA cut-out of this height into a part of the room, shown at `size` (H, W).

    None if no contact point is found. Without depth, the lower part of the picture is the floor.
    """
    view = _crop(rng, room, size)
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    depth_m, ground = _ground(view)
    figure = _place(rng, view, depth_m, ground, cutout, height_m)
    if figure is None:
        return None
    image = view.image * (1 - _shadow(view, ground, figure))[..., None]
    color = figure.color * _match(view.image, figure)
    image += figure.alpha[..., None] * (color - image)
    levels = np.rint(figure.alpha * 255).astype(np.uint8)
    mask = np.where(levels >= OPAQUE, 255, 0).astype(np.uint8)
    depth = None
    if view.depth_mm is not None:
        depth = np.where(mask > 0, np.uint16(figure.depth_mm), view.depth_mm)
    image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return Composite(image, levels, mask, depth, (figure.row, figure.column))


def _crop(rng: Generator, room: View, size: tuple[int, int]) -> View:
    """A part of the room of the shape of `size`, 75 to 100 % of what fits, and its camera.

    Colours are averaged, depths are those of the nearest pixel: none is made up between two.
    """
    height, width = room.image.shape[:2]
    share = rng.uniform(0.75, 1.0)
    side = share * min(height / size[0], width / size[1])  # pixels of the room per pixel shown
    high, wide = side * size[0], side * size[1]
    left = rng.uniform(0, width - wide)
    top = (height - high) * (1 - rng.random() ** 2)  # mostly near the bottom, where floors are
    box = (left, top, min(left + wide, width), min(top + high, height))
    shown = Image.fromarray(room.image).resize(size[::-1], Image.Resampling.BILINEAR, box)
    depth_mm = room.depth_mm
    if depth_mm is not None:
        rows = np.minimum((top + (np.arange(size[0]) + 0.5) * side).astype(int), height - 1)
        columns = np.minimum((left + (np.arange(size[1]) + 0.5) * side).astype(int), width - 1)
        depth_mm = depth_mm[rows][:, columns]
    focal, x, y = room.camera
    camera = Pinhole(focal / side, (x - left) / side, (y - top) / side)
    return View(np.asarray(shown), depth_mm, camera, room.floor)


def _ground(view: View) -> tuple[ndarray, ndarray]:
    """Metric depth float (H, W) of what is seen, or of the floor alone where only that is known;
    bool (H, W): where the floor is seen."""
    size = view.image.shape[:2]
    if view.depth_mm is None:
        depth_m = view.floor.depth(view.camera, *size)
        return depth_m, (depth_m > 0) & (np.arange(size[0]) >= GUESSED * size[0])[:, None]
    depth_m = view.depth_mm / np.float32(1000)
    return depth_m, view.floor.mask(depth_m, view.camera)


def _place(
    rng: Generator,
    view: View,
    depth_m: ndarray,
    ground: ndarray,
    cutout: Image.Image,
    height_m: float,
) -> Figure | None:
    """The figure on a drawn pixel of the floor where it is neither too large nor too small."""
    rows = np.arange(1, len(ground) + 1)[:, None]
    tall = view.camera.focal * height_m / np.maximum(depth_m, 0.01)  # pixels, camera level
    fits = ground & (depth_m >= NEAREST_M) & (tall >= SMALLEST * len(ground))
    fits &= (tall <= TALLEST * len(ground)) & (tall <= MAX_ENLARGED * cutout.height)
    fits &= tall * 0.9 <= rows  # the head is in the picture
    fits[-2:] = False
    places = np.argwhere(fits)
    for _ in range(TRIES if len(places) else 0):
        row, column = (int(at) for at in places[rng.integers(len(places))])
        top = _top_row(view, row, depth_m[row, column], height_m)
        small = _shrink(cutout, row + 1 - top)
        depth_mm = int(round(depth_m[row, column] * 1000))
        figure = small and _stand(view, ground, small, row, column, depth_mm)
        if figure:
            return figure
    return None


def _top_row(view: View, row: int, depth_m: float, height_m: float) -> int:
    """The row where a pole of this height, upright at a contact point in `row`, ends."""
    focal, _, center_y = view.camera
    y = (row + 1 - center_y) / focal * depth_m - height_m * view.floor.down[1]
    z = max(depth_m - height_m * view.floor.down[2], 0.3)
    return round(center_y + focal * y / z)


def _shrink(cutout: Image.Image, height: int) -> Image.Image | None:
    """The cut-out at this height in pixels, colours multiplied by alpha, so that what is hidden
    does not tint the edges; None if nothing opaque is left of its lowest row."""
    width = round(cutout.width * height / cutout.height)
    if height < 4 or width < 2:
        return None
    small = cutout.convert("RGBa").resize((width, height), Image.Resampling.HAMMING)
    return small if (np.asarray(small)[-1, :, 3] >= OPAQUE).any() else None


def _stand(
    view: View, ground: ndarray, small: Image.Image, row: int, column: int, depth_mm: int
) -> Figure | None:
    """The figure with its foot on the contact point, less what is nearer; None if too little of it
    is in the picture, its feet are not over the floor, or too much is hidden."""
    height, width = ground.shape
    opaque = np.asarray(small)[..., 3] >= OPAQUE
    foot = int(np.flatnonzero(opaque[-max(1, len(opaque) // 20) :].any(axis=0)).mean())
    canvas = Image.new("RGBa", (width, height))
    canvas.paste(small, (column - foot, row + 1 - small.height))
    pixels = np.asarray(canvas.convert("RGBA"), np.float32)
    coverage = pixels[..., 3] / 255
    if coverage.sum() < MIN_INSIDE * np.asarray(small)[..., 3].sum() / 255:
        return None
    opaque = coverage >= OPAQUE / 255
    lowest = height - 1 - np.argmax(opaque[::-1], axis=0)
    columns = np.flatnonzero(opaque.any(axis=0) & (lowest > row - 0.25 * small.height))
    feet = lowest[columns], columns
    if not len(columns) or ground[feet].mean() < STANDING:
        return None
    alpha = coverage
    if view.depth_mm is not None:
        nearer = _nearer(view.depth_mm, depth_mm)
        if nearer[row, column] or (coverage * nearer).sum() > MAX_HIDDEN * coverage.sum():
            return None
        alpha = coverage * (1 - _filter(nearer, ImageFilter.GaussianBlur(0.6)))  # a soft border
        alpha = np.where(nearer, np.minimum(alpha, (OPAQUE - 1) / 255), alpha)
    return Figure(pixels[..., :3], alpha, row, column, depth_mm, feet)


def _nearer(room_mm: ndarray, depth_mm: int) -> ndarray:
    """Bool (H, W): where the room is before a figure at this depth, without specks of noise."""
    nearer = (room_mm > 0) & (room_mm < 0.97 * depth_mm - 100)
    return _filter(nearer, ImageFilter.BoxBlur(2)) >= 0.5


def _shadow(view: View, ground: ndarray, figure: Figure) -> ndarray:
    """How much light the floor loses, (H, W) in [0, 0.75]: a dark line under the feet and a pool
    around them, as wide as they stand and foreshortened as the floor is."""
    touch, (rows, columns) = np.zeros(ground.shape, bool), figure.feet
    touch[rows, columns] = touch[np.minimum(rows + 1, len(ground) - 1), columns] = True
    line = _filter(touch, ImageFilter.GaussianBlur(1.0)) * 1.6
    half = max(np.ptp(columns) / 2, 2) * 1.15
    flat = half * min(0.5, 0.7 * view.floor.height_m / (figure.depth_mm / 1000))
    y, x = np.ogrid[: ground.shape[0], : ground.shape[1]]
    middle = (columns[0] + columns[-1]) / 2
    pool = 1.15 - np.hypot((x - middle) / half, (y - (figure.row - 0.35 * flat)) / flat)
    dark = np.clip(0.5 * line + 0.45 * np.clip(pool, 0, 1), 0, 0.75)
    return dark * _filter(ground, ImageFilter.GaussianBlur(1.0))


def _match(room: ndarray, figure: Figure) -> ndarray:
    """Factors (3) for the figure's colours: half the way, on a logarithmic scale, to the brightness
    of the room, and a quarter of the way to the room's tint."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    shown = figure.color[figure.alpha > 0.5]  # (n, 3)
    if not len(shown):
        return np.ones(3, np.float32)
    light = np.percentile(room @ weights, 85) + 8
    gain = np.clip((light / (np.percentile(shown @ weights, 85) + 8)) ** 0.5, 0.5, 1.25)
    mean = room.reshape(-1, 3).mean(axis=0) + 8
    tint = np.clip((mean / mean.mean()) ** 0.25, 0.85, 1.15)
    return (gain * tint).astype(np.float32)


def _filter(mask: ndarray, kernel: ImageFilter.Filter) -> ndarray:
    """A filtered bool mask, float32 in [0, 1]."""
    shown = Image.fromarray(mask.astype(np.uint8) * 255).filter(kernel)
    return np.asarray(shown, np.float32) / 255
