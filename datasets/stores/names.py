"""Encoded member names go in; a sequence of str in one blob, searchable whole, comes out."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.task import UserError

MAX_NAME = 1000  # bytes of a member name

# Names are held a line each. Not in one: a root, a drive, `..`, a backslash, a control character.
# Each pattern begins with what is rare, so that a million names are searched in a second.
_REFUSED = (
    re.compile(rb"\n(?:/|\n|[A-Za-z]:/)"),
    re.compile(rb"[\\\x00-\x09\x0b-\x1f\x7f]"),
    re.compile(rb"\.\.(?<=[\n/]\.\.)(?=[\n/])"),
)


class Names(Sequence[str]):
    """Member names in one UTF-8 blob: about 30 bytes a name, where a list of str takes 100.

    blob: bytes (or a view of them), every name followed by a newline. starts: unsigned (n + 1),
    name i is `blob[starts[i] : starts[i + 1] - 1]`. Both are plain values that an index can search
    whole.
    """

    def __init__(self, blob: bytes | memoryview, starts: np.ndarray) -> None:
        self.blob = blob
        self.starts = starts
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # hashes, positions; made by find

    @classmethod
    def collect(cls, path: Path | str, names: Iterable[bytes]) -> Names:
        """Join encoded names; UserError names the shard and the name that cannot be a member."""
        blob, lengths = bytearray(), array("q", [0])
        for name in names:
            if b"\n" in name or len(name) > MAX_NAME:
                raise UserError(
                    f"{path}: {name[:80]!r}: expected a name of one line, at most {MAX_NAME} bytes"
                )
            blob += name
            blob.append(10)
            lengths.append(len(name) + 1)
        starts = np.cumsum(lengths, dtype=np.uint32 if len(blob) < 2**32 else np.uint64)
        names = cls(bytes(blob), starts)
        names._check(path)
        return names

    def _check(self, path: Path | str) -> None:
        """Refuse unsafe names, names that are not UTF-8, and duplicates."""
        lines = b"\n" + self.blob
        for bad in filter(None, (pattern.search(lines) for pattern in _REFUSED)):
            at = max(bad.end() - 2, 0)  # a byte of the name, or the newline of an empty one
            name = self.raw(int(np.searchsorted(self.starts, at, "right")) - 1)
            raise UserError(f"{path}: {name!r}: expected a relative name without '..' or '\\'")
        try:
            lines.decode("utf-8")
        except UnicodeDecodeError as error:
            name = self.raw(int(np.searchsorted(self.starts, error.start - 1, "right")) - 1)
            raise UserError(f"{path}: {name!r}: the name is not UTF-8") from None
        hashes, order = self._hashes_in_order()
        seen = set()
        for at in np.flatnonzero(hashes[1:] == hashes[:-1]) + 1:
            if at < 2 or hashes[at - 1] != hashes[at - 2]:  # a new run of equal hashes
                seen = {self.raw(order[at - 1])}
            if (name := self.raw(order[at])) in seen:
                raise UserError(f"{path}: {name.decode()}: the name occurs twice")
            seen.add(name)

    def raw(self, index: int) -> bytes:
        """The encoded name at 0 <= index < len."""
        return bytes(self.blob[self.starts.item(index) : self.starts.item(index + 1) - 1])

    def find(self, name: str) -> int:
        """Position of a name, -1 where there is none. A process's first call sorts the hashes."""
        if self._sorted is None:
            self._sorted = self._hashes_in_order()
        hashes, order = self._sorted
        try:
            wanted = name.encode("utf-8")
        except UnicodeEncodeError:  # lone surrogates: no member has such a name
            return -1
        sought = _hash_lines(wanted + b"\n", np.array([0, len(wanted) + 1], np.uint32))[0]
        for at in range(int(np.searchsorted(hashes, sought)), len(hashes)):
            if hashes[at] != sought:
                break
            if self.raw(order[at]) == wanted:
                return int(order[at])
        return -1

    def hashes(self) -> np.ndarray:
        """uint64 (n): equal names have equal hashes; names with equal hashes need a look."""
        return _hash_lines(self.blob, self.starts)

    def _hashes_in_order(self) -> tuple[np.ndarray, np.ndarray]:
        hashes = self.hashes()
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order.astype(np.uint32)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        """A name, or a list of names for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.raw(index % len(self)).decode()

    def __iter__(self) -> Iterator[str]:
        return (self.raw(i).decode() for i in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) >= 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Names, (bytes(self.blob), self.starts)


def _hash_lines(blob: bytes | memoryview, starts: np.ndarray) -> np.ndarray:
    """uint64 (n): a multiply-xor hash of each line, eight bytes a step. Verify what it finds."""
    words = np.ndarray((len(blob),), "<u8", b"".join((blob, bytes(8))), strides=(1,))  # every byte
    begin = starts[:-1].astype(np.int64)
    lengths = np.diff(starts).astype(np.int64) - 1
    hashes = lengths.astype(np.uint64)
    for done in range(0, int(lengths.max(initial=0)), 8):
        on = np.flatnonzero(lengths > done)
        unused = (8 - np.minimum(lengths[on] - done, 8)).astype(np.uint64)
        mixed = hashes[on] ^ (words[begin[on] + done] << (unused * np.uint64(8)))
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        hashes[on] = mixed ^ (mixed >> np.uint64(29))
    return hashes
