"""Follows the edges of the pixels of a label map: labels in, closed rings out.

A ring runs along pixels of one label that hang together by their edges (a face), which lie at its
right hand: clockwise around them, counter-clockwise around a hole. It is simple: where it would
meet itself in a corner there are two. Coordinates are pixels from the upper left corner of the map,
x to the right, y down. Memory and time are by corners, not by pixels.
"""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from utils.pictures.paint import STRIP_PIXELS

NO_LABEL = 256  # of what has no outline, and of the outside


class Rings(NamedTuple):
    """Outlines of R rings with N corners. corners: int (N, 2), x and y, each ring's in turn; it is
    closed from its last to its first, and every second line goes across, beginning with the first.
    starts: (R + 1) where each begins. label: (R). area: (R) pixels inside, below 0 of a hole.
    pixel: (R, 2) x and y of a pixel of the label beside the ring's first line.
    touches: keys (see `keys_of`) of corners in which pixels of one label meet across.
    """

    corners: np.ndarray
    starts: np.ndarray
    label: np.ndarray
    area: np.ndarray
    pixel: np.ndarray
    touches: np.ndarray


class Lines(NamedTuple):
    """Straight edges: keys of both ends (N), whether they go left or up, and whether the line that
    follows goes left or up. `keys_of` gives the keys of corners."""

    start: np.ndarray
    end: np.ndarray
    back: np.ndarray
    then_back: np.ndarray


def keys_of(x: np.ndarray, y: np.ndarray, width: int) -> np.ndarray:
    """A number for each corner of a map of this width, in the order of reading."""
    return y.astype(np.int64) * (width + 1) + x


