"""Trains a tiny network for many epochs, and looks at what grows.

`python tests/long_run.py 2000` evaluates, saves and logs, to wandb's files too, after every epoch;
prints at a tenth of them and at the end what the process, its children and the run folder hold, and
exits 1 where memory, handles, threads, processes or the number of files have grown.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from conftest import SMALL, TINY, members_of, put

import train

MEMORY = 10e6  # bytes by which the process may have grown: what the allocators keep
FLAGS = ("--wandb", "offline", "--device", "cpu", "--workers", "1", "--seed", "0")


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    own = [
        int(c)
        for t in Path(f"/proc/{pid}/task").iterdir()
        for c in (t / "children").read_text().split()
    ]
    return own + [each for child in own for each in descendants(child)]


def resident(pid: int | str) -> int:
    """Bytes of memory of a process that are its own."""
    _, pages, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE")


def holds(folder: Path) -> dict[str, float]:
    """What there is of everything that could grow."""
    gc.collect()
    children, files = descendants(os.getpid()), [p for p in folder.rglob("*") if p.is_file()]
    kept = [p for p in files if "wandb" not in p.parts]
    sizes = {p: p.stat().st_size for p in files}
    return {
        "memory": resident("self"),
        "memory of children": sum(map(resident, children)),
        "handles": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "processes": len(children),
        "files": len(kept),
        "disk": sum(sizes[p] for p in kept if p.suffix != ".jsonl"),
        "record": sum(sizes[p] for p in files if p.suffix == ".jsonl"),
        "wandb": sum(size for p, size in sizes.items() if p not in kept),
    }


def main(epochs: int) -> int:
    """Train for so many epochs; 0 where nothing has grown that should not."""
    torch.set_num_threads(1)
    Path("tiny.json").write_text(json.dumps(TINY.to_json()))
    put(Path("data"), members_of(TINY, 4))
    steps, judge, found = 2 * epochs, train.judge, []

    def judged(*args):
        """An evaluation; a tenth into the run and at its end, what there is after it."""
        judge(*args)
        if args[2] in (steps // 10, steps):
            found.append(holds(Path("run")))

    train.judge = judged
    sys.argv = ["train.py", "--task", "tiny.json", "--data", "data", "--out", "run", *SMALL, *FLAGS]
    sys.argv += ["--steps", str(steps), "--eval-steps", "2"]
    assert train.main() == 0
    first, last = found
    for name in first:
        print(f"{name:20} {first[name]:12,} {last[name]:12,}")
    grown = [n for n in ("handles", "threads", "processes") if last[n] > first[n]]
    grown += ["memory"] * (last["memory"] > first["memory"] + MEMORY)
    grown += ["files"] * (last["files"] > max(first["files"], 60))  # 50 pictures and a few more
    print("grown:", ", ".join(grown) or "nothing")
    return bool(grown)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        sys.exit(main(int(sys.argv[1])))
