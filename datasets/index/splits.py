"""Divides samples into training, validation and test."""

import csv
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from datasets.index.templates import compile_lines
from datasets.json_values import short
from datasets.stores import Store
from datasets.stores.names import MAX_NAME
from datasets.task import Task, UserError

MAX_TABLE = 2**26  # bytes of a table: it takes some ten times as much memory
_SHOWN = 12  # values listed in an error

_TRAIN, _OTHERS = {"train", "training"}, {"val", "valid", "validation", "dev", "test", "testing"}
SPLIT_LIST = re.compile(
    rf"(?:.*/)?(?:{'|'.join(_TRAIN | _OTHERS)})\.(?:txt|lst|csv)", re.IGNORECASE
)

Divider = Callable[[re.Match[bytes]], bytes | None]


def divider(
    stores: list[Store],
    task: Task,
    pattern: re.Pattern[bytes],
    split_by: tuple[str, str] | None,
) -> Divider:
    """A function from an image's match to the text that decides its split.

    A split by a field divides what the names call train and val; for images of a test split, which
    no such split may take, the function gives None.
    """
    fields = pattern.groupindex
    if split_by is None:
        if task.split == "tail" and "split" not in fields:
            return lambda match: b""
        field = next(field for field in ("split", "group", "key") if field in fields)
        return lambda match: match[field]
    read = field_reader(stores, task, fields, split_by[0], f"split by {split_by[0]!r}")

    def divide(match: re.Match[bytes]) -> bytes:
        text = read(match)
        if text is None:
            key, name = match["key"].decode(), match[0].decode()
            raise UserError(f"{name}: {task.metadata} has no row with the id {key!r}")
        return text

    test = task.splits.get("test", "")
    others = {value for name, value in task.splits.items() if name != "test"}
    if "split" not in fields or not test or test in others:
        return divide
    return lambda match: None if match["split"] == test.encode() else divide(match)


def field_reader(
    stores: list[Store], task: Task, fields: Mapping[str, int], field: str, asker: str
) -> Divider:
    """A function from an image's match to the value of a field of the name, else of the metadata's
    column; None where that has no row for it. fields: those of the name. UserError, which begins
    with `asker`: there is no such field."""
    if field in fields:
        return lambda match: match[field]
    rows, columns = _read_metadata(stores, task.metadata) if task.metadata else ({}, [])
    if field not in columns:
        known = ", ".join([*fields, *columns])[:400]
        absent = f" ({task.metadata} was not found)" if task.metadata and not columns else ""
        raise UserError(f"{asker}: no such field, expected one of {known}{absent}")

    def look_up(match: re.Match[bytes]) -> bytes | None:
        row = rows.get(match["key"].decode())
        text = b"" if row is None else row[field].encode()
        if len(text) > MAX_NAME:  # all are kept as wide as the widest
            raise UserError(f"{asker}: {short(row[field])}: expected at most {MAX_NAME} bytes")
        return None if row is None else text

    return look_up


