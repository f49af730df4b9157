"""Numbers of a map become colours: of classes, over a photograph, and of depth.

Arrays are numpy or CPU tensors. Colours are "RRGGBB".
"""

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.task import IGNORE, Classes

DARKEST = 120  # luma of a colour that is seen on a dark photograph
STRIP_PIXELS = 2**20  # counted at a time

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


def lighter(color: str) -> str:
    """The colour, mixed with white until it is seen on a dark photograph; black stays black."""
    channels = np.array(rgb(color), np.float64)
    luma = channels @ (0.2126, 0.7152, 0.0722)
    white = np.clip((DARKEST - luma) / (255 - luma), 0, 1) if channels.any() else 0.0
    return "".join(f"{round(part):02X}" for part in channels + white * (255 - channels))


class Style(NamedTuple):
    """How classes are painted. alpha: share of a class's colour where it is. line: pixels of the
    outline of each region, in its full colour, and of a dark one around it."""

    alpha: float = 0.6
    line: int = 0


PLAIN = Style()


def overlay(image: Any, ids: Any, colors: Sequence[str], style: Style = PLAIN) -> np.ndarray:
    """Blend class colours over an image: uint8 (H, W, 3), ids uint8 (H, W) -> uint8 (H, W, 3).

    A class whose colour is black, such as Clean, leaves the image as it is. 255 dims the image.
    """
    ids = np.ascontiguousarray(ids, np.uint8)
    table = colorize(np.arange(256), colors)
    painted = table.any(-1)  # (256,)
    shares = np.stack([np.where(painted, style.alpha, 0), np.where(painted, 1, 0.5)])
    shares[:, IGNORE] = 0.7
    inner, edge = np.rint(255 * shares).astype(np.uint8).tolist()
    paint = Image.fromarray(ids)  # Pillow looks up and blends several times as fast as numpy
    share, border = paint.point(inner), Image.fromarray(_borders(ids, style.line))
    share.paste(paint.point(edge), mask=border)
    paint.putpalette(table.tobytes())
    page = Image.fromarray(np.ascontiguousarray(image))
    page.paste(paint.convert("RGB"), mask=share)
    return np.asarray(page)


def _borders(ids: np.ndarray, line: int) -> np.ndarray:
    """Pixels (H, W) whose label is another than that of one `line` pixels away, across or down."""
    border = np.zeros(ids.shape, bool)
    if line:
        for these, marked in ((ids, border), (ids.T, border.T)):
            differ = these[line:] != these[:-line]
            marked[line:] |= differ
            marked[:-line] |= differ
    return border


def count_labels(labels: np.ndarray) -> np.ndarray:
    """How many pixels of uint8 (H, W) have each of 256 labels."""
    parts = np.array_split(labels.reshape(1, -1), -(-labels.size // STRIP_PIXELS), 1)
    return np.stack([Image.fromarray(part).histogram() for part in parts]).sum(0)


def shrunk(pixels: np.ndarray, longest: int) -> Image.Image:
    """uint8 (H, W, 3) with a longer side of so many pixels at most; made strip by strip."""
    height, width = pixels.shape[:2]
    step = -(-max(height, width) // longest)
    if step == 1:
        return Image.fromarray(np.ascontiguousarray(pixels))
    page = Image.new("RGB", (-(-width // step), -(-height // step)))
    rows = max(1, STRIP_PIXELS // width) * step
    for top in range(0, height, rows):
        strip = Image.fromarray(np.ascontiguousarray(pixels[top : top + rows]))
        page.paste(strip.reduce(step), (0, top // step))
    return page


def percent(share: float) -> str:
    """0.0423 -> "4.2 %"; what is there at all is not 0."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def measure(value: float) -> str:
    """Four digits or more, never as a power of ten: 0.1234, 12.34, 123,456."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


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
