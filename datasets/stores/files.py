"""Files of which any process reads bytes at any offset."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from datasets.task import UserError

MOST_OPEN = 4096  # files that a process reads from, of half of what the system allows
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_SEEKING = threading.Lock()
_open_files: deque[weakref.ref["LocalFile"]] = deque()  # the longest open first


def shown(path: Path | str) -> Path | str:
    """A path for people: of an address, no user, no password, nothing of what follows `?`."""
    if isinstance(path, Path):
        return path
    parts = urlsplit(path)
    query = "?..." if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


class File(Protocol):
    """What a shard is read through: here a LocalFile, or a RemoteFile of `remote`.

    folder, name: an index of the file may be kept in this folder (None: nowhere) under this name.
    """

    path: Path | str
    folder: Path | None
    name: str

    def fingerprint(self) -> dict[str, Any]:
        """`size` in bytes, and what else changes when the file does."""

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the file's end."""

    def as_file(self, length: int) -> Path | BinaryIO:
        """What h5py opens."""


class _Handle(int):
    """An open file's number, closed once nobody reads from it. A read of one of hundreds of shards
    finds nothing in the processor's cache: this and slots are the fewest objects on its way."""

    __slots__ = ()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self)


if hasattr(os, "pread"):
    _read_at = os.pread
else:  # on Windows threads take turns

    def _read_at(handle: int, size: int, offset: int, /) -> bytes:
        with _SEEKING:
            os.lseek(handle, offset, os.SEEK_SET)
            return os.read(handle, size)


class LocalFile:
    """Bytes of a file at any offset. It is opened when read, and closed when others need its handle
    more; none is pickled."""

    __slots__ = ("__weakref__", "_handle", "folder", "name", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder, self.name = path.parent, path.name  # an index of it is kept there, so named
        self._handle: _Handle | None = None

    def fingerprint(self) -> dict[str, int]:
        """What changes when the file does: size in bytes, and in nanoseconds the time that it says
        it was changed and, which it cannot bring along, the time it came to be so here."""
        try:
            stat = os.stat(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        times = {"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
        return {"size": stat.st_size, **times}

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end. Moves no shared file position."""
        try:
            handle = self._handle
            if handle is None:
                handle = self._open()
            data = _read_at(handle, size, offset)
            while len(data) < size:  # one call gives at most 2 GiB
                more = _read_at(handle, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        return data

    def _open(self) -> _Handle:
        while len(_open_files) >= _most_open():
            oldest = _open_files.popleft()()
            if oldest:
                oldest._handle = None
        self._handle = handle = _Handle(os.open(self.path, _FLAGS))
        _open_files.append(weakref.ref(self))
        return handle

    def as_file(self, length: int) -> Path:
        """What h5py opens."""
        return self.path

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFile, (self.path,)


def _most_open() -> int:
    try:
        import resource  # Windows has none, and a limit of thousands
    except ImportError:
        return MOST_OPEN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_OPEN if limit < 0 else min(max(limit // 2, 1), MOST_OPEN)
