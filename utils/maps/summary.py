"""What a whole folder shows: a row an image and class, and a page of small pictures."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.task import Classes, Mask, Output
from utils.files import write_whole
from utils.maps.results import data_path, mm_of, refuse_others, save_pdf, texts
from utils.maps.sheet import contents
from utils.pictures.visualize import MAX_UINT8, class_picture

COLUMNS = ("image", "output", "class", "pixels", "percent", "mm2")


def write_summary(
    out: Path, images: Sequence[tuple[str, Path, Output]], mm: float | None = None
) -> None:
    """summary.csv, summary.json and contents.pdf in `out`, of what was written of each image: (its
    name, what results begin with, output). Other outputs than classes and masks are left out.

    mm: of a pixel; None: as the dpi of each image say.
    """
    drawn = [
        (name, stem, output)
        for name, stem, output in images
        if isinstance(output, Classes | Mask) and data_path(stem, output).is_file()
    ]
    if not drawn:
        return
    rows = [row for name, stem, output in drawn for row in _rows(name, stem, output, mm)]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(out / "summary.csv", text.getvalue().encode())
    write_whole(out / "summary.json", f"{json.dumps(rows, indent=1)}\n".encode())
    pictures = [_small(stem, output) for _, stem, output in drawn]
    pages = contents([f"{name}: {output.name}" for name, _, output in drawn], pictures)
    save_pdf(out / "contents.pdf", pages)


def json_lines(
    images: Sequence[tuple[str, Path, Output]], mm: float | None = None
) -> Iterator[str]:
    """A JSON object of each image, of what `write_summary` takes: image, width, height, and by
    output its file, and the classes that are there, or what is said of the whole image."""
    for (name, stem), group in groupby(sorted(images, key=_of_image), _of_image):
        told: dict[str, Any] = {"image": name}
        by_output: dict[str, Any] = {}
        for _, _, output in group:
            path = data_path(stem, output)
            by_output[output.name] = {"file": str(path)}
            if output.per_image:
                ((_, by_output[output.name]["label"]),) = texts(stem, [output])
            else:
                with Image.open(path) as image:
                    told |= {"width": image.width, "height": image.height}
            if isinstance(output, Classes | Mask):
                rows = [row for row in _rows(name, stem, output, mm) if row["pixels"]]
                kept = [{key: row[key] for key in COLUMNS[2:]} for row in rows]
                by_output[output.name]["classes"] = kept
        yield json.dumps(told | {"outputs": by_output})


def _of_image(row: tuple[str, Path, Output]) -> tuple[str, Path]:
    return row[:2]


def refuse_other_summaries(out: Path) -> None:
    """UserError: one of the files that `write_summary` makes is there, and another's."""
    refuse_others(out / "contents.pdf")
    refuse_others(out / "summary.csv", ",".join(COLUMNS).encode())
    refuse_others(out / "summary.json", f'[\n {{\n  "{COLUMNS[0]}"'.encode())


def _rows(
    name: str, stem: Path, output: Classes | Mask, told: float | None
) -> Iterator[dict[str, Any]]:
    """A row for each class, also for one that is not there."""
    picture = class_picture(output)
    with Image.open(data_path(stem, output)) as image:
        mm, total = mm_of(image.info.get("dpi"), told), image.width * image.height
        deep = max(picture.codes) > MAX_UINT8
        codes = np.bincount(np.asarray(image).reshape(-1)) if deep else np.array(image.histogram())
    codes = np.pad(codes, (0, max(picture.codes) + 1))
    for label, code in zip(picture.names, picture.codes, strict=True):
        count = int(codes[code])
        area = round(count * mm[0] * mm[1], 4) if mm else None
        values = (name, output.name, label or "none", count, round(100 * count / total, 4), area)
        yield dict(zip(COLUMNS, values, strict=True))


def _small(stem: Path, output: Output) -> Image.Image:
    """The view without its legend, at most 600 pixels a side."""
    with Image.open(data_path(stem, output)) as data:
        size = data.size
    with Image.open(stem.with_name(f"{stem.name}_{output.name}_view.png")) as view:
        picture = view.crop((0, 0, *size))
    picture.thumbnail((600, 600))
    return picture
