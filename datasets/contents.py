"""Notices when a run is resumed with other data than it began with, without reading a pixel."""

import zlib
from collections import Counter
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from datasets.dataset import DenseDataset

Contents = dict[str, Tensor]  # by kind of mark, the best first: int32 (n), one for each sample

_SHOWN = 3  # samples named


def contents(dataset: DenseDataset) -> Contents:
    """The samples in their order, wherever they lie and whatever their shards are called; of stores
    that have no mark in common, how many."""
    columns = [marks(dataset, name) for name in ("", *(o.name for o in dataset.task.dense))]
    said = [_text_marks(dataset, o.name) for o in dataset.task.outputs if o.per_image]
    kinds = [sort for sort in columns[0] if all(sort in column for column in columns)]
    combined = {
        sort: reduce(
            lambda a, b: a * np.uint32(0x9E3779B1) + b, [*(c[sort] for c in columns), *said]
        )
        for sort in kinds
    }
    combined = combined or {"none": np.zeros(len(dataset), np.uint32)}
    return {sort: torch.from_numpy(marks.view(np.int32)) for sort, marks in combined.items()}


def marks(dataset: DenseDataset, name: str) -> dict[str, np.ndarray]:
    """Of the image, or of the target of that name: those kinds of marks that all stores have."""
    columns, marks_by_sort, kinds = dataset.table.columns, {}, Counter()
    shard = columns[f"shard:{name}"][dataset.indices]
    member = columns[f"member:{name}"][dataset.indices]
    used = np.unique(shard[shard >= 0])  # a target that is not there leaves no mark
    for number in used:
        at = np.flatnonzero(shard == number)
        for sort, values in dataset.table.stores[number].marks(member[at]).items():
            marks_by_sort.setdefault(sort, np.zeros(len(shard), np.uint32))[at] = values
            kinds[sort] += 1
    return {sort: values for sort, values in marks_by_sort.items() if kinds[sort] == len(used)}


def _text_marks(dataset: DenseDataset, name: str) -> np.ndarray:
    """Of what the field of that output says, uint32 (n)."""
    columns = dataset.table.columns
    marks = np.array([zlib.crc32(text) for text in columns[f"texts:{name}"].tolist()], np.uint32)
    return marks[columns[f"text:{name}"][dataset.indices]]


def difference(then: Contents, now: Contents, dataset: DenseDataset) -> str:
    """How a data set is not what it was, empty if it is. now: its contents. What has no mark in
    common with what it was, as many files that have been packed, is only counted."""
    sort = next((sort for sort in then if sort in now), None)
    new = now[sort].tolist() if sort else [0] * len(dataset)
    old = then[sort].tolist() if sort else [0] * len(next(iter(then.values()), new))
    if old == new:
        return ""
    fewer, more = Counter(old) - Counter(new), Counter(new) - Counter(old)
    other = min(fewer.total(), more.total())
    counts = {"other": other, "fewer": fewer.total() - other, "more": more.total() - other}
    said = [f"{count} {word}" for word, count in counts.items() if count]
    added = [int(dataset.indices[i]) for i, mark in enumerate(new) if mark in more][:_SHOWN]
    names = ", ".join(dataset.table.key(i) for i in added if sort)
    return ", ".join(said or ["another order"]) + (f" ({names})" if names else "")
