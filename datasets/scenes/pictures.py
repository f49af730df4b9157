"""A random generator and a size -> an undamaged photograph, painting, print or pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from datasets.scenes.canvas import Array, Canvas, Rng, grid, noise, ramp, tint
from datasets.scenes.depictions import painting, photograph
from datasets.scenes.line_art import atlas, engraving, manuscript
from datasets.scenes.patterns import cloth, mosaic, tiles

# What shows below a lost layer. None: nothing, one sees the table.
SUPPORTS = {
    "Paper": None,
    "Parchment": None,
    "Textile": None,
    "Film emulsion": (218, 214, 206),
    "Glass": None,
    "Canvas": (186, 164, 130),
    "Wood": (150, 112, 74),
    "Lime plaster": (206, 198, 186),
    "Ceramic": (188, 120, 86),
    "Tesserae": (162, 154, 142),
}
TABLES = ((38, 36, 40), (22, 22, 24), (96, 70, 48), (128, 96, 66), (150, 152, 154), (58, 68, 80))


class Content(NamedTuple):
    """What may be seen: its ARTeFACT content, `render(rng, inset, material)` -> (H, W, 3)."""

    name: str
    render: Callable[[Rng, Array, str], Array]
    materials: tuple[str, ...]
    rough: float  # how uneven the object's edge is, in pixels for a scene of 256


CONTENTS = (
    Content("Photographic depiction", photograph, ("Glass",), 0.0),
    Content("Photographic depiction", photograph, ("Film emulsion",), 0.3),
    Content("Photographic depiction", photograph, ("Paper",), 0.6),
    Content("Artistic depiction", painting, ("Canvas",), 0.8),
    Content("Artistic depiction", painting, ("Wood",), 0.5),
    Content("Artistic depiction", painting, ("Lime plaster",), 3.0),
    Content("Line art", manuscript, ("Parchment", "Paper"), 3.0),
    Content("Line art", engraving, ("Paper",), 1.0),
    Content("Line art", atlas, ("Paper", "Parchment"), 1.0),
    Content("Geometric patterns", mosaic, ("Tesserae",), 4.0),
    Content("Geometric patterns", tiles, ("Ceramic",), 1.0),
    Content("Geometric patterns", cloth, ("Textile",), 2.0),
)


def lay_out(rng: Rng, height: int, width: int) -> Canvas:
    """One of the contents, undamaged, on a table that takes 4 to 13 % of the pixels."""
    shape = (height, width)
    unit = min(shape) / 256
    content = CONTENTS[rng.integers(len(CONTENTS))]
    material = content.materials[rng.integers(len(content.materials))]
    inset = place(rng, shape, content.rough * unit)
    table = tint(rng, *TABLES) * (1 + 0.06 * noise(rng, shape, 60 * unit, 6))[..., None]
    support = table * 0.75
    if SUPPORTS[material]:
        grainy = 1 + 0.1 * noise(rng, shape, 8 * unit, 3)
        support = tint(rng, SUPPORTS[material]) * grainy[..., None]
    shadowed = table * (0.4 + 0.6 * ramp(inset, 0, -8 * unit))[..., None]
    canvas = Canvas(shadowed, inset, support, material, content.name)
    canvas.blend(content.render(rng, inset, material), np.ones(shape, np.float32))
    return canvas


def place(rng: Rng, shape: tuple[int, int], rough: float) -> Array:
    """`Canvas.inset` of a slightly turned sheet with uneven edges and round corners."""
    unit = min(shape) / 256
    x, y = grid(shape)
    x = x - shape[1] / 2 + rng.uniform(-2, 2) * unit
    y = y - shape[0] / 2 + rng.uniform(-2, 2) * unit
    angle, corner = rng.uniform(-0.025, 0.025), rng.uniform(2, 16) * unit
    across = shape[1] / 2 - np.abs(x + angle * y)
    down = shape[0] / 2 - np.abs(y - angle * x)
    rounded = corner - np.hypot(np.maximum(corner - across, 0), np.maximum(corner - down, 0))
    inset = np.where(rounded < corner, rounded, np.minimum(across, down))
    inset = inset + rough * noise(rng, shape, 32 * unit, 4)
    outside = int(rng.uniform(0.04, 0.13) * inset.size)
    return (inset - np.partition(inset.ravel(), outside)[outside]).astype(np.float32)
