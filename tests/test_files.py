"""A file is whole and on the disk, or it is the old one."""

import os
import stat

import pytest

from utils.files import write_whole


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
