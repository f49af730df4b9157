"""A file's content -> the file: whole and on the disk, or as it was before."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes | Callable[[Path], None]) -> None:
    """Write beside `path`, then rename: a crash, a full disk or a power cut leaves the old file.

    data: the bytes, or what writes them to the path that it is given. OSError, or whatever `data`
    raises, leaves nothing behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # other processes have their own
    try:
        if callable(data):
            data(part)
        else:
            part.write_bytes(data)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a rename may reach the disk before the bytes do
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    with suppress(OSError):  # not every system opens a folder, or syncs it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
