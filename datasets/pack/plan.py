"""Stores and a recipe go in; which member goes into which shard, and as what, comes out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datasets.index import find_groups
from datasets.index.templates import compile_lines
from datasets.stores import Store
from datasets.task import Task, UserError

VERBATIM, IMAGE, TARGET = 0, 1, 2  # what a member is to a task


class PackRecipe(NamedTuple):
    """How members become shards.

    task: pack what this task reads, each sample's files side by side; None: every member, as it is.
    shard_bytes, shard_samples: most encoded bytes (before any re-encoding) and most samples of a
        shard, 0 for no limit. Without a task every member counts as a sample.
    size: (H, W) of re-encoded images and targets. quality: 1 to 100 of re-encoded JPEG images.
    prefix: put each source's members below a folder of its name, so that equal names stay apart.
    """

    task: Task | None = None
    shard_bytes: int = 0
    shard_samples: int = 0
    size: tuple[int, int] | None = None
    quality: int | None = None
    prefix: bool = False

    @property
    def reencodes(self) -> bool:
        return bool(self.size or self.quality)


class PackPlan(NamedTuple):
    """Members in the order they are written: store int32, member int64, role uint8, each (m).

    cuts: int64 (shards + 1), shard i takes the members from cuts[i] up to cuts[i + 1].
    left_out: how many members of the sources the task does not use.
    """

    stores: list[Store]
    recipe: PackRecipe
    store: np.ndarray
    member: np.ndarray
    role: np.ndarray
    sizes: np.ndarray  # encoded bytes in the source, int64
    cuts: np.ndarray
    left_out: int

    def name(self, i: int) -> str:
        """What the i-th member is called in its shard."""
        store = self.stores[self.store[i]]
        name = store.names()[self.member[i]]
        return f"{source_name(store)}/{name}" if self.recipe.prefix else name


def make_plan(stores: list[Store], recipe: PackRecipe) -> PackPlan:
    """UserError: two sources hold the same name, or the task finds no image in them."""
    counts = [len(store) for store in stores]
    if recipe.task is None:
        store = np.repeat(np.arange(len(stores), dtype=np.int32), counts)
        member = np.concatenate([np.arange(count) for count in counts])
        role, sample = np.zeros(len(store), np.uint8), np.arange(len(store))
    else:
        store, member, role, sample = _of_task(stores, recipe.task)
    _refuse_shared_names(stores, recipe, store, member)
    sizes = np.zeros(len(store), np.int64)
    for number, each in enumerate(stores):
        sizes[store == number] = each.sizes()[member[store == number]]
    cuts = _cut(sizes, sample, recipe)
    return PackPlan(stores, recipe, store, member, role, sizes, cuts, sum(counts) - len(store))


def source_name(store: Store) -> str:
    """The last part of a store's path, without its suffix."""
    return str(store.path).rstrip("/").rsplit("/", 1)[-1].split(".")[0]


def _of_task(
    stores: list[Store], task: Task
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Store, member, role and sample number of what a task reads: its tables, then its samples."""
    table = find_groups(stores, task)
    names = ["", *(output.name for output in task.outputs)]
    shards, members = (  # (n, 1 + outputs) each
        np.stack([table.columns[f"{what}:{name}"] for name in names], axis=1)
        for what in ("shard", "member")
    )
    roles = np.full(shards.shape, TARGET, np.uint8)
    roles[:, 0] = IMAGE
    samples = np.repeat(np.arange(len(shards))[:, None] + 1, shards.shape[1], axis=1)
    tables = _tables(stores, task.metadata) if task.metadata else []
    for number, member in tables[::-1]:
        head = [np.array([value]) for value in (number, member, VERBATIM, 0)]
        shards, members, roles, samples = (
            np.concatenate([first, column.ravel()])
            for first, column in zip(head, (shards, members, roles, samples), strict=True)
        )
    columns = [column.ravel() for column in (shards, members, roles, samples)]
    kept = columns[0] >= 0
    located = np.stack([columns[0][kept], columns[1][kept]], axis=1)
    first = np.sort(np.unique(located, axis=0, return_index=True)[1])  # one may be its own target
    store, member, role, sample = (column[kept][first] for column in columns)
    return store.astype(np.int32), member, role.astype(np.uint8), sample


def _tables(stores: list[Store], template: str) -> list[tuple[int, int]]:
    """Store and member number of every metadata table."""
    pattern = compile_lines(template)
    return [
        (number, store.names().find(match[0].decode()))
        for number, store in enumerate(stores)
        for match in pattern.finditer(store.names().blob)
    ]


def _refuse_shared_names(
    stores: list[Store], recipe: PackRecipe, store: np.ndarray, member: np.ndarray
) -> None:
    """UserError if two members would have one name."""
    if recipe.prefix:
        sources = [source_name(each) for each in stores]
        for number, name in enumerate(sources):
            if name in sources[:number]:
                raise UserError(f"{stores[number].path}: another source is called {name} too")
        return
    hashes = np.zeros(len(store), np.uint64)
    for number, each in enumerate(stores):
        hashes[store == number] = each.names().hashes()[member[store == number]]
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    for a, b in sorted(zip(order[equal].tolist(), order[equal + 1].tolist(), strict=True)):
        one, other = stores[store[a]], stores[store[b]]
        name = one.names()[member[a]]
        if name == other.names()[member[b]]:
            raise UserError(
                f"{name}: is in {one.path} and in {other.path}; --prefix keeps them apart"
            )


def _cut(sizes: np.ndarray, sample: np.ndarray, recipe: PackRecipe) -> np.ndarray:
    """Where shards begin, and the end: as many whole samples in each as the limits allow."""
    begins = np.flatnonzero(np.diff(sample, prepend=-1))
    lengths = np.add.reduceat(sizes, begins)
    most_bytes = recipe.shard_bytes or int(lengths.sum())
    most_samples = recipe.shard_samples or len(begins)
    cuts, held, number = [0], 0, 0
    for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
        if number and (held + length > most_bytes or number == most_samples):
            cuts.append(begin)
            held = number = 0
        held, number = held + length, number + 1
    return np.array([*cuts, len(sizes)])
