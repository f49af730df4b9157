"""Polygons and run lengths of COCO and GeoJSON become targets; errors name the file and the shape.

Coordinates are pixels from the upper left corner of the upright image, x to the right, y down. A
pixel belongs to a shape that holds its centre.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasets import images
from datasets.json_values import UserError, short
from datasets.outputs import IGNORE, Classes, Mask

if TYPE_CHECKING:
    from datasets.stores import Store

HALF = 0.5
FARTHEST = 1e9  # pixels of a coordinate
MOST_TIMES = 64  # that a pixel is painted on average
MOST_CROSSED = 4  # rows that outlines cross, of as many as an image has pixels
MOST_SMALL = 2**24  # of both, in any image
AT_ONCE = 2**20  # pixels that are painted at once, and rows that are crossed
FOREGROUND = "foreground"  # a class of any mask
IGNORED = "ignored"  # a class of any output: these pixels move nothing


class Shape(NamedTuple):
    """One of a file. rings: (n, 2) each, which together hold what is inside an odd number of them;
    several parts may overlap. runs: pixels that in turn are not and are inside, column by column,
    and the (width, height) of all."""

    where: str
    name: str | None
    parts: Sequence[Sequence[np.ndarray]] = ()
    runs: np.ndarray | None = None
    size: tuple[int, int] | None = None


class Shapes(NamedTuple):
    """A file: of each image its (width, height), where it tells, and its shapes. By the name of the
    image; by "" in a file that speaks of one alone."""

    size: dict[str, tuple[int, int] | None]
    shapes: dict[str, list[Shape]]

    def of(self, key: str, name: str) -> str:
        """The name of that image in this file; UserError: it is not there, or twice."""
        if "" in self.size:
            return ""
        path = key.split("/")
        alike = [each for each in self.size if each.rpartition("/")[2] == path[-1]]
        near = [each for each in alike if path[-each.count("/") - 1 :] == each.split("/")]
        for found in (near, alike):
            if len(found) == 1:
                return found[0]
        told = f"{len(self.size)} images, among them {short(next(iter(self.size), None))}"
        what = f"{len(alike)} images are called" if alike else f"lists {told}, but no"
        raise UserError(f"{name}: {what} {path[-1]}, expected one file_name such as {key}")

    def target(
        self, output: Classes | Mask, name: str, key: str, size: tuple[int, int] | None
    ) -> np.ndarray:
        """uint8 (H, W), later shapes over earlier ones. key: of the image; size: its (width,
        height), None: as the file says. UserError: what does not fit."""
        image = self.of(key, name)
        told = self.size[image]
        size = size or told
        if size is None:
            raise UserError(f"{name}: tells no size, and its image {key} cannot be read")
        if told not in (None, size):
            sizes = f"{told[0]}x{told[1]}, its image {size[0]}x{size[1]}"
            raise UserError(f"{name}: is of {sizes}: expected the same size as {key}")
        ids, shapes = ids_by_name(output), self.shapes[image]
        unknown = {shape.name: shape.where for shape in shapes if shape.name not in ids}
        for said, where in unknown.items():
            known = ", ".join(str(each) for each in ids if each is not None)
            what = f"class {said!r}" if said is not None else "no class"
            raise UserError(f"{name}: {where}: {what}, expected one of {short(known)[1:-1]}")
        target = np.full(size[::-1], 0, np.uint8)
        if isinstance(output, Classes):
            covered = output.values.index(0) if 0 in output.values else None
            if covered is None and 0 not in output.ignored:
                raise UserError(
                    f"output {output.name}: what no shape covers has the value 0, which is not in "
                    "its values or ignored"
                )
            target[:] = IGNORE if covered is None else covered
        painted = paint(target, shapes, [ids[shape.name] for shape in shapes], name)
        if shapes and not painted:
            raise UserError(
                f"{name}: none of its {len(shapes)} shapes lies on {key}, {size[0]}x{size[1]}: "
                "expected pixels from its upper left corner, y down"
            )
        return target


def ids_by_name(output: Classes | Mask) -> dict[str | None, int]:
    """What a shape of each class paints; one without a class only a mask."""
    if isinstance(output, Mask):
        return {output.name: 1, FOREGROUND: 1, None: 1, IGNORED: IGNORE}
    return {IGNORED: IGNORE} | {name: i for i, name in enumerate(output.classes)}


def paint(target: np.ndarray, shapes: Sequence[Shape], ids: Sequence[int], name: str = "") -> int:
    """Paint shapes into uint8 (H, W), in their order: how many pixels, each as often as it was.

    UserError: run lengths of another size, or shapes that take longer than a file should.
    """
    (height, width), painted = target.shape, 0
    most = max(MOST_SMALL, MOST_TIMES * target.size)
    numbered = zip(shapes, ids, strict=True)
    for is_runs, group in groupby(numbered, key=lambda each: each[0].runs is not None):
        several = list(group)
        for shape, number in several if is_runs else ():
            if shape.size != (width, height):
                of = f"{short(shape.size)}, expected {(width, height)}"
                raise UserError(f"{name}: {shape.where}: run lengths of (width, height) {of}")
            turned = np.repeat(np.resize([False, True], len(shape.runs)), shape.runs)
            inside = turned.reshape(width, height).T
            target[inside] = number
            painted += int(inside.sum())
        if not is_runs:
            rings = [(ring, i) for i, part in enumerate(_parts(several)) for ring in part[0]]
            values = np.array([number for _, number in _parts(several)], np.uint8)
            for rows, starts, stops, part in spans(rings, (height, width), name):
                lengths = stops - starts
                painted += int(lengths.sum())
                if painted > most:
                    break
                for some in _slices(lengths):
                    num, first = lengths[some], (rows * width + starts)[some]
                    place = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
                    target.reshape(-1)[np.repeat(first, num) + place] = np.repeat(
                        values[part[some]], num
                    )
        if painted > most:
            raise UserError(f"{name}: its shapes cover each other more than {MOST_TIMES} times")
    return painted


def _parts(several: list[tuple[Shape, int]]) -> Iterator[tuple[Sequence[np.ndarray], int]]:
    return ((part, number) for shape, number in several for part in shape.parts)


def _slices(lengths: np.ndarray) -> Iterator[slice]:
    """Stretches of about AT_ONCE in sum, one at least."""
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // AT_ONCE)) + 1
    begins = [0, *cuts.tolist(), len(lengths)]
    return (slice(a, b) for a, b in zip(begins, begins[1:], strict=False) if a < b)


def spans(
    rings: Sequence[tuple[np.ndarray, int]], size: tuple[int, int], name: str = ""
) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows, first columns, columns after the last, and numbers of what the rings hold: of each
    number what is inside an odd number of its rings. Some rows at once, in the order of numbers.

    rings: coordinates (n, 2) and their number. UserError: they cross more rows than a drawing does.
    """
    if not rings:
        return
    height, width = size
    starts = np.concatenate([ring for ring, _ in rings])
    ends = np.concatenate([np.roll(ring, -1, 0) for ring, _ in rings])
    part = np.repeat([number for _, number in rings], [len(ring) for ring, _ in rings])
    edges = np.concatenate([starts, ends], 1)  # x, y, x, y
    edges = np.where(edges[:, 1:2] > edges[:, 3:4], edges[:, [2, 3, 0, 1]], edges)  # downwards
    top, bottom = (np.clip(np.ceil(edges[:, at] - HALF), 0, height).astype(int) for at in (1, 3))
    crossed = np.cumsum(
        np.bincount(top, minlength=height + 1) - np.bincount(bottom, minlength=height + 1)
    )
    if crossed.sum() > max(MOST_SMALL, MOST_CROSSED * height * width):
        raise UserError(f"{name}: its outlines cross {crossed.sum()} rows, more than drawings do")
    for band in _slices(crossed[:-1]):
        upper, lower = np.clip(top, band.start, band.stop), np.clip(bottom, band.start, band.stop)
        (here,), num = np.nonzero(lower > upper), (lower - upper)[lower > upper]
        number = np.repeat(here, num)  # of the edge that crosses a row
        rows = np.arange(len(number)) - np.repeat(np.cumsum(num) - num - upper[here], num)
        x, y, end_x, end_y = edges[number].T
        at = x + (rows + HALF - y) * ((end_x - x) / (end_y - y))
        columns = np.clip(np.ceil(at - HALF), 0, width).astype(int)
        order = np.lexsort((columns, rows, part[number]))
        first, second = order[::2], order[1::2]  # a ring crosses a row an even number of times
        first, second = (each[columns[second] > columns[first]] for each in (first, second))
        yield rows[first], columns[first], columns[second], part[number[first]]


