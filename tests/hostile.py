"""Builds files that were made to hurt whoever reads them, and says what must become of them."""

import io
import json
import pickle
import signal
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, members_of
from PIL import Image

from datasets.stores import write_zip
from models import ModelSpec, UNet
from utils import checkpoint
from utils.command import run_command
from utils.settings import parse

MOST_SECONDS = 20  # of computing: a hang is longer, a busy machine is not


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """With its length and a checksum that is right."""
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int = 1, colours: int = 0, *extra: bytes) -> bytes:
    """All zeros, whatever its size: a hundred million pixels take some kilobytes."""
    row = 1 + -(-width * bits * (3 if colours == 2 else 1) // 8)
    body = zeros(min(row * height, 2**29))
    head = struct.pack(">LLBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", head), *extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def claiming(form: str, width: int, height: int) -> bytes:
    """A picture of 8x8 pixels whose header claims others."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, form)
    data = buffer.getvalue()
    at, code, sizes = {
        "JPEG": (data.find(b"\xff\xc0") + 5, ">HH", (height, width)),
        "BMP": (18, "<ll", (width, height)),
        "GIF": (6, "<HH", (width, height)),
        "TGA": (12, "<HH", (width, height)),
        "PPM": (3, "3s", (b"",)),
        "JPEG2000": (data.find(b"\xff\x51") + 6, ">LL", (width, height)),
    }[form]
    if form == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(99)
    return data[:at] + struct.pack(code, *sizes) + data[at + struct.calcsize(code) :]


def tiff(entries: list[tuple[int, int, int, int]], after: int = 0) -> bytes:
    """A directory of (tag, type, count, value), and the offset of the one after it."""
    table = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<LH", 8, len(entries))
    return head + table + struct.pack("<L", after) + bytes(64)


def grey_tiff(width: int, height: int, strips: int = 1, after: int = 0) -> bytes:
    """Of 8 bits, not compressed, nearly without pixels."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)]
    return tiff([*entries, (262, 3, 1, 1), (273, 4, strips, 8), (279, 4, strips, 64)], after)


def coloured_tiff() -> bytes:
    """Of 8x8 pixels and a palette, which is of numbers with a sign, all of them below zero."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 3)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]
    at = len(tiff([*entries, (320, 8, 768, 0)]))
    return tiff([*entries, (320, 8, 768, at)]) + b"\xf8" * 1536


def zeros(num: int) -> bytes:
    """So many zero bytes, compressed without being held."""
    pack, block = zlib.compressobj(9), bytes(2**16)
    parts = [pack.compress(block[: num - at]) for at in range(0, num, len(block))]
    return b"".join(parts) + pack.flush()


def zip_of(members: dict[str, bytes | int], method: int = zipfile.ZIP_STORED) -> bytes:
    """As Python writes it, whatever the names are; a number stands for so many zero bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            info, blocks = zipfile.ZipInfo(name), [data]
            if isinstance(data, int):
                blocks = (bytes(min(2**16, data - at)) for at in range(0, data, 2**16))
            info.compress_type = method
            with file.open(info, "w") as member:
                member.writelines(blocks)
    return buffer.getvalue()


def changed_entry(data: bytes, offset: int, code: str, value: Any) -> bytes:
    """A zip with one field of its first entry in the central directory overwritten."""
    raw = bytearray(data)
    struct.pack_into(code, raw, raw.index(b"PK\1\2") + offset, value)
    return bytes(raw)


def trained_state() -> dict[str, Any]:
    """What best.pt of the tiny task holds, of a network that has learnt nothing."""
    spec = ModelSpec.of(TINY.outputs, width=4, depth=2, convs=(1, 1, 1))
    config = {"tasks": [TINY.to_json()], "sizes": [[32, 32]], "model": spec.to_json()}
    weights = UNet(spec).state_dict()
    return {"format": checkpoint.FORMAT, "step": 1, "model": weights, "config": config}


def saved(state: Any) -> bytes:
    """A checkpoint of that state, whatever it is."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def repacked(data: bytes, method: int = zipfile.ZIP_STORED, **changed: bytes) -> bytes:
    """A checkpoint with other records, `data_pkl` for data.pkl, whose checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as file, zipfile.ZipFile(buffer, "w", method) as out:
        for record in file.infolist():
            key = record.filename.rpartition("/")[2].replace(".", "_")
            out.writestr(record.filename, changed.get(key, file.read(record)))
    return buffer.getvalue()


def nested(depth: int, width: int) -> list[Any]:
    """Lists within lists, each `width` times in the one above: few bytes, and width^depth ends."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner] * width
    return inner


class Call:
    """What a pickle of this calls when it is loaded."""

    def __init__(self, function: Any, *words: Any) -> None:
        self.function, self.words = function, words

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.words


def calling(function: Any, *words: Any) -> bytes:
    """A checkpoint that calls a function when it is loaded."""
    return repacked(saved({}), data_pkl=pickle.dumps(Call(function, *words), 2))


def make_run(folder: Path) -> Path:
    """A run of two steps of the tiny task: its folder. Its data is beside it."""
    import train

    write_zip(folder / "d.zip", members_of(TINY, 4).items())
    (folder / "t.json").write_text(json.dumps(TINY.to_json()))
    words = f"--task {folder}/t.json --data {folder}/d.zip --out {folder}/run --steps 2 --bs 2"
    words += " --eval-steps 1 --width 4 --depth 2 --convs 1 --device cpu --workers 0"
    train.train(parse([*words.split(), "--wandb", "disabled"]))
    return folder / "run"


def refused(folder: Path, work: Any, words: str, capfd: Any) -> None:
    """One line of `work(folder)` on stderr that holds the words, status 2, and nothing that was
    not there before outside of `folder`, which it may use."""
    inner = folder / "here" / "there"
    inner.mkdir(parents=True)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    handler = signal.signal(signal.SIGPROF, lambda *_: pytest.fail("it does not end"))
    try:
        status = run_command(lambda: work(inner))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    said = capfd.readouterr().err
    assert (status, said.count("\n")) == (2, 1), said
    assert said.startswith("error: "), said
    assert len(said) < 2000, len(said)
    assert said[:-1].isprintable(), said
    assert words in said, said
    assert [*folder.iterdir(), *inner.parent.iterdir()] == [inner.parent, inner]
