"""Writes files so that a crash leaves no half of one; makes folders, and locks them."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from datasets.task import UserError

LOCK = ".lock"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which is renamed at the end.

    A crash, a full disk or a power cut leaves the old file. An error leaves nothing behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # other processes have their own
    try:
        yield part
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


def write_whole(path: Path, data: bytes | Callable[[Path], None]) -> None:
    """As `written_whole`, these bytes, or what writes them to the path that it is given."""
    with written_whole(path) as part:
        if callable(data):
            data(part)
        else:
            part.write_bytes(data)


def check_folder(folder: Path) -> None:
    """UserError names what a run does not make: a link, through which it would write elsewhere, or
    a pipe, on which it would wait. wandb has links of its own in a folder of its own."""
    for path in (*folder.glob("*"), *folder.glob("samples/*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: a link or no regular file, expected what a run has written")


def new_folder(folder: Path) -> Path:
    """Make the folder, or the first of folder-2, folder-3, ... that is not there.

    Of runs that start at once, each has its own.
    """
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


def lock_folder(folder: Path) -> TextIO:
    """Make the folder this process's own until `unlock_folder`, or until the process ends, however
    it ends. UserError names the process whose it is.

    A lock on a record is not inherited by workers, which live on for seconds after their parent
    was killed. Where a file system has no locks, there is none. What a killed process was writing
    with `write_whole` is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:
            raise BlockingIOError  # its owner has just ended, and somebody may have another one
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(f"{folder}: {owner} is at work in it; wait for its end") from None
    except OSError:
        return file
    for part in folder.glob(".*.[0-9]*.part"):
        part.unlink(missing_ok=True)
    file.truncate(0)
    print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
    return file


def unlock_folder(folder: Path, lock: TextIO) -> None:
    """Leave the folder to others; what `lock_folder` gave is closed."""
    with suppress(OSError):
        (folder / LOCK).unlink()  # before the file is closed: afterwards it may be another's
    lock.close()