def filled(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): pixels whose centre is inside an odd number of rings (n, 2), which may lie
    outside. What `each_region` calls exact gives its pixels back."""
    target = np.zeros(size, np.uint8)
    paint(target, [Shape("", None, [rings])], [1])
    return target.astype(bool)


@functools.lru_cache(64)
def shapes_at(store: Store, member: int) -> Shapes:
    """What a member of a store says: one of many images is parsed once. UserError without its
    name."""
    return parse_shapes(store.read_at(member))


def parse_shapes(data: bytes) -> Shapes:
    """A file of COCO, or of GeoJSON as this program, QuPath and others write it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {short(str(error))}") from None
    if isinstance(value, dict) and "annotations" in value:
        return _coco(value)
    features = value
    if isinstance(value, dict):
        features = value.get("features", [value])
    told = _get(value, "image", dict, "", {}) if isinstance(value, dict) else {}
    size = _size(told, "image") if "width" in told else None
    shapes = []
    for i, feature in enumerate(_typed(features, list, "features")):
        where = f"features[{i}]"
        geometry = _get(feature, "geometry", dict, where)
        form, rings = _get(geometry, "type", str, where), geometry.get("coordinates")
        if form not in ("Polygon", "MultiPolygon"):
            raise UserError(f"{where}: geometry {short(form)}, expected Polygon or MultiPolygon")
        polygons = _typed(rings if form == "MultiPolygon" else [rings], list, f"{where}: rings")
        parts = [_points(ring, where) for rings in polygons for ring in _typed(rings, list, where)]
        told = feature.get("properties") or {}
        said = _get(told, "classification", dict, where, {}).get("name", told.get("class"))
        shapes.append(Shape(where, None if said is None else str(said), [parts]))
    return Shapes({"": size}, {"": shapes})


