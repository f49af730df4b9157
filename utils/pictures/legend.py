"""Draws what colours mean: chips with names beside them, in lines."""

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

TEXT = 14  # pixels
NARROWEST = 16 * TEXT
INK = "#202020"


def draw_legend(entries: Sequence[tuple[str, str]], width: int, text: int = TEXT) -> Image.Image:
    """(name, "RRGGBB") each, on white, in letters of `text` pixels; without a colour, an empty
    chip. As wide as asked, of no height where there are no entries."""
    font = ImageFont.load_default(size=text)
    corners = _lay_out(entries, font, width, text)
    height = corners[-1][1] + text + text // 2 if corners else 0
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for (name, color), (x, y) in zip(entries, corners, strict=True):
        top = y + text // 7
        fill = f"#{color}" if color else None
        draw.rectangle((x, top, x + text, top + text), fill, "#808080", max(1, text // 14))
        draw.text((x + text + text // 2, y), name, INK, font)
    return page


def legend_below(entries: Sequence[tuple[str, str]], size: tuple[int, int]) -> Image.Image:
    """A legend for below a picture of that (width, height), in letters that can be read where the
    picture is seen whole; wider than a picture on which no word has room."""
    if not entries:
        return Image.new("RGB", (size[0], 0))
    text = max(TEXT, max(size) // 60)
    strip = draw_legend(entries, max(size[0], NARROWEST), text)
    page = Image.new("RGB", (strip.width, strip.height + text // 2), "white")
    page.paste(strip, (0, text // 2))
    return page


def _lay_out(
    entries: Sequence[tuple[str, str]], font: Any, width: int, text: int
) -> list[tuple[int, int]]:
    """Where each entry starts, (x, y) in pixels, in lines that fit into `width`."""
    gap = text // 2 + 1
    corners, x, y = [], gap, 0
    for name, _ in entries:
        needed = text + text // 2 + math.ceil(font.getlength(name)) + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + text + text // 2 + 1
        corners.append((x, y))
        x += needed
    return corners
