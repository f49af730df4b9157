"""Looks at a few targets before hours of training are spent on them.

An opened task -> what is odd about its targets, in a line each, before hours are spent on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.check.statistics import NUM_LOOKED_AT, statistics_of
from datasets.dataset import DenseDataset, TaskData
from datasets.decode import check_headers, decode_target
from datasets.images import header_size
from datasets.index.left_out import left_out
from datasets.index.splits import mixed_folders
from datasets.task import Output, UserError

MAX_PIXELS = 48_000_000  # of an output's targets: about a second
NUM_NAMES = 1000  # of images, that are looked at
ENOUGH = 4  # targets without a single valid pixel, or all there are, end a run


def look(data: TaskData) -> list[str]:
    """A line about files that are not used, and for each output whose targets seem to be read in
    another way than they are meant.

    Looks at some training targets, always the same ones; those that cannot be used are left to
    training, which names them. UserError: an output of which no pixel is valid.
    """
    unused = left_out(data.train.table.stores, data.task)
    mixed = mixed_folders(*map(_some_names, (data.train, data.val)))
    mixed = "" if "{split}" in data.task.image else mixed
    lines = [f"{data.task.name}: {line}" for line in (unused, mixed) if line]
    for output in data.task.outputs:
        counted = statistics_of(output)
        for values, _, _ in _some_targets(data.train, output):
            counted.count(values)
        files = ((raw, name) for _, raw, name in _some_targets(data.train, output))
        doubt = counted.num and counted.doubt(files)
        if not doubt:
            continue
        lines.append(f"{data.task.name}: {output.name}: {doubt}")
        if counted.is_void and counted.num >= min(ENOUGH, len(data.train)):
            raise UserError(lines[-1])
    return lines


def _some_names(dataset: DenseDataset) -> list[str]:
    """Names of images, spread over a split."""
    step = max(1, len(dataset) // NUM_NAMES)
    return [dataset.table.key(index) for index in dataset.indices[::step].tolist()]


def _some_targets(dataset: DenseDataset, output: Output) -> Iterator[tuple[np.ndarray, bytes, str]]:
    """Some of an output's targets, spread over a split: values as trained on, (H, W), bytes and
    name of the member."""
    num, pixels = min(len(dataset), NUM_LOOKED_AT), 0
    chosen = np.random.default_rng(0).choice(len(dataset), num, replace=False)
    for index in dataset.indices[chosen].tolist():
        if output.per_image:
            name = dataset.table.key(index)
            text = dataset.table.text(index, output.name)
            yield decode_target(text, name, output).numpy(), text.encode(), name
            continue
        try:
            data, name = dataset.read(index, output.name)
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
