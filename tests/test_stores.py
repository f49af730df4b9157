"""Stores: a member's bytes come back unchanged, in any process, or an error names it."""

import ast
import io
import multiprocessing
import os
import pickle
import struct
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.stores import (
    FolderStore,
    Hdf5Store,
    ZipStore,
    files,
    open_stores,
    write_hdf5,
    write_zip,
)
from datasets.stores.names import Names
from datasets.stores.parquet import ParquetStore
from datasets.task import UserError

RNG = np.random.default_rng(0)
MEMBERS = {
    f"{folder}/{i:03d}.bin": RNG.integers(0, 256, 1 + 37 * i, np.uint8).tobytes()
    for folder in ("image", "mask", "tiefe-ä")
    for i in range(40)
} | {"empty.txt": b"", "long" * 60 + ".txt": b"a" * 5000}
KINDS = ("folder", "zip", "deflated", "h5")


def make(kind, path, members=MEMBERS):
    """The members as a store of this kind; its path."""
    if kind == "folder":
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    if kind == "h5":
        write_hdf5(path / "s.h5", members.items())
        return path / "s.h5"
    if kind == "zip":
        write_zip(path / "s.zip", members.items())
        return path / "s.zip"
    with zipfile.ZipFile(path / "s.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path / "s.zip"


def open_one(path):
    (store,) = open_stores([path])
    return store


def refused(path, *parts):
    """Opening fails with one line that begins with the path and holds the parts."""
    with pytest.raises(ValueError) as caught:
        open_stores([path])
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_bytes(kind, tmp_path):
    store = open_one(make(kind, tmp_path))
    assert sorted(store.names()) == sorted(MEMBERS)
    assert len(store) == len(MEMBERS)
    for i, name in enumerate(store.names()):
        assert store.read(name) == MEMBERS[name] == store.read_at(i)
        assert store.names().find(name) == i
        assert name in store.names()
    assert "nowhere" not in store.names()
    with pytest.raises(ValueError, match=r"nowhere\.png: no such member"):
        store.read("nowhere.png")
    assert store.names()[-1] == list(store.names())[-1]
    assert store.names()[1:3] == list(store.names())[1:3]


def test_a_name_is_found_whole_and_only_once(tmp_path):
    listed, _ = Names.collect(tmp_path, [b"a", b"ab/c", b"c", "ä".encode()])
    found = [listed.find(name) for name in ("a", "ab/c", "c", "ä", "b", "ab", "", "a\nab/c")]
    assert found == [0, 1, 2, 3, -1, -1, -1, -1]
    with pytest.raises(ValueError, match="a: the name occurs twice"):
        Names.collect(tmp_path, [b"a", b"b", b"a"])


def test_names_cost_few_bytes(tmp_path):
    names, _ = Names.collect(tmp_path, (b"depthMap/img_%06d.jpg" % i for i in range(10_000)))
    assert len(pickle.dumps(names)) < 30 * 10_000


def read_all(store, seed, results):
    """A worker: many reads in its own order; reports the names whose bytes differ."""
    order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(store)), 5))
    wrong = [store.names()[i] for i in order if store.read_at(int(i)) != MEMBERS[store.names()[i]]]
    results.put((os.getpid(), wrong))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_four_processes_read_one_store_at_once(start, kind, tmp_path):
    store = open_one(make(kind, tmp_path))
    store.read_at(3)  # the parent's handle is open when they start
    context = multiprocessing.get_context(start)
    results = context.Queue()
    workers = [context.Process(target=read_all, args=(store, n, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    reports = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len({pid for pid, _ in reports}) == 4
    assert [wrong for _, wrong in reports] == [[]] * 4
    assert store.read_at(3) == MEMBERS[store.names()[3]]


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_drops_handles(kind, tmp_path):
    store = open_one(make(kind, tmp_path))
    store.read("image/005.bin")
    copy = pickle.loads(pickle.dumps(store))
    assert kind == "folder" or copy._file._handle is None
    assert copy.read("image/005.bin") == MEMBERS["image/005.bin"]


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_most_open", lambda: 5)
    for n in range(20):
        write_zip(tmp_path / f"{n:02d}.zip", [("n.txt", b"%d" % n)])
    stores = open_stores([tmp_path])
    for _ in range(2):
        assert [store.read("n.txt") for store in stores] == [b"%d" % n for n in range(20)]
        assert sum(store._file._handle is not None for store in stores) <= 5
    used = stores[-1]._file._handle
    assert stores[-1].read("n.txt") == b"19"
    assert stores[-1]._file._handle is used  # not opened anew
    for store in stores[:6]:
        store.read("n.txt")
    assert os.fstat(used)  # somebody, a thread, still reads from it
    number = int(used)
    del used
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize("kind", ["zip", "deflated", "h5"])
def test_a_flipped_byte_is_named(kind, tmp_path):
    path = make(kind, tmp_path, {"a.bin": MEMBERS["image/020.bin"], "b.bin": b"intact" * 9})
    raw = bytearray(path.read_bytes())
    if kind == "deflated":
        at = 30 + len("a.bin") + 200
    else:
        at = raw.index(MEMBERS["image/020.bin"]) + 200
    raw[at] ^= 4
    path.write_bytes(raw)
    store = open_one(path)
    with pytest.raises(ValueError, match=f"^{path}: a.bin: "):
        store.read("a.bin")
    assert store.read("b.bin") == b"intact" * 9


@pytest.mark.parametrize("kind", ["zip", "h5"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.9, 0.9999])
def test_a_shard_cut_short_is_refused(kind, part, tmp_path):
    path = make(kind, tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    refused(path, "not a" if part == 0 else "cut short")


def test_a_zip_without_its_middle_is_refused(tmp_path):
    path = make("zip", tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[:1000] + raw[3000:])
    refused(path, "cut short: 2000 bytes are missing")


def test_a_shard_cut_after_opening_names_the_member(tmp_path):
    path = make("h5", tmp_path)
    store = open_one(path)
    os.truncate(path, 3000)
    with pytest.raises(ValueError, match=f"^{path}: mask/030.bin: .* expected"):
        store.read("mask/030.bin")
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        pickle.loads(pickle.dumps(store)).read("mask/030.bin")


def test_a_zip_behind_a_prefix_and_before_a_comment(tmp_path):
    path = make("zip", tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"twenty words about PK\5\6 it"
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert open_one(path).read("image/007.bin") == MEMBERS["image/007.bin"]


def test_zip64_records_and_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 600)  # everything larger, or further in, is zip64
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    path = make("zip", tmp_path)
    monkeypatch.undo()
    assert b"PK\6\6" in path.read_bytes()
    store = open_one(path)
    assert all(store.read(name) == data for name, data in MEMBERS.items())


def test_zip64_sizes_behind_another_extra_field(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 600)
    path, other = tmp_path / "s.zip", struct.pack("<HH4s", 0xCAFE, 4, b"else")
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("a.bin")
        info.extra = other
        file.writestr(info, b"7" * 700)
    wide = struct.pack("<HHQQ", 1, 16, 700, 700)
    raw = path.read_bytes()
    assert wide + other in raw[700:]
    path.write_bytes(raw.replace(wide + other, other + wide))
    assert open_one(path).read("a.bin") == b"7" * 700


def test_zip64_offsets_of_a_member_beyond_four_gigabytes(tmp_path):
    path = tmp_path / "big.zip"
    with open(path, "wb") as raw:
        raw.seek(2**32 + 77)  # sparse: costs no disk
        with zipfile.ZipFile(raw, "w") as file:
            file.writestr("far.bin", b"beyond" * 5)
        raw.flush()
    assert open_one(path).read("far.bin") == b"beyond" * 5


def test_local_header_may_be_longer_than_the_central_one(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("a.bin")
        info.extra = struct.pack("<HH", 0xCAFE, 300) + bytes(300)
        file.writestr(info, b"payload" * 30)
        info.extra = b""  # the central directory is written when the file closes
    assert open_one(path).read("a.bin") == b"payload" * 30


@pytest.mark.parametrize("kind", ["zip", "deflated", "h5"])
def test_a_name_longer_than_its_member(kind, tmp_path):
    members = {"n" * 900 + f"{i}.bin": bytes([i]) for i in range(3)}
    store = open_one(make(kind, tmp_path, members))
    assert [store.read_at(i) for i in range(3)] == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_and_system_files_are_in_no_store(kind, tmp_path):
    hidden = (
        *("image/.DS_Store", "__MACOSX/image/._a.png", "image/._a.png", ".git/config"),
        *("image/.ipynb_checkpoints/a-checkpoint.png", "image/Thumbs.db", "DESKTOP.INI"),
        *("image/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/a.png"),
    )
    shown = {"image/a.png": b"a", "b/not.hidden/x.desktop.ini.png": b"b", "my Thumbs.db.png": b"c"}
    store = open_one(make(kind, tmp_path, dict.fromkeys(hidden, b"x") | shown))
    assert {name: store.read(name) for name in store.names()} == shown
    assert sorted(store.sizes()) == [1, 1, 1]
    for name in hidden:
        assert name not in store.names()


def test_folders_of_a_zip_are_no_members(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("image/", "image/a.png", "image/sub\\"):
            file.writestr(name, b"x")
    assert list(open_one(path).names()) == ["image/a.png"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ph\\sub\\a.png", "ph/sub/a\u0308.png", "ph/sub/\u00e4.png"])
def test_names_are_read_with_slashes_and_composed(kind, name, tmp_path):
    path = make(kind, tmp_path, {name: b"x", "b.png": b"y"})
    store = open_one(path)
    expected = "ph/sub/a.png" if "\\" in name else "ph/sub/\u00e4.png"
    assert sorted(store.names()) == ["b.png", expected]
    assert store.read(expected) == store.read(name) == b"x"
    assert store.sizes().tolist() == [1, 1]


def test_names_in_utf8_without_its_flag(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("b__d.png", b"x")
    path.write_bytes(path.read_bytes().replace(b"b__d.png", "b\u00e4d.png".encode()))
    store = open_one(path)
    assert (list(store.names()), store.read_at(0)) == (["b\u00e4d.png"], b"x")


def test_names_in_code_page_437(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("b_d.png", b"x")
    path.write_bytes(path.read_bytes().replace(b"b_d.png", b"b\x84d.png"))
    assert list(open_one(path).names()) == ["bäd.png"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up.png", "a/../../up.png", "..\\up.png", "C:\\x.png", "a\tb.png"]
)
def test_unsafe_names_are_refused(name, tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("good.png", b"x")
        file.writestr(name, b"x")
    refused(path, repr(name.replace("\\", "/").encode()), "relative name")


@pytest.mark.parametrize(("name", "what"), [("a\nb", "one line"), ("n" * 2000, "1000 bytes")])
def test_names_that_do_not_fit_a_line_are_refused(name, what, tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"x")
    refused(path, what)


def test_names_such_as_two_dots_inside_are_fine(tmp_path):
    make("folder", tmp_path, {"a..b/..c.png": b"1", "a..b/d...png": b"2"})
    assert list(open_one(tmp_path).names()) == ["a..b/d...png"]  # ..c.png is hidden


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path):
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a.png", "b.png", "a.png"):
            file.writestr(name, b"x")
    refused(path, "a.png: the name occurs twice")


def edit_entry(path, field_offset, form, value):
    """Overwrite one field of the first entry of a zip's central directory."""
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, raw.index(b"PK\1\2") + field_offset, value)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("field_offset", "form", "value", "what"),
    [
        (8, "<H", 1, "encrypted"),
        (10, "<H", 12, "compression"),
        (24, "<L", 2**31 + 1, "claims more than 2147483648 bytes"),
        (24, "<L", 400 * 1101, "expand more than 1100 times"),
        (20, "<L", 399, "two sizes differ"),
        (42, "<L", 2**31, "outside the file"),
        (46, "<c", b"\xff", "expected"),
    ],
)
def test_entries_that_cannot_be_right_are_refused(field_offset, form, value, what, tmp_path):
    path = make("zip", tmp_path, {"a.bin": bytes(400), "b.bin": b"x"})
    edit_entry(path, field_offset, form, value)
    if value == b"\xff":  # the letter's code page makes it another, valid name
        assert list(open_one(path).names())[1] == "b.bin"
        return
    refused(path, "a.bin", what)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    path = make("zip", tmp_path, {"ä.bin": b"x"})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xfe"))
    refused(path, "not UTF-8")


def test_a_deflated_member_larger_than_it_claims(tmp_path):
    path = make("deflated", tmp_path, {"a.bin": bytes(100_000)})
    edit_entry(path, 24, "<L", 1000)
    with pytest.raises(ValueError, match=r"a\.bin: 1001 bytes, expected 1000"):
        open_one(path).read("a.bin")


def test_a_directory_of_fewer_members_than_it_claims(tmp_path):
    path = make("zip", tmp_path, {"a": b"1", "b": b"2"})
    raw = bytearray(path.read_bytes())
    struct.pack_into("<HH", raw, len(raw) - 14, 3, 3)
    path.write_bytes(raw)
    refused(path, "2 members in the zip, expected 3")


def test_a_directory_that_is_not_one(tmp_path):
    path = make("zip", tmp_path)
    edit_entry(path, 28, "<H", 3)
    refused(path, "damaged", "directory")


@pytest.mark.parametrize("suffix", [".zip", ".h5", ".hdf5"])
@pytest.mark.parametrize("content", [b"", b"hello, not a shard" * 100])
def test_files_of_another_kind_are_refused(suffix, content, tmp_path):
    path = tmp_path / f"s{suffix}"
    path.write_bytes(content)
    refused(path, "not a zip" if suffix == ".zip" else "not an HDF5 file")


def test_an_empty_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w"):
        pass
    refused(tmp_path / "s.zip", "holds no files")


@pytest.mark.parametrize(
    ("dataset", "value", "what"),
    [
        ("data", None, "dataset data"),
        ("data", np.zeros(3, np.float32), "dataset data: expected uint8"),
        ("data", np.zeros((1, 9), np.uint8), "one dimension"),
        ("offsets", np.array([0, 3], np.uint64), "dataset offsets: expected 3 from 0 up to 9"),
        ("offsets", np.array([0, 5, 8], np.uint64), "dataset offsets"),
        ("offsets", np.array([0, 10, 9], np.uint64), "dataset offsets"),
        ("offsets", np.array([1, 5, 9], np.uint64), "dataset offsets"),
        ("name_offsets", np.array([0, 1, 3], np.uint64), "dataset name_offsets"),
        ("names", np.frombuffer(b"aa", np.uint8), "a: the name occurs twice"),
        ("names", np.frombuffer(b"a/", np.uint8)[::-1], "relative name"),
        ("crc32", np.zeros(2, np.int64), "dataset crc32: expected uint32"),
        ("crc32", np.zeros(0, np.uint32), "no files"),
    ],
)
def test_hdf5_of_another_layout_is_refused(dataset, value, what, tmp_path):
    path = make("h5", tmp_path, {"a": b"1234", "b": b"56789"})
    with h5py.File(path, "r+") as file:
        del file[dataset], file.attrs["index_crc32"]  # which shards of other writers lack
        if value is not None:
            file[dataset] = value
    refused(path, what)


@pytest.mark.parametrize("dataset", ["offsets", "names", "name_offsets", "crc32"])
def test_a_changed_hdf5_index_is_refused(dataset, tmp_path):
    path = make("h5", tmp_path, {"a": b"1234", "b": b"56789"})
    with h5py.File(path, "r+") as file:
        file[dataset][1] += 1
    refused(path, "CRC-32 of its index does not match")


def test_hdf5_data_in_another_file_is_refused(tmp_path):
    path = make("h5", tmp_path, {"a": b"1234", "b": b"56789"})
    (tmp_path / "secret").write_bytes(b"secrets!!")
    with h5py.File(path, "r+") as file:
        del file["data"]
        file.create_dataset("data", (9,), np.uint8, external=[(str(tmp_path / "secret"), 0, 9)])
    refused(path, "dataset data: lies in another file")
    make("h5", tmp_path / "other", {"a": b"1234", "b": b"56789"})
    with h5py.File(path, "r+") as file:
        del file["data"]
        file["data"] = h5py.ExternalLink(str(tmp_path / "other" / "s.h5"), "/data")
    refused(path, "dataset data: lies in another file")


def test_a_shard_with_the_index_of_another_is_refused(tmp_path):
    path = make("zip", tmp_path, {"a.png": b"one", "b.png": b"two"})
    raw = path.read_bytes()
    at = raw.index(b"PK\1\2")
    path.write_bytes(raw[:at] + raw[at:].replace(b"a.png", b"c.png"))
    store = open_one(path)
    with pytest.raises(ValueError, match=r"c\.png: damaged, .* is called b'a\.png'"):
        store.read("c.png")
    assert store.read("b.png") == b"two"


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_members(kind, tmp_path):
    store = open_one(make(kind, tmp_path))
    assert store.sizes().tolist() == [len(MEMBERS[name]) for name in store.names()]


def test_hdf5_of_another_format_or_in_chunks_is_refused(tmp_path):
    path = make("h5", tmp_path, {"a": b"1234", "b": b"56789"})
    with h5py.File(path, "r+") as file:
        data = file["data"][:]
        del file["data"]
        file.create_dataset("data", data=data, chunks=(4,))
    refused(path, "contiguous")
    with h5py.File(path, "r+") as file:
        del file["offsets"]
        file.create_dataset("offsets", (2**40,), np.uint64)  # claimed, never written
    refused(path, "more bytes than the file")
    for values in ({}, {"format": [1, 2]}, {"format": 1.5}):
        with h5py.File(path, "r+") as file:
            del file.attrs["format"]
            file.attrs.update(values)
        refused(path, "manyhead-shard-1")
        with h5py.File(path, "r+") as file:
            file.attrs["format"] = "manyhead-shard-1"


DAMAGES = ("truncated", "flipped", "flipped at the start", "flipped at the end", "overwritten")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["zip", "deflated", "h5"])
def test_damage_gives_a_named_error_or_the_right_bytes(kind, damage, tmp_path):
    members = {f"image/{i:02d}.png": RNG.bytes(200 + 9 * i) * 2 for i in range(20)}
    members["tief/ä.png"] = b"deep" * 200
    path = make(kind, tmp_path, members)
    good, rng = path.read_bytes(), np.random.default_rng(DAMAGES.index(damage))
    outcomes = set()
    for _ in range(50):
        raw = bytearray(good)
        at = int(rng.integers(len(good)))
        if damage == "truncated":
            del raw[at:]
        elif damage == "overwritten":
            raw[at : at + 64] = rng.bytes(min(64, len(raw) - at))
        else:
            low, high = {"s": (0, 2000), "e": (-2000, 0)}.get(damage[15:16], (0, len(raw)))
            at = int(rng.integers(low, high)) % len(raw)
            raw[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        outcomes.add(what_is_read(path, members))
    assert outcomes <= {"refused", "named", "right"}
    assert outcomes & {"refused", "named"}
    if damage == "truncated":
        assert outcomes == {"refused"}


def what_is_read(path, members):
    """Whether a damaged shard is refused, gives errors that name a member, or is right."""
    outcome = "right"
    try:
        store = open_one(path)
    except ValueError as error:
        return "refused" if str(error).startswith(str(path)) else f"nameless: {error}"
    if len(store) != len(members):
        return f"{len(store)} members"
    for i, name in enumerate(store.names()):
        try:
            if store.read_at(i) != members.get(name):
                return f"wrong bytes of {name}"
        except ValueError as error:
            outcome = "named" if str(error).startswith(f"{path}: {name}: ") else f"no: {error}"
    return outcome


@pytest.mark.parametrize("field", range(0, 46, 2))
def test_a_wrong_central_directory(field, tmp_path):
    members = {f"{i}.png": RNG.bytes(100 + i) for i in range(5)}
    path = make("zip", tmp_path, members)
    good = path.read_bytes()
    for value in (0, 1, 8, 0x7FFF, 0xFFFF):
        raw = bytearray(good)
        struct.pack_into("<H", raw, raw.index(b"PK\1\2") + field, value)
        path.write_bytes(raw)
        assert what_is_read(path, members) in ("refused", "named", "right")


@pytest.mark.parametrize("dataset", ["data", "offsets", "names", "name_offsets", "crc32"])
@pytest.mark.parametrize("kind", ["i1", "u2", "f4", "f8", "S4", "?", "c8", "group", "text", "2-D"])
def test_wrong_hdf5_types(kind, dataset, tmp_path):
    path = make("h5", tmp_path, {"a": b"1234", "b": b"56789"})
    with h5py.File(path, "r+") as file:
        del file[dataset]
        if kind == "group":
            file.create_group(dataset)
        elif kind == "text":
            file[dataset] = ["text"]
        elif kind == "2-D":
            file[dataset] = np.zeros((3, 3), np.uint8)
        else:
            file[dataset] = np.zeros(9, kind)
    refused(path, f"dataset {dataset}: expected")


def test_folder_order_hidden_files_and_links(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    make("folder", inside, {"b.png": b"b", "a/z.png": b"z", ".git/x": b"", "a/.hidden": b""})
    make("folder", outside, {"far.png": b"far", "c/d.png": b"d"})
    (inside / "link.png").symlink_to(inside / "b.png")
    (inside / "far.png").symlink_to(outside / "far.png")
    (inside / "same").symlink_to(inside / "a")
    (inside / "up").symlink_to(tmp_path)
    (outside / "back").symlink_to(inside)
    os.mkfifo(inside / "pipe.png")
    (inside / "zero.png").symlink_to("/dev/zero")
    store = FolderStore(inside)
    assert list(store.names()) == ["a/z.png", "b.png", "far.png", "link.png"]
    assert store.read("link.png") == b"b"
    assert store.read("far.png") == b"far"
    (inside / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png: cannot be read"):
        store.read("b.png")
    (inside / "away").symlink_to(outside)
    (inside / "also").symlink_to(outside)
    linked = ["also/c/d.png", "also/far.png"]  # each folder once, by the first of its links
    assert [name for name in FolderStore(inside).names() if "/" in name] == ["a/z.png", *linked]
    assert FolderStore(inside).read("also/c/d.png") == b"d"


def test_open_stores_finds_shards_in_a_folder(tmp_path):
    for n in (2, 1):
        write_zip(tmp_path / f"part_{n}.zip", [(f"{n}.txt", b"x")])
    write_hdf5(tmp_path / "other.H5", [("h.txt", b"x")])
    opened = open_stores([tmp_path])
    assert [store.path.name for store in opened] == ["other.H5", "part_1.zip", "part_2.zip"]
    assert [type(store) for store in opened] == [Hdf5Store, ZipStore, ZipStore]
    with pytest.raises(ValueError, match=r"part_1\.zip: given twice"):
        open_stores([tmp_path, tmp_path / "part_1.zip"])


def test_paths_that_cannot_be_opened_are_named(tmp_path):
    refused(tmp_path / "absent.zip", "no such file or folder")
    refused(tmp_path, "holds no files")
    for name in ("pipe.zip", "pipe.h5"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "expected a folder or a regular file")
        (tmp_path / name).unlink()
    (tmp_path / "data.tar").write_bytes(b"")
    refused(tmp_path / "data.tar", ".zip, .h5, .hdf5")
    with pytest.raises(ValueError, match="no data paths"):
        open_stores([])


def test_python_reads_what_is_packed(tmp_path):
    with zipfile.ZipFile(io.BytesIO(make("zip", tmp_path).read_bytes())) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == MEMBERS


def test_stores_import_nothing_above_them_and_never_each_other_in_a_circle():
    room = Path(__file__).parents[1] / "datasets" / "stores"
    needs = {}
    for path in room.glob("[!_]*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        assert {node.module for node in imports if node.module.startswith("datasets")} <= {
            "datasets.task",
            "datasets.stores",
            *(f"datasets.stores.{other.stem}" for other in room.glob("*.py")),
        }
        needs[path.stem] = {
            node.module.rpartition(".")[2] if node.module != "datasets.stores" else alias.name
            for node in imports
            if node.module.startswith("datasets.stores")
            for alias in node.names
        }
    assert needs["store"]
    TopologicalSorter(needs).prepare()  # CycleError names the circle


def test_a_changed_crc_of_an_hdf5_index_may_be_of_any_kind(tmp_path):
    for number, value in enumerate((7, "x", [1, 2])):
        path = make("h5", tmp_path / str(number), {"a": b"1234", "b": b"56789"})
        with h5py.File(path, "r+") as file:
            file.attrs["index_crc32"] = value
        refused(path, "damaged, the CRC-32 of its index")


@pytest.mark.parametrize("change", [{"image": {"path": "x"}}, {"annotation": {"byte": b"x"}}])
def test_parquet_of_other_cells_is_refused(change, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {"image": b"x", "annotation": b"x", "id": "a", "material": "m", "content": "c"} | change
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="p.parquet"):
        ParquetStore([tmp_path / "p.parquet"]).read_at(0)
