"""A predicted map in; out come its regions, with outlines, classes and areas: what every file that
describes a map is written from.

Outlines are geometries of shapely, which is imported when the first map is asked for. Coordinates
are pixels from the upper left corner of the image, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasets.shapes import HALF  # of a pixel: the middle of an edge is as far from its corners
from datasets.task import Classes, Mask
from utils.maps.outlines import Rings, among, keys_of, sums, trace
from utils.pictures.visualize import MAX_UINT8, class_picture

if TYPE_CHECKING:
    from shapely import MultiPolygon

AT_ONCE = 2**18  # corners of outlines that are simplified together
TOLERANCE = 1.0  # pixels
MOST_AREA_CHANGE = 0.005  # of a part
SHARES = (1, 0.7, 0.5)  # of the tolerance, that are tried in turn
CLOSED = 4  # points of a ring at least, of which the last is the first


class Region(NamedTuple):
    """Pixels of one class that hang together, also by their corners.

    label: the id of the class; name and color as in a legend. exact: its outline along the edges of
    its pixels; outline: the same, simplified. area: in pixels. box: left, top, width, height.
    area_mm2: where `ImagePredictor.regions` knows how large a pixel is. score: the mean of what the
    network gives its class, 0 to 1, where that is told.
    """

    label: int
    name: str
    color: str
    exact: MultiPolygon
    outline: MultiPolygon
    area: int
    box: tuple[int, int, int, int]
    area_mm2: float | None = None
    score: float | None = None


def find_regions(
    labels: np.ndarray, output: Classes | Mask, tolerance: float = TOLERANCE
) -> list[Region]:
    """uint8 (H, W) -> all of `each_region`."""
    return list(each_region(labels, output, tolerance))


def each_region(
    labels: np.ndarray,
    output: Classes | Mask,
    tolerance: float = TOLERANCE,
    confidence: np.ndarray | None = None,
) -> Iterator[Region]:
    """uint8 (H, W) -> the regions of every class that is painted (black ones, such as Clean, are
    not), by class and from the top; so many of them are held as have AT_ONCE corners.

    tolerance: pixels by which an outline may leave the edges of its pixels to be smooth and short;
    below 0.5 it stays on them. No part's area then changes by more than 0.5 %: one that would has
    its exact outline, and so has a region that would cross itself.
    confidence: uint8 (H, W), of which 255 is 1, see `Predictor.labels`; without it there is no
    score.
    """
    picture, shown = class_picture(output), np.zeros(256, bool)
    shown[[i for i, color in enumerate(picture.colors) if int(color, 16)]] = True
    rings = trace(labels, shown)
    said = None if confidence is None else sums(rings, confidence) / MAX_UINT8
    face = _faces(rings, labels.shape[1])
    whole = _joined(rings, face, labels.shape[1])
    order = np.lexsort((rings.area < 0, face, whole))
    corners = np.cumsum(np.diff(rings.starts)[order])
    begin, done = 0, 0
    for end in (np.flatnonzero(np.diff(whole[order], append=-1)) + 1).tolist():
        if corners[end - 1] - done < AT_ONCE and end < len(order):
            continue
        some = order[begin:end]
        faces = _polygons(rings, some, face[some])
        first = rings.area[some] > 0  # ring of each face
        region = np.unique(whole[some], return_inverse=True)[1]
        found = _regions(faces, region[first], rings.label[some][first], picture, tolerance)
        if said is None:
            yield from found
        else:
            means = np.bincount(region, said[some]) / np.bincount(region, rings.area[some])
            for each, score in zip(found, np.round(means, 4).tolist(), strict=True):
                yield each._replace(score=score)
        begin, done = end, corners[end - 1]


def _regions(
    faces: np.ndarray, region: np.ndarray, label: np.ndarray, picture: Any, tolerance: float
) -> Iterator[Region]:
    """Of polygons, with the number of the region of each from 0 up, and its label."""
    import shapely

    exact = shapely.multipolygons(faces, indices=region)
    simplified, changed = _simplified(faces, tolerance)
    outlines = shapely.multipolygons(simplified, indices=region)
    others = np.unique(region[changed])
    crossed = others[~shapely.is_valid(outlines[others])]
    outlines[crossed] = exact[crossed]
    left, top, right, bottom = shapely.bounds(exact).astype(int).T
    boxes = np.stack([left, top, right - left, bottom - top], 1).tolist()
    ids = label[np.flatnonzero(np.diff(region, prepend=-1))].tolist()
    areas = shapely.area(exact).astype(int).tolist()
    for i, one, outline, area, box in zip(ids, exact, outlines, areas, boxes, strict=True):
        yield Region(i, picture.names[i], picture.colors[i], one, outline, area, tuple(box))


def _faces(rings: Rings, width: int) -> np.ndarray:
    """A number for each ring, that of the face that it is of, by label and from the top: each has
    one ring around it; and those of holes, of which a pixel beside is in the smallest such ring."""
    import shapely

    outer, holes = np.flatnonzero(rings.area > 0), np.flatnonzero(rings.area < 0)
    face = np.zeros(len(rings.area), np.int64)
    if not len(outer):
        return face
    keys = keys_of(rings.corners[:, 0], rings.corners[:, 1], width)
    highest = np.minimum.reduceat(keys, rings.starts[:-1])  # its leftmost corner
    outer = outer[np.lexsort((highest[outer], rings.label[outer]))]
    face[outer] = np.arange(len(outer))
    points = shapely.STRtree(shapely.points(rings.pixel[holes] + HALF))
    smallest = np.full(len(holes), np.iinfo(np.int64).max)
    num_parts = min(len(outer), 1 + len(keys) // AT_ONCE)
    for some in np.array_split(outer, num_parts):
        around, hole = points.query(_polygons(rings, some, some), "contains_properly")
        order = np.argsort(rings.area[some[around]])[::-1]  # the last that is written stays
        ring, hole = some[around[order]], hole[order]
        smaller = rings.area[ring] < smallest[hole]
        face[holes[hole[smaller]]] = face[ring[smaller]]
        smallest[hole[smaller]] = rings.area[ring[smaller]]
    return face


def _polygons(rings: Rings, some: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Some of the rings, of which neighbours of one face are a polygon, its outer one first."""
    import shapely

    starts, lengths = rings.starts[some], np.diff(rings.starts)[some]
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])  # each ends where it starts
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths + 1)
    place = place % np.repeat(lengths, lengths + 1) + np.repeat(starts, lengths + 1)
    parts = np.flatnonzero(np.diff(face, prepend=-1, append=-1))
    corners = rings.corners[place].astype(np.float64)
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (offsets, parts))


