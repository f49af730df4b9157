"""Saves checkpoints, whole or not at all, and reads them as tensors and plain values only."""

import os
import pickle
import random
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from datasets import TASKS
from datasets.task import UserError
from utils.command import printable
from utils.files import write_whole

LAST, PREVIOUS = "last.pt", "previous.pt"  # from which a run is resumed; the one before it
FORMAT = 4  # raise it whenever networks name or store their weights in another way


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state, whole, finite, or not at all; UserError says why the old one stands.

    A last.pt becomes previous.pt once its successor has been read back.
    """
    if broken := not_finite(state):
        raise UserError(f"{path}: not written: {broken} is infinite or not a number")

    def write(part: Path) -> None:
        """The file's content, read back before it takes the place of another."""
        torch.save({"format": FORMAT, **state}, part)
        if record := _damaged(part):
            raise OSError(f"{record!r} is not read as it was written")
        if path.name == LAST and path.exists():
            before = path.with_name(PREVIOUS)
            before.unlink(missing_ok=True)
            with suppress(OSError):  # a file system without links
                os.link(path, before)  # a rename would leave no last.pt for a moment

    try:
        write_whole(path, write)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: checkpoint cannot be written: {error}") from None


def load_last(path: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint of a run's folder, or the one named, and what `load` gives of it.
    A last.pt that is passed over for the one before it is a line on stderr."""
    if not path.is_dir():
        return path, load(path, "config")
    last, before = path / LAST, path / PREVIOUS
    try:
        return last, load(last, "config")
    except UserError as error:
        if not before.is_file():
            raise
        state = load(before, "config")
        print(printable(f"passed over: {error}; {before} is whole"), file=sys.stderr)
        return before, state


def load(path: Path, *expected: str) -> dict[str, Any]:
    """Read what `save` wrote, on the CPU; UserError names the file when it is something else, when
    a bit of it is not what was written, or when it is not finite or lacks a part expected."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        if record := _damaged(path):
            raise UserError(f"{path}: damaged: {record!r} is not what was written")
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a foreign file
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch then advises to trust the file
            reason = "it holds more than tensors and plain values, or something else"
        raise UserError(f"{path}: not a checkpoint: {reason}") from None
    form = state.get("format") if isinstance(state, dict) else None
    if isinstance(form, int) and form < FORMAT:
        raise UserError(f"{path}: of an earlier version (format {form}, expected {FORMAT})")
    if form != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project (format {FORMAT})")
    for name in expected:
        if name not in state:
            raise UserError(f"{path}: holds no {name!r}, a checkpoint of a run does")
    if broken := not_finite(state):
        raise UserError(f"{path}: {broken} is infinite or not a number")
    return state


def _damaged(path: Path) -> str | None:
    """A record that does not match the checksum that torch wrote, which torch itself never reads.

    One that a flipped bit marks as a folder would be read as nothing.
    """
    if not zipfile.is_zipfile(path):
        return None  # torch says what it is instead
    with zipfile.ZipFile(path) as file:
        folders = [record.filename for record in file.infolist() if record.external_attr & 0x10]
        return folders[0] if folders else file.testzip()


def not_finite(state: Any) -> str | None:
    """The first tensor within that holds infinity or NaN, by its keys; waits once for a device."""
    devices: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in _tensors(state):
        if tensor.is_floating_point() and tensor.numel():
            devices.setdefault(tensor.device, {})[name] = tensor
    for tensors in devices.values():
        ends = [torch.stack(tensor.aminmax()).isfinite().all() for tensor in tensors.values()]
        for name, finite in zip(tensors, torch.stack(ends).tolist(), strict=True):
            if not finite:
                return name
    return None


def _tensors(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of nested dicts and lists, and the keys that lead to it."""
    if isinstance(state, torch.Tensor):
        yield name, state.detach()
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from _tensors(value, f"{name}/{key}".strip("/"))


def newest(runs: Path, name: str) -> Iterator[tuple[Path, list[str]]]:
    """Checkpoints of that file name in the folders of `runs`, the newest first, and the tasks that
    each was trained for. One that cannot be used is passed over with a line on stderr."""
    paths = sorted(runs.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        try:
            usable, state = load_last(path.parent if name == LAST else path)
            yield usable, [task["name"] for task in state["config"]["tasks"]]
        except ValueError as error:
            print(printable(f"passed over: {error}"), file=sys.stderr)


def find_weights(task: str | None, runs: Path, shipped: Path) -> Path:
    """The newest best.pt of a task below `runs`, else the demo weights in `shipped`."""
    if not task:
        raise UserError(f"--task: expected one of {', '.join(TASKS)}, or --weights CKPT")
    for path, trained in newest(runs, "best.pt"):
        if task in trained:
            return path
    demo = shipped / f"demo_{task}.pt"
    if demo.is_file():
        return demo
    raise UserError(f"--task {task}: no run of it below {runs}/, no demo weights; train it first")


def weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The network's weights in best.pt or last.pt, the averaged ones where there are any, without
    auxiliary heads, which are for training alone."""
    if "model" in state:
        found = state["model"]
    elif "ema" not in state["learner"]:
        found = state["learner"]["model"]
    else:  # torch's AveragedModel keeps its copy, and a counter, under this name
        named = state["learner"]["ema"].items()
        found = {k.removeprefix("module."): v for k, v in named if k.startswith("module.")}
    return {name: value for name, value in found.items() if not name.startswith("aux.")}


def slim(path: Path, out: Path) -> None:
    """Copy what prediction needs of a checkpoint, weights in half precision: half of best.pt."""
    state = load(path)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in weights(state).items()}
    facts = {name: state[name] for name in ("config", "step", "scores") if name in state}
    out.parent.mkdir(parents=True, exist_ok=True)
    save(out, facts | {"model": halves})


def rng_state() -> dict[str, Any]:
    """The state of every generator that a training step may draw from; nothing of CUDA, where it is
    not in use: asking would open a context on every device."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every generator back to where `rng_state` found it."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
