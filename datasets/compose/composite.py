"""A room and a cut-out figure go in; a picture of the figure in the room comes out, with its exact
mask and, if the room's depth is known, the depth of all that is seen.

The figure is a board upright at its contact point: a drawn pixel of the floor, on which its lowest
opaque row stands. Its size follows from its height in metres, the camera and the floor; all of it
has the depth of the contact point, and what the room has nearer hides it.
"""

from __future__ import annotations

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
    """A cut-out at the size it is shown: RGB float32 (h, w, 3), alpha float32 (h, w) in [0, 1], and
    the column of its foot."""

    color: ndarray
    alpha: ndarray
    foot: int


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
    found = _place(rng, view, cutout, height_m)
    if found is None:
        return None
    figure, row, column, depth_mm = found
    alpha, color = _on_canvas(figure, row, column, size)
    if view.depth_mm is not None:
        alpha = _hide(alpha, _nearer(view.depth_mm, depth_mm))
    shadow = _shadow(view, figure, row, column, depth_mm)[..., None]
    image = view.image * (1 - shadow)
    color = color * _match(view.image, color, alpha)
    image += alpha[..., None] * (color - image)
    levels = np.rint(alpha * 255).astype(np.uint8)
    mask = np.where(levels >= OPAQUE, 255, 0).astype(np.uint8)
    depth = None
    if view.depth_mm is not None:
        depth = np.where(mask > 0, np.uint16(depth_mm), view.depth_mm)
    image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    made = Composite(image, levels, mask, depth, (row, column))
    return _mirror(made) if rng.random() < 0.5 else made


def _mirror(made: Composite) -> Composite:
    planes = [None if plane is None else plane[:, ::-1] for plane in made[:4]]
    return Composite(*planes, (made.contact[0], made.mask.shape[1] - 1 - made.contact[1]))


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


def _place(
    rng: Generator, view: View, cutout: Image.Image, height_m: float
) -> tuple[Figure, int, int, int] | None:
    """The figure as it is shown, row and column of its contact point, and the depth there in mm."""
    size = view.image.shape[:2]
    if view.depth_mm is None:
        depth_m = view.floor.depth(view.camera, *size)
        ground = (depth_m > 0) & (np.arange(size[0]) >= GUESSED * size[0])[:, None]
    else:
        depth_m = view.depth_mm / np.float32(1000)
        ground = view.floor.mask(depth_m, view.camera)
    tall = view.camera.focal * height_m / np.maximum(depth_m, 0.01)  # pixels, camera level
    fits = ground & (depth_m >= NEAREST_M) & (tall >= SMALLEST * size[0])
    fits &= (tall <= TALLEST * size[0]) & (tall <= MAX_ENLARGED * cutout.height)
    fits &= tall * 0.9 <= np.arange(1, size[0] + 1)[:, None]  # the head is in the picture
    fits[-2:] = False
    rows, columns = np.nonzero(fits)
    for _ in range(TRIES if len(rows) else 0):
        drawn = rng.integers(len(rows))
        row, column = int(rows[drawn]), int(columns[drawn])
        top = _top_row(view, row, column, depth_m[row, column], height_m)
        figure = _show(cutout, max(row + 1 - top, 2))
        depth_mm = int(round(depth_m[row, column] * 1000))
        if figure is not None and _is_clear(view, ground, figure, row, column, depth_mm):
            return figure, row, column, depth_mm
    return None


def _top_row(view: View, row: int, column: int, depth_m: float, height_m: float) -> int:
    """The row where a pole of this height, upright at the contact point, ends."""
    focal, center_x, center_y = view.camera
    y = (row + 1 - center_y) / focal * depth_m - height_m * view.floor.down[1]
    z = max(depth_m - height_m * view.floor.down[2], 0.3)
    return round(center_y + focal * y / z)


