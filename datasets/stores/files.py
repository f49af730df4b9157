"""Files of which any process reads bytes at any offset."""

import os
import threading
import weakref
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from datasets.task import UserError

MOST_OPEN = 4096  # files that a process reads from, of half of what the system allows
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


def _read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """Up to `size` bytes from there on. Without pread, on Windows, threads take turns."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _SEEKING:
        file.seek(offset)
        return file.read(size)


class LocalFile:
    """Bytes of a file at any offset. It is opened when read, and closed when others need its handle
    more; none is pickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder, self.name = path.parent, path.name  # an index of it is kept there, so named
        self._file: BinaryIO | None = None

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
            file = self._file or self._open()
            data = _read_at(file, size, offset)
            while len(data) < size:  # one call gives at most 2 GiB
                more = _read_at(file, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        return data

    def _open(self) -> BinaryIO:
        while len(_open_files) >= _most_open():
            oldest = _open_files.popleft()()
            if oldest:
                oldest._file = None  # closed once nobody reads from it
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        _open_files.append(weakref.ref(self))
        return self._file

    def as_file(self, length: int) -> Path:
        """What h5py opens."""
        return self.path

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _most_open() -> int:
    try:
        import resource  # Windows has none, and a limit of thousands
    except ImportError:
        return MOST_OPEN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_OPEN if limit < 0 else min(max(limit // 2, 1), MOST_OPEN)
