"""Writes what was predicted of an image, as files that are known again as results."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from datasets.task import Output, UserError
from utils.files import write_whole
from utils.visualize import picture_of

STRIP_PIXELS = 2**20  # painted at a time: blending takes ten times the room of what it gives
SIGNATURE = ("Software", "Manyhead")  # a text in every PNG


def is_own(data: bytes) -> bool:
    """Whether a file was written here: it is a prediction, and nothing to predict."""
    head = data[: max(data.find(b"IDAT"), 0)]
    if data.startswith(json.dumps(dict([SIGNATURE]))[:-1].encode()):
        return True
    return data.startswith(b"\x89PNG") and "\0".join(SIGNATURE).encode() in head


def write(
    stem: Path, image: Tensor, predictions: Mapping[str, np.ndarray], outputs: Sequence[Output]
) -> None:
    """STEM_OUTPUT.png (or .json, of whole images) as data and STEM_OUTPUT_view.png to look at, as
    `PICTURES` has them.

    image: uint8 (3, H, W). predictions: by output name what targets would say, as in `Sample`.
    UserError: a file that somebody else has made is in the way.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).numpy()
    rows = max(1, STRIP_PIXELS // pixels.shape[1])
    for output in outputs:
        picture, values = picture_of(output), predictions[output.name]
        if output.per_image:
            view = picture.view(pixels, values)
        else:
            strips = [slice(top, top + rows) for top in range(0, len(pixels), rows)]
            parts = [picture.view(pixels[strip], values[..., strip, :]) for strip in strips]
            view = np.concatenate(parts)
        _save(stem.with_name(f"{stem.name}_{output.name}{picture.suffix}"), picture.file(values))
        _save(stem.with_name(f"{stem.name}_{output.name}_view.png"), view)


def write_table(path: Path, name: str, rows: Sequence[tuple[str, str]]) -> None:
    """What an output of this name says of each image, as CSV: image, NAME."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("image", name), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue().encode())


def _save(path: Path, data: np.ndarray | dict[str, Any]) -> None:
    if path.exists() and not is_own(path.read_bytes()):
        raise UserError(f"{path}: is there already and no result of this program; another --out")
    if isinstance(data, dict):
        write_whole(path, f"{json.dumps(dict([SIGNATURE]) | data)}\n".encode())
        return
    text = PngInfo()
    text.add_text(*SIGNATURE)
    write_whole(path, partial(Image.fromarray(data).save, format="PNG", pnginfo=text))
