"""Stores + task + split -> samples -> batches; a sample is a function of (seed, epoch, index)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.decode import check_same_size, decode_image, decode_target
from datasets.index import SampleTable, find_samples
from datasets.stores import open_stores
from datasets.task import Batch, Sample, Task
from datasets.transforms import EvalTransform, TrainTransform


class DenseDataset(Dataset[Sample]):
    """The labelled images of one split. An item is asked for as (epoch, index): the epoch draws the
    augmentation, so that neither workers nor a restart change what is seen.

    indices: a part of the table, None for all of it. frozen: every epoch draws what epoch 0 drew.
    """

    def __init__(
        self,
        table: SampleTable,
        task: Task,
        transform: TrainTransform | EvalTransform,
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
        draw = np.random.SeedSequence([self.seed, 0 if self.frozen else epoch, index])
        return self.transform(self.load(index), int(draw.generate_state(1, np.uint64)[0] >> 1))

    def load(self, index: int) -> Sample:
        """One sample at its native size; ValueError names the member that does not fit."""
        image = decode_image(*self._read(*self.table.image(index)))
        targets = {}
        for output in self.task.outputs:
            data, name = self._read(*self.table.target(index, output.name))
            targets[output.name] = decode_target(data, name, output)
            check_same_size(image, targets[output.name], self.table.key(index), name)
        return Sample(image, targets, self.table.key(index))

    def _read(self, shard: int, member: int) -> tuple[bytes, str]:
        """A member's bytes and its name, as `SHARD: MEMBER` for errors."""
        store = self.table.stores[shard]
        return self.table.read(shard, member), f"{store.path}: {store.names()[member]}"


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
) -> TaskData:
    """Open the stores of a task and divide its samples; ValueError names what is missing."""
    stores = open_stores(paths)
    train = DenseDataset(
        find_samples(stores, task, "train", split_by), task, TrainTransform(task, size), seed
    )
    val = DenseDataset(find_samples(stores, task, "val", split_by), task, EvalTransform(task, size))
    return TaskData(task, train, val)


def open_split(
    task: Task,
    paths: Sequence[Path | str],
    split: str,
    size: tuple[int, int],
    split_by: tuple[str, str] | None = None,
) -> DenseDataset:
    """One split of a task as evaluation sees it: never augmented."""
    table = find_samples(open_stores(paths), task, split, split_by)
    return DenseDataset(table, task, EvalTransform(task, size))


def overfit(data: TaskData, num: int) -> TaskData:
    """Train and validate on the same `num` samples, each always cropped and augmented alike."""
    for dataset in (data.train, data.val):
        dataset.indices, dataset.frozen = data.train.indices[:num], True
    data.val.table = data.train.table
    data.val.transform, data.val.seed = data.train.transform, data.train.seed
    return data


class BatchStream(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index): a shuffled epoch follows the other, so that every sample
    comes exactly once an epoch and no batch is short. A function of seed and position: a run
    resumes at batch `start` without reading what it has seen.

    With `world` ranks, `batch` samples go to each, and rank r takes the r-th part of each step's
    samples.
    """

    def __init__(
        self, num: int, batch: int, seed: int, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.num, self.batch, self.seed, self.start = num, batch, seed, start
        self.rank, self.world = part

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = (self.start * self.world + self.rank) * self.batch
        epoch, order = -1, None
        while True:
            batch = []
            for place in range(position, position + self.batch):
                if place // self.num != epoch:
                    epoch = place // self.num
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.num)
                batch.append((epoch, int(order[place % self.num])))
            yield batch
            position += self.world * self.batch


def train_loader(
    dataset: DenseDataset,
    batch: int,
    workers: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> DataLoader:
    """Endless training batches from batch number `start` on. part: rank and number of ranks."""
    return DataLoader(
        dataset,
        batch_sampler=BatchStream(len(dataset), batch, dataset.seed, start, part),
        collate_fn=_stack,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_group,
        generator=torch.Generator(),  # not torch's own, which a resumed run must find untouched
    )


def eval_batches(
    dataset: DenseDataset, batch: int, workers: int, part: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Every sample once, in order, never padded: images of one size that follow each other share a
    batch. Ranks take every world-th sample."""
    rank, world = part
    loader = DataLoader(
        dataset,
        batch_size=batch,
        sampler=[(0, index) for index in range(rank, len(dataset), world)],
        collate_fn=_stack_sizes,
        num_workers=workers,
        worker_init_fn=_leave_group,
        generator=torch.Generator(),
    )
    for batches in loader:
        yield from batches


def _leave_group(worker: int) -> None:
    """A signal to the process group, as Ctrl-C and `timeout` send it, is for the main process,
    which needs its workers until the step in hand is saved. They end when it ends them, or when it
    dies.
    """
    os.setpgid(0, 0)


def _stack(samples: list[Sample]) -> Batch:
    return Batch(
        torch.stack([sample.image for sample in samples]),
        {
            name: torch.stack([sample.targets[name] for sample in samples])
            for name in samples[0].targets
        },
        [sample.key for sample in samples],
    )


def _stack_sizes(samples: list[Sample]) -> list[Batch]:
    groups = {}
    for sample in samples:
        groups.setdefault(sample.image.shape, []).append(sample)
    return [_stack(group) for group in groups.values()]
