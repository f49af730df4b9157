"""How labels and predictions are drawn, and written as files, by kind of output (`PICTURES`).

Arrays are numpy or CPU tensors. Colours are "RRGGBB".
"""

import colorsys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.task import IGNORE, MAX_UINT16, Classes, Depth, Mask, Output
from utils.engine import EvalSample
from utils.panel import panel

MASK_COLOR = "FF2D6F"
IGNORED = ("ignored (dimmed)", "282828")  # in a legend
MAX_UINT8 = 255

# Depth from near (bright) to far (dark). CIE lightness falls from 96 to 12 in about equal steps, so
# that a step in depth looks as large anywhere. Pure black is left for "no depth".
DEPTH_STOPS = ("FFF5C8", "FFCE7A", "F79E5B", "DE6F62", "B44777", "7F2F80", "46226F", "1A1A4A")


def rgb(color: str) -> tuple[int, int, int]:
    """ "1CE6FF" -> (28, 230, 255)."""
    red, green, blue = bytes.fromhex(color)
    return red, green, blue


def class_colors(output: Classes) -> tuple[str, ...]:
    """The output's colours; where it has none, hues a golden angle apart in five lightnesses."""
    if output.colors:
        return tuple(output.colors)
    picks = (
        colorsys.hls_to_rgb(0.618034 * i % 1, (0.5, 0.74, 0.3, 0.62, 0.4)[i % 5], 0.75)
        for i in range(len(output.classes))
    )
    return tuple("".join(f"{round(255 * part):02X}" for part in pick) for pick in picks)


