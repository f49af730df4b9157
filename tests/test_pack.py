"""Packing: any store becomes one shard with the same bytes each time, or nothing is left."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datasets import pack
from datasets.pack import write_hdf5, write_zip
from datasets.stores import open_stores

RNG = np.random.default_rng(1)
MEMBERS = {f"image/{i}.png": RNG.integers(0, 256, 500, np.uint8).tobytes() for i in range(9)}
WRITERS = {"s.zip": write_zip, "s.h5": write_hdf5}


def contents(path):
    return {name: store.read(name) for store in open_stores([path]) for name in store.names()}


@pytest.mark.parametrize("shard", WRITERS)
def test_equal_members_give_equal_files(shard, tmp_path):
    for folder in ("one", "two"):
        WRITERS[shard](tmp_path / folder / shard, iter(MEMBERS.items()))
    assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
    assert contents(tmp_path / "one" / shard) == MEMBERS
    assert list((tmp_path / "one").iterdir()) == [tmp_path / "one" / shard]


def test_hdf5_costs_little_more_than_its_bytes(tmp_path):
    write_hdf5(tmp_path / "s.h5", ((f"{i}.jpg", bytes(20_000)) for i in range(100)))
    assert (tmp_path / "s.h5").stat().st_size < 1.01 * 100 * 20_000


@pytest.mark.parametrize("shard", WRITERS)
def test_members_of_no_bytes(shard, tmp_path):
    WRITERS[shard](tmp_path / shard, [("a", b""), ("b", b"")])
    assert contents(tmp_path / shard) == {"a": b"", "b": b""}


@pytest.mark.parametrize("shard", WRITERS)
@pytest.mark.parametrize(
    ("members", "what"),
    [
        ([("a", b"1"), ("b", b"2"), ("a", b"3")], "a: the name occurs twice"),
        ([("../a", b"1")], "relative name"),
        ([("a\udcff", b"1")], "not UTF-8"),
        ([], "no members"),
    ],
)
def test_a_failed_write_leaves_what_was_there(shard, members, what, tmp_path):
    (tmp_path / shard).write_bytes(b"before")
    with pytest.raises(ValueError, match=what) as caught:
        WRITERS[shard](tmp_path / shard, members)
    assert str(caught.value).startswith(str(tmp_path / shard))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("shard", WRITERS)
def test_an_interrupted_write_leaves_nothing(shard, tmp_path):
    def members():
        yield "a", b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WRITERS[shard](tmp_path / shard, members())
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"s\.zip: cannot be written"):
        write_zip(tmp_path / "file" / "s.zip", MEMBERS.items())


def fill(folder):
    for name, data in MEMBERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_folder_to_zip_to_hdf5_and_back(tmp_path, capsys):
    source = fill(tmp_path / "source")
    assert pack.main([str(source), str(tmp_path / "a.zip")]) == 0
    assert "a.zip: 9 members, 4500 bytes before," in capsys.readouterr().out
    assert pack.main([str(tmp_path / "a.zip"), str(tmp_path / "b.h5")]) == 0
    assert pack.main([str(tmp_path / "b.h5"), str(tmp_path / "c.zip")]) == 0
    assert contents(tmp_path / "b.h5") == MEMBERS
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()


def test_several_sources_in_one_shard(tmp_path):
    write_zip(tmp_path / "a.zip", [("a", b"1")])
    write_hdf5(tmp_path / "b.h5", [("b", b"22")])
    packed = pack.pack([tmp_path / "a.zip", tmp_path / "b.h5"], tmp_path / "both.zip")
    assert contents(tmp_path / "both.zip") == {"a": b"1", "b": b"22"}
    assert packed.members == 2
    assert packed.before == sum((tmp_path / n).stat().st_size for n in ("a.zip", "b.h5"))
    assert packed.after == (tmp_path / "both.zip").stat().st_size


def test_command_refuses_in_one_line(tmp_path, capsys):
    source, target = fill(tmp_path / "source"), tmp_path / "t.zip"
    write_zip(target, [("image/1.png", b"old")])
    for arguments, what in (
        ([source, target], "t.zip: already there; --force"),
        ([source, tmp_path / "t.tar"], "t.tar: expected"),
        ([tmp_path / "absent", tmp_path / "u.zip"], "absent: no such file or folder"),
        ([target, target, "--force"], "t.zip: is also a source"),
        ([source, target, tmp_path / "u.h5"], "image/1.png: is in"),
    ):
        assert pack.main([str(a) for a in arguments]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert what in printed.err
        assert printed.err.count("\n") == 1
    assert contents(target) == {"image/1.png": b"old"}
    assert not (tmp_path / "u.h5").exists()
    assert pack.main([str(source), str(target), "--force"]) == 0
    assert contents(target) == MEMBERS


def test_a_damaged_source_is_named(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.bin", b"payload")
    raw = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"payload", b"paxload"))
    assert pack.main([str(tmp_path / "a.zip"), str(tmp_path / "b.h5")]) == 2
    assert "a.zip: x.bin: damaged" in capsys.readouterr().err
    assert not (tmp_path / "b.h5").exists()


def test_a_shard_that_reads_back_wrong_is_an_error(tmp_path, monkeypatch, capsys):
    def flaky_disk(path, members):
        write_hdf5(path, members)
        path.write_bytes(path.read_bytes().replace(b"payload", b"paxload"))

    monkeypatch.setattr(pack, "write_hdf5", flaky_disk)
    write_zip(tmp_path / "a.zip", [("x.bin", b"payload")])
    assert pack.main([str(tmp_path / "a.zip"), str(tmp_path / "b.h5")]) == 2
    assert "b.h5: x.bin: damaged" in capsys.readouterr().err


def test_the_module_runs_as_a_command(tmp_path):
    source = fill(tmp_path / "source")
    command = [sys.executable, "-m", "datasets.pack", str(source), str(tmp_path / "a.h5")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert contents(tmp_path / "a.h5") == MEMBERS
