"""Backgrounds, their depth and cut-out figures go in; shards of labelled composites come out.

Composite i of a part is drawn from (seed, part, i) alone: neither processes nor interruptions
change a byte. Names are those of the mask + depth course's zips, with the split as the part:
`bg_fg_train/img_000001.jpg`, `bg_fg_mask_train/` and `depthMap/` alike; `depth_mm/` adds metric
depth. `task.json` beside the shards is a task that reads them, with `{split}` from the names.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from datasets.compose.composing import (
    PARTS,
    Plan,
    Recipe,
    encode,
    make_composite,
    make_task,
    name_members,
)
from datasets.compose.ingredients import Kit, divide, open_kit, survey
from datasets.processes import run_in_order
from datasets.stores import open_stores, parse_path
from datasets.stores.write import write_zip
from datasets.task import Task, UserError
from utils.command import run_command

VERSION = 1  # of what is drawn: a set begun by another version is not continued
# Focal length over picture width: fx_rgb = 518.86 px at 640, from camera_params.m of the NYU Depth
# v2 toolbox (Silberman 2012). What is cropped off their frames, about 3 %, is neglected.
NYU_FOCAL = 518.86 / 640
CHUNK = 8  # composites a process makes at a time


class Job(NamedTuple):
    """A shard, and the composites of a part that it holds."""

    path: Path
    part: str
    numbers: range

    def chunks(self) -> list[tuple[str, range]]:
        """What a process makes at a time."""
        numbers = self.numbers
        return [(self.part, numbers[i : i + CHUNK]) for i in range(0, len(numbers), CHUNK)]


class Made(NamedTuple):
    """What `make_set` did: composites, bytes of the shards, number of shards, how many of them were
    found finished; rooms, and how many of them have a floor to stand on."""

    num: int
    bytes: int
    shards: int
    finished: int
    rooms: int
    usable: int


def make_set(kit: Kit, recipe: Recipe, out: Path, workers: int) -> Made:
    """Write all shards that `out` lacks.

    UserError: a source cannot be used, or `out` holds something else.
    """
    facts = _facts(kit, recipe)
    _check(out, facts)
    seen = survey(kit, workers)
    plan = Plan(kit, seen, divide(kit, seen, recipe.val_share), recipe)
    _begin(out, facts, make_task(plan))
    num, shard_size = recipe.num, recipe.shard_size
    num_val = min(max(1, round(num * recipe.val_share)), num - 1) if recipe.val_share else 0
    jobs = [
        Job(out / f"{part}_{number:04d}.zip", part, range(first, min(first + shard_size, end)))
        for part, begin, end in zip(PARTS, (0, num - num_val), (num - num_val, num), strict=True)
        for number, first in enumerate(range(begin, end, shard_size))
    ]
    lacking = [job for job in jobs if not _is_whole(job, len(name_members(plan)))]
    chunks = (chunk for job in lacking for chunk in job.chunks())
    with (
        tqdm(total=num, desc="composing", unit="image", disable=None) as bar,
        closing(run_in_order(_encode_chunk, plan, chunks, workers)) as encoded,
    ):
        bar.update(num - sum(len(job.numbers) for job in lacking))
        for job in lacking:
            write_zip(job.path, _members(plan, job, encoded, bar))
    written = sum(job.path.stat().st_size for job in jobs)
    usable = sum(len(side.rooms) for side in plan.sides.values())
    return Made(num, written, len(jobs), len(jobs) - len(lacking), len(kit.rooms.keys), usable)


def _members(
    plan: Plan, job: Job, encoded: Iterator[list[list[bytes]]], bar: tqdm
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of a shard, in order, from what the processes give next."""
    numbers = iter(job.numbers)
    for _ in job.chunks():
        for files in next(encoded):
            number = next(numbers) + 1  # names count from 1
            for template, data in zip(name_members(plan), files, strict=True):
                yield template.format(part=job.part, number=number), data
            bar.update()


def _encode_chunk(plan: Plan, chunk: tuple[str, range]) -> list[list[bytes]]:
    part, numbers = chunk
    return [encode(make_composite(plan, part, number)) for number in numbers]


def _check(out: Path, facts: dict[str, Any]) -> None:
    """UserError if the shards in `out` were begun with something else than these facts."""
    note = out / "compose.json"
    if not any(out.glob("*.zip")):
        return
    if not note.exists():
        raise UserError(f"{out}: holds other shards, expected none: choose another --out")
    try:
        before = json.loads(note.read_text())
        changed = [name for name in facts if before.get(name) != facts[name]]
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{note}: damaged, expected what was noted: choose another --out") from None
    if changed:
        raise UserError(f"{out}: begun with other {', '.join(changed)}: choose another --out")


