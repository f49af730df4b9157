"""Writes composites as shards, those that a folder still lacks.

Composite i of a part is drawn from (seed, part, i) alone: neither processes nor interruptions
change a byte. Names are those of the mask + depth course's zips, with the split as the part:
`bg_fg_train/img_000001.jpg`, `bg_fg_mask_train/` and `depthMap/` alike; `depth_mm/` adds metric
depth. `task.json` beside the shards is a task that reads them, with `{split}` from the names.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.compose.composing import (
    PARTS,
    ComposePlan,
    ComposeRecipe,
    encode,
    make_composite,
    make_task,
)
from datasets.compose.ingredients import Kit, divide, survey
from datasets.processes import run_in_order
from datasets.stores import open_stores
from datasets.stores.write import begin_shards, write_zip
from datasets.task import UserError
from utils.files import write_whole

VERSION = 2  # of what is drawn: a set begun by another version is not continued


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
