"""A seed goes in; a flat thing comes out: an old picture, or a surface, with labelled marks."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.demo.damage import PAINTERS
from datasets.demo.paint import SQUARE, Canvas, Size, blend, finish, grid, noise, turned
from datasets.demo.room import draw_room
from datasets.demo.scene import THINGS, Scene
from datasets.demo.street import draw_street
from datasets.task import IGNORE

CLEAN, SOUND_SHARE = "clean", 0.08  # of the old pictures have no damage
GROUND = ("background", CLEAN, "none", "normal", "good", "ok", "other", "rest", "void")
SHOWN = 0.75  # of the surfaces hold a given class
DISTANCE_M, RELIEF_M = 1.0, 0.25  # to the lowest point of a surface, and how far it may rise
MATERIALS = THINGS["materials"]  # tone, whether in sepia or grey, colour under the surface
# From a street or a room with somebody in it, (H, W, 3), 0 to 1.
CONTENTS: dict[str, Callable[[ndarray], ndarray]] = {
    "Photographic depiction": lambda view: view,
    "Artistic depiction": lambda view: np.round(view * 4.5) / 4,  # flat tones
    "Line art": lambda view: (
        0 * view - np.abs(np.gradient(4 * view.mean(2))).sum(0)[..., None] + 0.95
    ),
}


def draw_photograph(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """An old picture with 2 to 5 of the task's kinds of damage, or with none."""
    on = lay_out(rng, size)
    known, count = [name for name in PAINTERS if name in names], int(rng.integers(2, 6))
    count = 0 if rng.random() < SOUND_SHARE else min(count, len(known))
    chosen = rng.choice(known, count, replace=False)
    ids, table = np.zeros(size, np.uint8), on.image[~on.inside]
    for i, name in enumerate(PAINTERS):
        if name in chosen:
            ids[PAINTERS[name](rng, on) > 0.5] = i + 1
    front = (ids > 0) & on.inside
    ids[~on.inside], on.image[~on.inside] = IGNORE, table
    image = finish(rng, on.image, rng.uniform(0.005, 0.025))
    return Scene(image, ids, (CLEAN, *PAINTERS), front, on.about)


def lay_out(rng: Generator, size: Size) -> Canvas:
    """One of the contents on one of the materials, upon a table; what frames it is no damage."""
    material, content = (str(rng.choice(list(table))) for table in (MATERIALS, CONTENTS))
    tone, sepia, backing = MATERIALS[material]
    table = (
        rng.uniform(0.1, 0.7)
        * rng.uniform(0.85, 1.1, 3)
        * (0.85 + 0.3 * noise(rng, size, 40, 3)[..., None])
    )
    about, inside = {"material": material, "content": content}, np.ones(size, bool)
    on = Canvas(size, table.astype(np.float32), inside, np.array(backing), max(size) / 256, about)
    share, rim, tilt = rng.uniform(0.87, 0.97), rng.uniform(0, 0.16), rng.normal(0, 0.015)
    middle = np.array(size[::-1]) / 2
    edges = (turned(SQUARE * middle * part, middle, tilt) for part in (share, share - rim))
    sheet, printed = (on.pen([edge]) for edge in edges)
    paint = draw_room if rng.random() < 0.5 else draw_street
    picture = CONTENTS[content](paint(rng, size, ()).image / np.float32(255))
    if sepia or rng.random() < 0.3:
        warm = rng.uniform(0, 1) * np.array([0.03, -0.02, -0.1], np.float32)
        picture = 0.08 + 0.85 * (picture @ np.array([0.3, 0.59, 0.11]))[..., None] + warm
    paper = np.asarray(tone, np.float32) * (0.9 + 0.2 * noise(rng, size, 5, 4)[..., None])
    blend(paper, printed, picture)
    on.lay(sheet, paper * (0.75 + 0.3 * noise(rng, size, 2) * noise(rng, size, 80, 2))[..., None])
    on.inside[:] = sheet > 0.5
    return on


def draw_surface(rng: Generator, size: Size, names: Sequence[str]) -> Scene:
    """Marks of most classes, over each other, on a ground that fits them.

    The camera looks straight down on a smooth height field that is lit from the side.
    """
    kinds = [name for name in names if name not in GROUND]
    tone = next(tone for word, tone in THINGS["surfaces"].items() if word in " ".join(kinds))
    grain = rng.random(size, np.float32)
    image = rng.uniform(0.75, 1.2) * (0.82 + 0.36 * noise(rng, size, 4, 5)) * (0.9 + 0.2 * grain)
    image, backing = (image[..., None] * tone).astype(np.float32), np.array([0.9, 0.88, 0.85])
    on = Canvas(size, image, np.ones(size, bool), backing, max(size) / 256, {})
    ids, relief = np.zeros(size, np.uint8), noise(rng, size, 2.5, 2)
    for number in rng.permutation(len(kinds))[rng.binomial(len(kinds), 1 - SHOWN) :]:
        ids[draw_mark(rng, on, kinds[number], number, len(kinds)) > 0.5] = number + 1
    depth_m = (DISTANCE_M - RELIEF_M * relief).astype(np.float32)
    (y, x), (down, right) = grid(size), (np.gradient(depth_m, axis=i) * size[1] for i in (0, 1))
    x, y = x / size[1] - 0.5, (y - size[0] / 2) / size[1]
    normals = np.stack([right, -down, depth_m + x * right + y * down], 2)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    light = (1 + 0.2 * normals @ (-1, 1, 0)) * (0.8 + 0.4 * relief)
    image = finish(rng, on.image * light[..., None], 0.015)
    return Scene(image, ids, ("", *kinds), ids > 0, {}, depth_m, normals)


def draw_mark(rng: Generator, on: Canvas, name: str, number: int, count: int) -> ndarray:
    """Where a class is seen: its look is known by its name, else by its place among the others."""
    known = (look for word, look in THINGS["marks"].items() if word in name)
    hue = 0.5 + 0.4 * np.cos(2 * np.pi * (number / max(count, 1) + np.arange(3) / 3))
    shape, color = next(known, (THINGS["any mark"][number % len(THINGS["any mark"])], hue))
    cover = np.clip(PAINTERS[shape](rng, on), 0, 1)
    mottled = np.asarray(color) * (0.8 + 0.4 * noise(rng, on.size, 30, 2)[..., None])
    return on.lay(0.85 * cover, mottled) / 0.85
