"""Keeps indexes of large shards on disk, as arrays that any process maps.

An index is a copy of what its shards say, so it is trusted only if its key (sizes, times, format)
is theirs and its checksum is right. It is rebuilt in silence when not: it never causes an error.
Among the times is when a shard came to lie here, which nobody who sends one with an index can know.
"""

import json
import mmap
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from datasets.task import UserError
from utils.files import write_whole

FORMAT = 3  # raise it whenever what is stored, or how it is computed, changes
MIN_MEMBERS = 10_000  # smaller sets open in an instant: their folders stay as they are

_MAGIC = b"manyhead-index\r\n"
_HEAD = struct.Struct("<16sIQ")  # magic, CRC-32 of all that follows, bytes of the JSON header
_CHECKED = 20  # bytes before what the CRC-32 is of
_ALIGN = 64


class Columns(dict[str, np.ndarray]):
    """Arrays by name. Those of a file are mapped: processes share its pages, and pickle the path.

    path: the file, or None where the arrays are in memory. key: what the file is an index of.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        path: Path | None = None,
        key: Any = None,
        mapped: mmap.mmap | None = None,
    ) -> None:
        super().__init__(arrays)
        self.path, self.key, self._mapped = path, key, mapped

    def release(self) -> None:
        """After a pass over all of it: the memory of mapped pages goes back to the system, which
        keeps them or reads them again."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Columns, (dict(self),)
        return _load_again, (self.path, self.key)


def _load_again(path: Path, key: Any) -> Columns:
    """For another process: what this one has mapped; UserError if it is there no more."""
    columns = load(path, key)
    if columns is None:
        raise UserError(f"{path}: removed or replaced while a run was using it")
    return columns


def save(path: Path | None, key: Any, arrays: dict[str, np.ndarray]) -> Columns:
    """Write the arrays to a file and map them from it; as they are if it cannot be written.

    path: from `cache_path`, or None. key: plain JSON values.
    """
    if path is None:
        return Columns(arrays)

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            file.writelines(_encode(key, arrays))

    with suppress(OSError):  # no room, no right: the index stays in memory
        write_whole(path, write)
    return load(path, key) or Columns(arrays)


def _encode(key: Any, arrays: dict[str, np.ndarray]) -> list[bytes | memoryview]:
    """The parts of a file: head, JSON header, arrays at multiples of 64 bytes after it."""
    table, parts, at = [], [], 0
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        pad = -at % _ALIGN
        table.append([name, array.dtype.str, at + pad, len(array)])
        parts += [bytes(pad), memoryview(array.view(np.uint8))]
        at += pad + array.nbytes
    header = json.dumps({"format": FORMAT, "key": key, "arrays": table}).encode()
    header += b" " * (-(_HEAD.size + len(header)) % _ALIGN)
    crc = 0
    for part in [_HEAD.pack(_MAGIC, 0, len(header))[_CHECKED:], header, *parts]:
        crc = zlib.crc32(part, crc)
    return [_HEAD.pack(_MAGIC, crc, len(header)), header, *parts]


def load(path: Path | None, key: Any) -> Columns | None:
    """The arrays of this file; None if it is absent, damaged, or an index of something else."""
    if path is None:
        return None
    try:
        if not path.is_file():  # a pipe would never end
            return None
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, crc, size = _HEAD.unpack_from(mapped)
        view, begin = memoryview(mapped), _HEAD.size + size
        header = json.loads(bytes(view[_HEAD.size : begin])) if magic == _MAGIC else {}
        if header.get("key") != json.loads(json.dumps(key)) or header["format"] != FORMAT:
            return None
        if zlib.crc32(view[_CHECKED:]) != crc:
            return None
        arrays = {
            name: np.frombuffer(view[begin + at :], kind, length)
            for name, kind, at, length in header["arrays"]
            if at >= 0 and length
        }
    except (
        OSError,
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
        ArithmeticError,
        struct.error,
    ):
        return None  # absent, empty, or not what `save` writes
    columns = Columns(arrays, path, key, mapped)
    columns.release()  # the check read every page
    return columns


def cache_path(folder: Path | None, name: str) -> Path | None:
    """Where an index of that name lies; None without a folder, or in one that may not be written:
    a file that others put there would be believed."""
    if folder is None or not os.access(folder, os.W_OK):
        return None
    return folder / f".{name}.index"
