"""Pack stores of any kind into zip or HDF5 shards: `python -m datasets.pack SRC... DST`."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from datasets import load_task
from datasets.pack.packing import pack
from datasets.pack.plan import PackRecipe
from datasets.stores import parse_path
from utils.command import run_command
from utils.flags import natural, positive, real

MIB = 2**20


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The words of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.pack",
        description="Copy folders, zips, HDF5 shards or ARTeFACT's parquet files into shards, "
        "bytes verbatim unless --size or --quality say otherwise.",
    )
    add = parser.add_argument
    add("src", nargs="+", type=parse_path, help="folder, zip, HDF5 shard, parquet file or address")
    add("dst", type=Path, help="shard to write: .zip, .h5 or .hdf5")
    add("--task", help="pack what this task reads, a sample's files in one shard")
    add("--shard-size", type=real, default=0, metavar="MIB", help="several shards DST-00000 ...")
    add("--shard-samples", type=natural, default=0, help="at most so many samples a shard")
    nearest = "resize; targets take the nearest"
    add("--size", type=positive, nargs=2, metavar=("H", "W"), help=nearest)
    add("--quality", type=positive, metavar="Q", help="re-encode JPEG images, 1 to 100")
    add("--prefix", action="store_true", help="put each source's members below its own name")
    add("--workers", type=positive, default=os.cpu_count(), help="processes, each writes a shard")
    add("--force", action="store_true", help="replace DST if it is there")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Pack as the command line says and print what came of it."""
    recipe = PackRecipe(
        task=load_task(args.task) if args.task else None,
        shard_bytes=round(args.shard_size * MIB),
        shard_samples=args.shard_samples,
        size=tuple(args.size) if args.size else None,
        quality=args.quality,
        prefix=args.prefix,
    )
    packed = pack(args.src, args.dst, args.force, recipe, args.workers)
    if packed.left_out:
        print(f"{packed.left_out} members that the task does not use left out", file=sys.stderr)
    earlier = f" ({packed.finished} found finished)" if packed.finished else ""
    several = f" in {packed.shards} shards{earlier}" if packed.shards > 1 else ""
    print(
        f"{args.dst}: {packed.members} members{several}, {packed.before} bytes before, "
        f"{packed.after} bytes after, ratio {packed.after / max(packed.before, 1):.3f}"
    )


def main(argv: list[str] | None = None) -> int:
    """Pack as the command line says: the exit status."""
    return run_command(partial(run, parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
