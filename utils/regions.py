"""A predicted map in; out come its regions, with outlines, classes and areas: what every file that
describes a map is written from.

Outlines are geometries of shapely, which is imported when the first map is asked for. Coordinates
are pixels from the upper left corner of the image, x to the right, y down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datasets.shapes import HALF  # of a pixel: the middle of an edge is as far from its corners
from datasets.task import Classes, Mask
from utils.paint import STRIP_PIXELS
from utils.visualize import class_picture

if TYPE_CHECKING:
    from shapely import MultiPolygon

OUTSIDE = 256  # a label that no pixel has
TOLERANCE = 1.0  # pixels
MOST_AREA_CHANGE = 0.005  # of a part


class Region(NamedTuple):
    """Pixels of one class that hang together, also by their corners.

    label: the id of the class; name and color as in a legend. exact: its outline along the edges of
    its pixels; outline: the same, simplified. area: in pixels. box: left, top, width, height.
    """

    label: int
    name: str
    color: str
    exact: MultiPolygon
    outline: MultiPolygon
    area: int
    box: tuple[int, int, int, int]


def find_regions(
    labels: np.ndarray, output: Classes | Mask, tolerance: float = TOLERANCE
) -> list[Region]:
    """uint8 (H, W) -> the regions of every class that is painted (black ones, such as Clean, are
    not), by class and from the top.

    tolerance: pixels by which an outline may leave the edges of its pixels to be smooth and short;
    below 0.5 it stays on them. No part's area then changes by more than 0.5 %: one that would has
    its exact outline, and so has one that would cross itself.
    """
    import shapely

    picture = class_picture(output)
    segments, touches = _borders(labels)
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(segments)))
    left, top = _first_corners(faces).astype(int).T
    ids = labels[top, left]
    shown = np.isin(ids, [i for i, color in enumerate(picture.colors) if int(color, 16)])
    order = np.flatnonzero(shown)[np.lexsort((left[shown], top[shown], ids[shown]))]
    faces, ids = shapely.simplify(faces[order], 0), ids[order]
    whole = _joined(faces, ids, touches)  # (N) number of its region, for each face
    order = np.argsort(whole, stable=True)
    faces, ids, whole = faces[order], ids[order], whole[order]
    _, first = np.unique(whole, return_index=True)
    exact = shapely.multipolygons(faces, indices=whole)
    outlines = shapely.multipolygons(_simplified(faces, tolerance), indices=whole)
    outlines = np.where(shapely.is_valid(outlines), outlines, exact)
    left, top, right, bottom = shapely.bounds(exact).astype(int).T
    boxes = np.stack([left, top, right - left, bottom - top], 1).tolist()
    areas = shapely.area(exact).astype(int).tolist()
    rows = zip(ids[first].tolist(), exact, outlines, areas, boxes, strict=True)
    return [
        Region(i, picture.names[i], picture.colors[i], exact, outline, area, tuple(box))
        for i, exact, outline, area, box in rows
    ]


def _borders(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies between pixels of other labels, (N, 2, 2): straight lines from one (x, y) to the
    next where anything turns or meets; and corners (M, 2) where pixels of a label touch across.

    In strips, at which the lines that go down are cut.
    """
    height, width = labels.shape
    step = max(1, STRIP_PIXELS // width)
    segments, touches = [], []
    for top in range(0, height, step):
        num = min(step, height - top)
        near = np.full((num + 2, width + 2), OUTSIDE, np.int16)  # with a row and column around it
        above, below = max(0, top - 1), min(top + num + 1, height)
        near[above - top + 1 : below - top + 1, 1:-1] = labels[above:below]
        across = near[:-1] != near[1:]  # an edge above each row, and below the last
        down = near[:, :-1] != near[:, 1:]  # an edge left of each column, and right of the last
        left, right, upper, lower = across[:, :-1], across[:, 1:], down[:-1], down[1:]  # of corners
        meets, turns = upper | lower, left | right
        lines = slice(num + (top + num == height))  # the last belongs to the strip below
        starts, ends = np.nonzero((right & meets)[lines]), np.nonzero((left & meets)[lines])
        segments.append(np.stack([*starts[::-1], *ends[::-1]], 1) + (0, top, 0, top))
        touching = (near[:-1, :-1] == near[1:, 1:]) | (near[:-1, 1:] == near[1:, :-1])
        touching &= left & right & upper & lower
        touches.append(np.stack(np.nonzero(touching[lines])[::-1], 1) + (0, top))
        turns[[0, -1]] = True
        starts, ends = np.nonzero((lower & turns)[:-1].T), np.nonzero((upper & turns)[1:].T)
        segments.append(np.stack([*starts, *ends], 1) + (0, top, 0, top + 1))
    return np.concatenate(segments).reshape(-1, 2, 2), np.concatenate(touches)


def _first_corners(faces: np.ndarray) -> np.ndarray:
    """The leftmost of the uppermost corners of each polygon, (N, 2): below and right of it is its
    first pixel."""
    import shapely

    corners, face = shapely.get_coordinates(shapely.get_exterior_ring(faces), return_index=True)
    order = np.lexsort((*corners.T, face))
    return corners[order[np.searchsorted(face[order], np.arange(len(faces)))]]


def _joined(faces: np.ndarray, ids: np.ndarray, touches: np.ndarray) -> np.ndarray:
    """A number (N) for each polygon, from 0 up, the same where those of a label touch."""
    import shapely

    corners, face = shapely.get_coordinates(faces, return_index=True)
    keys, wide = corners.astype(np.int64) @ (1, 2**32), touches.astype(np.int64) @ (1, 2**32)
    here = np.isin(keys, wide)
    keys, face = keys[here], face[here]
    order = np.lexsort((face, ids[face], keys))
    keys, face = keys[order], face[order]
    same = (keys[1:] == keys[:-1]) & (ids[face[1:]] == ids[face[:-1]])
    parent = list(range(len(faces)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for one, other in zip(face[:-1][same].tolist(), face[1:][same].tolist(), strict=True):
        one, other = sorted((root(one), root(other)))
        parent[other] = one
    return np.unique([root(i) for i in parent], return_inverse=True)[1].reshape(-1)


def _simplified(faces: np.ndarray, tolerance: float) -> np.ndarray:
    """Polygons through the middles of the edges of pixels, which has no stairs, and of these no
    more than the tolerance needs; see `find_regions`."""
    import shapely

    if tolerance < HALF or not len(faces):
        return faces
    kind, corners, offsets = shapely.to_ragged_array(shapely.segmentize(faces, 1))
    middles, rings = np.empty_like(corners), offsets[0]
    middles[:-1] = (corners[:-1] + corners[1:]) / 2
    middles[rings[1:] - 1] = middles[rings[:-1]]  # a ring ends where it starts
    smooth = shapely.simplify(shapely.from_ragged_array(kind, middles, offsets), tolerance - HALF)
    areas = shapely.area(faces)
    close = np.abs(shapely.area(smooth) - areas) <= MOST_AREA_CHANGE * areas
    return np.where(close & shapely.is_valid(smooth), smooth, faces)
