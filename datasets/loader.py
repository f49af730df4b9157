"""Reads samples in processes of its own and puts them together to batches.

What is bad in them is told where they are taken; a worker that dies is one line.
"""

import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datasets.dataset import (
    BadMember,
    DenseDataset,
    InfiniteBatchSampler,
    OnBad,
    TaskData,
    refuse,
)
from datasets.task import Batch, Sample, Task, UserError

FILES, FILES_OF_WORKER = 24, 4  # that a process needs open to be handed batches, at most


class WorkerDied(UserError):
    """A process that loads data ended before its time: killed, or out of memory."""


def train_loader(
    dataset: DenseDataset,
    batch: int,
    workers: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    shuffle: str = "global",
    on_bad: OnBad = refuse,
    pin: bool = False,
    accum: int = 1,
) -> Iterator[Batch]:
    """Endless training batches from batch number `start` on. part, accum: as the sampler's.

    shuffle: "global", or "shards", which keeps to few places of the shards at a time. A batch comes
    without its bad samples where `on_bad` returns, the others as they would. pin: in page-locked
    memory, from which a GPU copies faster; it opens a CUDA context.
    """
    neighbours = dataset.neighbours() if shuffle == "shards" else None
    loader = DataLoader(
        _Readable(dataset),
        batch_sampler=InfiniteBatchSampler(
            len(dataset), batch, dataset.seed, start, part, neighbours, accum
        ),
        collate_fn=partial(_stack, task=dataset.task, size=dataset.size),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # not torch's own, which a resumed run must find untouched
    )
    return _reported(_watched(loader), on_bad)


def train_batches(
    data: Sequence[TaskData], sizes: Sequence[int], accum: int, step: int, **loading: Any
) -> Iterator[list[Batch]]:
    """For each optimiser step after `step`, without an end: `accum` batches of every task, in turn.

    sizes: images in a batch of each task. loading: as `train_loader` takes it.
    """
    loaders = [
        train_loader(each.train, size, start=step * accum, accum=accum, **loading)
        for each, size in zip(data, sizes, strict=True)
    ]
    while True:
        yield [next(loader) for _ in range(accum) for loader in loaders]


def eval_batches(
    dataset: DenseDataset,
    batch: int,
    workers: int,
    part: tuple[int, int] = (0, 1),
    on_bad: OnBad = refuse,
) -> Iterator[Batch]:
    """Every sample once, in order, never padded: images of one size that follow each other share a
    batch. Ranks take every world-th sample. Where `on_bad` returns, bad samples are left out."""
    rank, world_size = part
    loader = DataLoader(
        _Readable(dataset),
        batch_size=batch,
        sampler=[(0, index) for index in range(rank, len(dataset), world_size)],
        collate_fn=partial(_stack_sizes, task=dataset.task, size=dataset.size),
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )
    batches = (each for groups in _watched(loader) for each in groups)
    return (each for each in _reported(batches, on_bad) if each.batch_size)


def _start_worker(worker: int) -> None:
    """A signal to the process group, as Ctrl-C and `timeout` send it, is for the main process,
    which needs its workers until the step in hand is saved. They end when it ends them, or when it
    dies. Windows has no such groups: there they leave Ctrl-C alone.

    What a worker inherits is not its garbage to collect: looking at it would copy every page that
    it shares with the main process.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None  # a thread's, whose reader was told of another worker's death
    gc.freeze()


class _Deaths:
    """torch's handler of a worker's death raises wherever the main thread is, in the middle of a
    training step too. Behind this one it raises only while a batch is waited for."""

    waiting = missed = False

    def next(self, batches: Iterator[Any]) -> Any:
        """The next batch. A death that was missed since the last one is told now."""
        self.waiting = True
        try:
            if self.missed:
                self.missed = False
                self._raise(signal.SIGCHLD, None)
            return next(batches)
        finally:
            self.waiting = False

    def stand_before_torch(self) -> None:
        """To be called once torch has set its handler; only a main thread may set one."""
        main = threading.current_thread() is threading.main_thread()
        if not main or not hasattr(signal, "SIGCHLD"):  # Windows has none
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._tell:
            self._raise = handler
            signal.signal(signal.SIGCHLD, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self.waiting:
            self._raise(number, frame)
        else:
            self.missed = True


_deaths = _Deaths()


def _check_handles(num: int) -> None:
    """UserError unless so many more files may be open: without them, workers would wait for ever to
    hand over a batch."""
    held: list[int] = []
    try:
        held += (os.open(os.devnull, os.O_RDONLY) for _ in range(num))
    except OSError as error:
        raise UserError(
            f"{error.strerror}: {len(held)} of {num} for the loader's workers"
        ) from None
    finally:
        for handle in held:
            os.close(handle)


def _has_died(batches: Iterator[Any]) -> bool:
    """Whether a loader's worker is gone, or is about to be: its files close before the system tells
    of its end, and what reads a batch from them then fails as it likes."""
    workers = getattr(batches, "_workers", [])
    return bool(workers and wait([worker.sentinel for worker in workers], 1))


def _watched(loader: DataLoader[Any]) -> Iterator[Any]:
    """What a loader gives; WorkerDied where the next batch waits for a worker that is gone.
    UserError: the system lets this process open too few files for its workers."""
    if loader.num_workers:
        _check_handles(FILES + FILES_OF_WORKER * loader.num_workers)
    batches = iter(loader)
    _deaths.stand_before_torch()
    while True:
        try:
            batch = _deaths.next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            text = " ".join(str(error).split())
            if os.strerror(errno.EMFILE) in text:
                raise UserError(os.strerror(errno.EMFILE)) from None
            if "DataLoader worker (pid" not in text and not _has_died(batches):
                raise
            _deaths.missed = False
            raise WorkerDied(
                "a process that loads data ended before its time, memory may have run out: "
                f"{text.removeprefix('DataLoader ')[:200] or type(error).__name__}"
            ) from None
        yield batch


class _Readable(Dataset[Sample | BadMember]):
    """The same samples; for a bad one the error, so that its worker lives and its batch tells."""

    def __init__(self, dataset: DenseDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]) -> Sample | BadMember:
        try:
            return self.dataset[item]
        except BadMember as error:
            return error


def _reported(batches: Iterable[Batch], on_bad: OnBad) -> Iterator[Batch]:
    """The batches; what is bad is reported where they are taken, not where they were read ahead."""
    for batch in batches:
        for member, reason in batch.bad.items():
            on_bad(member, reason)
        yield batch


def _stack(samples: list[Sample | BadMember], task: Task, size: tuple[int, int]) -> Batch:
    """One batch of those that could be read; without any, of no images of that size."""
    bad = {each.member: each.reason for each in samples if isinstance(each, BadMember)}
    good = [each for each in samples if isinstance(each, Sample)]
    if not good:
        return task.empty_batch(0, size)._replace(bad=bad)
    targets = {
        name: torch.stack([sample.targets[name] for sample in good]) for name in good[0].targets
    }
    image = torch.stack([sample.image for sample in good])
    return Batch(image, targets, [sample.key for sample in good], bad)


def _stack_sizes(
    samples: list[Sample | BadMember], task: Task, size: tuple[int, int]
) -> list[Batch]:
    """A batch for each size that occurs; the bad ones are one of no images."""
    groups = {}
    for each in samples:
        groups.setdefault(each.image.shape if isinstance(each, Sample) else None, []).append(each)
    return [_stack(group, task, size) for group in groups.values()]
