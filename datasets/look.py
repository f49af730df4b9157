"""Says what is odd about data, in a line each, before hours of training are spent on it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic

import numpy as np
from torch import bincount

from datasets.check.alike import describe_likeness
from datasets.check.file_values import NUM_LOOKED_AT
from datasets.check.statistics import MANY_CLASSES, Statistics, listed, statistics_of
from datasets.dataset import DenseDataset, TaskData
from datasets.decode import check_headers, decode_target
from datasets.images import header_size
from datasets.index.left_out import left_out
from datasets.index.splits import mixed_folders
from datasets.task import Batch, Output, UserError

NUM_TARGETS = 500  # that are looked at, of each output and split
MAX_PIXELS = 64_000_000  # of theirs: about a second
SECONDS = 2  # that reading them may take, but for the first NUM_LOOKED_AT
NUM_NAMES = 1000  # of images, that are looked at
ENOUGH = 4  # targets without a single valid pixel, or all there are, end a run
FEW = 5  # images, on which no score means much; where there are few in all, a fifth must do


def look(data: TaskData) -> list[str]:
    """A line about files that are not used, one about images that are alike, and one for each
    output whose targets seem to be read in another way than they are meant.

    Looks at some samples, always the same ones; those that cannot be used are left to training,
    which names them. UserError: an output of which no pixel is valid.
    """
    lines = [f"{data.task.name}: {line}" for line in look_at_images(data.train, data.val)]
    for output in data.task.outputs:
        counted, val = (_count(dataset, output) for dataset in (data.train, data.val))
        files = ((raw, name) for _, raw, name in _some_targets(data.train, output))
        doubt = counted.num and counted.doubt(files, val)
        if not doubt:
            continue
        lines.append(f"{data.task.name}: {output.name}: {doubt}")
        if counted.is_void and counted.num >= min(ENOUGH, len(data.train)):
            raise UserError(lines[-1])
    return lines


def look_at_images(train: DenseDataset, val: DenseDataset) -> Iterator[str]:
    """Which files of a task are not used, and what is odd about the images of its splits."""
    mixed = "{split}" not in train.task.image and mixed_folders(*map(_some_names, (train, val)))
    yield from filter(None, [left_out(train.table.stores, train.task), mixed])
    if train.frozen or not (len(train) and len(val)):  # both are the same, on purpose
        return
    if len(val) < FEW and len(train) >= FEW * len(val):
        few = "one image" if len(val) == 1 else f"{len(val)} images"
        yield f'{few} to validate on, {len(train)} to train on: see "val_share" and --split-by'
    yield from describe_likeness(train, val)


def first_epoch(
    batches: Iterable[list[Batch]],
    num: int,
    outputs: Sequence[Output],
    union: Callable[[Iterable[str]], list[str]],
    tell: Callable[[str], None],
) -> Iterator[list[Batch]]:
    """The same batches; with the last of the first `num`, tells which classes none has shown: a
    sample could not know. Of a list that is longer than the data, half may be absent.

    union: of what each rank has seen.
    """
    seen: set[str] = set()
    for number, step in enumerate(batches, 1):
        for batch in step if number <= num else ():
            for output in outputs:
                if output.labels and output.name in batch.targets:
                    ids = bincount(batch.targets[output.name].flatten()).nonzero().flatten()
                    seen.update(f"{output.name}/{i}" for i in ids.tolist())
        if number == num:
            known = set(union(seen))
            for output in outputs:
                there = np.array([f"{output.name}/{i}" in known for i in range(len(output.labels))])
                if len(there) > MANY_CLASSES and there.mean() >= 0.5 or there.all():
                    continue
                absent = listed(output.labels, ~there)
                what = f"{output.name}: {absent}: in no target of the first epoch"
                tell(f"worth a look: {what}; see its keys in the task, or --size for larger crops")
        yield step


def _count(dataset: DenseDataset, output: Output) -> Statistics:
    counted = statistics_of(output)
    for values, _, _ in _some_targets(dataset, output):
        counted.count(values)
    counted.whole = counted.num == len(dataset) and not dataset.frozen
    return counted


def _some_names(dataset: DenseDataset) -> list[str]:
    """Names of images, spread over a split."""
    step = max(1, len(dataset) // NUM_NAMES)
    return [dataset.table.key(index) for index in dataset.indices[::step].tolist()]


def _some_targets(dataset: DenseDataset, output: Output) -> Iterator[tuple[np.ndarray, bytes, str]]:
    """Some of an output's targets, spread over a split: values as trained on, (H, W), bytes and
    name of the member."""
    num, pixels, begin = min(len(dataset), NUM_TARGETS), 0, monotonic()
    chosen = np.random.default_rng(0).choice(len(dataset), num, replace=False)
    for number, index in enumerate(dataset.indices[chosen].tolist()):
        if number >= NUM_LOOKED_AT and monotonic() - begin > SECONDS:
            return
        if output.per_image:
            name = dataset.table.key(index)
            text = dataset.table.text(index, output.name)
            yield decode_target(text, name, output).numpy(), text.encode(), name
            continue
        try:
            data, name = dataset.read(index, output.name)
            if output.is_shapes:  # which may not tell their size
                yield dataset.load(index).targets[output.name].numpy(), data, name
                continue
            size = header_size(data, name)
            if size[0] * size[1] > MAX_PIXELS:  # before memory is taken for what it claims
                check_headers(
                    size, header_size(*dataset.read(index)), dataset.table.key(index), name
                )
            pixels += size[0] * size[1]
            if pixels > MAX_PIXELS and pixels > size[0] * size[1]:  # but for the first
                return
            values = decode_target(data, name, output).numpy()
        except UserError:
            continue
        yield values, data, name
