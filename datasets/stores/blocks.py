"""Keeps parts of remote files in a folder on this machine, up to so many bytes.

Each block is a file that begins with the CRC-32 of the rest. One that is damaged does not count as
there, so a crash, a full disk or a changed bit costs a request and never a wrong byte.

Why not fsspec's own `blockcache`: it has no limit, notes what it holds only when a file is closed,
which workers never do, and takes a block for there before it has come: where one request in ten
is lost, one read in eight gave other bytes. `tests/bench/bench_remote.py` measures both.
"""

import math
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from datasets.task import UserError

BLOCK = 2**17  # bytes: what is fetched is rounded up to these
FOLDER_VARIABLE, LIMIT_VARIABLE = "MANYHEAD_CACHE", "MANYHEAD_CACHE_GIB"

Fetch = Callable[[int, int], bytes]  # (size, offset) -> exactly these bytes


class BlockCache:
    """At most about `limit` bytes in `folder`: the blocks that were read last."""

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
        if size <= 0:
            return b""
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        blocks = [_load(self.folder / name / str(i)) for i in range(first, last + 1)]
        missing = [first + i for i, block in enumerate(blocks) if block is None]
        if missing:
            low, high = missing[0] * BLOCK, min((missing[-1] + 1) * BLOCK, length)
            fresh = fetch(high - low, low)
            for i in range(missing[0], missing[-1] + 1):
                blocks[i - first] = block = fresh[i * BLOCK - low :][:BLOCK]
                self._save(self.folder / name / str(i), block)
        begin = offset - first * BLOCK
        return b"".join(blocks)[begin : begin + size]

    def _save(self, path: Path, block: bytes) -> None:
        """Keep a block; in vain if there is no room."""
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_bytes(_crc(block) + block)
            os.replace(part, path)
        except OSError:
            with suppress(OSError):
                part.unlink()
        self._unseen += len(block)
        if self._unseen >= self.limit // 64:
            self._make_room()
            self._unseen = 0

    def _make_room(self) -> None:
        """Remove the blocks read longest ago until the rest is within the limit."""
        blocks = []
        for folder in self.folder.iterdir():
            with suppress(OSError):  # an index, or what another process has just removed
                for entry in os.scandir(folder):
                    with suppress(OSError):
                        stat = entry.stat()
                        blocks.append((stat.st_mtime_ns, stat.st_size, entry.path))
        excess = sum(size for _, size, _ in blocks) - self.limit
        for _, size, path in sorted(blocks):
            if excess <= 0:
                break
            with suppress(OSError):
                os.unlink(path)
            excess -= size


def _load(path: Path) -> bytes | None:
    """A block as it was kept; None if it is absent or damaged."""
    try:
        data = path.read_bytes()
        os.utime(path)  # read: others make room before it does
    except OSError:
        return None
    return data[4:] if data[:4] == _crc(data[4:]) else None


def _crc(block: bytes) -> bytes:
    return zlib.crc32(block).to_bytes(4, "little")


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
