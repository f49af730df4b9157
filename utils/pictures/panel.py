"""Lays out pictures and their captions on a page, over a legend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.pictures.legend import INK, TEXT, draw_legend

CELL = 320  # pixels: larger pictures shrink to fit this square, tiny ones grow by a whole factor
GAP = 8


def panel(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], legend: Sequence[tuple[str, str]] = ()
) -> Image.Image:
    """A grid of captioned pictures, uint8 (H, W, 3) of any size, over a legend of (name, color)."""
    font = ImageFont.load_default(size=TEXT)
    line = TEXT + 6
    cells = [[(caption, _fit(picture)) for caption, picture in row] for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [max(row[c][1].width for row in cells if c < len(row)) for c in range(columns)]
    heights = [max(picture.height for _, picture in row) + line for row in cells]
    width = sum(widths) + GAP * (columns + 1)
    chips = draw_legend(legend, width)

    page = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1) + chips.height), "white")
    draw = ImageDraw.Draw(page)
    y = GAP
    for row, height in zip(cells, heights, strict=True):
        x = GAP
        for (caption, picture), room in zip(row, widths, strict=False):
            draw.text((x, y), _shorten(caption, font, room), INK, font)
            page.paste(picture, (x, y + line))
            x += room + GAP
        y += height + GAP
    page.paste(chips, (0, y))
    return page


def _fit(picture: np.ndarray) -> Image.Image:
    """Shrink a picture to fit CELL x CELL, or enlarge a tiny one by a whole factor."""
    fitted = Image.fromarray(np.ascontiguousarray(picture))
    scale = CELL / max(fitted.size)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in fitted.size]
        return fitted.resize(size, Image.Resampling.BOX)
    return fitted.resize([side * int(scale) for side in fitted.size], Image.Resampling.NEAREST)


def _shorten(text: str, font: Any, room: int) -> str:
    """The text, or as much of it as fits into `room` pixels, and dots."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."
