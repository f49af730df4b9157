"""Finds where each sample's image and targets lie in the stores, for one split of a task."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from datasets.index.hints import hints, near_names, paths
from datasets.index.splits import Divider, choose, divider, field_reader
from datasets.index.templates import compile_lines, fill_template, literal_length
from datasets.stores import Store, index_cache
from datasets.stores.index_cache import Columns
from datasets.task import Output, Task, UserError


@dataclass(frozen=True)
class SampleTable:
    """Samples of one split, in order of image name, then shard; 24 bytes a sample of two outputs.

    columns: for the image (its name is empty) and for each output that has files, `shard:NAME`
    int32 (n), a position in `stores`, and `member:NAME` int32 (int64 above 2**31 members) (n), a
    position in that store. For each output of whole images, `texts:NAME` bytes, what its field says
    in all, and `text:NAME` int32 (n), a position in those.
    """

    stores: list[Store]
    columns: Columns

    def __len__(self) -> int:
        return len(self.image_shard)

    @property
    def image_shard(self) -> np.ndarray:
        """Which store each sample's image lies in, int32 (n)."""
        return self.columns["shard:"]

    @property
    def image_member(self) -> np.ndarray:
        """Which member of that store it is, integer (n)."""
        return self.columns["member:"]

    def image(self, i: int) -> tuple[int, int]:
        """Shard and member number of sample i's image: `stores[shard].read_at(member)`."""
        return self.target(i, "")

    def target(self, i: int, name: str) -> tuple[int, int]:
        """Shard and member number of sample i's target for the output called `name`."""
        return int(self.columns[f"shard:{name}"][i]), int(self.columns[f"member:{name}"][i])

    def text(self, i: int, name: str) -> str:
        """What the field of the output called `name` says of sample i, "" for nothing."""
        return self.columns[f"texts:{name}"][self.columns[f"text:{name}"][i]].decode()

    def texts(self, name: str) -> tuple[str, ...]:
        """All that it says of these samples, but for nothing, in alphabetical order."""
        return tuple(text.decode() for text in self.columns[f"texts:{name}"].tolist() if text)

    def read(self, shard: int, member: int) -> bytes:
        """The encoded bytes of what `image` or `target` named."""
        return self.stores[shard].read_at(member)

    def where(self, shard: int, member: int) -> str:
        """The same as `SHARD: MEMBER`, for errors."""
        store = self.stores[shard]
        return f"{store.path}: {store.names()[member]}"

    def key(self, i: int) -> str:
        """Member name of sample i's image."""
        shard, member = self.image(i)
        return self.stores[shard].names()[member]

    def no_target(self, i: int, output: Output, task: Task) -> str:
        """What is to be said of sample i where the output has no target."""
        match = compile_lines(task.image).match(self.key(i).encode())
        return f"no target for {output.name}, expected {fill_template(output.files, match)}"


class _Images(NamedTuple):
    """All images, in order of name, then shard: int32, int64, bytes and bytes, each (n)."""

    shard: np.ndarray
    member: np.ndarray
    name: np.ndarray
    text: np.ndarray  # what decides the split: the field's value, or the group


def find_samples(
    stores: list[Store],
    task: Task,
    split: str,
    split_by: tuple[str, str] | None = None,
    unlabelled: int = 0,
) -> SampleTable:
    """Join every image of a split with its targets, by the fields both templates capture.

    A target below the same leading folder of the same shard comes first, then one of the same
    shard, then one of another; never one that already belongs to an image nearer to it.
    split: train, val or test. split_by: (field, value) puts that value into val, the rest into
    train, and leaves a test split of the names alone. unlabelled: images of it that may have no
    target of an output; -1 is its shard and member number then. UserError: no image fits, the split
    is empty or unknown, more have none, or one has two. The table of large shards is kept beside
    the first, see `index_cache`.
    """
    cached, key = _cached_table(stores, task, split, split_by)
    columns = index_cache.load(cached, key)
    if columns is None:
        columns = index_cache.save(cached, key, _find(stores, task, split, split_by))
    table = SampleTable(stores, columns)
    for output in task.dense:
        absent = np.flatnonzero(columns[f"shard:{output.name}"] < 0)
        if len(absent) > unlabelled:
            more = f"; {len(absent)} of {len(table)} images have none" if len(absent) > 1 else ""
            what = table.no_target(int(absent[0]), output, task)
            near = near_names(table, task, what.rpartition(" ")[2])
            without = (
                f"; --skip-bad {len(absent)} goes on without" if len(absent) < len(table) else ""
            )
            where = table.where(*table.image(int(absent[0])))
            raise UserError(f"{where}: {what}{more}{near}{without}")
    return table


