"""A file is whole and on the disk, or it is the old one; a folder is one process's at a time."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets.task import UserError
from utils.files import LOCK, lock_folder, unlock_folder, write_whole

REPOSITORY = Path(__file__).parents[1]
OWNER = """
import os, sys, time
from pathlib import Path
from utils.files import lock_folder
lock = lock_folder(Path(sys.argv[1]))
if not os.fork():
    time.sleep(20)  # a worker: it outlives its parent
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("data", [b"new", lambda path: path.write_bytes(b"new")])
def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch, data):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    order, replace, fsync = [], os.replace, os.fsync

    def synced(number):
        order.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def renamed(*names):
        order.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_whole(path, data)
    assert path.read_bytes() == b"new"
    assert order == ["file", "rename", "folder"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(part):
        part.write_bytes(b"ne")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX alone has such locks")
def test_a_folder_is_one_processs_until_it_dies(tmp_path):
    """A kill -9 frees it at once, though workers live on."""
    command = [sys.executable, "-c", OWNER, tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as owner:
        pid = owner.stdout.readline().strip()
        with pytest.raises(UserError, match=f"run: process {pid} on .* is at work in it"):
            lock_folder(tmp_path / "run")
        cut, own = (tmp_path / "run" / name for name in (f".last.pt.{pid}.part", ".my.part"))
        cut.touch()
        own.touch()
        begun = time.monotonic()
        owner.kill()
        owner.wait()
        lock = lock_folder(tmp_path / "run")
        assert time.monotonic() - begun < 10
        unlock_folder(tmp_path / "run", lock)
        owner.stdout.close()
    assert list((tmp_path / "run").iterdir()) == [own]  # and nothing of what it was writing


def test_a_lock_whose_file_has_just_gone_is_none(tmp_path, monkeypatch):
    """Between opening and locking, the owner ended and took its file away."""
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (tmp_path / LOCK).unlink())
    with pytest.raises(UserError, match="another process is at work in it"):
        lock_folder(tmp_path)


def test_a_file_system_without_locks_is_used_all_the_same(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    unlock_folder(tmp_path, lock_folder(tmp_path))
