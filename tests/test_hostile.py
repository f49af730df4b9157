"""Task files, shards and pictures made to hurt: each ends in one line, soon, in little memory, and
nothing is written anywhere. `test_hostile_runs` has those that a run leaves."""

import json
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, encode, members_of
from hostile import (
    changed_entry,
    claiming,
    coloured_tiff,
    grey_tiff,
    png,
    png_chunk,
    refused,
    tiff,
    zeros,
    zip_of,
)

from datasets.dataset import open_task
from datasets.index.templates import compile_template
from datasets.photo import decode_image
from datasets.stores import open_stores
from models import ModelSpec
from utils.settings import parse

GOOD = {"a.png": b"one" * 40, "b/c.png": b"two" * 40}
ZIP = zip_of(GOOD)
IMAGE = encode(np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8), "a.png")
PALETTE = (png_chunk(b"PLTE", bytes(9)), png_chunk(b"tRNS", bytes(300)))
ROWS = b"id,material\nk00,wood\nk01,glass\nk02,glass\n"
TEXTS = members_of(TINY, 3, (16, 16)) | {"metadata.csv": ROWS}


# What is done with each kind of file.


def task(folder: Path, data: bytes) -> None:
    (folder / "t.json").write_bytes(data)
    settings = parse(["--task", str(folder / "t.json")])
    for output in settings.outputs:
        compile_template(output.files)
    compile_template(settings.tasks[0].task.image)
    ModelSpec.of(settings.outputs, **vars(settings.network))


def shard(folder: Path, data: bytes) -> None:
    (folder / "d.zip").write_bytes(data)
    for store in open_stores([folder / "d.zip"]):
        for i in range(len(store)):
            store.read_at(i)


def picture(folder: Path, data: bytes) -> None:
    decode_image(data, "in.zip: a.png")


def shapes(folder: Path, data: bytes) -> None:
    """A file of shapes, as training reads it."""
    first, *others = TINY.outputs
    members = {name: each for name, each in TEXTS.items() if not name.startswith("parts")}
    (folder / "d.zip").write_bytes(zip_of(members | {"parts.json": data}, zipfile.ZIP_DEFLATED))
    named = replace(TINY, outputs=(replace(first, files="parts.json"), *others))
    open_task(named, [folder / "d.zip"], (16, 16)).train.load(0)


def sample(folder: Path, data: dict[str, bytes]) -> None:
    """All samples of the tiny task, as training reads them, and what a table says of them."""
    (folder / "d.zip").write_bytes(zip_of(TEXTS | data, zipfile.ZIP_DEFLATED))
    named = replace(TINY, metadata="metadata.csv")
    opened = open_task(named, [folder / "d.zip"], (16, 16), ("material", "wood"))
    for split in (opened.train, opened.val):
        for i in range(len(split)):
            split.load(i)


# The files, each with words that its line must hold.


def tiny(**values):
    return json.dumps(TINY.to_json() | values).encode()


def output(**values):
    first, *others = TINY.to_json()["outputs"]
    return tiny(outputs=[first | values, *others])


def raw_task(text: bytes):
    return json.dumps(TINY.to_json()).encode()[:-1] + b", " + text + b"}"


def drawn(kind, coordinates, name="a"):
    """GeoJSON of one shape."""
    geometry = {"type": kind, "coordinates": coordinates}
    return json.dumps({"geometry": geometry, "properties": {"class": name}}).encode()


