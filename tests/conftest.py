"""Small labelled data in any task's layout, and the two scripts run as a user runs them."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import pytest
import torch
from examples import EXAMPLES, encode

from datasets.task import Classes, Depth, Mask, Task
from utils.command import one_line

# below nohup, and in the background of a script, these are ignored, here and in all that is started
for _name, _usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _usual)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SMALL = ("--width", "4", "--depth", "2", "--size", "32", "32", "--bs", "2")
QUIET = ("--wandb", "disabled", "--device", "cpu", "--workers", "0")
TINY = Task(
    name="tiny",
    image="img/{key}.png",
    outputs=(
        Classes("parts", "parts/{key}.png", "seg", classes=("a", "b", "c")),
        Mask("edge", "edge/{key}.png", "seg"),
        Depth("near", "near/{key}.png", scale=0.001, max_depth=5, unit="m", missing=0),
    ),
    best="parts/miou",
    val_share=0.3,
    defaults={"size": [32, 32], "bs": 2, "width": 4, "depth": 2},
)


@pytest.fixture
def tiny_task() -> Task:
    """A task of no built-in layout: 3 classes and a mask share a decoder, depth has its own."""
    return TINY


def _draw(rng: np.random.Generator, task: Task, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """A picture by output name, as its file holds it, and "" for the image: what is to be said of a
    pixel can be read from its colour."""
    height, width = size
    ids = np.zeros(size, np.int64)  # of vertical bands, so that a few of them always occur
    bounds = np.sort(rng.choice(np.arange(4, width - 3), 3, replace=False))
    for i, start in enumerate(bounds):
        ids[:, start:] = i + 1
    ids[: height // 2] = np.roll(ids[: height // 2], width // 2, 1)
    shown = np.array([[30, 200, 90], [220, 40, 60], [60, 80, 240], [240, 220, 30]], np.uint8)
    noise = rng.integers(-12, 13, (*size, 3))
    pictures = {"": np.clip(shown[ids] + noise, 0, 255).astype(np.uint8)}
    for output in task.dense:
        example = EXAMPLES[output.kind](output)
        pictures[output.name] = example.pixels(example.learnable(ids))
    return pictures


def members_of(
    task: Task, num: int = 10, size: tuple[int, int] = (40, 48), seed: int = 0
) -> dict[str, bytes]:
    """Names and bytes of `num` labelled images (of each split, where the names have one)."""
    rng, members, rows = np.random.default_rng(seed), {}, ["id,material,content"]
    files = {output.name: output.files for output in task.dense} | {"": task.image}
    splits = list(task.splits.values())[:2] if "{split}" in task.image else [""]
    for split in splits:
        for i in range(num):
            key = f"k{i:02d}"
            fields = {"split": split, "city": "bonn", "part": "1", "group": f"g{i // 2}"}
            for name, pixels in _draw(rng, task, size).items():
                member = files[name].format(key=key, **fields).replace(".*", ".png")
                members[member] = encode(pixels, member)
            rows.append(f"{key},{('paper', 'glass')[i % 2]},c{i % 3}")
    if task.metadata:
        members[task.metadata] = "\n".join(rows).encode()
    return members


def put(folder: Path, members: dict[str, bytes]) -> Path:
    """The members as files below a folder."""
    for name, data in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def make_data(tmp_path):
    """make_data(task, "name", ...) -> a folder, or a shard if the name ends in .zip or .h5."""

    def make(task: Task, name: str = "data", change=lambda members: members, **settings) -> Path:
        from datasets.stores import write_hdf5, write_zip

        members = change(members_of(task, **settings))
        path = tmp_path / name
        if path.suffix == ".zip":
            write_zip(path, members.items())
        elif path.suffix == ".h5":
            write_hdf5(path, members.items())
        else:
            put(path, members)
        return path

    return make


class Ran(NamedTuple):
    """What a command left: its exit status and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """run(train, "--task", ...) -> Ran, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def forget(error: Exception) -> str:
        """Free the loaders that the error's frames hold: a later collection would take them apart
        in the wrong order and wait ten seconds for their workers."""
        traceback.clear_frames(error.__traceback__)
        return one_line(error)

    def call(module, *words) -> Ran:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        monkeypatch.setattr("utils.command.one_line", forget)
        capfd.readouterr()
        try:
            status = module.main()
        except SystemExit as end:
            status = end.code
        return Ran(status, *capfd.readouterr())

    return call


@pytest.fixture
def run_train(run):
    """run_train("--task", ...): train.py with a tiny network, without wandb; the last word wins."""
    import train

    return lambda *words: run(train, *SMALL, *QUIET, *words)


@pytest.fixture
def run_infer(run):
    """run_infer("--task", ...): infer.py on the CPU."""
    import infer

    return lambda *words: run(infer, "--device", "cpu", *words)


@pytest.fixture
def tiny_json(tiny_task, tmp_path):
    """The tiny task as a file for --task, its data beside it: (tiny.json, folder)."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_task.to_json()))
    return path, put(tmp_path / "tiny_data", members_of(tiny_task))


@pytest.fixture
def small_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selective recomputation also of tensors as small as those of tests."""
    monkeypatch.setattr("models.recompute.MIN_SAVED_BYTES", 0)
