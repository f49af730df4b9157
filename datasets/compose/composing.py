"""Makes composites one after another, and writes them as shards, those that a folder still lacks.

Composite i of a part is drawn from (seed, part, i) alone: neither processes nor interruptions
change a byte. Names are those of the mask + depth course's zips, with the split as the part:
`bg_fg_train/img_000001.jpg`, `bg_fg_mask_train/` and `depthMap/` alike; `depth_mm/` adds metric
depth. `task.json` beside the shards is a task that reads them, with `{split}` from the names.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.compose.composite import Composite, assume_floor, compose, draw_height
from datasets.compose.ingredients import Kit, Side, Survey, divide, survey
from datasets.processes import run_in_order
from datasets.stores import open_stores
from datasets.stores.write import begin_shards, write_zip
from datasets.task import Depth, Mask, Task, UserError
from utils.files import write_whole

VERSION = 2  # of what is drawn: a set begun by another version is not continued
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
            loss="l1+silog+0.2*grad",
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
        defaults={"size": list(plan.recipe.size), "bs": 16, "lr": 5e-3},
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


def make_set(kit: Kit, recipe: ComposeRecipe, out: Path, workers: int) -> str:
    """Write all shards that `out` lacks; what was done, as a line.

    UserError: a source cannot be used, or `out` holds something else.
    """
    seen = survey(kit, workers)
    plan = ComposePlan(kit, seen, divide(kit, seen, recipe.val_share), recipe)
    begin_shards(out / "compose.json", _facts(plan), "*.zip", "choose another --out")
    task = json.dumps(make_task(plan).to_json(), indent=2) + "\n"
    write_whole(out / "task.json", task.encode())
    shards = {out / name: numbers for name, numbers in _list_shards(recipe).items()}
    lacking = {
        path: numbers for path, numbers in shards.items() if not _is_whole(path, numbers, kit)
    }
    items = (number for numbers in lacking.values() for number in numbers)
    with (
        tqdm(total=recipe.num, desc="composing", unit="image", disable=None) as bar,
        closing(run_in_order(_encode, plan, items, workers)) as encoded,
    ):
        bar.update(recipe.num - sum(map(len, lacking.values())))
        for path, numbers in lacking.items():
            write_zip(path, _members(len(numbers), encoded, bar))
    written = sum(path.stat().st_size for path in shards)
    usable = sum(len(side.rooms) for side in plan.sides.values())
    finished = len(shards) - len(lacking)
    earlier = f" ({finished} found finished)" if finished else ""
    return (
        f"{recipe.num} composites in {len(shards)} shards{earlier}, {written} bytes, "
        f"{written / recipe.num:.0f} each; {usable} of {len(kit.rooms)} backgrounds used"
    )


def _list_shards(recipe: ComposeRecipe) -> dict[str, list[tuple[str, int]]]:
    """The composites of each shard by its name: part, and number in the part."""
    num, size, num_val = recipe.num, recipe.shard_size, 0
    if recipe.val_share:
        num_val = min(max(1, round(num * recipe.val_share)), num - 1)
    return {
        f"{part}_{shard:04d}.zip": [(part, i) for i in range(first, min(first + size, end))]
        for part, begin, end in zip(PARTS, (0, num - num_val), (num - num_val, num), strict=True)
        for shard, first in enumerate(range(begin, end, size))
    }


def _members(
    num: int, encoded: Iterator[list[tuple[str, bytes]]], bar: tqdm
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the next `num` composites."""
    for _ in range(num):
        yield from next(encoded)
        bar.update()


def _encode(plan: ComposePlan, item: tuple[str, int]) -> list[tuple[str, bytes]]:
    return encode(make_composite(plan, *item), *item)


def _facts(plan: ComposePlan) -> dict[str, Any]:
    """By flag, all that the bytes depend on."""
    kit, recipe = plan.kit, plan.recipe
    return {
        "version": VERSION,
        "--backgrounds": _digest([room.name for room in kit.rooms], plan.seen.rooms),
        "--cutouts": _digest([cutout.name for cutout in kit.cutouts], plan.seen.cutouts),
        "--focal": kit.focal,
        "--heights": kit.heights_m,
        "--num": recipe.num,
        "--size": recipe.size,
        "--seed": recipe.seed,
        "--shard-size": recipe.shard_size,
        "--val-share": recipe.val_share,
    }


def _digest(names: list[str], contents: list[bytes]) -> str:
    """Changes when the name or the content of a file does."""
    text = repr(list(zip(names, contents, strict=True)))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_whole(path: Path, numbers: list[tuple[str, int]], kit: Kit) -> bool:
    """Whether a finished shard lies there; a damaged one is made anew."""
    num_files = 2 if kit.depths is None else 4
    try:
        return path.exists() and len(open_stores([path])[0]) == num_files * len(numbers)
    except UserError:
        return False
