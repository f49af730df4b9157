"""Samples and a task go in; a contact sheet, as one PNG or a page of HTML, comes out."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from datasets.task import Output, Sample, UserError
from utils.visualize import picture_of

SIDE = 176  # pixels of a panel's longer side
WIDE = 1800  # pixels of a sheet, about
LINE = 14  # pixels of a line of text


class Shown(NamedTuple):
    """One sample on the sheet: what is written above it, and its panels."""

    caption: str
    panels: list[Image.Image]


def show(sample: Sample, outputs: tuple[Output, ...], caption: str) -> Shown:
    """The image, then each target as `utils.visualize` draws it."""
    pixels = np.asarray(sample.image.permute(1, 2, 0))  # (H, W, 3)
    scale = SIDE / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(size)
    panels = [image]
    rows = ((np.arange(size[1]) + 0.5) / scale).astype(int).clip(0, pixels.shape[0] - 1)
    columns = ((np.arange(size[0]) + 0.5) / scale).astype(int).clip(0, pixels.shape[1] - 1)
    for output in outputs:
        target = sample.targets[output.name].numpy()[..., rows[:, None], columns]
        view = picture_of(output).view(np.asarray(image), target, target)
        panels.append(Image.fromarray(view))
    return Shown(caption, panels)


def write_sheet(path: Path, title: str, report: str, shown: list[Shown]) -> None:
    """Write a PNG of the panels, or a page with the report above them that needs no other file.

    UserError: another suffix than .png or .html, or a path that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            _draw(shown).save(path)
        else:
            path.write_text(_page(title, report, shown), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _draw(shown: list[Shown]) -> Image.Image:
    """All panels in rows of whole samples, captions above."""
    widths = [sum(panel.width + 2 for panel in each.panels) + 6 for each in shown]
    cell = max(widths, default=SIDE)
    across = max(1, WIDE // cell)
    down = -(-len(shown) // across)
    sheet = Image.new("RGB", (across * cell, max(1, down) * (SIDE + LINE + 4)), (32, 32, 32))
    draw = ImageDraw.Draw(sheet)
    for number, each in enumerate(shown):
        x, y = number % across * cell, number // across * (SIDE + LINE + 4)
        most = (cell - 6) // 6  # letters of Pillow's own font are 6 pixels wide
        text = each.caption if len(each.caption) <= most else "..." + each.caption[3 - most :]
        draw.text((x + 2, y + 1), text.encode("latin-1", "replace").decode("latin-1"))
        for panel in each.panels:
            sheet.paste(panel, (x + 2, y + LINE + 2))
            x += panel.width + 2
    return sheet


def _page(title: str, report: str, shown: list[Shown]) -> str:
    figures = "\n".join(
        f"<figure>{''.join(map(_embed, each.panels))}"
        f"<figcaption>{html.escape(each.caption)}</figcaption></figure>"
        for each in shown
    )
    style = (
        "body{font:14px sans-serif;margin:2em}pre{font-size:13px}figcaption{font-size:11px}"
        "figure{display:inline-block;margin:4px}img{margin-right:2px}"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body>"
        f"<h1>{html.escape(title)}</h1>\n<pre>{html.escape(report)}</pre>\n{figures}\n"
        "</body></html>\n"
    )


def _embed(panel: Image.Image) -> str:
    buffer = io.BytesIO()
    panel.save(buffer, "JPEG", quality=85)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{text}">'
