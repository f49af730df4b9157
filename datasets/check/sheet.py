"""Draws contact sheets of samples, as one PNG or a page of HTML."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.task import Output, Sample
from utils.files import write_whole
from utils.panel import CELL, panel
from utils.visualize import picture_of

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:2em}}pre{{font-size:13px}}</style></head>
<body><h1>{title}</h1>
<pre>{report}</pre>
<img alt="samples" src="data:image/png;base64,{sheet}">
</body></html>
"""


def write_sheet(path: Path, title: str, report: str, sheet: Image.Image) -> None:
    """Write the sheet as a PNG or, where `path` ends in .html, below the report in a page that
    needs no other file."""
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    data = drawn.getvalue()
    if path.suffix.lower() == ".html":
        texts = {"title": html.escape(title), "report": html.escape(report)}
        data = PAGE.format(**texts, sheet=base64.b64encode(data).decode()).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def draw_sheet(samples: Iterable[tuple[str, Sample]], outputs: Sequence[Output]) -> Image.Image:
    """A row for each sample with its caption: the image, then each target."""
    rows, legend = [], {}
    for caption, sample in samples:
        step = max(1, max(sample.image.shape[-2:]) // CELL)  # every step-th pixel is drawn
        image = np.asarray(sample.image.permute(1, 2, 0)[::step, ::step])  # (h, w, 3)
        rows.append([(caption, image)])
        for output in outputs:
            target, picture = sample.targets[output.name].numpy(), picture_of(output)
            target = target if output.per_image else target[..., ::step, ::step]
            view = picture.view(image, target, target)
            rows[-1].append((f"{output.name}{picture.scale(target)}", view))
            legend |= dict.fromkeys(picture.legend([target]))
    return panel(rows, list(legend))