def _joined(rings: Rings, face: np.ndarray, width: int) -> np.ndarray:
    """A number for each ring, that of the first face of its region: faces of a label that touch are
    one."""
    keys = keys_of(rings.corners[:, 0], rings.corners[:, 1], width)
    here = np.flatnonzero(among(keys, rings.touches))
    ring = np.searchsorted(rings.starts, here, "right") - 1
    order = np.lexsort((face[ring], rings.label[ring], keys[here]))
    keys, ring = keys[here][order], ring[order]
    same = (np.diff(keys) == 0) & (np.diff(rings.label[ring]) == 0)
    parent = list(range(face.max(initial=-1) + 1))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    pairs = zip(face[ring[:-1][same]].tolist(), face[ring[1:][same]].tolist(), strict=True)
    for one, other in pairs:
        one, other = sorted((root(one), root(other)))
        parent[other] = one
    return np.array([root(i) for i in range(len(parent))], np.int64)[face]


def _simplified(faces: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Polygons through the middles of the edges of pixels, which has no stairs, and of these no
    more than the tolerance, or else a smaller one, needs; see `each_region`. And which of them are
    others than before, bool: these may cross themselves, and each other."""
    import shapely

    changed = np.zeros(len(faces), bool)
    if tolerance < HALF or not len(faces):
        return faces, changed
    kind, corners, (starts, parts) = shapely.to_ragged_array(faces)
    middles, starts = _middles(corners, starts)
    rings = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, middles, (starts,))
    face = np.repeat(np.arange(len(faces)), np.diff(parts))  # of each ring
    areas, found = shapely.area(faces), faces.copy()
    for share in SHARES:
        if not (left := ~changed[face]).any():
            break
        # lines, not polygons: those are checked and mended at once, for most of the time
        tried = shapely.simplify(rings[left], share * (tolerance - HALF), preserve_topology=False)
        _, points, (starts,) = shapely.to_ragged_array(tried)
        area = np.abs(np.bincount(face[left], _areas(points, starts), len(faces)))
        fits = ~changed & (np.abs(area - areas) <= MOST_AREA_CHANGE * areas)
        fits[face[left][np.diff(starts) < CLOSED]] = False
        if not fits.any():
            continue
        tried, its = tried[fits[face[left]]], face[left & fits[face]]
        _, points, (starts,) = shapely.to_ragged_array(tried)
        parts = np.flatnonzero(np.diff(its, prepend=-1, append=-1))
        found[fits] = shapely.from_ragged_array(kind, points, (starts, parts))
        changed |= fits
    return found, changed


def _middles(corners: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Closed rings along edges of pixels -> through the middle of the first and of the last edge of
    each of their lines: the others lie between these. Points (N, 2), and where each ring starts."""
    lines = np.diff(corners, axis=0, append=0)
    length = np.abs(lines).sum(1)
    num = np.minimum(length, 2).astype(np.int64)
    num[starts[1:] - 1] = 1  # a ring ends where it starts
    ends = np.cumsum(num)
    line = np.repeat(np.arange(len(lines)), num)
    second = np.arange(ends[-1]) != (ends - num)[line]
    along = np.where(second, length[line] - HALF, HALF)[:, None]
    middles = corners[line] + np.sign(lines)[line] * along
    starts = np.concatenate([[0], ends[starts[1:] - 1]])
    middles[starts[1:] - 1] = middles[starts[:-1]]
    return middles, starts


def _areas(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Inside each closed ring, of holes with the other sign."""
    x, y = points.T
    twice = np.zeros(len(points))
    twice[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    twice[starts[1:] - 1] = 0  # not from one to the next
    return np.add.reduceat(twice, starts[:-1]) / 2
