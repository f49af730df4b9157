"""Stores and a task go in; where each sample's image and targets lie comes out, for one split."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datasets.stores import Store
from datasets.task import Output, Task

_FIELD = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}|\*")
_SHOWN = 12  # values or paths listed in an error


@dataclass(frozen=True)
class SampleTable:
    """Samples of one split, in order of image name, then shard; 24 bytes a sample and two outputs.

    image_shard int32 (n), image_member int64 (n): position in `stores`, position in that store.
    target_shard, target_member: the same by output name.
    """

    stores: list[Store]
    image_shard: np.ndarray
    image_member: np.ndarray
    target_shard: dict[str, np.ndarray]
    target_member: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.image_shard)

    def image(self, i: int) -> tuple[int, int]:
        """Shard and member number of sample i's image: `stores[shard].read_at(member)`."""
        return int(self.image_shard[i]), int(self.image_member[i])

    def target(self, i: int, name: str) -> tuple[int, int]:
        """Shard and member number of sample i's target for the output called `name`."""
        return int(self.target_shard[name][i]), int(self.target_member[name][i])

    def read(self, shard: int, member: int) -> bytes:
        """The encoded bytes of what `image` or `target` named."""
        return self.stores[shard].read_at(member)

    def key(self, i: int) -> str:
        """Member name of sample i's image."""
        shard, member = self.image(i)
        return self.stores[shard].names()[member]


class _Images(NamedTuple):
    """All images, in order of name, then shard: int32, int64, bytes and bytes, each (n)."""

    shard: np.ndarray
    member: np.ndarray
    name: np.ndarray
    text: np.ndarray  # what decides the split: the field's value, or the group


def compile_template(template: str) -> re.Pattern[str]:
    """The pattern of a member name: `{field}` is one or more characters, `*` any number, never `/`.

    Any folders may come before (group 1, with the last `/`). Fields take as little as they can; one
    that occurs twice must be the same text. A last `.*` is an extension, so it holds no other dot:
    `image/{key}.*` gives `a.b` for `image/a.b.png`. ValueError names a template that is not one.
    """
    return re.compile(_source(template), re.MULTILINE)


def _compile_lines(template: str) -> re.Pattern[bytes]:
    """The same pattern over the bytes of many names, one a line."""
    return re.compile(_source(template).encode(), re.MULTILINE)


def _source(template: str) -> str:
    if not template or template.startswith("/"):
        raise ValueError(f"template {template!r}: expected a relative member name")
    body, ending = (template[:-2], r"\.[^/.\n]*") if template.endswith(".*") else (template, "")
    parts, seen, end = [], set(), -1
    for match in _FIELD.finditer(body):
        if match.start() == end:
            raise ValueError(
                f"template {template!r}: no text between {match[0]} and what precedes it"
            )
        parts.append(re.escape(body[max(end, 0) : match.start()]))
        name, end = match[1], match.end()
        if not name:
            parts.append(r"[^/\n]*")
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            parts.append(f"(?P<{name}>[^/\\n]+?)")
            seen.add(name)
    parts.append(re.escape(body[max(end, 0) :]))
    if set(_FIELD.sub("", body)) & set("{}*\n"):
        raise ValueError(
            f"template {template!r}: expected fields such as {{key}}, of letters and digits"
        )
    return "^((?:.*/)?)" + "".join(parts) + ending + "$"


def find_samples(
    stores: list[Store], task: Task, split: str, split_by: tuple[str, str] | None = None
) -> SampleTable:
    """Join every image of a split with its targets, by the fields both templates capture.

    A target below the same leading folder of the same shard comes first, then one of the same
    shard, then one of another; never one that already belongs to an image nearer to it.
    split: train, val or test. split_by: (field, value) puts that value into val, the rest into
    train. ValueError: no image fits, the split is empty or unknown, an image of it has no target or
    two.
    """
    pattern = _compile_lines(task.image)
    images = _find_images(stores, task, pattern, _divider(stores, task, pattern, split_by))
    if not len(images.shard):
        raise ValueError(f"{_paths(stores)}: no image fits {task.image}")
    chosen = np.flatnonzero(_choose(images, task, split, split_by))
    target_shard, target_member = {}, {}
    for output in task.outputs:
        shard, member = _find_targets(stores, task, output, pattern, images, chosen)
        target_shard[output.name], target_member[output.name] = shard, member
    return SampleTable(
        stores, images.shard[chosen], images.member[chosen], target_shard, target_member
    )


