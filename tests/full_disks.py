"""Trains on disks of every size that is too small, and looks at what each leaves.

`python tests/full_disks.py` (root, or `unshare --map-root-user --mount` before it) forks a run of a
tiny network for every number of pages from 1 to what the whole run takes, on a tmpfs of that size:
so the disk is full at every write of a run in turn. `... 8` tries every 8th. Each must end with one
line and status 2, or go on with one line where what is lost are pictures; leave no half of a file;
and go on, once there is room, to a last.pt that equals that of a run with room, to the bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from conftest import TINY, members_of, put
from kills import command, differing, finish, learnt, start
from PIL import Image

from utils import checkpoint
from utils.run.record import read_metrics

NUM_WARNINGS = 4  # at most, of a run that goes on: two kinds, twice
PAGE = 4096  # bytes that a tmpfs gives out at once


def mount(place: Path, pages: int, *more: str) -> None:
    """An empty disk of so many pages; with "remount", the one that is there gets them."""
    options = ",".join([*more, f"size={pages * PAGE}"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "disk", place], check=True)


def halves(folder: Path) -> list[str]:
    """What is not whole of the files that a run has left, or is none of them."""
    found = [str(path) for path in folder.rglob(".*")]
    for path in folder.rglob("*.pt"):
        try:
            checkpoint.load(path)
        except ValueError as error:
            found.append(str(error))
    for path in folder.rglob("*.png"):
        try:
            with Image.open(path) as picture:
                picture.load()
        except OSError as error:
            found.append(f"{path}: {error}")
    return found


def attempt(pages: int, expected: dict[str, object]) -> tuple[str, str | None]:
    """A run on a disk of so many pages, and what is wrong with what it does, if anything."""
    disk, log = Path("disk"), Path(f"log{pages}")
    mount(disk, pages)
    try:
        folder = disk / "run"
        _, status = os.waitpid(start(command(folder), log), 0)
        status, said = os.waitstatus_to_exitcode(status), log.read_text()
        lines = [line for line in said.splitlines() if "No space left" in line]
        what = f"status {status}: {'; '.join(lines)}"
        known = len(lines) == 1 if status == 2 else 0 < len(lines) <= NUM_WARNINGS
        if status not in (0, 2) or not known or "Traceback" in said or "Exception" in said:
            return what, said
        if found := halves(disk):
            return what, f"left {found}"
        mount(disk, 4 * pages + 1000, "remount")
        if status == 2 and (fault := finish(folder)):
            return what, f"resumed: {fault}: {Path('log').read_text()[-2000:]}"
        if changed := differing(learnt(folder), expected):
            return what, f"{len(changed)} values differ, such as {changed[0]}"
        if [line for line in read_metrics(folder / "metrics.jsonl") if "step" not in line]:
            return what, "a line of metrics.jsonl is cut"
        return what, None
    finally:
        subprocess.run(["umount", disk], check=True)


def main(stride: int) -> int:
    """Try every stride-th size; 0 if each left what it should."""
    torch.set_num_threads(1)
    Path("tiny.json").write_text(json.dumps(TINY.to_json()))
    put(Path("data"), members_of(TINY))
    Path("disk").mkdir()
    if fault := finish(Path("whole")):
        print(Path("log").read_text())
        raise SystemExit(f"the run with room: {fault}")
    expected, states, faults = learnt(Path("whole")), Counter(), []
    pages = 1
    while True:
        what, fault = attempt(pages, expected)
        if fault and what == "status 0: ":
            break  # room for all
        states[what.partition("; ")[0]] += 1
        if fault:
            faults.append(f"{pages} pages: {what}: {fault}")
            print(faults[-1], flush=True)
        pages += stride
    for what, count in states.items():
        print(f"{count:4} {what}")
    print(f"{states.total() - len(faults)} of {states.total()} disks held")
    return bool(faults)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