def colorize(ids: Any, colors: Sequence[str]) -> np.ndarray:
    """Class ids uint8 (H, W) -> uint8 (H, W, 3). 255, no class, is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = [rgb(color) for color in colors]
    return table[np.asarray(ids, np.uint8)]


def overlay(image: Any, ids: Any, colors: Sequence[str], alpha: float = 0.6) -> np.ndarray:
    """Blend class colours over an image: uint8 (H, W, 3), ids uint8 (H, W) -> uint8 (H, W, 3).

    A class whose colour is black, such as Clean, leaves the image as it is. 255 dims the image.
    """
    image, ids = np.asarray(image), np.asarray(ids)
    paint = colorize(ids, colors)
    share = np.where(paint.any(-1), alpha, 0.0)  # (H, W)
    share[ids == IGNORE] = 0.7
    share = share[..., None].astype(np.float32)
    return np.rint(image * (1 - share) + paint * share).astype(np.uint8)


def depth_picture(depth: Any, max_depth: float | None = None) -> np.ndarray:
    """Depth float (H, W) -> uint8 (H, W, 3): near is bright, far is dark, negative is black.

    Colours span 0 to `max_depth`, by default the largest depth here; what is farther looks as far.
    """
    depth = np.asarray(depth, np.float32)
    known = np.isfinite(depth) & (depth >= 0)
    top = max_depth or float(depth.max(where=known, initial=0.0)) or 1.0
    level = np.where(known, np.clip(depth / top, 0, 1), 0) * 255  # (H, W)
    stops = np.array([rgb(color) for color in DEPTH_STOPS], np.float64)
    at = np.linspace(0, 255, len(stops))
    table = np.stack([np.interp(np.arange(256), at, channel) for channel in stops.T], -1)
    picture = np.rint(table).astype(np.uint8)[np.rint(level).astype(np.uint8)]  # (H, W, 3)
    picture[~known] = 0
    return picture


class Picture:
    """How one output is drawn and written. A value map is as in `Sample.targets`."""

    suffix: ClassVar[str] = ".png"  # of what `file` gives

    def __init__(self, output: Output) -> None:
        self.output = output

    def view(self, image: Any, values: Any, truth: Any = None) -> np.ndarray:
        """A picture to look at, uint8 (H, W, 3), of the values in an image (H, W, 3).

        truth: what they are compared with, where that sets the scale of the colours.
        """
        raise NotImplementedError

    def file(self, values: Any) -> Any:
        """What a prediction is written as, to be read back as data: pixels, or plain values for a
        file of JSON."""
        raise NotImplementedError

    def text(self, values: Any) -> str:
        """What a line of text says of it, if that can be said."""
        return ""

    def scale(self, truth: Any) -> str:
        """What a caption says of the colours."""
        return ""

    def scored(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """A prediction without what is not scored."""
        return prediction

    def legend(self, maps: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        """(name, colour) of what these value maps show."""
        return []


class ClassPicture(Picture):
    """Class colours over the image; ignored pixels are dimmed. A file holds the task's values."""

    output: Classes

    def __init__(self, output: Classes) -> None:
        super().__init__(output)
        self.names, self.colors, self.codes = output.labels, class_colors(output), output.values

    def view(self, image: Any, values: Any, truth: Any = None) -> np.ndarray:
        """Black classes leave the image as it is."""
        return overlay(image, values, self.colors)

    def file(self, values: Any) -> np.ndarray:
        """Label values (H, W) as in the task's files, in 8 bits or, where they need it, 16."""
        dtype = np.uint8 if max(self.codes) <= MAX_UINT8 else np.uint16
        return np.asarray(self.codes, dtype)[np.asarray(values)]

    def scored(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Ignored where the truth is."""
        return np.where(truth == IGNORE, IGNORE, prediction)

    def legend(self, maps: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        """The labels that are painted, then the ignored."""
        seen = {int(label) for labels in maps for label in np.unique(labels)}
        named = enumerate(zip(self.names, self.colors, strict=True))
        entries = [pair for i, pair in named if i in seen and any(rgb(pair[1]))]
        return entries + ([IGNORED] if IGNORE in seen else [])


class MaskPicture(ClassPicture):
    """One colour over the foreground. A file holds 0 and 255."""

    def __init__(self, output: Mask) -> None:
        Picture.__init__(self, output)
        self.names, self.colors = ("", output.name), ("000000", MASK_COLOR)
        self.codes = (0, MAX_UINT8)


class DepthPicture(Picture):
    """Depth as colours from near to far. A file holds 16 bits: millimetres where all that the head
    can say fits, else MAX_UINT16 stands for `max_depth`."""

    output: Depth

    def view(self, image: Any, values: Any, truth: Any = None) -> np.ndarray:
        """Colours span the truth's range, or all that the head can say."""
        return depth_picture(values, self._top(truth))

    def file(self, values: Any) -> np.ndarray:
        """uint16 (H, W)."""
        most = self.output.max_depth
        fits = self.output.unit == "m" and most * 1000 <= MAX_UINT16
        scaled = np.asarray(values) * (1000 if fits else MAX_UINT16 / most)
        least = 1 if self.output.missing == 0 else 0  # a prediction is never missing
        return np.clip(np.rint(scaled), least, MAX_UINT16).astype(np.uint16)

    def scale(self, truth: Any) -> str:
        """The range that the colours span."""
        return f", 0 to {self._top(truth):.3g} {self.output.unit}".rstrip()

    def _top(self, truth: Any) -> float:
        most = self.output.max_depth
        top = most if truth is None else min(float(np.max(truth)), most)
        return top if top > 0 else most


class NormalsPicture(Picture):
    """Each direction has the colour that its file holds; the unknown is black."""

    def view(self, image: Any, values: Any, truth: Any = None) -> np.ndarray:
        """Facing the camera is light blue, up is green, to the right is red."""
        return self.file(values)

    def file(self, values: Any) -> np.ndarray:
        """n * 0.5 + 0.5 of (3, H, W) in 8 bits, (H, W, 3)."""
        normals = np.asarray(values)
        coded = np.where(normals.any(0), np.rint(normals * 127.5 + 127.5), 0)
        return coded.astype(np.uint8).transpose(1, 2, 0)

    def scored(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Unknown where the truth is."""
        return np.where(truth.any(0), prediction, 0)


class LabelPicture(Picture):
    """The class of an image is written onto it. A file holds its name."""

    suffix = ".json"

    def view(self, image: Any, values: Any, truth: Any = None) -> np.ndarray:
        """The name in the upper left corner."""
        page = Image.fromarray(np.ascontiguousarray(image))
        text, size = self.text(values), max(10, min(page.size) // 12)
        font = ImageFont.load_default(size=size)
        draw = ImageDraw.Draw(page)
        draw.rectangle((0, 0, font.getlength(text) + size, 1.4 * size), "#202020")
        draw.text((size // 2, size // 10), text, "#FFFFFF", font)
        return np.asarray(page)

    def file(self, values: Any) -> dict[str, str]:
        """{OUTPUT: class}"""
        return {self.output.name: self.text(values)}

    def text(self, values: Any) -> str:
        """The name of the class."""
        number = int(values)
        return "(unknown)" if number == IGNORE else self.output.labels[number]


PICTURES: dict[str, type[Picture]] = {
    "classes": ClassPicture,
    "mask": MaskPicture,
    "depth": DepthPicture,
    "normals": NormalsPicture,
    "label": LabelPicture,
}


def picture_of(output: Output) -> Picture:
    """How this output is drawn."""
    return PICTURES[output.kind](output)


def sample_panel(samples: Sequence[EvalSample], outputs: Sequence[Output]) -> Image.Image:
    """One row per sample: image | for each output truth | prediction, and a legend of what is seen.

    An output without a target, as for unlabelled images, has its prediction alone.
    """
    rows: list[Any] = []
    entries: dict[Any, Any] = {}
    for sample in samples:
        pixels = np.asarray(sample.image).transpose(1, 2, 0)  # (H, W, 3)
        row = [("image", pixels)]
        for output in outputs:
            picture, maps = picture_of(output), {}
            maps["prediction"] = np.asarray(sample.predictions[output.name])
            if output.name in sample.targets:
                truth = np.asarray(sample.targets[output.name])
                maps = {"truth": truth, "prediction": picture.scored(maps["prediction"], truth)}
            first = next(iter(maps.values()))  # both share its scale
            for what, values in maps.items():
                caption = f"{output.name}: {what}{picture.scale(first)}"
                row.append((caption, picture.view(pixels, values, first)))
            entries |= dict.fromkeys(picture.legend(list(maps.values())))
        rows.append(row)
    return panel(rows, sorted(entries, key=lambda entry: entry == IGNORED))
