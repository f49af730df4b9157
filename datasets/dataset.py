"""Stores + task + split -> samples -> batches; a sample is a function of (seed, epoch, index)."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.decode import check_headers, check_same_size, decode_image, decode_target
from datasets.images import header_size
from datasets.index import SampleTable, find_samples
from datasets.sampler import InfiniteBatchSampler
from datasets.stores import open_stores
from datasets.task import Batch, Sample, Task, UserError
from datasets.transforms import TrainTransform

FILES, FILES_OF_WORKER = 24, 4  # that a process needs open to be handed batches, at most


class BadMember(UserError):
    """A member that cannot be used. member: `SHARD: MEMBER`."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(f"{member}: {reason}")
        self.member, self.reason = member, reason


class WorkerDied(UserError):
    """A process that loads data ended before its time: killed, or out of memory."""


OnBad = Callable[[str, str], None]  # what is done about a bad member: (member, reason)


def refuse(member: str, reason: str) -> None:
    """A bad member is the end, unless somebody keeps count of them."""
    raise BadMember(member, reason)


class DenseDataset(Dataset[Sample]):
    """The labelled images of one split. An item is asked for as (epoch, index): the epoch draws the
    augmentation, so that neither workers nor a restart change what is seen.

    transform: None leaves samples as they are: evaluation sees native sizes. indices: the part of
    the table that is used. frozen: every epoch draws what epoch 0 drew.
    """

    def __init__(
        self,
        table: SampleTable,
        task: Task,
        transform: TrainTransform | None = None,
        seed: int = 0,
    ) -> None:
        self.table, self.task = table, task
        self.transform, self.seed = transform, seed
        self.indices = np.arange(len(table))
        self.frozen = False

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        index = int(self.indices[index])
        if self.transform is None:
            return self.load(index)
        draw = np.random.SeedSequence([self.seed, 0 if self.frozen else epoch, index])
        return self.transform(self.load(index), int(draw.generate_state(1, np.uint64)[0] >> 1))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a batch without a single image."""
        return self.transform.size if self.transform else (1, 1)

    def load(self, index: int) -> Sample:
        """One sample at its native size; BadMember names the member that does not fit."""
        key, targets = self.table.key(index), {}
        image_data, image_name = self._read(*self.table.image(index))
        with _blamed(image_name):
            size = header_size(image_data, image_name)
        labels = []
        for output in self.task.dense:  # all headers before any pixel
            data, name = self.read_target(index, output.name)
            with _blamed(name):
                check_headers(header_size(data, name), size, key, name)
            labels.append((output, data, name))
        with _blamed(image_name):
            image = decode_image(image_data, image_name)
        for output, data, name in labels:
            with _blamed(name):
                targets[output.name] = decode_target(data, name, output)
                check_same_size(image, targets[output.name], key, name)
        for output in self.task.outputs:
            if output.per_image:
                text = self.table.text(index, output.name)
                targets[output.name] = decode_target(text, key, output)
        return Sample(image, targets, key)

    def neighbours(self) -> np.ndarray:
        """All indices, int32 (n), those first whose images lie first: by shard, then by member."""
        shard, member = self.table.image_shard[self.indices], self.table.image_member[self.indices]
        return np.lexsort((member, shard)).astype(np.int32)

    def read_target(self, index: int, output: str) -> tuple[bytes, str]:
        """A target's bytes and its name, as `SHARD: MEMBER`; BadMember if it cannot be read, or if
        there is none."""
        shard, member = self.table.target(index, output)
        if shard < 0:
            named = next(each for each in self.task.outputs if each.name == output)
            image = self.table.where(*self.table.image(index))
            raise BadMember(image, self.table.no_target(index, named, self.task))
        return self._read(shard, member)

    def _read(self, shard: int, member: int) -> tuple[bytes, str]:
        """A member's bytes and its name, as `SHARD: MEMBER`; BadMember if they cannot be read."""
        name = self.table.where(shard, member)
        with _blamed(name, f"{self.table.stores[shard].path}: "):
            return self.table.read(shard, member), name