TASKS = {
    "brackets in brackets": (raw_task(b'"zoom": ' + b"[" * 10**5), "brackets"),
    "closed brackets": (raw_task(b'"zoom": ' + b"[" * 10**5 + b"]" * 10**5), "brackets"),
    "a number of 400 digits": (raw_task(b'"rotate": 1' + b"0" * 400), "rotate"),
    "a number of 5000 digits": (raw_task(b'"rotate": 1' + b"0" * 5000), "t.json"),
    "not a number": (raw_task(b'"val_share": NaN'), "val_share"),
    "an infinite weight": (output(weight=float("inf")), "weight"),
    "half a character": (raw_task(b'"about": "\\ud800"'), "surrogate"),
    "megabytes": (b" " * 1_100_000, "larger than 1 MB"),
    "bytes of no text": (b"\xff\xfe\xfd\xfc", "t.json"),
    "a name with a way out": (tiny(name="../x"), "'../x'"),
    "a name for terminals": (tiny(name="a\x1b]0;x\x07"), r"\x1b"),
    "a name of two lines": (tiny(name="a\nerror: b"), r"\n"),
    "an output with a way out": (output(name="../../x"), "'../../x'"),
    "an output of the root": (output(name="/etc/x"), "'/etc/x'"),
    "2100 outputs": (tiny(outputs=TINY.to_json()["outputs"] * 700), "2100 outputs"),
    "70,000 classes": (output(classes=["a"] * 70_000), "70000 classes"),
    "a default that writes": (tiny(defaults={"out": "../x"}), "--out"),
    "a flag in a default": (tiny(defaults={"losses": ["parts=ce", "--out=x"]}), "--out=x"),
    "weights from elsewhere": (tiny(defaults={"pretrained": "/x"}), "--pretrained"),
    "a width of a billion": (tiny(defaults={"width": 10**9}), "--width 1000000000"),
    "a depth of a billion": (tiny(defaults={"depth": 10**9}), "--depth 1000000000"),
    "a billion convolutions": (tiny(defaults={"convs": [10**9]}), "convs (1000000000"),
    "a size beyond numbers": (tiny(defaults={"size": [10**400, 1]}), "size"),
    "a template of the root": (tiny(image="/etc/{key}"), "/etc/{key}"),
    "a template of two lines": (tiny(image="a\n{key}"), "template"),
    "a template that is none": (tiny(image="{key"), "template"),
    "fields without text between": (tiny(image="{a}{key}.png"), "{a}{key}.png"),
    "a template that blows up": (output(files="*_*_*_*_*_*_{key}_*.png"), "expected at most"),
    "a hundred thousand fields": (
        tiny(image="_".join(f"{{f{i}}}" for i in range(90_000)) + "_{key}.png"),
        "fields",
    ),
    "the same key as a list": (raw_task(b'"name": ["a"]'), "name"),
    "null everywhere": (json.dumps(dict.fromkeys(TINY.to_json())).encode(), "outputs"),
}
ZIPS = {
    "nothing": (b"", "not a zip"),
    "a text": (b"hello" * 99, "not a zip"),
    "a zip cut short": (ZIP[: len(ZIP) // 2], "cut short"),
    "no member": (zip_of({}), "holds no files"),
    "a directory of 65535": (ZIP[:-14] + b"\xff\xff\xff\xff" + ZIP[-10:], "expected 65535"),
    "a directory of four gigabytes": (ZIP[:-10] + b"\xff" * 4 + ZIP[-6:], "cut short"),
    "a directory elsewhere": (ZIP[:-6] + b"\xff" * 4 + ZIP[-2:], "cut short"),
    "one part of many": (ZIP[:-18] + b"\7\0\7\0" + ZIP[-14:], "split"),
    "an encrypted member": (changed_entry(ZIP, 8, "<H", 1), "encrypted"),
    "an unknown method": (changed_entry(ZIP, 10, "<H", 12), "compression"),
    "a stored bomb": (changed_entry(ZIP, 24, "<L", 2**30), "claims"),
    "a member elsewhere": (changed_entry(ZIP, 42, "<L", 2**31), "outside the file"),
    "a member in another": (changed_entry(ZIP, 42, "<L", 7), "no member begins"),
    "zip64 without sizes": (changed_entry(ZIP, 24, "<L", 2**32 - 1), "zip64"),
    "a checksum that is wrong": (changed_entry(ZIP, 16, "<L", 1), "CRC-32"),
    "another name inside": (ZIP.replace(b"a.png", b"z.png", 1), "is called b'z.png'"),
    "a deflate bomb": (
        zip_of({"a.png": 2**28 + 1}, zipfile.ZIP_DEFLATED),
        "claims 268435456",
    ),
    "a lie about its size": (
        changed_entry(zip_of({"a": bytes(999)}, 8), 24, "<L", 500),
        "expected 500",
    ),
    "a way out": (zip_of({"../../x.png": b""}), "'../../x.png'"),
    "a way out by Windows": (zip_of({"..\\..\\x.png": b""}), "'../../x.png'"),
    "a way out within": (zip_of({"a/../../x.png": b""}), "'a/../../x.png'"),
    "the root": (zip_of({"/etc/x.png": b""}), "'/etc/x.png'"),
    "a drive": (zip_of({"C:/x.png": b""}), "'C:/x.png'"),
    "a drive by Windows": (zip_of({"C:\\x.png": b""}), "'C:/x.png'"),
    "a NUL in a name": (zip_of({"a#b.png": b""}).replace(b"a#b", b"a\0b"), r"a\x00b"),
    "a name of two lines": (zip_of({"a\nb.png": b""}), r"a\nb"),
    "a name for terminals": (zip_of({"a\x1b[2Jb.png": b""}), r"a\x1b[2Jb"),
    "a name of no text": (zip_of({"é": b""}).replace("é".encode(), b"\xff\xff"), "not UTF-8"),
    "an endless name": (zip_of({"a" * 60_000: b""}), "at most 1000 bytes"),
    "two of one name": (zip_of({"a": b"", "b": b""}).replace(b"b", b"a"), "occurs twice"),
}
PICTURES = {
    "225 million pixels of a bit": (png(15_000, 15_000), "15000x15000 pixels"),
    "100 million pixels of colour": (png(10_000, 10_000, 8, 2), "10000x10000 pixels"),
    "a PNG of 2^62 pixels": (png(2**31 - 1, 2**31 - 1)[:60], "pixels"),
    "a PNG of no pixels": (png(0, 0), "a.png"),
    "a profile that expands": (
        png(8, 8, 8, 0, png_chunk(b"iCCP", b"x\0\0" + zeros(2**27))),
        "",
    ),
    "a text that expands": (
        png(8, 8, 8, 0, png_chunk(b"zTXt", b"x\0\0" + zeros(2**28))),
        "decoded",
    ),
    "a PNG cut short": (IMAGE[:50], "decoded"),
    "a PNG with another bit": (IMAGE[:-20] + b"\0" + IMAGE[-19:], "decoded"),
    "a huge JPEG": (claiming("JPEG", 65_500, 65_500), "65500x65500 pixels"),
    "a huge BMP": (claiming("BMP", 20_000, 20_000), "20000x20000 pixels"),
    "a BMP beyond numbers": (claiming("BMP", 2**31 - 1, 2**31 - 1), "pixels"),
    "a huge GIF": (claiming("GIF", 65_535, 65_535), "pixels"),
    "a huge TGA": (claiming("TGA", 65_535, 65_535), "pixels"),
    "a huge PPM": (claiming("PPM", 2**31, 2**31), "pixels"),
    "a huge JPEG 2000": (claiming("JPEG2000", 2**31, 2**31), "a.png"),
    "a huge TIFF": (grey_tiff(200_000, 200_000), "pixels"),
    "a TIFF of four billion strips": (grey_tiff(64, 64, 2**32 - 1), "a.png"),
    "a TIFF that goes round": (grey_tiff(64, 64, 1, 8), "a.png"),
    "a TIFF of empty tags": (tiff([(tag, 4, 2**32 - 1, 8) for tag in range(256, 999)]), "a.png"),
    "a palette that is missing": (png(9, 9, 8, 3, png_chunk(b"tRNS", b"\0")), "palette"),
    "300 alphas of a palette": (png(9, 9, 8, 3, *PALETTE), "palette"),
    "a TIFF of negative colours": (coloured_tiff(), "cannot be decoded"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
    "a drawing": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///x"/></svg>',
        "not",
    ),
    "a PDF": (b"%PDF-1.7\n%%EOF", "not an image"),
    "no byte": (b"", "not an image"),
}
SAMPLES = {
    "a mask of 225 million pixels": ({"edge/k01.png": png(15_000, 15_000)}, "15000x15000"),
    "an image of more pixels": ({"img/k01.png": png(9000, 9000)}, "16x16, its image 9000x9000"),
    "a link for a label": ({"parts/k01.png": b"../../../etc/passwd"}, "parts/k01.png"),
    "a table of bytes": ({"metadata.csv": b"\xff\x00" * 99}, "not a CSV table"),
    "a table without a name": ({"metadata.csv": b"\n" * 10**6}, "expected a column id"),
    "a table of 100 MB": ({"metadata.csv": 10**8}, "expected at most"),
    "a million columns": ({"metadata.csv": b"," * 10**6}, "expected a column id"),
    "a cell of 100 kB": ({"metadata.csv": ROWS + b"k00," + b"x" * 10**5}, "two different rows"),
    "a value of 100 kB": ({"metadata.csv": ROWS.replace(b"glass", b"x" * 10**5)}, "at most 1000"),
    "a quote without end": ({"metadata.csv": b'id,material\n"' + b"x" * 10**6}, "not a CSV table"),
    "an id for terminals": ({"metadata.csv": ROWS + b"a\x1b[2J,b,c\n"}, r"a\x1b[2J"),
}
SHAPES = {
    "no JSON": (b"\x89PNG", "parts.json: not JSON"),
    "brackets in brackets": (b"[" * 10**5, "parts.json: not JSON"),
    "a class for terminals": (drawn("Polygon", [[[0, 0], [9, 0], [9, 9]]], "\x1b[2J"), r"\x1b[2J"),
    "coordinates of no number": (drawn("Polygon", [[[0, float("nan")], [9, 0]]]), "not finite"),
    "coordinates beyond numbers": (drawn("Polygon", [[[0, 10**400], [9, 0]]]), "pairs of numbers"),
    "rings in rings": (drawn("Polygon", [[[[0, 1], [2, 3]]]]), "pairs of numbers"),
    "many shapes": (drawn("MultiPolygon", [[[[9e8, 9e8]]]] * 10**4), "lies on"),
    "keys that are missing": (b'{"annotations": [{}], "images": []}', "categories"),
}
CASES = {
    f"{what.__name__}: {name}": (partial(what, data=data), words)
    for what, table in (
        *((task, TASKS), (shard, ZIPS), (picture, PICTURES), (sample, SAMPLES)),
        (shapes, SHAPES),
    )
    for name, (data, words) in table.items()
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of Pillow, as it reads what is broken
@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(case, tmp_path, capfd):
    work, words = CASES[case]
    refused(tmp_path, work, words, capfd)
