"""Kills training at random moments with SIGKILL, resumes it, and compares what it ends with.

`python tests/kills.py 200` forks 200 runs of a tiny network, each killed once or twice on its way
and then let to its end; prints how many ended with a last.pt equal, to the bit, to that of a run
that was never killed, and exits 1 unless all did. Half of the kills come while a checkpoint is
being written. A fork of a process that has imported torch saves the start; it is one of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from conftest import QUIET, SMALL, TINY, members_of, put

import train
from utils import checkpoint
from utils.run import folder as run_folder

HARD = ("--accum", "2", "--dropout", "0.2", "--ema", "0.9", "--clip", "1")
FLAGS = (*SMALL, *QUIET, *HARD, "--steps", "9", "--eval-steps", "3")


def start(words: list[str], log: Path) -> int:
    """Fork a training process; its id."""
    pid = os.fork()
    if pid:
        return pid
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 1
    try:
        random.seed(0)  # a fork has a state of its own
        sys.argv = ["train.py", *words]
        status = train.main()
    finally:
        os._exit(status)


def command(folder: Path) -> list[str]:
    """What begins the run, or goes on with it."""
    if any((folder / name).exists() for name in (checkpoint.LAST, checkpoint.PREVIOUS)):
        return ["--resume", str(folder)]
    return ["--task", "tiny.json", "--data", "data", "--out", str(folder), *FLAGS]


def kill(folder: Path, seconds: float, writing: bool, draw: random.Random) -> str:
    """Start or resume a run and kill it after so long, or while it writes a checkpoint after that;
    in what state it was found."""
    pid = start(command(folder), Path("log"))
    end = time.monotonic() + seconds
    while writing and time.monotonic() < end + 10:
        if any(folder.glob(".last.pt.*.part")) and time.monotonic() > end:
            break
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    time.sleep(draw.uniform(0, 0.02) if writing else seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        return "ended before"
    if any(folder.glob(".*.part")):
        return "writing"
    return "between" if (folder / checkpoint.LAST).exists() else "before the first checkpoint"


def finish(folder: Path) -> str | None:
    """Let the run come to its end; what is wrong with it, if anything."""
    pid = start(command(folder), Path("log"))
    _, status = os.waitpid(pid, 0)
    if status:
        return f"status {os.waitstatus_to_exitcode(status)}"
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return f"left {left}" if left else None


def differing(a: object, b: object, where: str = "") -> list[str]:
    """Where two states differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differing(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i in range(len(a)) for d in differing(a[i], b[i], f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if a == b else [where]


def learnt(folder: Path) -> dict[str, object]:
    """What must be equal of a run that has ended."""
    last, best = (checkpoint.load(folder / name) for name in (checkpoint.LAST, "best.pt"))
    return {
        "last": {name: last[name] for name in ("step", "best", "learner")},
        "best": {name: best[name] for name in ("step", "model", "scores", "counts")},
    }


def main(num: int, seed: int = 0) -> int:
    """Kill `num` runs; 0 if all of them ended as if nothing had been."""
    torch.set_num_threads(1)
    run_folder.draw_curves = run_folder.draw_confusion = lambda *_: None  # they take half the time
    draw, states, faults = random.Random(seed), Counter(), []
    Path("tiny.json").write_text(json.dumps(TINY.to_json()))
    put(Path("data"), members_of(TINY))
    begun = time.monotonic()
    if fault := finish(Path("whole")):
        print(Path("log").read_text())
        raise SystemExit(f"the run that is not killed: {fault}")
    seconds, expected = time.monotonic() - begun, learnt(Path("whole"))
    for number in range(num):
        folder = Path(f"run{number}")
        for kills in range(draw.randint(1, 2)):
            after = draw.uniform(0, seconds / (1 + kills))
            states[kill(folder, after, draw.random() < 0.5, draw)] += 1
        fault = finish(folder)
        if fault is None and (changed := differing(learnt(folder), expected)):
            fault = f"{len(changed)} values differ, such as {changed[0]}"
        if fault:
            faults.append(f"{folder}: {fault}")
            print(faults[-1], flush=True)
        else:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    print(f"{num - len(faults)} of {num} equal to the bit; kills: {told}")
    return bool(faults)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        sys.exit(main(int(sys.argv[1]), *map(int, sys.argv[2:])))
