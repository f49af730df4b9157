"""Names, links, shards, tables and layouts as people have them: read right, or said in one line."""

import io
import json
import os
import struct
import unicodedata
import zipfile

import h5py
import numpy as np
import pytest
from conftest import put
from situations import (
    ANY_MASK,
    HALF,
    MASK,
    NUM,
    Situation,
    files,
    members,
    photo,
    saved,
    zip_file,
    zipped,
)

from datasets.stores import write_hdf5
from datasets.task import Label, Mask, read_task

MASK255 = saved(HALF * 255)
UMLAUT = unicodedata.normalize("NFC", "Bl\u00e4tter")
DECOMPOSED = unicodedata.normalize("NFD", UMLAUT)
UMLAUT_MASK = Mask("leaf", f"{UMLAUT}/{{key}}.png")
KEYS = [f"{i:02d}.png" for i in range(NUM)]
NAMED = {"__": b"", "Thumbs.db": b"x"}


def read_row(words, write, output=MASK, reads=HALF, **more):
    return Situation(words, write, output, reads=reads, **more)


def said_row(words, write, *says, output=MASK, **more):
    return Situation(words, write, output, says=says, **more)


def told_row(words, write, *tells, output=MASK, reads=HALF, **more):
    return Situation(words, write, output, reads=reads, tells=tells, **more)


def with_files(extra, **settings):
    """Members and files of any other names."""
    return files(**settings, **extra)