def _begin(out: Path, facts: dict[str, Any], task: Task) -> None:
    """Note what is made here, for a later call, and remove what a killed call left half written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for part in out.glob(".*.zip.*.part"):
            part.unlink()
        (out / "task.json").write_text(json.dumps(task.to_json(), indent=2) + "\n")
        (out / "compose.json").write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None


def _facts(kit: Kit, recipe: Recipe) -> dict[str, Any]:
    """By flag, all that the bytes depend on."""
    return {
        "version": VERSION,
        "--backgrounds": kit.rooms.digest(),
        "--depth": kit.depths and kit.depths.digest(),
        "--cutouts": kit.cutouts.digest(),
        "--focal": kit.focal,
        "--heights": {name: list(bounds) for name, bounds in sorted(kit.heights_m.items())},
        "--num": recipe.num,
        "--size": list(recipe.size),
        "--seed": recipe.seed,
        "--shard-size": recipe.shard_size,
        "--val-share": recipe.val_share,
    }


def _is_whole(job: Job, num_files: int) -> bool:
    """Whether a finished shard lies there; a damaged one is made anew."""
    try:
        return job.path.exists() and len(open_stores([job.path])[0]) == len(job.numbers) * num_files
    except ValueError:
        return False


def _bounded(kind: type, low: float, high: float, text: str) -> Any:
    value = kind(text)
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text}: expected {low} to {high}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    count = functools.partial(_bounded, int, 1, 10**8)
    count.__name__ = "number"  # for argparse's own message
    parser = argparse.ArgumentParser(
        prog="python -m datasets.compose",
        description="Put cut-out figures into rooms: images with exact masks and depth, in shards.",
    )
    add = parser.add_argument
    add(
        "--backgrounds",
        type=parse_path,
        required=True,
        metavar="PATH",
        help="folder or shards of rooms; one with rgb/ and depth_mm/ gives their depth too",
    )
    add(
        "--depth",
        type=parse_path,
        metavar="PATH",
        help="16-bit PNG in mm by the names of the rooms (none: masks only)",
    )
    add(
        "--cutouts",
        type=parse_path,
        required=True,
        metavar="PATH",
        help="figures with an alpha channel",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the shards; an interrupted call is continued",
    )
    add("--num", type=count, required=True, help="composites in all")
    add(
        "--size",
        type=functools.partial(_bounded, int, 16, 4096),
        nargs=2,
        default=[224, 224],
        metavar=("H", "W"),
        help="of a composite (224 224)",
    )
    add("--seed", type=functools.partial(_bounded, int, 0, 2**63), default=0, help="(0)")
    add("--shard-size", type=count, default=10_000, metavar="N", help="composites in a zip (10000)")
    add(
        "--val-share",
        type=functools.partial(_bounded, float, 0, 0.9),
        default=0.1,
        metavar="SHARE",
        help="of composites, rooms and cut-outs: validation sees its own only (0.1)",
    )
    add(
        "--focal",
        type=functools.partial(_bounded, float, 0.1, 10),
        default=NYU_FOCAL,
        help="focal length of the rooms' camera over their width (0.81: Kinect, as in NYUv2)",
    )
    add(
        "--heights",
        type=Path,
        metavar="CSV",
        help="heights of figures: lines of FILE,LOW,HIGH in "
        "metres, * for all others (else drawn by shape)",
    )
    add("--workers", type=count, default=os.cpu_count(), help="processes (all cores)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Compose as the command line says and print what came of it."""
    recipe = Recipe(args.num, tuple(args.size), args.seed, args.shard_size, args.val_share)
    if recipe.val_share and recipe.num < 2:
        raise UserError("--num 1: expected at least two to split, or --val-share 0")
    kit = open_kit(args.backgrounds, args.depth, args.cutouts, args.focal, args.heights)
    made = make_set(kit, recipe, args.out, args.workers)
    found = f" ({made.finished} found finished)" if made.finished else ""
    print(
        f"{args.out}: {made.num} composites in {made.shards} shards{found}, {made.bytes} bytes, "
        f"{made.bytes / made.num:.0f} each; {made.usable} of {made.rooms} backgrounds used"
    )


def main(argv: list[str] | None = None) -> int:
    """Compose as the command line says: the exit status."""
    return run_command(
        functools.partial(run, parse(argv)),
        stopped="stopped; the same command continues",
    )


if __name__ == "__main__":
    sys.exit(main())