def _read_metadata(
    stores: list[Store], template: str
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Rows by id and the columns, from every CSV of that name; UserError names one that is not."""
    pattern, rows, columns = compile_lines(template), {}, {}
    for store in stores:
        for match in pattern.finditer(store.names().blob):
            where = f"{store.path}: {match[0].decode()}"
            try:
                data = store.read(match[0].decode())
                if len(data) > MAX_TABLE:
                    raise UserError(f"{where}: {len(data)} bytes, expected at most {MAX_TABLE}")
                text = re.sub(r"\Asep=.\r?\n", "", _text(data))
                comma = max(",;\t", key=text.partition("\n")[0].count)
                lines = io.StringIO(text, newline="")
                read = csv.DictReader(
                    lines, delimiter=comma, strict=True, skipinitialspace=comma != "\t"
                )
                names = read.fieldnames = [name.strip() for name in read.fieldnames or ()]
                table = list(read)
            except (UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"{where}: not a CSV table in UTF-8: {error}") from None
            if "id" not in names:
                found = ", ".join(names or ["none"])[:200]
                raise UserError(f"{where}: expected a column id, found {found}")
            if twice := [name for name, num in Counter(names).items() if name and num > 1]:
                raise UserError(f"{where}: two columns are called {twice[0]}")
            for row in table:
                if None in row or None in row.values():
                    raise UserError(f"{where}: the row of {row['id']!r} has too many or few values")
                row = {name: value.strip() for name, value in row.items()}
                if rows.setdefault(row["id"], row) != row:
                    raise UserError(f"{where}: the id {row['id']!r} has two different rows")
            columns |= dict.fromkeys(names)
    missing = next((c for row in rows.values() for c in columns if c not in row), None)
    if missing:
        raise UserError(f"{template}: only some of these files have a column {missing}")
    return rows, list(columns)


def _text(data: bytes) -> str:
    """A table as spreadsheets write it: UTF-8, or UTF-16 where it begins so; composed as names."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return unicodedata.normalize("NFC", data.decode("utf-16" if wide else "utf-8-sig"))


def mixed_folders(train: Iterable[str], val: Iterable[str]) -> str:
    """What is to be said where folders in the image names of both sides say train, val or test, and
    the split does not keep to them."""
    sides = [{f.lower() for n in names for f in n.split("/")[:-1]} for names in (train, val)]
    if not (sides[0] & _OTHERS and sides[1] & _TRAIN):
        return ""
    folders = ", ".join(sorted((sides[0] | sides[1]) & (_TRAIN | _OTHERS)))
    return f"images of the folders {folders} are mixed: {{split}} in the templates keeps them apart"


def choose(
    texts: np.ndarray, task: Task, split: str, split_by: tuple[str, str] | None
) -> np.ndarray:
    """Bool (n): which images, in order of name, belong to the split; UserError if none does.

    texts: bytes (n), what the divider said of each.
    """
    number = len(texts)
    if split_by is None and "{split}" in task.image:
        if split not in task.splits:
            raise UserError(f"split {split!r}: expected one of {', '.join(task.splits)}")
        chosen = texts == task.splits[split].encode()
        if not chosen.any():
            raise UserError(
                f"split {split!r} has no sample: no image where {{split}} is "
                f'{task.splits[split]!r}, found {_values(texts)}; "splits" of the task names them, '
                "and without {split} some are drawn"
            )
        return chosen
    if split not in ("train", "val"):
        why = f"a split by {split_by[0]}" if split_by else f"{task.image} without {{split}}"
        raise UserError(f"split {split!r} has no sample: {why} gives train and val only")
    if split_by is not None:
        is_val = texts == unicodedata.normalize("NFC", split_by[1]).encode()
        if not is_val.any():
            raise UserError(
                f"split by {split_by[0]}: no sample has the value {split_by[1]!r}, "
                f"expected one of {_values(texts)}"
            )
    elif number < 2:
        raise UserError(f"{number} sample fits {task.image}, expected at least two to split")
    elif task.split == "tail":
        is_val = np.arange(number) >= number - _num_val(number, task.val_share)
    else:
        is_val = _hashed(texts, task)
    chosen = is_val if split == "val" else ~is_val
    if not chosen.any():
        raise UserError(f"split {split!r} has no sample: all {number} are on the other side")
    return chosen


def _num_val(groups: int, share: float) -> int:
    """At least one group, and never all."""
    return min(max(1, round(share * groups)), groups - 1)


def _hashed(texts: np.ndarray, task: Task) -> np.ndarray:
    """Bool (n): the groups whose BLAKE2b hash comes first, so that the same names split alike."""
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    hashes = np.fromiter((int.from_bytes(d, "big") for d in digests), np.uint64, len(texts))
    is_val = first_by_hash(hashes, task.val_share)
    if not is_val.any():
        raise UserError(f"{task.image}: all samples are in one group, expected at least two")
    return is_val


def first_by_hash(hashes: np.ndarray, share: float) -> np.ndarray:
    """Bool (n): this share of the distinct hashes, those that come first; none if all are equal."""
    groups = np.unique(hashes)
    return hashes < groups[_num_val(len(groups), share)]


def _values(texts: np.ndarray) -> str:
    """The distinct values, as an error lists them."""
    values = [value.decode() for value in np.unique(texts)]
    more = [f"and {len(values) - _SHOWN} more"] if len(values) > _SHOWN else []
    return ", ".join(values[:_SHOWN] + more)