def raw_names(folder):
    """Latin-1 names, as old disks and zips leave them."""
    for name, data in members(photos="photos/\u00e4{}.png", masks="masks/\u00e4{}.png").items():
        path = os.path.join(os.fsencode(folder), name.encode("latin-1"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def stray_raw_name(folder):
    files()(folder)
    with open(os.path.join(os.fsencode(folder), b"caf\xe9.txt"), "wb") as file:
        file.write(b"notes")


def links(target, at="elsewhere"):
    """A folder of links to files that lie outside of it."""

    def write(folder):
        real = folder.parent / at
        put(real, members())
        if target == "folders":
            for name in ("photos", "masks"):
                (folder / name).symlink_to(real / name)
            return
        for name in members():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(os.path.relpath(real / name, (folder / name).parent))

    return write


def looped(folder):
    files()(folder)
    (folder / "photos" / "again").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")


def broken_link(folder):
    files()(folder)
    (folder / "photos" / "00.png").unlink()
    (folder / "photos" / "00.png").symlink_to(folder / "gone.png")


def linked_zip(folder):
    zip_file(folder.parent / "blobs" / "4f2a.zip", members())
    (folder / "data.zip").symlink_to(folder.parent / "blobs" / "4f2a.zip")


def beside(inside, **settings):
    """A zip in a folder of pictures."""

    def write(folder):
        files(**settings)(folder)
        zip_file(folder / "old.zip", inside)

    return write


def two_zips(first, second):
    def write(folder):
        return [zip_file(folder / "a.zip", first), zip_file(folder / "b.zip", second)]

    return write


def patched(path, contents, at, form, value, **options):
    """A zip with another number at that place of every entry of its directory (46 bytes each)."""
    zip_file(path, contents, **options)
    data = bytearray(path.read_bytes())
    entry = data.find(b"PK\1\2")
    while entry >= 0:
        struct.pack_into(form, data, entry + at, value)
        entry = data.find(b"PK\1\2", entry + 46)
    path.write_bytes(data)
    return [path]


def cp437(folder):
    """A zip of an old program: names in code page 437, no flag."""
    path = zip_file(
        folder / "a.zip", members(photos="photos/\u00e4{}.png", masks="masks/\u00e4{}.png")
    )
    data = path.read_bytes().replace("\u00e4".encode(), b"\x84\x84")
    data = bytearray(data)
    for mark, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.find(mark)
        while place >= 0:
            struct.pack_into("<H", data, place + at, 0)
            place = data.find(mark, place + 4)
    path.write_bytes(data)
    return [path]


def unflagged(folder):
    """A zip of macOS: UTF-8 without its flag, decomposed, with its own files beside."""
    made = members(photos=f"d/{DECOMPOSED}/{{}}.png", masks="d/masks/{}.png")
    path = zip_file(folder / "a.zip", made | {"__MACOSX/d/masks/._00.png": b"x"})
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.find(mark)
        while place >= 0:
            struct.pack_into("<H", data, place + at, 0)
            place = data.find(mark, place + 4)
    path.write_bytes(data)
    return [path]


def zip64(folder):
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members().items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return [path]


def streamed(folder):
    """A zip as a pipe writes it: sizes stand behind the members."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError

        def tell(self):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members().items():
            file.writestr(name, data)
    (folder / "a.zip").write_bytes(pipe.getvalue())
    return [folder / "a.zip"]


def cut_zip(folder):
    path = zip_file(folder / "a.zip", members())
    path.write_bytes(path.read_bytes()[:-100])
    return [path]


def flipped_zip(folder):
    path = zip_file(folder / "a.zip", members())
    data = bytearray(path.read_bytes())
    data[data.index(MASK255) + 50] ^= 1
    path.write_bytes(data)
    return [path]


def prefixed(folder):
    """A self-extracting zip, with a comment at its end."""
    path = zip_file(folder / "a.zip", members())
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"made by hand"
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    return [path]


def shard(folder):
    write_hdf5(folder / "a.h5", members().items())


def arrays(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = np.zeros((4, 6, 10, 3), np.uint8)
        file["masks"] = np.zeros((4, 6, 10), np.uint8)
    return [folder / "a.h5"]


def keras_beside(folder):
    files()(folder)
    with h5py.File(folder / "model.h5", "w") as file:
        file["kernel"] = np.zeros(3)


def named(name, data=b"x"):
    """A single file that --data names."""

    def write(folder):
        (folder / name).write_bytes(data)
        return [folder / name]

    return write


def parquet(folder):
    (folder / "train.parquet").write_bytes(b"PAR1")


def both_trees(folder):
    """The same names below two folders, each with its own masks."""
    put(folder / "a", members(num=5))
    put(folder / "b", members(num=5))


def split_folders(folder):
    put(folder / "train", members(photos="photos/t{}.png", masks="masks/t{}.png", num=6))
    put(folder / "val", members(photos="photos/v{}.png", masks="masks/v{}.png", num=4))


def table(text, encoding="utf-8", key=""):
    """Members and a metadata.csv: which side each is on."""

    def write(folder):
        names = {"photos": f"photos/{key}{{}}.png", "masks": f"masks/{key}{{}}.png"}
        files(**names, **{"metadata.csv": text.encode(encoding)})(folder)

    return write


def rows(mark=",", head="id{}side", line="{}{}{}", key=""):
    text = [head.format(mark)]
    for i in range(NUM):
        text.append(line.format(f"{key}{i:02d}", mark, "v" if i < 3 else "t"))
    return "\n".join(text) + "\n"


BY_SIDE = {"task": {"metadata": "metadata.csv"}, "split_by": ("side", "v")}
STRAY = {"photos/notes.txt": b"x", "readme.md": b"x", "photos/Thumbs.db": b"x", "photos/.keep": b""}

NAMES = [
    read_row("suffixes in upper case", files(photos="photos/{}.PNG", masks="masks/{}.Png")),
    read_row(
        "suffixes in upper case, template of one suffix",
        files(photos="photos/{}.PNG"),
        image="photos/{key}.png",
    ),
    read_row(
        "folders and a zip's folder before the template",
        files(photos="x/y/photos/{}.png", masks="x/y/masks/{}.png"),
    ),
    read_row(
        "dots, spaces and brackets in names",
        files(photos="photos/a [1] + {}.b.png", masks="masks/a [1] + {}.b.png"),
    ),
    read_row(
        "decomposed names, composed template", files(masks=f"{DECOMPOSED}/{{}}.png"), UMLAUT_MASK
    ),
    read_row(
        "decomposed images, composed masks",
        files(photos=f"photos/{DECOMPOSED}{{}}.png", masks=f"masks/{UMLAUT}{{}}.png"),
    ),
    read_row("names that are not UTF-8", raw_names),
    read_row("a stray file whose name is not UTF-8", stray_raw_name),
    read_row("a stray file with a line end in its name", with_files({"notes\n2.txt": b"x"})),
    read_row(
        "an image with a tab in its name", files(photos="photos/a\t{}.png", masks="masks/a\t{}.png")
    ),
    read_row("a name with a backslash in a folder", files(photos="photos\\{}.png")),
    read_row("backslashes in a zip", zipped(photos="photos\\{}.png", masks="masks\\{}.png")),
    read_row(
        "names of 200 letters",
        files(photos="photos/" + "n" * 200 + "{}.png", masks="masks/" + "n" * 200 + "{}.png"),
    ),
    read_row(
        "names in UTF-8 without their flag, and what macOS adds",
        unflagged,
        image=f"{UMLAUT}/{{key}}.png",
    ),
    read_row("names in code page 437", cp437),
    read_row(
        "hidden and system files",
        with_files(
            {
                "photos/.DS_Store": b"x",
                "photos/._00.png": b"x",
                "photos/Thumbs.db": b"x",
                "masks/desktop.ini": b"x",
                "photos/.ipynb_checkpoints/00-checkpoint.png": b"x",
                "@eaDir/photos/07.png": b"x",
                "#recycle/photos/08.png": photo(8),
                "$RECYCLE.BIN/photos/09.png": b"x",
            }
        ),
    ),
    read_row(
        "hidden and system files in a zip",
        zipped(
            **{
                "__MACOSX/photos/._00.png": b"x",
                "photos/.ipynb_checkpoints/00-checkpoint.png": b"x",
                "photos/Thumbs.db": b"x",
            }
        ),
    ),
    read_row("notes beside pictures", with_files(STRAY)),
    read_row("links to files", links("files")),
    read_row("links to folders outside", links("folders")),
    read_row("a link to a zip", linked_zip),
    read_row("links that go round", looped),
    said_row("a link that leads nowhere", broken_link, "photos/00.png", "No such file"),
    told_row(
        "pictures of a type that is not read",
        with_files({"photos/10.heic": b"x"}),
        "photos/10.heic",
        "suffix",
    ),
    told_row(
        "pictures in a folder below",
        with_files({"photos/new/10.png": photo(10), "masks/new/10.png": MASK255}),
        "1 in a folder below",
        "photos/new/10.png",
    ),
    told_row(
        "pictures in a folder of another case",
        zipped(**{"Photos/10.png": photo(10), "Masks/10.png": MASK255}),
        "another case",
        "Photos/10.png",
    ),
    told_row(
        "masks without an image",
        with_files({"masks/10.png": MASK255}),
        "masks/10.png",
        "without an image",
    ),
    told_row(
        "pictures beside a zip", beside(members()), "left out", "masks/00.png", "beside a shard"
    ),
    said_row(
        "pictures beside a zip of something else",
        beside({"old/x.png": photo()}),
        "old.zip",
        "photos/{key}.*",
        "beside",
    ),
    read_row("model weights of Keras beside pictures", keras_beside),
]

SHARDS = [
    read_row(
        "a zip, deflated",
        lambda folder: [zip_file(folder / "a.zip", members(), compression=zipfile.ZIP_DEFLATED)],
    ),
    read_row("a folder of a zip", lambda folder: zip_file(folder / "A.ZIP", members()) and None),
    read_row(
        "images in one zip, masks in another",
        two_zips(
            {n: d for n, d in members().items() if "photos" in n},
            {n: d for n, d in members().items() if "masks" in n},
        ),
    ),
    read_row(
        "two zips with the same names", two_zips(members(num=5), members(num=5)), keys=KEYS[:5] * 2
    ),
    read_row("zip64", zip64),
    read_row("a zip from a pipe", streamed),
    read_row("a self-extracting zip with a comment", prefixed),
    said_row(
        "zips within a zip",
        lambda folder: [zip_file(folder / "a.zip", {"1.zip": b"PK", "2.zip": b"PK"})],
        "a.zip",
        "2 *.zip",
        "unpack",
    ),
    said_row(
        "zips in a folder below",
        lambda folder: zip_file(folder / "train" / "a.zip", members()) and None,
        "train/*.zip",
        "name",
    ),
    said_row(
        "an encrypted zip",
        lambda folder: patched(folder / "a.zip", members(), 8, "<H", 1),
        "a.zip",
        "photos/00.png",
        "encrypted",
        "plain",
    ),
    said_row(
        "deflate64",
        lambda folder: patched(folder / "a.zip", members(), 10, "<H", 9),
        "a.zip",
        "photos/00.png",
        "stored",
        "deflate",
    ),
    said_row(
        "LZMA in a zip",
        lambda folder: [zip_file(folder / "a.zip", members(), compression=zipfile.ZIP_LZMA)],
        "a.zip",
        "photos/00.png",
        "stored",
        "deflate",
    ),
    said_row("a zip cut short", cut_zip, "a.zip", "cut short"),
    said_row("a zip with a flipped bit", flipped_zip, "a.zip", "masks/00.png", "CRC-32"),
    said_row("an empty zip", lambda folder: [zip_file(folder / "a.zip", {})], "a.zip", "no files"),
    said_row(
        "a zip of nothing but system files",
        lambda folder: [zip_file(folder / "a.zip", {"__MACOSX/a": b""})],
        "a.zip",
        "no files",
    ),
    said_row(
        "a member that climbs out",
        lambda folder: [zip_file(folder / "a.zip", {"../a.png": b""})],
        "a.zip",
        "../a.png",
        "without '..'",
    ),
    said_row("a web page called .zip", named("a.zip", b"<html>404"), "a.zip", "not a zip"),
    said_row("a tar", named("a.tar.gz"), "a.tar.gz", ".zip"),
    said_row("a list of files", named("train.txt"), "train.txt", "folder"),
    said_row(
        "what is not there", lambda folder: [folder / "gone"], "gone", "no such file or folder"
    ),
    said_row(
        "the same twice",
        lambda folder: [zip_file(folder / "a.zip", members()), folder / "a.zip"],
        "a.zip",
        "given twice",
    ),
    read_row("an HDF5 shard", shard),
    said_row("HDF5 of arrays", arrays, "a.h5", "manyhead-shard-1", "datasets.pack"),
    said_row("a cut HDF5 file", named("a.h5", b"\x89HDF\r\n\x1a\n"), "a.h5", "cut short"),
    said_row(
        "parquet",
        lambda folder: parquet(folder) or [folder / "train.parquet"],
        "train.parquet",
        "datasets.pack",
    ),
    said_row("a folder of parquet", parquet, "1 *.parquet", "datasets.pack"),
]

LAYOUTS = [
    said_row("an empty folder", lambda folder: None, "data", "no files"),
    said_row("no image fits", files(photos="pics/{}.jpg"), "photos/{key}.*", "10 pics/*.jpg"),
    said_row(
        "folders in another case",
        files(photos="Photos/{}.png"),
        "photos/{key}.*",
        "10 Photos/*.png",
    ),
    said_row(
        "a folder more",
        files(photos="photos/bonn/{}.png"),
        "photos/{key}.*",
        "10 photos/bonn/*.png",
    ),
    said_row("a single image", files(num=1), "photos/{key}.*", "at least two"),
    said_row(
        "no target at all", files(masks="x/{}.txt"), "photos/00.png", "masks/00.png", "7 of 7", "x/"
    ),
    said_row(
        "one target missing",
        lambda folder: files()(folder) or (folder / "masks" / "03.png").unlink(),
        "photos/03.png",
        "masks/03.png",
    ),
    said_row(
        "targets in another folder",
        files(masks="labels/{}.png"),
        "masks/00.png",
        "7 of 7",
        "labels/00.png",
    ),
    said_row(
        "targets of another suffix",
        files(masks="masks/{}.jpg"),
        "masks/00.png",
        "7 of 7",
        "masks/00.jpg",
    ),
    said_row(
        "targets with more in their name",
        files(masks="masks/{}_mask.png"),
        "masks/00.png",
        "masks/00_mask.png",
    ),
    said_row(
        "targets of another number",
        files(masks="masks/0{}.png"),
        "masks/00.png",
        "near it lies masks/00",
    ),
    said_row(
        "targets in the images' folder, images in none",
        files(photos="x/{}.tif", masks="photos/{}.png"),
        "no image fits photos/{key}.*",
        '"files" of an output',
        output=Mask("leaf", "photos/{key}.png"),
    ),
    read_row(
        "targets in the images' folder, more in their names",
        files(masks="photos/{}_mask.png"),
        Mask("leaf", "photos/{key}_mask.png"),
    ),
    said_row(
        "outlines of labelme", files(b"{}", masks="masks/{}.json"), "masks/00.png", "masks/00.json"
    ),
    said_row("a copy of an image", with_files({"photos/00 (1).png": photo()}), "photos/00 (1).png"),
    told_row(
        "files of GIMP beside masks",
        with_files({"masks/00.xcf": b"gimp xcf"}),
        "masks/00.xcf",
        output=ANY_MASK,
    ),
    told_row(
        "copies that editors make",
        with_files({"photos/00.png~": b"", "photos/01.png.bak": b""}),
        "2 of a suffix that is not read (photos/00.png~)",
    ),
    told_row(
        "two suffixes, template of one",
        with_files({"photos/x.jpeg": photo(), "masks/x.png": MASK255}),
        "photos/x.jpeg",
        "1 targets without an image",
        image="photos/{key}.png",
    ),
    said_row("depth as numpy", files(masks="masks/{}.npy"), "masks/00.png", "masks/00.npy"),
    said_row(
        "depth as EXR", files(masks="masks/{}.exr"), "masks/00", "masks/00.exr", output=ANY_MASK
    ),
    said_row(
        "two targets of an image",
        with_files({"masks/00.tif": MASK255}),
        "masks/00.png",
        "masks/00.tif",
        output=ANY_MASK,
    ),
    read_row(
        "a.jpg beside a.tif", with_files({"photos/00.tif": photo(20)}), keys=[*KEYS, "00.tif"]
    ),
    read_row(
        "names that differ in case",
        with_files(
            {
                "photos/A.png": photo(1),
                "photos/a.png": photo(2),
                "masks/A.png": MASK255,
                "masks/a.png": MASK255,
            }
        ),
        keys=[*KEYS, "A.png", "a.png"],
    ),
    read_row("the same names in two folders", both_trees, keys=KEYS[:5] * 2),
    told_row(
        "train and val in folders that no template names", split_folders, "train", "val", "{split}"
    ),
    read_row(
        "train and val in folders",
        split_folders,
        Mask("leaf", "{split}/masks/{key}.png"),
        image="{split}/photos/{key}.*",
    ),
    told_row(
        "lists of a split",
        with_files({"splits/train.txt": b"00\n01\n", "splits/val.txt": b"02\n"}),
        "splits/train.txt",
        "metadata",
    ),
    said_row(
        "a split that is not there",
        lambda folder: put(folder / "train", members()) and None,
        "val",
        "train",
        output=Mask("leaf", "{split}/masks/{key}.png"),
        image="{split}/photos/{key}.*",
    ),
    said_row(
        "all of one group",
        files(photos="g1/photos/{}.png", masks="g1/masks/{}.png"),
        "{group}",
        "at least two",
        output=Mask("leaf", "{group}/masks/{key}.png"),
        image="{group}/photos/{key}.*",
    ),
]

TABLES = [
    read_row("a table", table(rows()), **BY_SIDE),
    read_row("a byte order mark", table(rows(), "utf-8-sig"), **BY_SIDE),
    read_row("UTF-16", table(rows(), "utf-16"), **BY_SIDE),
    read_row("semicolons", table(rows(";")), **BY_SIDE),
    read_row("tabs", table(rows("\t")), **BY_SIDE),
    read_row("spaces after commas", table(rows(", ")), **BY_SIDE),
    read_row("spaces at the ends", table(rows(line="{}{}{} ")), **BY_SIDE),
    read_row("empty rows at the end", table(rows() + ",\n,\n\n"), **BY_SIDE),
    said_row(
        "two columns of a name",
        table(rows(",", head="id{}side,side", line="{}{}{},x")),
        "two columns are called side",
        **BY_SIDE,
    ),
    said_row("no head", table(rows().partition("\n")[2]), "a column id, found", **BY_SIDE),
    read_row("quotes, commas within", table(rows(line='"{}"{}"{}"')), **BY_SIDE),
    read_row("Windows line ends", table(rows().replace("\n", "\r\n")), **BY_SIDE),
    read_row("old line ends of a Mac", table(rows().replace("\n", "\r")), **BY_SIDE),
    read_row("Excel's line of its separator", table("sep=;\n" + rows(";")), **BY_SIDE),
    read_row(
        "semicolons, a comma in a column's name",
        table(rows(";", head="id{}side;size, mm", line="{}{}{};1,5")),
        **BY_SIDE,
    ),
    read_row("decomposed ids", table(rows(key=DECOMPOSED), key=UMLAUT), **BY_SIDE),
    said_row(
        "old encoding of Windows",
        table(rows() + "f\u00fcr,t\n", "cp1252"),
        "metadata.csv",
        "UTF-8",
        **BY_SIDE,
    ),
    said_row(
        "a column ID",
        table(rows(head="ID{}side")),
        "metadata.csv",
        "column id",
        "ID, side",
        **BY_SIDE,
    ),
    said_row(
        "ids with a suffix",
        table(rows(line="{}.png{}{}")),
        "photos/00.png",
        "metadata.csv",
        "'00'",
        **BY_SIDE,
    ),
    said_row(
        "zeros lost in a spreadsheet",
        table(rows().replace("\n0", "\n")),
        "photos/00.png",
        "metadata.csv",
        "'00'",
        **BY_SIDE,
    ),
    said_row(
        "a row too long",
        table(rows() + "11,t,x\n"),
        "metadata.csv",
        "'11'",
        "too many or few",
        **BY_SIDE,
    ),
    said_row(
        "two rows of an id",
        table(rows() + "00,t\n"),
        "metadata.csv",
        "'00'",
        "two different rows",
        **BY_SIDE,
    ),
    said_row("no such column", table(rows(head="id{}kind")), "side", "id, kind", **BY_SIDE),
    said_row(
        "no such value",
        table(rows()),
        "'x'",
        "t, v",
        task={"metadata": "metadata.csv"},
        split_by=("side", "x"),
    ),
    said_row("no table", files(), "side", "metadata.csv was not found", **BY_SIDE),
    read_row(
        "a label of a column",
        table(rows(";")),
        Label("side", field="side"),
        reads=None,
        task={"metadata": "metadata.csv"},
    ),
]


@pytest.mark.parametrize(
    "situation", NAMES + SHARDS + LAYOUTS + TABLES, ids=lambda each: each.words
)
def test_what_lies_there_is_read_right_or_said(situation, tmp_path):
    situation.check(tmp_path / "data")


LEAVES = {
    "name": "leaves",
    "image": "photos/{key}.*",
    "best": "leaf/iou",
    "outputs": [{"name": "leaf", "kind": "mask", "files": "masks/{key}.png"}],
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_task_file_in_any_unicode(encoding, tmp_path):
    path = tmp_path / "leaves.json"
    path.write_bytes(json.dumps(LEAVES | {"about": UMLAUT}, ensure_ascii=False).encode(encoding))
    assert read_task(path).about == UMLAUT