def among(keys: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Which keys, bool (N), are of a few sorted ones: numpy's isin sorts all of them."""
    if not len(few):
        return np.zeros(len(keys), bool)
    return few[np.searchsorted(few, keys).clip(max=len(few) - 1)] == keys


def trace(labels: np.ndarray, shown: np.ndarray) -> Rings:
    """The outlines in a map uint8 (H, W), in the order of reading. shown: bool (256), the labels
    that have any."""
    width = labels.shape[1]
    corners, starts, touches = _rings(labels, np.where(shown, np.arange(256), NO_LABEL))
    corners, starts = _simple(corners, starts, touches, width)
    if not len(starts[:-1]):
        none = np.empty(0, np.int64)
        return Rings(corners, starts, none, none, none.reshape(0, 2), touches)
    steps = (corners[::2, 0] - corners[1::2, 0]) * corners[::2, 1].astype(np.int64)
    area = np.add.reduceat(steps, starts[:-1] // 2)
    first, second = corners[starts[:-1]], corners[starts[:-1] + 1]
    pixel = first - (first[:, :1] > second[:, :1])  # below a line to the right, else above it
    return Rings(corners, starts, labels[pixel[:, 1], pixel[:, 0]], area, pixel, touches)


def sums(rings: Rings, plane: np.ndarray) -> np.ndarray:
    """What the pixels of a plane (H, W) inside each ring are together, (R), below 0 of a hole: the
    difference of what is left of its right lines and of its left ones, strip by strip."""
    height, width = plane.shape
    x, first = rings.corners[1::2].T
    following = np.arange(1, len(x) + 1)
    following[rings.starts[1:] // 2 - 1] = rings.starts[:-1] // 2
    last = rings.corners[::2, 1][following]
    ring = np.repeat(np.arange(len(rings.area)), np.diff(rings.starts) // 2)
    total, step = np.zeros(len(rings.area)), max(1, STRIP_PIXELS // width)
    for top in range(0, height, step):
        strip = plane[top : top + step]
        left = np.zeros((len(strip), width + 1), np.int32)
        np.cumsum(strip, 1, np.int32, left[:, 1:])
        begin, end = (np.clip(y - top, 0, len(strip)) for y in (first, last))
        here = np.flatnonzero(begin != end)
        num = np.abs(end - begin)[here]
        line = np.repeat(here, num)
        row = np.arange(len(line)) - np.repeat(np.cumsum(num) - num, num)
        value = left[row + np.minimum(begin, end)[line], x[line]]
        total += np.bincount(ring[line], np.where(end > begin, 1, -1)[line] * value, len(total))
    return total


def _rings(labels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Rings.corners`, `starts` and `touches`, of rings that may meet themselves in corners."""
    across, down, touches = _lines(labels, table)
    following = _next(across, down)
    del down  # there may be millions of lines
    order, starts = _follow(following)
    del following
    y, left = np.divmod(across.start[order], labels.shape[1] + 1)
    corners = np.empty((2 * len(order), 2), np.int32)
    corners[::2, 0], corners[::2, 1], corners[1::2, 1] = left, y, y
    corners[1::2, 0] = across.end[order] % (labels.shape[1] + 1)
    return corners, 2 * starts, touches


def _lines(labels: np.ndarray, table: np.ndarray) -> tuple[Lines, Lines, np.ndarray]:
    """Edges across and down, and the touches of `Rings`, found strip by strip."""
    (height, width), table = labels.shape, table.astype(np.int16)
    step = max(1, STRIP_PIXELS // width)
    small = 2 * (height + 1) * (width + 1) < 2**31  # half of the memory that lines take
    found: dict[str, list[np.ndarray]] = {}
    for top in range(0, height + 1, step):  # rows of corners, each between two rows of pixels
        num = min(step, height + 1 - top)
        near = np.full((num + 1, width + 2), NO_LABEL, np.int16)
        above, below = max(0, top - 1), min(top + num, height)
        near[above - top + 1 : below - top + 1, 1:-1] = table[labels[above:below]]
        nw, ne, sw, se = near[:-1, :-1], near[:-1, 1:], near[1:, :-1], near[1:, 1:]
        at = np.flatnonzero((nw != ne) | (sw != se) | (nw != sw))  # few corners have any edge
        pixel, keys = at + at // (width + 1), at + top * (width + 1)
        keys = keys.astype(np.int32 if small else np.int64)
        beside = (near.reshape(-1)[pixel + i + j] for i in (0, width + 2) for j in (0, 1))
        for name, mask, then_left in _ends(*beside):
            found.setdefault(name, []).append(keys[mask])
            if name.startswith("end"):
                found.setdefault(f"left after {name}", []).append(then_left[mask])
    whole = {name: np.concatenate(found.pop(name)) for name in list(found)}

    def lines(down: bool) -> Lines:
        """Along a row or column starts and ends of one direction alternate: each has its place."""
        parts = []
        for back, name in enumerate(("down", "up") if down else ("right", "left")):
            start, end = whole.pop(f"start {name}"), whole.pop(f"end {name}")
            left = whole.pop(f"left after end {name}")
            if down:
                start = start[np.argsort(start % (width + 1), kind="stable")]
                order = np.argsort(end % (width + 1), kind="stable")
                end, left = end[order], left[order]
            then_back = left ^ bool(back) ^ down  # left of what goes right is up; of down, right
            parts.append(Lines(start, end, np.full(len(start), bool(back)), then_back))
        return Lines(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))

    return lines(False), lines(True), whole["touch"]


def _ends(
    nw: np.ndarray, ne: np.ndarray, sw: np.ndarray, se: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Corners (N), of the labels around them, in which lines of a direction start or end, or pixels
    of a label touch; and those in which the label is ahead of a line too, so that it turns left."""
    north, south, west, east = nw != ne, sw != se, nw != sw, ne != se  # an edge from the corner
    # each direction: the edges behind and ahead, the pixels at their right hand, the edge between
    for name, behind, after, comes_by, goes_by, between in (
        ("right", west, east, sw, se, south),
        ("left", east, west, ne, nw, north),
        ("down", north, south, nw, sw, west),
        ("up", south, north, se, ne, east),
    ):
        comes, goes = behind & (comes_by < NO_LABEL), after & (goes_by < NO_LABEL)
        turns, ahead = ~comes | ~goes | between, ~between
        yield f"start {name}", goes & turns, ahead
        yield f"end {name}", comes & turns, ahead
    across = ((nw == se) & (nw < NO_LABEL)) | ((ne == sw) & (ne < NO_LABEL))
    yield "touch", across & north & south & west & east, across


def _next(across: Lines, down: Lines) -> np.ndarray:
    """For each line across the one that follows, after a line up or down."""
    follows = []
    for these, those in ((across, down), (down, across)):
        starts = 2 * those.start + those.back  # no two are equal
        order = np.argsort(starts)
        at = np.searchsorted(starts, 2 * these.end + these.then_back, sorter=order)
        follows.append(order[at])
    return follows[1][follows[0]]


def _follow(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cycles of a permutation, one after the other, and where each begins; then where all end."""
    left, order, starts = array("q", following.tobytes()), array("q"), array("q", [0])
    for at in range(len(left)):
        if left[at] >= 0:
            while (after := left[at]) >= 0:
                order.append(at)
                left[at], at = -1, after
            starts.append(len(order))
    return np.array(order, np.int64), np.array(starts, np.int64)


def _simple(
    corners: np.ndarray, starts: np.ndarray, touches: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same rings, those that meet themselves in corners taken apart there."""
    keys = keys_of(corners[:, 0], corners[:, 1], width)
    at = np.flatnonzero(among(keys, touches))
    ring = np.searchsorted(starts, at, "right") - 1
    order = np.lexsort((keys[at], ring))
    at, ring = at[order], ring[order]
    crossed = np.unique(ring[1:][(np.diff(keys[at]) == 0) & (np.diff(ring) == 0)])
    if not len(crossed):
        return corners, starts
    loops = []
    for first, last in zip(starts[crossed].tolist(), starts[crossed + 1].tolist(), strict=True):
        loops += [corners[first:last][loop] for loop in _loops(keys[first:last].tolist())]
    lengths = np.diff(starts)
    kept = ~np.isin(np.arange(len(lengths)), crossed)
    lengths = np.concatenate([[0], lengths[kept], [len(loop) for loop in loops]])
    return np.concatenate([corners[np.repeat(kept, np.diff(starts))], *loops]), np.cumsum(lengths)


def _loops(keys: list[int]) -> list[list[int]]:
    """Places of corners in each simple loop of a ring, which begins with a line across: what lies
    between two visits of a corner is one, and what is left."""
    loops, path, place = [], list[int](), dict[int, int]()
    for at, key in enumerate(keys):
        if key in place:
            loop = path[place[key] :]
            del path[place[key] :]
            for gone in loop:
                del place[keys[gone]]
            loops.append(loop)
        place[key] = len(path)
        path.append(at)
    return [loop[loop[0] % 2 :] + loop[: loop[0] % 2] for loop in [*loops, path]]
