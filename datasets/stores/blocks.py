"""Parts of files elsewhere go in; a folder on this machine keeps them, up to so many bytes.

A file is kept in segments, sparse files in which blocks appear as they are read, followed by the
CRC-32 of each. A block whose CRC-32 is not right does not count as there, so processes may write at
once, and a crash, a full disk or a changed bit costs a request and never a wrong byte.

Why not fsspec's own `blockcache`: it has no limit, notes what it holds only when a file is closed,
which workers never do, and takes a block for there before it has come: after one request in ten
was lost, a seventh of the reads gave other bytes. `tests/bench/bench_remote.py` measures both.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from datasets.task import UserError

BLOCK = 2**16  # bytes: what is fetched is rounded up to these
BLOCKS = 256  # in a segment, the unit in which room is made
SEGMENT = BLOCK * BLOCKS
FOLDER_VARIABLE, LIMIT_VARIABLE = "MANYHEAD_CACHE", "MANYHEAD_CACHE_GIB"

Fetch = Callable[[int, int], bytes]  # (size, offset) -> exactly these bytes


class BlockCache:
    """At most about `limit` bytes in `folder`: the segments that were used last."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._unseen = limit  # bytes written since room was last looked for; all, to begin with
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be a cache: {error.strerror}") from None

    def read(self, name: str, length: int, size: int, offset: int, fetch: Fetch) -> bytes:
        """Bytes of the file kept under this name, `length` bytes long; `fetch` gets what is not
        there."""
        parts = []
        while size > 0:
            number, begin = divmod(offset, SEGMENT)
            count = min(size, SEGMENT - begin)
            path = self.folder / name / f"{number:06d}"
            end = min(length - number * SEGMENT, SEGMENT)  # of the segment
            parts.append(self._read(path, number * SEGMENT, end, begin, begin + count, fetch))
            offset, size = offset + count, size - count
        return b"".join(parts)

    def _read(
        self, path: Path, base: int, length: int, begin: int, end: int, fetch: Fetch
    ) -> bytes:
        """Bytes from begin to end of a segment that begins at `base` of its file."""
        first, last = begin // BLOCK, (end - 1) // BLOCK
        start, stop = first * BLOCK, min((last + 1) * BLOCK, length)
        data = bytearray(stop - start)
        missing = self._load(path, data, first, last)
        if missing:
            low, high = missing[0] * BLOCK, min((missing[-1] + 1) * BLOCK, length)
            fresh = fetch(high - low, base + low)
            data[low - start : high - start] = fresh
            self._save(path, fresh, missing[0])
        return bytes(data[begin - start : end - start])

    def _load(self, path: Path, data: bytearray, first: int, last: int) -> list[int]:
        """Fill `data` with the blocks from first to last that are there; the numbers of others."""
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(SEGMENT + 4 * first)
                crcs = file.read(4 * (last + 1 - first))
                file.seek(first * BLOCK)
                held = file.read(len(data))
            os.utime(path)  # used: others make room before it does
        except OSError:
            return list(range(first, last + 1))
        missing = []
        for number in range(first, last + 1):
            at = (number - first) * BLOCK
            block = held[at : at + BLOCK][: len(data) - at]
            crc = crcs[4 * (number - first) : 4 * (number - first) + 4]
            if crc == bytes(4) or crc != _crc(block) or len(block) < min(BLOCK, len(data) - at):
                missing.append(number)
            else:
                data[at : at + len(block)] = block
        return missing

    def _save(self, path: Path, data: bytes, first: int) -> None:
        """Keep whole blocks, the first of which has this number; in vain if there is no room."""
        crcs = b"".join(_crc(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            path.touch()
            with open(path, "rb+", buffering=0) as file:
                file.seek(first * BLOCK)
                file.write(data)
                file.seek(SEGMENT + 4 * first)
                file.write(crcs)
        self._unseen += len(data)
        if self._unseen >= self.limit // 64:
            self._make_room()
            self._unseen = 0

    def _make_room(self) -> None:
        """Remove the segments used longest ago until the rest is within the limit."""
        segments = []
        with suppress(OSError):  # of a folder that another process has just removed
            for path in self.folder.glob("*/[0-9]*"):
                with suppress(OSError):
                    stat = path.stat()
                    used = 512 * getattr(stat, "st_blocks", stat.st_size // 512)
                    segments.append((stat.st_mtime_ns, used, path))
        total = sum(size for _, size, _ in segments)
        for _, size, path in sorted(segments):
            if total <= self.limit:
                break
            with suppress(OSError):
                path.unlink()
            total -= size


def _crc(block: bytes) -> bytes:
    """CRC-32 in four bytes, never zero, which stands for a block that is not there."""
    return (zlib.crc32(block) or 1).to_bytes(4, "little")


def from_environment() -> BlockCache | None:
    """The cache that MANYHEAD_CACHE names, of MANYHEAD_CACHE_GIB (default 50); None without."""
    folder, limit = os.environ.get(FOLDER_VARIABLE), os.environ.get(LIMIT_VARIABLE, "50")
    if not folder:
        return None
    try:
        gib = float(limit)
    except ValueError:
        gib = math.nan
    if not 0 < gib < math.inf:
        raise UserError(f"{LIMIT_VARIABLE}: {limit!r}, expected a number of GiB")
    return BlockCache(Path(folder), int(gib * 2**30))