def _divider(
    stores: list[Store],
    task: Task,
    pattern: re.Pattern[bytes],
    split_by: tuple[str, str] | None,
) -> Callable[[re.Match[bytes]], bytes]:
    """A function from an image's match to the text that decides its split."""
    fields = pattern.groupindex
    if split_by is None:
        if "split" in fields:
            return lambda match: match["split"]
        if task.split == "tail":
            return lambda match: b""
        group = "group" if "group" in fields else "key"
        return lambda match: match[group]
    field = split_by[0]
    if field in fields:
        return lambda match: match[field]
    rows, columns = _read_metadata(stores, task.metadata) if task.metadata else ({}, [])
    if field not in columns:
        known = ", ".join([*fields, *columns])
        absent = f" ({task.metadata} was not found)" if task.metadata and not columns else ""
        raise ValueError(f"split by {field!r}: no such field, expected one of {known}{absent}")

    def look_up(match: re.Match[bytes]) -> bytes:
        row = rows.get(match["key"].decode())
        if row is None:
            key, name = match["key"].decode(), match[0].decode()
            raise ValueError(f"{name}: {task.metadata} has no row with the id {key!r}")
        return row[field].encode()

    return look_up


def _read_metadata(
    stores: list[Store], template: str
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Rows by id and the columns, from every CSV of that name; ValueError names one that is not."""
    pattern, rows, columns = _compile_lines(template), {}, {}
    for store in stores:
        for match in pattern.finditer(store.names().blob):
            where = f"{store.path}: {match[0].decode()}"
            try:
                text = store.read(match[0].decode()).decode("utf-8-sig")
                read = csv.DictReader(io.StringIO(text, newline=""), strict=True)
                table = list(read)
            except (UnicodeDecodeError, csv.Error) as error:
                raise ValueError(f"{where}: not a CSV table: {error}") from None
            if "id" not in (read.fieldnames or []):
                raise ValueError(f"{where}: expected a column id")
            for row in table:
                if None in row or None in row.values():
                    raise ValueError(
                        f"{where}: the row of {row['id']!r} has too many or few values"
                    )
                if rows.setdefault(row["id"], row) != row:
                    raise ValueError(f"{where}: the id {row['id']!r} has two different rows")
            columns |= dict.fromkeys(read.fieldnames)
    missing = next((c for row in rows.values() for c in columns if c not in row), None)
    if missing:
        raise ValueError(f"{template}: only some of these files have a column {missing}")
    return rows, list(columns)


def _find_images(
    stores: list[Store],
    task: Task,
    pattern: re.Pattern[bytes],
    divide: Callable[[re.Match[bytes]], bytes],
) -> _Images:
    """Every member that the image template fits and no target template fits more closely."""
    closer = [
        _compile_lines(output.files)
        for output in task.outputs
        if len(_FIELD.sub("", output.files)) > len(_FIELD.sub("", task.image))
    ]  # bg_fg_{part}/{key}.jpg fits masks too, but bg_fg_mask_{part}/{key}.jpg says more of a name
    shards, members, names, texts = [], [], [], []
    for number, store in enumerate(stores):
        starts, found, decisive = array("q"), [], []
        for match in pattern.finditer(store.names().blob):
            if any(target.match(match[0]) for target in closer):
                continue
            starts.append(match.start())
            found.append(match[0])
            decisive.append(divide(match))
        shards.append(np.full(len(found), number, np.int32))
        members.append(_member_of(store, starts))
        names.append(np.array(found, "S"))  # fixed width: no Python object a name is kept
        texts.append(np.array(decisive, "S"))
    order = np.argsort(np.concatenate(names), kind="stable")
    columns = [shards, members, names, texts]
    del shards, members, names, texts  # each column is freed as soon as it is sorted
    return _Images(*(np.concatenate(columns.pop(0))[order] for _ in _Images._fields))


def _member_of(store: Store, starts: array) -> np.ndarray:
    """Member numbers, int64, of the names that begin at these places of the blob."""
    return np.searchsorted(store.names().starts, np.array(starts, np.int64)).astype(np.int64)


def _choose(
    images: _Images, task: Task, split: str, split_by: tuple[str, str] | None
) -> np.ndarray:
    """Bool (n): which images belong to the split; ValueError if none does."""
    number, has_split = len(images.shard), "{split}" in task.image
    if split_by is None and has_split:
        if split not in task.splits:
            raise ValueError(f"split {split!r}: expected one of {', '.join(task.splits)}")
        mask = images.text == task.splits[split].encode()
        if not mask.any():
            raise ValueError(
                f"split {split!r} has no sample: no image where {{split}} is "
                f"{task.splits[split]!r}, found {_values(images.text)}"
            )
        return mask
    if split not in ("train", "val"):
        raise ValueError(
            f"split {split!r} has no sample: {task.image} names no split, so that there are "
            "train and val only"
            if split_by is None
            else f"split {split!r} has no sample: a split by {split_by[0]} gives train and val only"
        )
    if split_by is not None:
        is_val = images.text == split_by[1].encode()
        if not is_val.any():
            raise ValueError(
                f"split by {split_by[0]}: no sample has the value {split_by[1]!r}, "
                f"expected one of {_values(images.text)}"
            )
    else:
        if number < 2:
            raise ValueError(f"{number} sample fits {task.image}, expected at least two to split")
        is_val = _tail(number, task) if task.split == "tail" else _hashed(images.text, task)
    mask = is_val if split == "val" else ~is_val
    if not mask.any():
        raise ValueError(f"split {split!r} has no sample: all {number} are on the other side")
    return mask


def _num_val(groups: int, task: Task) -> int:
    return min(max(1, round(task.val_share * groups)), groups - 1)


def _tail(number: int, task: Task) -> np.ndarray:
    return np.arange(number) >= number - _num_val(number, task)


def _hashed(texts: np.ndarray, task: Task) -> np.ndarray:
    """Bool (n): the groups whose BLAKE2b hash comes first, so that the same names split alike."""
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    hashes = np.fromiter((int.from_bytes(d, "big") for d in digests), np.uint64, len(texts))
    groups = np.unique(hashes)
    if len(groups) < 2:
        raise ValueError(f"{task.image}: all samples are in one group, expected at least two")
    return hashes < groups[_num_val(len(groups), task)]


def _find_targets(
    stores: list[Store],
    task: Task,
    output: Output,
    pattern: re.Pattern[bytes],
    images: _Images,
    chosen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Shard int32 and member int64 of the target of each chosen image."""
    files = _compile_lines(output.files)
    fields = [name for name in files.groupindex if name in pattern.groupindex]
    if not fields:
        raise ValueError(f"output {output.name}: {output.files} shares no field with {task.image}")
    shards, members, keys = [], [], []
    for number, store in enumerate(stores):
        starts, found = _hash_fields(files.finditer(store.names().blob), fields)
        shards.append(np.full(len(starts), number, np.int32))
        members.append(_member_of(store, starts))
        keys.append(found)
    shard, member = np.concatenate(shards), np.concatenate(members)
    keys = np.concatenate(keys, axis=1)
    del shards, members
    wanted = _hash_fields(map(pattern.match, images.name), fields)[1]
    first, second = _join(images.shard, wanted, shard, keys)
    first, second = first[chosen], second[chosen]
    for i in np.flatnonzero((first < 0) | (second >= 0))[:1]:
        image = images.name[chosen[i]]
        where = f"{stores[images.shard[chosen[i]]].path}: {image.decode()}: "
        if first[i] < 0:
            expected = _fill(output.files, pattern.match(image))
            raise ValueError(f"{where}no target for {output.name}, expected {expected}")
        both = (
            f"{stores[shard[at]].path}: {stores[shard[at]].names()[member[at]]}"
            for at in (first[i], second[i])
        )
        raise ValueError(f"{where}two targets for {output.name}: {' and '.join(both)}")
    return shard[first], member[first]


def _fill(template: str, match: re.Match[bytes]) -> str:
    """The template with what is known of the name filled in."""
    fields = {name: text.decode() for name, text in match.groupdict().items()}
    return match[1].decode() + _FIELD.sub(lambda field: fields.get(field[1], field[0]), template)


def _hash_fields(
    matches: Iterable[re.Match[bytes]], fields: Sequence[str]
) -> tuple[array, np.ndarray]:
    """Where matches begin; uint64 (2, n): hashes of (leading folder, fields) and of the fields.

    Python's own hash, 64 bits, keyed anew in each process: nobody can prepare names that collide,
    and 2.4 million names do so by chance once in some million runs. It is never stored.
    """
    starts, near, far = array("q"), array("q"), array("q")
    for match in matches:
        texts = match.group(*fields)
        starts.append(match.start())
        near.append(hash((match[1], texts)))
        far.append(hash((texts,)))
    return starts, np.array([near, far], np.int64).view(np.uint64)


def _join(
    image_shard: np.ndarray, wanted: np.ndarray, shard: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions int64 (n images) of the target and of a second one that fits as well, -1 for none.

    wanted uint64 (2, n images) and keys uint64 (2, n targets) come from `_hash_fields`.
    """
    first = np.full(len(image_shard), -1)
    second, free = first.copy(), np.ones(len(shard), bool)

    def link(images: np.ndarray, targets: np.ndarray, row: int) -> None:
        images, targets = images[first[images] < 0], targets[free[targets]]
        targets = targets[np.argsort(keys[row][targets], kind="stable")]
        offered, sought = keys[row][targets], wanted[row][images]
        begin = np.searchsorted(offered, sought)
        count = np.searchsorted(offered, sought, "right") - begin
        first[images[count > 0]] = targets[begin[count > 0]]
        second[images[count > 1]] = targets[begin[count > 1] + 1]
        free[first[images[count > 0]]] = False

    for row in (0, 1):  # the same folder of the same shard, then the same shard, then anywhere
        for number in np.unique(shard):
            link(np.flatnonzero(image_shard == number), np.flatnonzero(shard == number), row)
    link(np.flatnonzero(first < 0), np.flatnonzero(free), 1)
    return first, second


def _values(texts: np.ndarray) -> str:
    """The distinct values, as an error lists them."""
    values = [value.decode() for value in np.unique(texts)]
    more = [f"and {len(values) - _SHOWN} more"] if len(values) > _SHOWN else []
    return ", ".join(values[:_SHOWN] + more)


def _paths(stores: list[Store]) -> str:
    more = [f"and {len(stores) - _SHOWN} more"] if len(stores) > _SHOWN else []
    return ", ".join([str(store.path) for store in stores[:_SHOWN]] + more)
