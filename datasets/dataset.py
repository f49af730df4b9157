"""The labelled images of a task and split, and the order in which they are seen.

A sample is a function of (seed, epoch, index), the order one of (seed, position).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from datasets.decode import check_headers, check_same_size, decode_target
from datasets.images import header_size
from datasets.index import SampleTable, find_samples
from datasets.photo import decode_image
from datasets.shapes import Shapes, shapes_at
from datasets.stores import open_stores
from datasets.task import Output, Sample, Task, UserError
from datasets.transforms import TrainTransform

# Samples of 20 to 100 kB: a run is a stretch of 20 to 100 MB of a shard, and what is being mixed
# at a time, under 2 GB, fits the memory that a system has left to cache files. A batch of 16 has
# samples of ten runs or more.
RUN = 1024  # neighbours that are shuffled together
MIXED = 16  # runs that are mixed with each other


class BadMember(UserError):
    """A member that cannot be used. member: `SHARD: MEMBER`."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(f"{member}: {reason}")
        self.member, self.reason = member, reason


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
        image_data, image_name = self.read(index)
        with _blamed(image_name):
            size = header_size(image_data, image_name)
        labels = []
        for output in self.task.dense:  # all headers before any pixel
            data, name = self.encoded(index, output)
            with _blamed(name):
                if isinstance(data, bytes):
                    check_headers(header_size(data, name), size, key, name)
            labels.append((output, data, name))
        with _blamed(image_name):
            image = decode_image(image_data, image_name)
        size = tuple(image.shape[:0:-1])
        for output, data, name in labels:
            with _blamed(name):
                targets[output.name] = decode_target(data, name, output, key, size)
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

    def read(self, index: int, output: str = "") -> tuple[bytes, str]:
        """Bytes and name, as `SHARD: MEMBER`, of a sample's image or of an output's target;
        BadMember if they cannot be read, or if there is none."""
        shard, member = self._place(index, output)
        name = self.table.where(shard, member)
        with _blamed(name, f"{self.table.stores[shard].path}: "):
            return self.table.read(shard, member), name

    def encoded(self, index: int, output: Output) -> tuple[bytes | Shapes, str]:
        """As `read`, of a target: its bytes, or what a file of shapes holds."""
        if not output.is_shapes:
            return self.read(index, output.name)
        shard, member = self._place(index, output.name)
        name = self.table.where(shard, member)
        with _blamed(name, f"{self.table.stores[shard].path}: "):
            return shapes_at(self.table.stores[shard], member), name

    def _place(self, index: int, output: str) -> tuple[int, int]:
        shard, member = self.table.target(index, output)
        if shard < 0:
            named = next(each for each in self.task.outputs if each.name == output)
            image = self.table.where(*self.table.image(index))
            raise BadMember(image, self.table.no_target(index, named, self.task))
        return shard, member


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


class InfiniteBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index): a shuffled epoch follows the other, so that every sample
    comes exactly once an epoch and no batch is short. A function of seed and position: a run
    resumes at batch `start` without reading what it has seen.

    part: rank and number of ranks. A step is `accum` batches of each rank, which follow each other:
    those of rank r are the r-th part of its samples. neighbours: all indices, those first that lie
    first in their shards; epochs are then shuffled by `mix_runs`, otherwise each order is as likely
    as any other.
    """

    def __init__(
        self,
        num: int,
        batch: int,
        seed: int,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        neighbours: np.ndarray | None = None,
        accum: int = 1,
    ) -> None:
        self.num, self.batch, self.seed, self.start = num, batch, seed, start
        self.part, self.accum = part, accum
        self.neighbours = neighbours

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world_size = self.part
        epoch, order = -1, None
        for turn in count(self.start):
            step, own = divmod(turn, self.accum)
            first = self.batch * ((step * world_size + rank) * self.accum + own)
            batch = []
            for number in range(first, first + self.batch):
                if number // self.num != epoch:
                    epoch = number // self.num
                    order = self._order(np.random.default_rng([self.seed, epoch]))
                batch.append((epoch, int(order[number % self.num])))
            yield batch

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """The indices of one epoch, integer (num)."""
        if self.neighbours is None:
            return rng.permutation(self.num)
        return mix_runs(self.neighbours, rng)


def mix_runs(neighbours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same (n) in an order that keeps to few places at a time: RUN neighbours are a run, runs
    are shuffled, and MIXED of them at a time, which then follow each other, are shuffled as one."""
    begins = RUN * rng.permutation(-(-len(neighbours) // RUN))
    order = np.empty_like(neighbours)
    at = 0
    for first in range(0, len(begins), MIXED):
        runs = [neighbours[begin : begin + RUN] for begin in begins[first : first + MIXED]]
        mixed = np.concatenate(runs)
        rng.shuffle(mixed)
        order[at : at + len(mixed)] = mixed
        at += len(mixed)
    return order
