"""How labels and predictions are drawn, and written as files, by kind of output (`PICTURES`).

Arrays are numpy or CPU tensors.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.task import IGNORE, MAX_UINT16, Classes, Depth, Mask, Output
from utils.pictures.gallery import EvalSample
from utils.pictures.paint import (
    PLAIN,
    Style,
    class_colors,
    count_labels,
    depth_picture,
    lighter,
    overlay,
    percent,
    rgb,
)
from utils.pictures.panel import panel

MASK_COLOR = "FF2D6F"
IGNORED = ("ignored (dimmed)", "282828")  # in a legend
MAX_UINT8 = 255


class Picture:
    """How one output is drawn and written. A value map is as in `Sample.targets`."""

    suffix: ClassVar[str] = ".png"  # of what `file` gives

    def __init__(self, output: Output, style: Style = PLAIN) -> None:
        self.output, self.style = output, style

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

    def error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """How far the prediction is off at each pixel, (H, W) from 0 to 1; nan: nobody knows."""
        raise NotImplementedError

    def legend(self, maps: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        """(name, colour) of what these value maps show."""
        return []

    def key(self, values: np.ndarray) -> list[tuple[str, str]]:
        """(what it is and how much, colour) of what a prediction shows; no colour: not painted."""
        return []

    def palette(self) -> list[int]:
        """Red, green and blue of each number that a file can hold; nothing: it is seen as it is."""
        return []


class ClassPicture(Picture):
    """Class colours over the image, dark ones lighter; ignored pixels are dimmed. A file holds the
    task's values, in the task's colours where these are 8 bits."""

    output: Classes

    def __init__(self, output: Classes, style: Style = PLAIN) -> None:
        super().__init__(output, style)
        self.names, self.codes = output.labels, output.values
        self.colors = tuple(map(lighter, class_colors(output)))

    def view(self, image: Any, values: Any, truth: Any = None) -> np.ndarray:
        """Black classes leave the image as it is."""
        return overlay(image, values, self.colors, self.style)

    def file(self, values: Any) -> np.ndarray:
        """Label values (H, W) as in the task's files, in 8 bits or, where they need it, 16."""
        dtype = np.uint8 if max(self.codes) <= MAX_UINT8 else np.uint16
        return np.asarray(self.codes, dtype)[np.asarray(values)]

    def scored(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Ignored where the truth is."""
        return np.where(truth == IGNORE, IGNORE, prediction)

    def error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """1 where another class is said."""
        return np.where(truth == IGNORE, np.nan, prediction != truth)

    def legend(self, maps: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        """The labels that are painted, then the ignored."""
        seen = {int(label) for labels in maps for label in np.unique(labels)}
        named = enumerate(zip(self.names, self.colors, strict=True))
        entries = [pair for i, pair in named if i in seen and any(rgb(pair[1]))]
        return entries + ([IGNORED] if IGNORE in seen else [])

    def key(self, values: np.ndarray) -> list[tuple[str, str]]:
        """Each class that is there and its share of the pixels."""
        counts = count_labels(values)[: len(self.names)]
        named = zip(self.names, self.colors, counts / values.size, strict=True)
        return [
            (f"{name or 'none'} {percent(share)}", color if any(rgb(color)) else "")
            for name, color, share in named
            if share
        ]

    def palette(self) -> list[int]:
        """No two are equal, so that a reader who goes by colours finds the numbers."""
        if max(self.codes) > MAX_UINT8:
            return []
        table = dict.fromkeys(range(max(self.codes) + 1), (0, 0, 0))
        taken = set[tuple[int, int, int]]()
        for code, color in zip(self.codes, class_colors(self.output), strict=True):
            red, green, blue = rgb(color)
            while (red, green, blue) in taken:
                blue = (blue + 1) % 256
            taken.add((red, green, blue))
            table[code] = red, green, blue
        return [channel for color in table.values() for channel in color]


class MaskPicture(ClassPicture):
    """One colour over the foreground. A file holds 0 and 255."""

    def __init__(self, output: Mask, style: Style = PLAIN) -> None:
        Picture.__init__(self, output, style)
        self.names, self.colors = ("", output.name), ("000000", MASK_COLOR)
        self.codes = (0, MAX_UINT8)

    def palette(self) -> list[int]:
        """Black and white do without."""
        return []


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

    def error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """A share of the truth; half of it, or more, is 1."""
        far = np.abs(prediction - truth) / np.maximum(truth, 1e-6)
        return np.where(truth < 0, np.nan, np.minimum(2 * far, 1))

    def scale(self, truth: Any) -> str:
        """The range that the colours span."""
        return f", 0 to {self._top(truth):.3g} {self.output.unit}".rstrip()

    def key(self, values: np.ndarray) -> list[tuple[str, str]]:
        """The colours of five depths."""
        most = self.output.max_depth
        stops = np.linspace(0, most, 5, dtype=np.float32)
        colors = depth_picture(stops[None], most)[0]
        unit = f" {self.output.unit}".rstrip()
        return [
            (f"{stop:.3g}{unit}", color.tobytes().hex())
            for stop, color in zip(stops, colors, strict=True)
        ]

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

    def key(self, values: np.ndarray) -> list[tuple[str, str]]:
        """The colours of three directions."""
        faced = {"to the right": (1, 0, 0), "up": (0, 1, 0), "to the camera": (0, 0, 1)}
        colors = self.file(np.array([*faced.values()], np.float32).T[..., None])[:, 0]
        return [(name, color.tobytes().hex()) for name, color in zip(faced, colors, strict=True)]

    def scored(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Unknown where the truth is."""
        return np.where(truth.any(0), prediction, 0)

    def error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """The angle between; 45 degrees, or more, are 1."""
        angle = np.degrees(np.arccos(np.clip((prediction * truth).sum(0), -1, 1)))
        return np.where(truth.any(0), np.minimum(angle / 45, 1), np.nan)


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

    def error(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """1, of one pixel, where another class is said."""
        return np.where(truth == IGNORE, np.nan, prediction != truth).reshape(1, 1)

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


def picture_of(output: Output, style: Style = PLAIN) -> Picture:
    """How this output is drawn."""
    return PICTURES[output.kind](output, style)


def class_picture(output: Classes | Mask, style: Style = PLAIN) -> ClassPicture:
    """How an output of classes is drawn, which is known to have names, colours and codes."""
    picture = picture_of(output, style)
    assert isinstance(picture, ClassPicture)
    return picture


def sample_panel(samples: Sequence[EvalSample], outputs: Sequence[Output]) -> Image.Image:
    """One row per sample: image | for each output truth | prediction, and a legend of what is seen.

    An output without a target, as for unlabelled images, has its prediction alone.
    """
    rows: list[Any] = []
    entries: dict[Any, Any] = {}
    for sample in samples:
        rows.append(row := [("image", pixels_of(sample))])
        for output in outputs:
            picture, maps = picture_of(output), maps_of(sample, output)
            truth = next(iter(maps.values()))  # both share its scale
            for what, values in maps.items():
                caption = f"{output.name}: {what}{picture.scale(truth)}"
                row.append((caption, picture.view(row[0][1], values, truth)))
            entries |= dict.fromkeys(picture.legend(list(maps.values())))
    return panel(rows, sorted(entries, key=lambda entry: entry == IGNORED))


def pixels_of(sample: EvalSample) -> np.ndarray:
    """The image, uint8 (H, W, 3)."""
    return np.asarray(sample.image).transpose(1, 2, 0)


def maps_of(sample: EvalSample, output: Output) -> dict[str, np.ndarray]:
    """The truth, if there is one, and what is scored of the prediction."""
    prediction = np.asarray(sample.predictions[output.name])
    if output.name not in sample.targets:
        return {"prediction": prediction}
    truth = np.asarray(sample.targets[output.name])
    return {"truth": truth, "prediction": picture_of(output).scored(prediction, truth)}
