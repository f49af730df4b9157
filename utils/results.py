"""Predictions of one image -> the files that hold them, known again as results by what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

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
    """Whether an encoded image was written here: it is a prediction, and nothing to predict."""
    head = data[: max(data.find(b"IDAT"), 0)]
    return data.startswith(b"\x89PNG") and "\0".join(SIGNATURE).encode() in head


def write(
    stem: Path, image: Tensor, found: Mapping[str, np.ndarray], outputs: Sequence[Output]
) -> None:
    """STEM_OUTPUT.png as data and STEM_OUTPUT_view.png to look at, as `PICTURES` has them.

    image: uint8 (3, H, W). found: by output name what is decided for each pixel, (H, W). UserError:
    a file that somebody else has made is in the way.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).numpy()
    rows = max(1, STRIP_PIXELS // pixels.shape[1])
    for output in outputs:
        picture, values = picture_of(output), found[output.name]
        strips = [slice(top, top + rows) for top in range(0, len(pixels), rows)]
        view = np.concatenate([picture.view(pixels[strip], values[strip]) for strip in strips])
        _save(stem.with_name(f"{stem.name}_{output.name}.png"), picture.file(values))
        _save(stem.with_name(f"{stem.name}_{output.name}_view.png"), view)


def _save(path: Path, pixels: np.ndarray) -> None:
    if path.exists() and not is_own(path.read_bytes()):
        raise UserError(f"{path}: is there already and no result of this program; another --out")
    text = PngInfo()
    text.add_text(*SIGNATURE)
    write_whole(path, partial(Image.fromarray(pixels).save, format="PNG", pnginfo=text))
