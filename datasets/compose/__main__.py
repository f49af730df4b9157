"""Put cut-out figures into rooms: `python -m datasets.compose --backgrounds ... --cutouts ...`."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from datasets.compose.composing import ComposeRecipe, make_set
from datasets.compose.ingredients import open_kit
from datasets.stores import parse_path
from datasets.task import UserError
from utils.command import run_command
from utils.flags import natural, positive, real, share

# Focal length over picture width: fx_rgb = 518.86 px at 640, from camera_params.m of the NYU Depth
# v2 toolbox (Silberman 2012). What is cropped off their frames, about 3 %, is neglected.
NYU_FOCAL = 518.86 / 640
SMALLEST = 16  # pixels of a composite's shorter side


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The words of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.compose",
        description="Put cut-out figures into rooms: images with exact masks and depth, in shards.",
    )
    add = parser.add_argument
    path = partial(add, type=parse_path, metavar="PATH")
    path("--backgrounds", required=True, help="rooms; of rgb/ and depth_mm/ in it, depth too")
    path("--depth", help="16-bit PNG in mm by the names of the rooms (none: masks only)")
    path("--cutouts", required=True, help="figures with an alpha channel")
    add("--out", type=Path, required=True, metavar="DIR", help="for the shards; it is continued")
    add("--num", type=positive, required=True, help="composites in all")
    size = partial(add, "--size", type=positive, nargs=2, default=[224, 224])
    size(metavar=("H", "W"), help="of a composite (224 224)")
    add("--seed", type=natural, default=0, help="(0)")
    add("--shard-size", type=positive, default=10_000, help="composites in a zip (10000)")
    own = "of composites, rooms and cut-outs: validation sees its own only (0.1)"
    add("--val-share", type=share, default=0.1, metavar="SHARE", help=own)
    camera = "focal length of the rooms' camera over their width (0.81: Kinect, as in NYUv2)"
    add("--focal", type=real, default=NYU_FOCAL, help=camera)
    lines = "heights of figures: lines of FILE,LOW,HIGH in metres, * for others (else by shape)"
    add("--heights", type=Path, metavar="CSV", help=lines)
    add("--workers", type=positive, default=os.cpu_count(), help="processes (all cores)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Compose as the command line says and print what came of it."""
    recipe = ComposeRecipe(args.num, tuple(args.size), args.seed, args.shard_size, args.val_share)
    if recipe.val_share and recipe.num < 2:
        raise UserError("--num 1: expected at least two to split, or --val-share 0")
    if min(recipe.size) < SMALLEST:
        raise UserError(f"--size {min(recipe.size)}: expected at least {SMALLEST}")
    if not args.focal:
        raise UserError("--focal 0: expected a number above 0")
    kit = open_kit(args.backgrounds, args.depth, args.cutouts, args.focal, args.heights)
    print(f"{args.out}: {make_set(kit, recipe, args.out, args.workers)}")


def main(argv: list[str] | None = None) -> int:
    """Compose as the command line says: the exit status."""
    return run_command(partial(run, parse(argv)), stopped="stopped; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