@contextmanager
def _blamed(name: str, *prefixes: str) -> Iterator[None]:
    """What is wrong while a member is read or decoded becomes its BadMember."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = str(error)
        for prefix in (f"{name}: ", *prefixes):
            reason = reason.removeprefix(prefix)
        raise BadMember(name, reason) from None


class TaskData(NamedTuple):
    """What one task trains and validates on."""

    task: Task
    train: DenseDataset
    val: DenseDataset


def open_task(
    task: Task,
    paths: Sequence[Path | str],
    size: tuple[int, int],
    split_by: tuple[str, str] | None = None,
    seed: int = 0,
    unlabelled: int = 0,
) -> TaskData:
    """Open the stores of a task and divide its samples; UserError names what is missing.

    unlabelled: images of a split that may lack targets; each is a BadMember when it is read. The
    task that comes out knows all its classes: those of a label that lists none are what its field
    says in training.
    """
    stores = open_stores(paths)
    train = find_samples(stores, task, "train", split_by, unlabelled)
    task = with_classes(task, train)
    val = find_samples(stores, task, "val", split_by, unlabelled)
    sides = DenseDataset(train, task, TrainTransform(task, size), seed), DenseDataset(val, task)
    return TaskData(task, *sides)


def with_classes(task: Task, table: SampleTable) -> Task:
    """The task with the classes of those labels that list none: what occurs in these samples."""
    outputs = []
    for output in task.outputs:
        if output.per_image and not output.labels:
            texts = table.texts(output.name)
            if len(texts) < 2:
                said = texts[0] if texts else "nothing"
                raise UserError(
                    f"output {output.name}: field {output.source!r} says {said} of all images to "
                    "train on, expected two classes or more"
                )
            output = replace(output, classes=texts)
        outputs.append(output)
    return replace(task, outputs=tuple(outputs))


def open_split(
    task: Task,
    paths: Sequence[Path | str],
    split: str,
    split_by: tuple[str, str] | None = None,
    unlabelled: int = 0,
) -> DenseDataset:
    """One split of a task as evaluation sees it: at native size, never augmented. unlabelled: as
    in `open_task`."""
    table = find_samples(open_stores(paths), task, split, split_by, unlabelled)
    return DenseDataset(table, task)


def overfit(data: TaskData, num: int) -> TaskData:
    """Train and validate on the same `num` samples, each always cropped and augmented alike."""
    for dataset in (data.train, data.val):
        dataset.indices, dataset.frozen = data.train.indices[:num], True
    data.val.table = data.train.table
    data.val.transform, data.val.seed = data.train.transform, data.train.seed
    return data


def train_loader(
    dataset: DenseDataset,
    batch: int,
    workers: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    shuffle: str = "global",
    on_bad: OnBad = refuse,
    pin: bool = False,
) -> Iterator[Batch]:
    """Endless training batches from batch number `start` on. part: rank and number of ranks.

    shuffle: "global", or "shards", which keeps to few places of the shards at a time. A batch comes
    without its bad samples where `on_bad` returns, the others as they would. pin: in page-locked
    memory, from which a GPU copies faster; it opens a CUDA context.
    """
    neighbours = dataset.neighbours() if shuffle == "shards" else None
    loader = DataLoader(
        _Readable(dataset),
        batch_sampler=InfiniteBatchSampler(
            len(dataset), batch, dataset.seed, start, part, neighbours
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
        train_loader(each.train, size, start=step * accum, **loading)
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
        found = signal.getsignal(signal.SIGCHLD)
        if callable(found) and found != self._tell:
            self._raise = found
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
            text = str(error)
            if os.strerror(errno.EMFILE) in text:
                raise UserError(os.strerror(errno.EMFILE)) from None
            gone = "DataLoader worker (pid" in text
            if not gone and (isinstance(error, RuntimeError) or "pin memory thread" not in text):
                raise  # what reads a dead worker's shared memory in that thread fails as it likes
            reason = text[text.index("worker (pid") :].splitlines()[0] if gone else text
            raise WorkerDied(
                f"a process that loads data ended before its time, memory may have run out: "
                f"{' '.join(reason.split())[:200]}"
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
