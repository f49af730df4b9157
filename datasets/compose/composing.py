"""Makes composites, one after another, and encodes their files."""

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.compose.composite import Composite, assume_floor, compose, draw_height
from datasets.compose.ingredients import Kit, Side, Survey
from datasets.task import Depth, Mask, Task, UserError

PARTS = ("train", "val")
ROOMS, FIGURES = 40, 3  # drawn for a composite at most: rooms, and figures for each of them
IMAGE_QUALITY = 90
LABEL_QUALITY = 95  # of JPEG: a mask of 0 and 255 keeps each pixel on its side of 128


class ComposeRecipe(NamedTuple):
    """How many composites, (H, W), the seed, composites in a shard, and the share of validation."""

    num: int
    size: tuple[int, int]
    seed: int
    shard_size: int
    val_share: float


class ComposePlan(NamedTuple):
    """All that a composite depends on."""

    kit: Kit
    seen: Survey
    sides: dict[str, Side]
    recipe: ComposeRecipe


def make_task(plan: ComposePlan) -> Task:
    """The task that reads the shards as they are: the figure's mask and metric depth."""
    field = "{split}" if plan.recipe.val_share else "{part}"
    outputs = [Mask("mask", f"bg_fg_mask_{field}/{{key}}.jpg", loss="bce+dice")]
    if plan.kit.depths is not None:
        depth = Depth(
            "depth_m",
            "depth_mm/{key}.png",
            loss="silog+grad",
            scale=0.001,
            max_depth=float(max(1, math.ceil(plan.seen.farthest_m))),
            unit="m",
            missing=0,
        )
        outputs.append(depth)
    return Task(
        name="composites",
        about="cut-out figures in rooms: mask and depth",
        image=f"bg_fg_{field}/{{key}}.jpg",
        outputs=tuple(outputs),
        best="mask/iou",
        resize=True,
        defaults={"size": list(plan.recipe.size), "bs": 16, "lr": 2e-3},
    )


def make_composite(plan: ComposePlan, part: str, number: int) -> Composite:
    """Composite `number` of a part; UserError if no figure finds a place in many rooms."""
    rng = np.random.default_rng([plan.recipe.seed, PARTS.index(part), number])
    kit, side = plan.kit, plan.sides[part]
    for _ in range(ROOMS):
        room = int(rng.choice(side.rooms))
        view = kit.view(room, plan.seen.floors[room])
        for _ in range(FIGURES):
            if kit.depths is None:
                view = view._replace(floor=assume_floor(rng))
            chosen = int(rng.choice(side.cutouts))
            figure, bounds = kit.figure(chosen), kit.bounds_m(chosen)
            height_m = rng.uniform(*bounds) if bounds else draw_height(rng, figure)
            made = compose(rng, view, figure, height_m, plan.recipe.size)
            if made is not None:
                return made
    raise UserError(
        f"composite {number} of {part}: no place for a figure in {ROOMS} rooms; are depths in "
        "millimetres, and --focal and --heights right?"
    )


def encode(made: Composite, part: str, number: int) -> list[tuple[str, bytes]]:
    """Names and bytes of a composite's files: image, mask and, with depth, relative and metric
    depth. Names count from 1."""
    name = f"img_{number + 1:06d}"
    files = [
        (f"bg_fg_{part}/{name}.jpg", _jpeg(made.image, IMAGE_QUALITY)),
        (f"bg_fg_mask_{part}/{name}.jpg", _jpeg(made.mask, LABEL_QUALITY)),
    ]
    if made.depth_mm is not None:
        known = made.depth_mm > 0
        farthest = made.depth_mm.max()  # relative depth has no value for "unknown"
        metres = np.where(known, made.depth_mm, farthest).astype(np.float32) / 1000
        files.append((f"depthMap/{name}.jpg", _jpeg(relative_depth(metres), LABEL_QUALITY)))
        png = io.BytesIO()
        Image.fromarray(made.depth_mm).save(png, "PNG")
        files.append((f"depth_mm/{name}.png", png.getvalue()))
    return files


def relative_depth(depth_m: np.ndarray) -> np.ndarray:
    """Depth (H, W) in metres -> the course's grey depth picture, uint8 (H, W): dark is near.

    Each picture spans its own range, linearly: the nearest pixel is 0, the farthest 255. So do the
    depthMap files of the course's zips. A constant depth becomes 0.
    """
    near, far = depth_m.min(), depth_m.max()
    span = max(far - near, np.finfo(np.float32).tiny)
    return np.floor((depth_m - near) / span * 255 + 0.5).astype(np.uint8)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