def find_groups(stores: list[Store], task: Task) -> SampleTable:
    """Every image of any split and the targets there are; -1 is the shard and member number of one
    that is not there. UserError: no image fits, or two targets of one image."""
    return SampleTable(stores, Columns(_find(stores, task)))


def _cached_table(
    stores: list[Store], task: Task, split: str, split_by: tuple[str, str] | None
) -> tuple[Any, Any]:
    """Where a table may be kept, None if nowhere, and what it depends on."""
    fingerprints = [store.fingerprint() for store in stores]
    if sum(map(len, stores)) < index_cache.MIN_MEMBERS or None in fingerprints:
        return None, None
    layout = [task.image, [[output.name, output.source] for output in task.outputs]]
    how = [task.splits, task.split, task.val_share, task.metadata, split, split_by]
    question = [[store.cache_location()[1] for store in stores], layout, how]
    digest = hashlib.blake2b(json.dumps(question).encode(), digest_size=8).hexdigest()
    path = index_cache.cache_path(stores[0].cache_location()[0], f"samples-{digest}")
    return path, [question, fingerprints]


def _find(
    stores: list[Store], task: Task, split: str = "", split_by: tuple[str, str] | None = None
) -> dict[str, np.ndarray]:
    """The columns of a SampleTable; without a split, of all images, with or without targets."""
    pattern = compile_lines(task.image)
    divide = divider(stores, task, pattern, split_by) if split else lambda match: b""
    images = _find_images(stores, task, pattern, divide)
    chosen = np.arange(len(images.shard))
    drawn = split and split_by is None and "{split}" not in task.image
    if split and not drawn:
        chosen = np.flatnonzero(choose(images.text, task, split, split_by))
    located = {"": (images.shard[chosen], images.member[chosen])}
    for output in task.dense:
        located[output.name] = _find_targets(stores, task, output, pattern, images, chosen)
    if drawn:  # among those that have targets; the others, if they may be, are training's to name
        complete = np.all([shard >= 0 for shard, _ in located.values()], axis=0)
        complete |= complete.sum() < 2
        used = ~complete & (split == "train")
        used[complete] = choose(images.text[complete], task, split, split_by)
        chosen = chosen[used]
        located = {name: (shard[used], member[used]) for name, (shard, member) in located.items()}
    columns = {}
    for output in task.outputs:
        if output.per_image:
            names = images.name[chosen]
            columns |= _read_texts(stores, task, output, pattern, names, required=bool(split))
    for name, (shard, member) in located.items():
        wide = member.max() >= 2**31
        columns[f"shard:{name}"] = shard.astype(np.int32)
        columns[f"member:{name}"] = member.astype(np.int64 if wide else np.int32)
    return columns


def _find_images(
    stores: list[Store], task: Task, pattern: re.Pattern[bytes], divide: Divider
) -> _Images:
    """Every member that the image template fits and no target template fits more closely.

    UserError if there is none.
    """
    closer = [
        compile_lines(output.files)
        for output in task.dense
        if literal_length(output.files) > literal_length(task.image)
    ]  # bg_fg_{part}/{key}.jpg fits masks too, but bg_fg_mask_{part}/{key}.jpg says more of a name

    def look(match: re.Match[bytes]) -> tuple[bytes, bytes] | None:
        """The name and its split's text; None of what another template fits more closely."""
        if any(target.match(match[0]) for target in closer):
            return None
        text = divide(match)
        return None if text is None else (match[0], text)

    columns = _scan(stores, pattern, look)
    if not columns:
        taken = any(pattern.search(store.names().blob) for store in stores) if closer else False
        what = f"no image fits {task.image}" + taken * ' but what "files" of an output names'
        raise UserError(f"{paths(stores)}: {what}; {hints(stores, task)}")
    order = np.argsort(columns[2], kind="stable")
    shard, member, name, text = (columns.pop(0)[order] for _ in _Images._fields)  # frees each
    return _Images(shard, member, name, text)


