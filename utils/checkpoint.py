"""Saves checkpoints, whole or not at all, and reads them as tensors and plain values only."""

import errno
import io
import os
import pickle
import random
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from datasets import TASKS
from datasets.stores import parse_path, shown
from datasets.stores.blocks import from_environment
from datasets.task import UserError
from utils.command import printable
from utils.files import write_whole

LAST, PREVIOUS = "last.pt", "previous.pt"  # from which a run is resumed; the one before it
BEST = "best.pt"  # what a run has learnt
MOST = 2**32  # bytes of one that comes from an address: they are held whole
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # no room on a disk
_PLAIN = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool}
_PLAIN |= {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_MALFORMED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
FORMAT = 4  # raise it whenever networks name or store their weights in another way


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state, whole, finite, or not at all; UserError says why the old one stands.

    A last.pt becomes previous.pt once its successor has been read back. Where a run's disk is full,
    previous.pt gives way, with a line on stderr: last.pt was read back, too.
    """
    if broken := not_finite(state):
        raise UserError(f"{path}: not written: {broken} is infinite or not a number")
    before = path.with_name(PREVIOUS)

    def write(part: Path) -> None:
        """The file's content, read back before it takes the place of another."""
        with part.open("wb") as file:  # torch tells of a full disk only where Python writes for it
            torch.save({"format": FORMAT, **state}, file)
        if record := _damaged(part, part.stat().st_size):
            raise OSError(f"{record!r} is not read as it was written")
        if path.name == LAST and path.exists():
            before.unlink(missing_ok=True)
            with suppress(OSError):  # a file system without links
                os.link(path, before)  # a rename would leave no last.pt for a moment

    try:
        try:
            write_whole(path, write)
        except (OSError, RuntimeError) as error:
            if path.name not in (LAST, BEST) or not is_full(error) or not before.exists():
                raise
            before.unlink()
            write_whole(path, write)
            line = f"warning: {path}: {_reason(error)} beside it: {before} gave way"
            print(printable(line), file=sys.stderr)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: checkpoint cannot be written: {_reason(error)}") from None


def is_full(error: BaseException) -> bool:
    """Whether there was no room on a disk, or in a quota."""
    return getattr(_cause(error), "errno", None) in FULL


def _reason(error: BaseException) -> str:
    return getattr(cause := _cause(error), "strerror", None) or str(cause)


def _cause(error: BaseException) -> BaseException:
    """What the system said, where torch's writer then said that its file is cut short."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


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


def located(weights: Path | str) -> Path | str:
    """The checkpoint that is meant: best.pt of a folder, be it a run's or an exported one; the text
    of an address."""
    path = parse_path(str(weights))
    if isinstance(path, Path):
        return path / BEST if path.is_dir() else path
    whole = "?" in path or urlsplit(path).path.endswith(".pt")
    return path if whole else f"{path.rstrip('/')}/{BEST}"


def _fetch(path: Path | str) -> tuple[Path | io.BytesIO, int]:
    """What torch and zipfile read, and its size in bytes; UserError: it is not there, or too large
    to be fetched."""
    if isinstance(path, Path):
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint")
        return path, path.stat().st_size
    from datasets.stores.remote import RemoteFile  # fsspec, which few need

    file = RemoteFile(path, from_environment())
    size = file.fingerprint()["size"]
    if size > MOST:
        expected = f"a checkpoint of at most {MOST / 2**30:g}"
        raise UserError(f"{file.path}: {size / 2**30:.1f} GiB, expected {expected}")
    return io.BytesIO(file.read(size, 0)), size


def load(path: Path | str, *expected: str) -> dict[str, Any]:
    """Read what `save` wrote, from a file or an address, on the CPU; UserError names it when it is
    something else, when a bit of it is not what was written, or when it is not finite or lacks a
    part expected."""
    source, size = _fetch(path)
    path = shown(path)
    try:
        if record := _damaged(source, size):
            raise UserError(f"{path}: damaged: {record!r} is not what was written")
        if isinstance(source, io.BytesIO):
            source.seek(0)
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a foreign file
            state = torch.load(source, map_location="cpu", weights_only=True)
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
    if not isinstance(form, int) or form != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project (format {FORMAT})")
    for name in expected:
        if name not in state:
            raise UserError(f"{path}: holds no {name!r}, a checkpoint of a run does")
    claimed = 0
    for name, tensor in _tensors(state):
        if not _is_plain(tensor):
            raise UserError(f"{path}: {name!r} is not a tensor of plain numbers")
        claimed += tensor.nbytes
    if claimed > 4 * size:
        raise UserError(f"{path}: its tensors claim {claimed} bytes, more than the file has")
    if broken := not_finite(state):
        raise UserError(f"{path}: {broken} is infinite or not a number")
    return state


@contextmanager
def well_formed(path: Path | str, what: str = "not what a run writes") -> Iterator[None]:
    """UserError that says what is wrong where a checkpoint holds other values than a run writes."""
    path = shown(path)
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except _MALFORMED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: {what}: {reason}") from None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in memory as it says, with a number for each of its places: others
    would be stepped through for ever, or beyond their end."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        return False
    forms = (torch.contiguous_format, *[torch.channels_last] * (tensor.ndim == 4))
    dense = any(tensor.is_contiguous(memory_format=form) for form in forms)
    return dense and tensor.dtype in _PLAIN


def _damaged(source: Path | io.BytesIO, size: int) -> str | None:
    """A record that does not match the checksum that torch wrote, which torch itself never reads.

    One that a flipped bit marks as a folder would be read as nothing.
    """
    if not zipfile.is_zipfile(source):
        return None  # torch says what it is instead
    with zipfile.ZipFile(source) as file:
        records, left = file.infolist(), size
        for record in records:  # torch packs none, and none lies in another
            left -= record.file_size
            if record.external_attr & 0x10 or record.compress_type or left < 0:
                return record.filename
        return file.testzip()


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
    """Every tensor of nested dicts and lists, and the keys that lead to it first."""
    seen, waiting = set(), [(name, state)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield name, value.detach()
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a file may put a list into itself
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            waiting += [(f"{name}/{key}".strip("/")[:200], item) for key, item in reversed(items)]


def newest(runs: Path, name: str) -> Iterator[tuple[Path, list[str]]]:
    """Checkpoints of that file name in the folders of `runs`, the newest first, and the tasks that
    each was trained for. One that cannot be used is passed over with a line on stderr."""
    paths = sorted(runs.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        try:
            usable, state = load_last(path.parent if name == LAST else path)
            with well_formed(usable):
                trained = [str(task["name"]) for task in state["config"]["tasks"]]
            yield usable, trained
        except ValueError as error:
            print(printable(f"passed over: {error}"), file=sys.stderr)


def find_weights(task: str | None, runs: Path, shipped: Path) -> Path:
    """The newest best.pt of a task below `runs`, else the demo weights in `shipped`."""
    if not task:
        raise UserError(f"--task: expected one of {', '.join(TASKS)}, or --weights CKPT")
    for path, trained in newest(runs, BEST):
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
