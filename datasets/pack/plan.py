"""Plans which member goes into which shard, and as what."""

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
        """Whether pictures are written anew, not copied."""
        return bool(self.size or self.quality)


class PackPlan(NamedTuple):
    """Members in the order they are written: store, member and role, int64 (m) each.

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
        if not self.recipe.prefix:
            return name
        source = str(store.path).rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        return f"{source}/{name}"


def make_plan(stores: list[Store], recipe: PackRecipe) -> PackPlan:
    """UserError: two members would have one name, or the task finds no image in the sources."""
    counts = [len(store) for store in stores]
    if recipe.task is None:
        store = np.repeat(np.arange(len(stores)), counts)
        member = np.concatenate([np.arange(count) for count in counts])
        role, sample = np.zeros(len(store), np.int64), np.arange(len(store))
    else:
        store, member, role, sample = _rows_of_task(stores, recipe.task).T
    sizes = np.zeros(len(store), np.int64)
    for number, each in enumerate(stores):
        sizes[store == number] = each.sizes()[member[store == number]]
    cuts, left_out = _cut(sizes, sample, recipe), sum(counts) - len(store)
    plan = PackPlan(stores, recipe, store, member, role, sizes, cuts, left_out)
    _refuse_shared_names(plan)
    return plan


def _rows_of_task(stores: list[Store], task: Task) -> np.ndarray:
    """Store, member, role and sample number of what a task reads, int64 (m, 4): its tables, then
    sample by sample."""
    table = find_groups(stores, task)
    sample = np.arange(1, len(table) + 1)
    columns = []
    for name in ("", *(output.name for output in task.dense)):
        role = np.full(len(table), TARGET if name else IMAGE)
        where = table.columns[f"shard:{name}"], table.columns[f"member:{name}"]
        columns.append(np.stack([*where, role, sample], axis=1))
    rows = np.stack(columns, axis=1).reshape(-1, 4)
    tables = (
        [
            (number, store.names().find(match[0].decode()), VERBATIM, 0)
            for number, store in enumerate(stores)
            for match in compile_lines(task.metadata).finditer(store.names().blob)
        ]
        if task.metadata
        else []
    )
    rows = np.concatenate([np.array(tables, np.int64).reshape(-1, 4), rows[rows[:, 0] >= 0]])
    _, first = np.unique(rows[:, :2], axis=0, return_index=True)  # one may be its own target
    return rows[np.sort(first)]


def _refuse_shared_names(plan: PackPlan) -> None:
    """UserError if two members would have one name."""
    seen: dict[str, int] = {}
    for i in range(len(plan.store)):
        first = seen.setdefault(plan.name(i), i)
        if first != i:
            one, other = (plan.stores[plan.store[at]].path for at in (first, i))
            hint = "" if plan.recipe.prefix else "; --prefix keeps them apart"
            raise UserError(f"{plan.name(i)}: is in {one} and in {other}{hint}")


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