def _scan(
    stores: list[Store],
    pattern: re.Pattern[bytes],
    look: Callable[[re.Match[bytes]], tuple[Any, Any] | None],
) -> list[np.ndarray]:
    """Of all names that fit: shard int32, member int64 and what `look` says of each, (n) every one;
    names of which it gives None are left out. Empty if nothing fits."""
    by_store = []
    for number, store in enumerate(stores):
        names = store.names()
        matches = ((match.start(), look(match)) for match in pattern.finditer(names.blob))
        rows = [(start, *seen) for start, seen in matches if seen is not None]
        if rows:  # arrays of fixed width: no Python object a name is kept
            starts, *columns = (np.array(column) for column in zip(*rows, strict=True))
            shard = np.full(len(rows), number, np.int32)
            by_store.append([shard, np.searchsorted(names.starts, starts), *columns])
        store.columns.release()
    return [np.concatenate(parts) for parts in zip(*by_store, strict=True)]


def _find_targets(
    stores: list[Store],
    task: Task,
    output: Output,
    pattern: re.Pattern[bytes],
    images: _Images,
    chosen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Shard int32 and member int64 of the target of each chosen image, -1 where there is none."""
    files = compile_lines(output.files)
    fields = [name for name in files.groupindex if name in pattern.groupindex]
    if not fields and not output.is_shapes:
        raise UserError(f"output {output.name}: {output.files} shares no field with {task.image}")

    def look(match: re.Match[bytes]) -> tuple[int, int]:
        """Hashes of (leading folder, fields) and of the fields. Python's own, 64 bits, keyed anew
        in each process: nobody can prepare names that collide, and 2.4 million names do so by
        chance once in some million runs. They are never stored."""
        texts = match.group(*fields) if fields else ""
        return hash((match[1], texts)), hash((texts,))

    shard, member, *keys = _scan(stores, files, look) or [np.zeros(0, np.int64)] * 4
    wanted = np.array([look(pattern.match(name)) for name in images.name]).T  # (2, n images)
    first, second = _join(images.shard, wanted, shard, np.stack(keys), output.is_shapes)
    first, second = first[chosen], second[chosen]
    for i in np.flatnonzero(second >= 0)[:1]:
        where = f"{stores[images.shard[chosen[i]]].path}: {images.name[chosen[i]].decode()}: "
        both = (
            f"{stores[shard[at]].path}: {stores[shard[at]].names()[member[at]]}"
            for at in (first[i], second[i])
        )
        raise UserError(f"{where}two targets for {output.name}: {' and '.join(both)}")
    absent = first < 0
    if absent.all():
        return np.full(len(first), -1, np.int32), np.full(len(first), -1)
    return np.where(absent, -1, shard[first]), np.where(absent, -1, member[first])


def _read_texts(
    stores: list[Store],
    task: Task,
    output: Output,
    pattern: re.Pattern[bytes],
    names: np.ndarray,
    required: bool,
) -> dict[str, np.ndarray]:
    """`texts:NAME` and `text:NAME` of a SampleTable for images of these names; nothing is said of
    any where there is no such field and none is required."""
    said = [b""] * len(names)
    try:
        fields, asker = pattern.groupindex, f"output {output.name}: field {output.source!r}"
        read = field_reader(stores, task, fields, output.source, asker)
    except UserError:
        if required:
            raise
    else:
        said = [read(pattern.match(name)) or b"" for name in names]
    texts, positions = np.unique(np.array(said, "S"), return_inverse=True)
    return {f"texts:{output.name}": texts, f"text:{output.name}": positions.astype(np.int32)}


def _join(
    image_shard: np.ndarray,
    wanted: np.ndarray,
    shard: np.ndarray,
    keys: np.ndarray,
    shared: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 (n images) of the target and of a second one that fits as well, -1 for none.

    wanted int64 (2, n images) and keys int64 (2, n targets): hashes of what they are joined by, the
    leading folder among it and without it. shared: several images may have one target.
    """
    first = np.full(len(image_shard), -1)
    second, free = first.copy(), np.ones(len(shard), bool)

    def link(images: np.ndarray, targets: np.ndarray, row: int) -> None:
        """Give images their targets where both have the same key."""
        images, targets = images[first[images] < 0], targets[free[targets]]
        targets = targets[np.argsort(keys[row][targets], kind="stable")]
        offered, sought = keys[row][targets], wanted[row][images]
        begin = np.searchsorted(offered, sought)
        count = np.searchsorted(offered, sought, "right") - begin
        first[images[count > 0]] = targets[begin[count > 0]]
        second[images[count > 1]] = targets[begin[count > 1] + 1]
        free[first[images[count > 0]]] = shared

    for row in (0, 1):  # the same folder of the same shard, then the same shard, then anywhere
        for number in np.unique(shard):
            link(np.flatnonzero(image_shard == number), np.flatnonzero(shard == number), row)
    link(np.flatnonzero(first < 0), np.flatnonzero(free), 1)
    return first, second
