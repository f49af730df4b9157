"""Holds millions of member names in little memory, searchable in one blob.

This is the door of every kind of store: what is a member's name, and what is none, is said here.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from datasets.task import UserError

MAX_NAME = 1000  # bytes of a member name

# Names are held a line each. Each pattern begins with what is rare, or is made of plain texts, so
# that a million names are searched in a second.
# What no store lists (in lower case): hidden files, and what systems leave among those of a user.
SKIPPED = re.compile(
    rb"[/\n](?:\.(?!\.?[/\n])|(?:__macosx|@eadir|\$recycle\.bin|system volume information"
    rb"|lost\+found|#recycle|#snapshot|@recycle|thumbs\.db|ehthumbs\.db|ehthumbs_vista\.db"
    rb"|desktop\.ini|icon\r)(?=[/\n]))"
)
_FOLDER = re.compile(rb"/(?<=[^/\n]/)(?=\n)")
_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}
# Not in a name: a root, a drive, `..`, a control character.
_REFUSED = (
    re.compile(rb"\n(?:/|\n|[A-Za-z]:/)"),
    re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]"),
    re.compile(rb"\.\.(?<=[\n/]\.\.)(?=[\n/])"),
)


def spelled(name: bytes) -> bytes:
    """A name as all are compared: `/` between folders, composed characters (NFC). What is not UTF-8
    stays as it is."""
    if name.isascii() and b"\\" not in name:
        return name
    try:
        return unicodedata.normalize("NFC", name.decode()).encode().replace(b"\\", b"/")
    except UnicodeDecodeError:
        return name


def of_a_file(name: bytes) -> bytes:
    """A file's own name as a member's: one from an old disk, which is not UTF-8, is in Latin-1; its
    control characters, a line end too, are pictures of such (U+2400 on)."""
    if name.isascii() and name.decode().isprintable():
        return name
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("latin-1")
    return text.translate(_PICTURES).encode()


class Names(Sequence[str]):
    """Member names in one UTF-8 blob: about 30 bytes a name, where a list of str takes 100.

    blob: bytes (or a view of them), every name followed by a newline. starts: unsigned (n + 1),
    name i is `blob[starts[i] : starts[i + 1] - 1]`. Both are plain values that an index can search
    whole.
    """

    def __init__(self, blob: bytes | memoryview, starts: np.ndarray) -> None:
        self.blob = blob
        self.starts = starts

    @classmethod
    def collect(cls, path: Path | str, names: Iterable[bytes]) -> tuple[Self, np.ndarray]:
        """The encoded names, `spelled`, and which they are of those given, int64 (n): folders and
        SKIPPED are left out. UserError names the shard, and the name that cannot be a member or
        that there is none."""
        blob, lengths, distinct = bytearray(), array("q", [0]), set()
        for name in map(spelled, names):
            if b"\n" in name or len(name) > MAX_NAME:
                raise UserError(
                    f"{path}: {name[:80]!r}: expected a name of one line, at most {MAX_NAME} bytes"
                )
            blob += name
            blob.append(10)
            lengths.append(len(name) + 1)
            distinct.add(name)
        starts = np.cumsum(lengths, dtype=np.uint32 if len(blob) < 2**32 else np.uint64)
        listed = cls(bytes(blob), starts)
        if len(distinct) < len(listed):
            name = Counter(map(listed.raw, range(len(listed)))).most_common(1)[0][0]
            raise UserError(f"{path}: {name.decode(errors='replace')}: the name occurs twice")
        lines = b"\n" + blob.lower()
        skipped = [match.start() for each in (SKIPPED, _FOLDER) for match in each.finditer(lines)]
        usable = np.delete(np.arange(len(listed)), np.searchsorted(starts, skipped, "right") - 1)
        if not len(usable):
            raise UserError(f"{path}: holds no files")
        if skipped:
            return cls.collect(path, map(listed.raw, usable))[0], usable
        listed._check(path)
        return listed, usable

    def _check(self, path: Path | str) -> None:
        """Refuse unsafe names and names that are not UTF-8."""
        lines = b"\n" + self.blob
        for bad in filter(None, (pattern.search(lines) for pattern in _REFUSED)):
            at = max(bad.end() - 2, 0)  # a byte of the name, or the newline of an empty one
            name = self.raw(int(np.searchsorted(self.starts, at, "right")) - 1)
            raise UserError(f"{path}: {name!r}: expected a relative name without '..'")
        try:
            lines.decode("utf-8")
        except UnicodeDecodeError as error:
            name = self.raw(int(np.searchsorted(self.starts, error.start - 1, "right")) - 1)
            raise UserError(f"{path}: {name!r}: the name is not UTF-8") from None

    def columns(self) -> dict[str, np.ndarray]:
        """Both as arrays, `names` and `starts`, which an index keeps."""
        return {"names": np.frombuffer(self.blob, np.uint8), "starts": self.starts}

    def raw(self, index: int) -> bytes:
        """The encoded name at 0 <= index < len."""
        return bytes(self.blob[self.starts.item(index) : self.starts.item(index + 1) - 1])

    def find(self, name: str) -> int:
        """Position of a name, -1 where there is none; looks through all of them."""
        if "\n" in name:
            return -1
        line = b"\n" + spelled(name.encode("utf-8", "surrogatepass")) + b"\n"
        at = (b"\n" + bytes(self.blob)).find(line)
        return int(np.searchsorted(self.starts, at)) if at >= 0 else -1

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

    def __reduce__(self) -> tuple[Any, ...]:
        return Names, (bytes(self.blob), self.starts)
