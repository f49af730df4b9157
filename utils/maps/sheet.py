"""A page to hand in: photograph, map in colours and hatching, areas, scale, date, and by whom."""

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.task import Classes, Mask
from utils.pictures.legend import INK
from utils.pictures.paint import count_labels, measure, percent, rgb, shrunk
from utils.pictures.visualize import class_picture

DPI = 150
PAGE = (1754, 1240)  # A4 across
MARGIN = 60
CELL = (802, 640)  # of the photograph and of the map, at most
ROW = 30  # of the legend
TEXT = 20
SHORTEST = 20  # dots of a scale bar
PERIOD = 10  # pixels from one line of a hatching to the next, of the first eight
WIDER = 18  # of the next eight


class Sheet(NamedTuple):
    """What a page shows. name: of the photograph's file. pixels: uint8 (H, W, 3); labels: uint8
    (H, W). mm: millimetres of a pixel (across, down), where they are known. model: a line."""

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    output: Classes | Mask
    mm: tuple[float, float] | None
    model: str


def draw_sheet(sheet: Sheet) -> Image.Image:
    """The page, of DPI dots an inch."""
    page = Image.new("RGB", PAGE, "white")
    draw = ImageDraw.Draw(page)
    height, width = sheet.labels.shape
    scale = min(CELL[0] / width, CELL[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    top = MARGIN + 70
    _text(draw, (MARGIN, MARGIN - 16), f"{sheet.output.name}: {sheet.name}", 34)
    what = f"{date.today().isoformat()}, {width} x {height} pixels"
    if sheet.mm:
        what += f", {width * sheet.mm[0]:.4g} x {height * sheet.mm[1]:.4g} mm"
    _text(draw, (MARGIN, MARGIN + 32), what, TEXT)
    photograph = shrunk(sheet.pixels, 2 * max(size)).resize(size)
    drawing = draw_map(photograph, sheet.labels, sheet.output)
    for left, picture in ((MARGIN, photograph), (PAGE[0] - MARGIN - CELL[0], drawing)):
        page.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline="#808080")
    if sheet.mm:
        _scale_bar(draw, (MARGIN, top + size[1] + 12), size[0] / (width * sheet.mm[0]), size[0])
    _areas(page, top + size[1] + 60, sheet)
    how = (
        "the most likely class of each pixel"
        if isinstance(sheet.output, Classes)
        else ("pixels of probability 0.5 and more")
    )
    _text(draw, (MARGIN, PAGE[1] - MARGIN), f"Predicted, not surveyed: {how}. {sheet.model}", 18)
    return page


def draw_map(photograph: Image.Image, labels: np.ndarray, output: Classes | Mask) -> Image.Image:
    """Classes in colour and hatching over a pale photograph, of whose size it is: what is thin is
    kept where the map shrinks."""
    picture, size = class_picture(output), photograph.size[::-1]
    painted = [i for i, color in enumerate(picture.colors) if any(rgb(color))]
    table = np.zeros(256, np.uint8)
    table[painted] = [i + 1 for i in painted]
    ids = _resized(np.asarray(Image.fromarray(labels).point(table.tolist())), size)
    pale = 150 + 0.4 * np.asarray(photograph.convert("L"), np.float32)[..., None].repeat(3, 2)
    for number in np.unique(ids[ids > 0]).tolist():
        here, color = ids == number, np.array(rgb(picture.colors[number - 1]), np.float32)
        pale[here] = 0.45 * pale[here] + 0.55 * color
        lines = hatching(number - 1, size) | _edges(here)
        pale[here & lines] = 0.35 * color
    return Image.fromarray(np.clip(pale, 0, 255).astype(np.uint8))


def hatching(number: int, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): one of sixteen ways to fill a class, told apart without colours."""
    y, x = np.indices(size, sparse=True)
    period = WIDER if number // 8 % 2 else PERIOD

    def line(at: np.ndarray) -> np.ndarray:
        return at % period < 2

    ways = (
        *(lambda: line(x + y), lambda: line(x - y), lambda: line(y), lambda: line(x)),
        *(lambda: line(x + y) | line(x - y), lambda: line(y) | line(x)),
        *(lambda: (x % period < 4) & (y % period < 4), lambda: line(y) & (x % period < period / 2)),
    )
    return np.broadcast_to(ways[number % 8](), size)


def _edges(here: np.ndarray) -> np.ndarray:
    inner = np.pad(here, 1)
    return ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])


def _resized(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest where it grows; of those that fall together the largest where it shrinks."""
    for new in size:  # the map is turned after each
        places = np.arange(new + 1) * len(ids) // new
        ids = (
            ids[places[:-1]]
            if new >= len(ids)
            else np.stack([ids[first:last].max(0) for first, last in pairwise(places)])
        )
        ids = np.ascontiguousarray(ids.T)
    return ids


def _areas(page: Image.Image, top: int, sheet: Sheet) -> None:
    """A row for each class that is there: its chip, share and area."""
    draw, picture = ImageDraw.Draw(page), class_picture(sheet.output)
    counts = count_labels(sheet.labels)[: len(picture.names)]
    total = max(1, int(counts.sum()))
    rows = (PAGE[1] - MARGIN - 30 - top) // ROW
    shown = np.flatnonzero(counts).tolist()
    more, shown = len(shown) - 2 * rows, shown[: 2 * rows]
    for i, label in enumerate(shown):
        left, y = MARGIN + i // rows * (PAGE[0] // 2 - MARGIN // 2), top + i % rows * ROW
        color = picture.colors[label]
        chip = np.full((24, 60, 3), 255, np.uint8)
        if any(rgb(color)):
            solid = np.full((24, 60), label, np.uint8)
            chip = np.asarray(draw_map(Image.new("L", (60, 24), 255), solid, sheet.output))
        page.paste(Image.fromarray(chip), (left, y))
        draw.rectangle((left, y, left + 59, y + 23), outline="#808080")
        _text(draw, (left + 76, y), picture.names[label] or "none", TEXT, 330)
        texts = [percent(counts[label] / total), f"{counts[label]:,} px"]
        if sheet.mm:
            texts.append(_area(counts[label] * sheet.mm[0] * sheet.mm[1]))
        for text, right in zip(texts, (470, 630, 780), strict=False):
            _text(draw, (left + right, y), text, TEXT, 0, "ra")
    if more > 0:
        _text(draw, (MARGIN, top + rows * ROW), f"and {more} more classes", TEXT)


def _area(mm2: float) -> str:
    """In a unit in which it is no long number."""
    units = ((1e6, "sq m"), (1e2, "sq cm"), (1, "sq mm"))
    size, unit = next((each for each in units if mm2 >= 100 * each[0]), units[-1])
    return f"{measure(mm2 / size)} {unit}"


def _scale_bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int], dots: float, width: int) -> None:
    """A bar of a round number of millimetres, of which each is so many dots, in half the width."""
    steps = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    length = max((step for step in steps if step * dots <= width / 2), default=steps[0])
    (x, y), end = corner, corner[0] + round(length * dots)
    if end - x < SHORTEST:
        return
    draw.rectangle((x, y, end, y + 8), INK)
    draw.rectangle(((x + end) // 2, y + 2, end - 2, y + 6), "white")
    _text(draw, (end + 12, y - 8), f"{length:g} mm", TEXT)


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    room: int = PAGE[0] - 2 * MARGIN,
    anchor: str = "la",
) -> None:
    """A line, cut where it would leave its room; 0: it may be of any length."""
    font = ImageFont.load_default(size=size)
    while room and font.getlength(text) > room:
        text = text[:-4] + "..."
    draw.text(at, text, INK, font, anchor)


def contents(names: Sequence[str], pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Pages of small pictures with their names, twenty each."""
    columns, rows, pages = 5, 4, []
    cell = (PAGE[0] - 2 * MARGIN) // columns, (PAGE[1] - 2 * MARGIN) // rows
    for start in range(0, len(names), columns * rows):
        page = Image.new("RGB", PAGE, "white")
        draw = ImageDraw.Draw(page)
        for i, name in enumerate(names[start : start + columns * rows]):
            left, top = MARGIN + i % columns * cell[0], MARGIN + i // columns * cell[1]
            picture = pictures[start + i]
            picture.thumbnail((cell[0] - 20, cell[1] - 40))
            page.paste(picture, (left, top))
            _text(draw, (left, top + cell[1] - 36), name, 16, cell[0] - 20)
        pages.append(page)
    return pages