def _show(cutout: Image.Image, height: int) -> Figure | None:
    """The cut-out at this height in pixels; None if nothing opaque is left of its lowest row.

    Colours are resized multiplied by alpha, so that what is hidden does not tint the edges.
    """
    width = max(1, round(cutout.width * height / cutout.height))
    small = cutout.convert("RGBa").resize((width, height), Image.Resampling.HAMMING)
    pixels = np.asarray(small.convert("RGBA"), np.float32)
    opaque = pixels[-max(1, height // 20) :, :, 3] >= OPAQUE
    if height < 4 or width < 2 or not opaque[-1].any():
        return None
    columns = np.flatnonzero(opaque.any(axis=0))
    return Figure(pixels[..., :3], pixels[..., 3] / 255, int(columns.mean()))


def _is_clear(
    view: View, ground: ndarray, figure: Figure, row: int, column: int, depth_mm: int
) -> bool:
    """Whether the figure is in the picture, over the floor, and not hidden too much."""
    left = column - figure.foot
    inside = slice(max(left, 0), min(left + figure.alpha.shape[1], ground.shape[1]))
    if inside.stop - inside.start < 0.85 * figure.alpha.shape[1]:
        return False
    feet = _lowest(figure)
    columns = np.flatnonzero(feet >= 0)
    rows = feet[columns] + row + 1 - len(figure.alpha)
    columns = columns + left
    kept = (columns >= 0) & (columns < ground.shape[1]) & (rows >= 0)
    if not kept.any() or ground[rows[kept], columns[kept]].mean() < STANDING:
        return False
    if view.depth_mm is None:
        return True
    alpha, _ = _on_canvas(figure, row, column, ground.shape)
    hidden = _nearer(view.depth_mm, depth_mm)
    return not hidden[row, column] and (alpha * hidden).sum() <= MAX_HIDDEN * alpha.sum()


def _lowest(figure: Figure) -> ndarray:
    """The lowest opaque row of each column, -1 where it is not in the lowest quarter: its feet."""
    opaque = figure.alpha >= OPAQUE / 255
    height = len(opaque)
    lowest = height - 1 - np.argmax(opaque[::-1], axis=0)
    return np.where(opaque.any(axis=0) & (lowest >= 0.75 * height), lowest, -1)


def _on_canvas(
    figure: Figure, row: int, column: int, size: tuple[int, int]
) -> tuple[ndarray, ndarray]:
    """Alpha (H, W) and colour (H, W, 3) of the picture's size, the foot on the contact point."""
    alpha, color = np.zeros(size, np.float32), np.zeros((*size, 3), np.float32)
    top, left = row + 1 - len(figure.alpha), column - figure.foot
    y, x = max(top, 0), max(left, 0)
    bottom, right = row + 1, min(left + figure.alpha.shape[1], size[1])
    alpha[y:bottom, x:right] = figure.alpha[y - top : bottom - top, x - left : right - left]
    color[y:bottom, x:right] = figure.color[y - top : bottom - top, x - left : right - left]
    return alpha, color


def _nearer(room_mm: ndarray, depth_mm: int) -> ndarray:
    """Bool (H, W): where the room is before a figure at this depth, without specks of noise."""
    nearer = (room_mm > 0) & (room_mm < 0.97 * depth_mm - 100)
    return _filter(nearer, ImageFilter.BoxBlur(2)) >= 0.5


def _hide(alpha: ndarray, nearer: ndarray) -> ndarray:
    """Alpha of what is not hidden, with a soft border on the figure's side of it."""
    alpha = alpha * (1 - _filter(nearer, ImageFilter.GaussianBlur(0.6)))
    return np.where(nearer, np.minimum(alpha, (OPAQUE - 1) / 255), alpha)


def _shadow(view: View, figure: Figure, row: int, column: int, depth_mm: int) -> ndarray:
    """How much light the floor loses, (H, W) in [0, 0.75]: a dark line under the feet and a pool
    around them, as wide as they stand and foreshortened as the floor is."""
    size, feet = view.image.shape[:2], _lowest(figure)
    columns = np.flatnonzero(feet >= 0)
    top, left = row + 1 - len(figure.alpha), column - figure.foot
    touch = np.zeros(size, bool)
    for below in (0, 1):
        y, x = feet[columns] + top + below, columns + left
        kept = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
        touch[y[kept], x[kept]] = True
    height = len(figure.alpha)
    line = _filter(touch, ImageFilter.GaussianBlur(0.6 + 0.008 * height)) * 1.6
    half = max((columns[-1] - columns[0] + 1) / 2, 2) * 1.15
    flat = half * min(0.5, 0.7 * view.floor.height_m / (depth_mm / 1000))
    middle = left + (columns[-1] + columns[0]) / 2
    across = (np.arange(size[1])[None, :] - middle) / half
    along = (np.arange(size[0])[:, None] - (row - 0.35 * flat)) / flat
    pool = np.clip(1.15 - np.sqrt(across * across + along * along), 0, 1)
    dark = np.clip(0.5 * line + 0.45 * pool, 0, 0.75)
    if view.depth_mm is None:
        return dark
    ground = view.floor.mask(view.depth_mm / np.float32(1000), view.camera)
    return dark * _filter(ground, ImageFilter.GaussianBlur(1.0))


def _match(room: ndarray, color: ndarray, alpha: ndarray) -> ndarray:
    """Factors (3) for the figure's colours: half the way, on a logarithmic scale, to the brightness
    of the room about it, and a quarter of the way to the room's tint."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    rows = np.flatnonzero((alpha > 0.5).any(axis=1))
    columns = np.flatnonzero((alpha > 0.5).any(axis=0))
    if not len(rows):
        return np.ones(3, np.float32)
    about = room[rows[0] : rows[-1] + 1, max(columns[0] - 20, 0) : columns[-1] + 21]
    light = np.percentile(about @ weights, 85)
    own = np.percentile(color[alpha > 0.5] @ weights, 85)
    gain = np.clip(((light + 8) / (own + 8)) ** 0.5, 0.5, 1.25)
    mean = room.reshape(-1, 3).mean(axis=0) + 8
    tint = np.clip((mean / mean.mean()) ** 0.25, 0.85, 1.15)
    return (gain * tint).astype(np.float32)


def _filter(mask: ndarray, kernel: ImageFilter.Filter) -> ndarray:
    """A filtered bool mask, float32 in [0, 1]."""
    shown = Image.fromarray(mask.astype(np.uint8) * 255).filter(kernel)
    return np.asarray(shown, np.float32) / 255