def _coco(value: dict[str, Any]) -> Shapes:
    names = {
        row.get("id"): _get(row, "name", str, f"categories[{i}]")
        for i, row in enumerate(_rows(value, "categories"))
        if isinstance(row.get("id"), int)
    }
    named, sizes = {}, {}
    for i, row in enumerate(_rows(value, "images")):
        where = f"images[{i}]"
        file_name = _get(row, "file_name", str, where).replace("\\", "/")
        if not file_name or file_name in sizes:
            raise UserError(f"{where}: file_name {short(file_name)} is empty or there twice")
        named[_get(row, "id", int, where)] = file_name
        sizes[file_name] = _size(row, where)
    shapes: dict[str, list[Shape]] = {file_name: [] for file_name in sizes}
    for i, row in enumerate(_rows(value, "annotations")):
        where = f"annotations[{i}]"
        image, category = (_get(row, key, int, where) for key in ("image_id", "category_id"))
        if image not in named:
            raise UserError(f"{where}: image_id {short(image)} is not in images")
        if category not in names:
            raise UserError(f"{where}: category_id {short(category)} is not in categories")
        shape = Shape(where, names[category])
        found = row.get("segmentation")
        if isinstance(found, dict):
            high, wide = _points([found.get("size")], where)[0].astype(int).tolist()
            runs = _runs(found.get("counts"), where)
            if runs.sum() != high * wide:
                said = f"{runs.sum()} pixels, expected {high} x {wide}"
                raise UserError(f"{where}: run lengths of {said}")
            shape = shape._replace(runs=runs, size=(wide, high))
        elif isinstance(found, list) and found:
            flat = [_typed(each, list, f"{where}: segmentation") for each in found]
            pairs = ([*zip(each[::2], each[1::2], strict=False)] for each in flat)
            shape = shape._replace(parts=[[_points(each, where)] for each in pairs])
        else:
            raise UserError(f"{where}: no segmentation, expected polygons or run lengths")
        shapes[named[image]].append(shape)
    return Shapes(sizes, shapes)


def _runs(counts: Any, where: str) -> np.ndarray:
    """Run lengths, also those that pycocotools has packed into a text: numbers in groups of 5 bits,
    from the fourth on what is added to the last but one."""
    if isinstance(counts, str):
        numbers, number, shift = [], 0, 0
        for letter in counts:
            code = ord(letter) - 48
            if not 0 <= code < 64 or shift > 40:
                raise UserError(f"{where}: counts: not the text of run lengths")
            number |= (code & 31) << shift
            shift += 5
            if code & 32:
                continue
            number -= (code & 16) and 1 << shift
            numbers.append(number + (numbers[-2] if len(numbers) > 2 else 0))
            number = shift = 0
        counts = numbers
    listed = _typed(counts, list, f"{where}: counts")
    if not all(type(count) is int and 0 <= count < 2**31 for count in listed):
        raise UserError(f"{where}: counts: expected whole numbers from 0")
    return np.array(listed, np.int64)


def _points(ring: Any, where: str) -> np.ndarray:
    """(n, 2), finite, near enough for exact arithmetic."""
    try:
        points = np.array(ring, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] < 2:
        raise UserError(f"{where}: expected pairs of numbers, got {short(ring)}")
    if not (np.abs(points) <= FARTHEST).all():
        raise UserError(f"{where}: a coordinate is not finite or beyond {FARTHEST:g}")
    return points[:, :2]


def _size(row: dict[str, Any], where: str) -> tuple[int, int]:
    width, height = (_get(row, key, int, where) for key in ("width", "height"))
    if min(width, height) < 1 or width * height > images.MAX_PIXELS:
        raise UserError(f"{where}: {short(width)}x{short(height)} is no size of an image")
    return width, height


def _rows(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = _get(value, key, list, "")
    return [_typed(row, dict, f"{key}[{i}]") for i, row in enumerate(rows)]


def _get(value: Any, key: str, kind: type, where: str, default: Any = None) -> Any:
    """A key of an object, of that type."""
    found = _typed(value, dict, where).get(key)
    found = default if found is None else found
    return _typed(found, kind, f"{where}: {key}".removeprefix(": "))


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        noun = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}[kind]
        got = "nothing" if value is None else short(value)
        raise UserError(f"{where or 'file'}: expected {noun}, got {got}")
    return value
