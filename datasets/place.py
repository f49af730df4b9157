"""Where a picture lies on a map: from the tags of a GeoTIFF, or a world file beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.task import UserError

SCALE, TIES, MATRIX, KEYS = 33550, 33922, 34264, 34735  # tags of GeoTIFF 1.1
RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1025, 2048, 3072  # its keys
POINT, USER_DEFINED = 2, 32767
MOST_BYTES = 4096  # of a world file


class Place(NamedTuple):
    """world: the six numbers of a world file: how far x, then y, moves with a column; x, then y,
    with a row; x, then y, of the middle of the upper left pixel. epsg: code of the coordinates."""

    world: tuple[float, ...]
    epsg: int | None = None

    def text(self) -> str:
        """A world file."""
        return "".join(f"{number!r}\n" for number in self.world)


def place_of_tags(tags: Mapping[int, Any]) -> Place | None:
    """What a GeoTIFF says; None where it says nothing, or nothing that can be true."""
    try:
        keys = _keys(tags.get(KEYS, ()))
        if MATRIX in tags:
            a, b, _, x, d, e, _, y = map(float, tags[MATRIX][:8])
        else:
            column, row, _, x, y, _ = map(float, tags[TIES][:6])
            a, e, b, d = float(tags[SCALE][0]), -float(tags[SCALE][1]), 0.0, 0.0
            x, y = x - column * a, y - row * e
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    if keys.get(RASTER_TYPE) != POINT:  # the numbers are of a pixel's corner
        x, y = x + (a + b) / 2, y + (d + e) / 2
    code = keys.get(PROJECTED, keys.get(GEOGRAPHIC))
    return _true((a, d, b, e, x, y), None if code in (0, USER_DEFINED) else code)


def place_beside(path: Path) -> Place | None:
    """What a world file beside a picture says, `a.tfw` or `a.tifw` or `a.wld` of `a.tif`; None
    without one. UserError: it holds something else than six numbers."""
    end = path.suffix[1:]
    names = (f"{end[:1]}{end[-1:]}w", f"{end}w", "wld")
    for name in (*names, *(each.upper() for each in names)):
        beside = path.with_suffix(f".{name}")
        try:
            is_there = beside.is_file()
        except OSError:  # longer than a file's name may be
            continue
        if is_there:
            with beside.open("rb") as file:
                words = file.read(MOST_BYTES).split()
            try:
                place = _true(tuple(map(float, words))) if len(words) == 6 else None
            except ValueError:
                place = None
            if place is None:
                raise UserError(f"{beside}: expected the six numbers of a world file")
            return place
    return None


def _true(world: tuple[float, ...], epsg: int | None = None) -> Place | None:
    a, d, b, e, _, _ = world
    flat = not math.isfinite(sum(map(abs, world))) or a * e == b * d
    return None if flat else Place(world, epsg)


def _keys(words: Sequence[int]) -> dict[int, int]:
    """Those of the GeoKeyDirectory that are short numbers."""
    rows = [words[at : at + 4] for at in range(4, len(words) - 3, 4)]
    return {int(key): int(value) for key, where, _, value in rows if where == 0}
