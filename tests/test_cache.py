"""The kept index: the same answers as without it, in any process; stale or damaged, rebuilt."""

import json
import multiprocessing
import os
import pickle
import struct

import numpy as np
import pytest

from datasets.index import find_samples, samples
from datasets.stores import Shard, index_cache, open_stores, write_hdf5, write_zip
from datasets.stores.index_cache import Columns
from datasets.task import Mask, Task

TASK = Task("t", "image/{key}.png", (Mask("m", "mask/{key}.png"),), "m/iou")
KEYS = [f"{i:03d}" for i in range(40)]
WRITERS = {"s.zip": write_zip, "s.h5": write_hdf5}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(index_cache, "MIN_MEMBERS", 20)


def members(keys=KEYS):
    return [(f"{f}/{key}.png", f"{f}{key}".encode()) for f in ("image", "mask") for key in keys]


def answers(path):
    """What a run sees: names, bytes, and the pairs of both splits."""
    (store,) = stores = open_stores([path])
    tables = [find_samples(stores, TASK, split) for split in ("train", "val")]
    pairs = [
        [(table.key(i), table.read(*table.target(i, "m"))) for i in range(len(table))]
        for table in tables
    ]
    return list(store.names()), [store.read_at(i) for i in range(len(store))], pairs


def kept(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".index"))


def forbid(monkeypatch):
    """From here on nothing may be indexed anew."""

    def fail(*args):
        raise AssertionError("indexed anew")

    for kind in Shard.__subclasses__():
        monkeypatch.setattr(kind, "_index", fail)
    monkeypatch.setattr(samples, "_find", fail)


@pytest.mark.parametrize("shard", WRITERS)
def test_a_kept_index_gives_the_same_answers(shard, tmp_path, monkeypatch):
    path = tmp_path / shard
    WRITERS[shard](path, members())
    with monkeypatch.context() as patch:
        patch.setattr(index_cache, "MIN_MEMBERS", 10**9)
        plain = answers(path)
        assert kept(tmp_path) == []
    assert answers(path) == plain
    assert kept(tmp_path)[0] == f".{shard}.index"
    assert [name[:9] for name in kept(tmp_path)[1:]] == [".samples-"] * 2
    assert not list(tmp_path.glob(".*.part"))
    forbid(monkeypatch)
    assert answers(path) == plain
    assert [store.path for store in open_stores([tmp_path])] == [path]  # no store of its own


@pytest.mark.parametrize("shard", WRITERS)
@pytest.mark.parametrize("change", ["content", "time"])
def test_a_changed_shard_is_indexed_anew(shard, change, tmp_path):
    path = tmp_path / shard
    WRITERS[shard](path, members())
    stat = path.stat()
    answers(path)
    WRITERS[shard](path, reversed(members(KEYS[:-1] if change == "content" else KEYS)))
    if change == "content":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    names, data, pairs = answers(path)
    assert names == [name for name, _ in members()[::-1] if change == "time" or "039" not in name]
    assert data == [name.replace("/", "")[:-4].encode() for name in names]
    assert len(pairs[0]) + len(pairs[1]) == len(names) // 2


def test_a_damaged_index_is_rebuilt(tmp_path):
    path = tmp_path / "s.zip"
    write_zip(path, members())
    plain = answers(path)
    for name in kept(tmp_path):
        good = (tmp_path / name).read_bytes()
        rng = np.random.default_rng(0)
        for at in rng.integers(0, len(good), 50):
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(8))
            (tmp_path / name).write_bytes(bad)
            assert answers(path) == plain
            assert (tmp_path / name).read_bytes() == good
        for size in [0, 1, 27, 28, *rng.integers(0, len(good), 20)]:
            (tmp_path / name).write_bytes(good[:size])
            assert answers(path) == plain
            assert (tmp_path / name).read_bytes() == good


def test_another_format_is_not_read(tmp_path, monkeypatch):
    made = index_cache.save(tmp_path / "x", {"size": 1}, {"a": np.arange(3)})
    assert made.path == tmp_path / "x"
    assert index_cache.load(tmp_path / "x", {"size": 1})["a"].tolist() == [0, 1, 2]
    assert index_cache.load(tmp_path / "x", {"size": 2}) is None
    assert index_cache.load(tmp_path / "x", None) is None
    monkeypatch.setattr(index_cache, "FORMAT", index_cache.FORMAT + 1)
    assert index_cache.load(tmp_path / "x", {"size": 1}) is None


def test_a_header_without_pickle(tmp_path):
    index_cache.save(
        tmp_path / "x", [1, "é"], {"a": np.arange(3, dtype=np.uint16), "b": np.ones(0)}
    )
    raw = (tmp_path / "x").read_bytes()
    size = struct.unpack_from("<Q", raw, 20)[0]
    header = json.loads(raw[28 : 28 + size])
    assert header["arrays"] == [["a", "<u2", 0, 3], ["b", "<f8", 64, 0]]
    assert (28 + size) % 64 == 0


def test_an_index_of_other_settings_is_not_mistaken(tmp_path):
    write_zip(tmp_path / "s.zip", members())
    stores = open_stores([tmp_path / "s.zip"])
    tenth = find_samples(stores, TASK, "val")
    half = find_samples(stores, Task(**{**vars(TASK), "val_share": 0.5}), "val")
    left_out = find_samples(stores, TASK, "val", ("key", "007"))
    assert [len(tenth), len(half), len(left_out)] == [4, 20, 1]


def test_a_folder_that_may_not_be_written_is_not_trusted(tmp_path, monkeypatch):
    path = tmp_path / "s.zip"
    write_zip(path, members())
    plain = answers(path)
    for name in kept(tmp_path):  # an index that lies: valid, of this shard, but of other contents
        found = index_cache.load(tmp_path / name, json_key(tmp_path / name))
        lie = {key: array[::-1].copy() for key, array in found.items()}
        index_cache.save(tmp_path / name, found.key, lie)
    before = {name: (tmp_path / name).read_bytes() for name in kept(tmp_path)}
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert answers(path) == plain
    assert {name: (tmp_path / name).read_bytes() for name in kept(tmp_path)} == before


def json_key(path):
    raw = path.read_bytes()
    return json.loads(raw[28 : 28 + struct.unpack_from("<Q", raw, 20)[0]])["key"]


def test_a_disk_without_room_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "s.zip"
    write_zip(path, members())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert len(answers(path)[0]) == 80
    assert list(tmp_path.iterdir()) == [path]


def test_workers_map_the_index_and_pickle_none_of_it(tmp_path):
    write_zip(tmp_path / "s.zip", members([f"{i:06d}" for i in range(3000)]))
    stores = open_stores([tmp_path / "s.zip"])
    table = find_samples(stores, TASK, "train")
    assert len(pickle.dumps(table)) < 4000
    again = pickle.loads(pickle.dumps(table))
    assert again.key(5) == table.key(5)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(table.key, (5,)) == table.key(5)
    for name in kept(tmp_path):
        (tmp_path / name).unlink()
    assert table.key(5) == again.key(5)  # what is mapped stays
    with pytest.raises(ValueError, match=r"\.index: removed or replaced while"):
        pickle.loads(pickle.dumps(table))


def test_columns_in_memory_pickle_their_arrays():
    columns = pickle.loads(pickle.dumps(Columns({"a": np.arange(3)})))
    assert columns["a"].tolist() == [0, 1, 2]
    columns.release()


def test_a_large_number_of_members_is_what_makes_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "MIN_MEMBERS", 81)
    write_zip(tmp_path / "s.zip", members())
    answers(tmp_path / "s.zip")
    assert kept(tmp_path) == []
