"""How good files are changed so that a reader gets far into them: field by field, and with lengths
and checksums that are right where nothing behind them would be read otherwise."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fuzz import NUMBERS, TEXTS, flip, twist

from datasets.stores.hdf5files import index_crc

Field = tuple[int, int, str]  # where it begins, its bytes, "little" or "big"
CHUNKS = b"PLTE tRNS iCCP zTXt eXIf acTL fcTL fdAT gAMA sBIT iTXt".split()
# Of a zip: the fields of a record by its signature, where each begins and how many bytes it has.
ZIP_RECORDS = {
    b"PK\1\2": "6:2 8:2 10:2 16:4 20:4 24:4 28:2 30:2 32:2 34:2 36:2 38:4 42:4",
    b"PK\3\4": "4:2 6:2 8:2 14:4 18:4 22:4 26:2 28:2",
    b"PK\5\6": "4:2 6:2 8:2 10:2 12:4 16:4 20:2",
    b"PK\6\6": "4:8 16:4 20:4 24:8 32:8 40:8 48:8",
    b"PK\6\7": "4:4 8:8 16:4",
}
# Size, depth, compression, photometry, strips, planes, predictor, colours, tiles, folders below,
# extra samples, formats, JPEG tables, YCbCr, GeoTIFF, ICC.
TIFF_TAGS = (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 305, 317, 320, 322)
TIFF_TAGS += (323, 324, 325, 330, 338, 339, 347, 513, 514, 529, 530, 532, 700, 33432, 33550, 33922)
TIFF_TAGS += (34377, 34665, 34675, 34853, 42112, 42113)
SEGMENTS = (
    0xC0,
    0xC1,
    0xC2,
    0xC3,
    0xC4,
    0xC9,
    0xCC,
    0xDA,
    0xDB,
    0xDC,
    0xDD,
    0xE0,
    0xE1,
    0xE2,
    0xED,
)
SEGMENTS += (0xEE, 0xFE)


def poke(rng: random.Random, data: bytes, fields: list[Field]) -> bytes:
    """Other numbers in a few of the fields."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, size, order = rng.choice(fields)
        number = int.from_bytes(raw[at : at + size], order)
        others = (number + 1, number - 1, number * 2, number * 256, rng.choice(NUMBERS))
        number = rng.choice((*others, rng.choice(NUMBERS), rng.getrandbits(8 * size)))
        raw[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
    return bytes(raw)


def change_zip(rng: random.Random, data: bytes) -> bytes:
    """Other numbers in its records, or other names and contents with checksums that are right."""
    kind = rng.random()
    if kind < 0.2:
        return flip(rng, data)
    if kind < 0.7:
        return poke(rng, data, list(_zip_fields(data)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [(info.filename, file.read(info)) for info in file.infolist()]
    for _ in range(rng.choice((1, 2))):
        at = rng.randrange(len(members))
        name, body = members[at]
        odd = (*TEXTS, name + "/", f"x/{name}", name * 30, name.upper(), rng.choice(members)[0])
        changed = (rng.choice(odd), body) if rng.random() < 0.6 else (name, flip(rng, body))
        members[at : at + rng.randrange(2)] = [changed]
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as out:
        for name, body in members:
            out.writestr(zipfile.ZipInfo(name or "x"), body)
    return buffer.getvalue()


def _zip_fields(data: bytes) -> Iterator[Field]:
    for signature, fields in ZIP_RECORDS.items():
        at = data.find(signature)
        while at >= 0:
            for begin, size in (map(int, field.split(":")) for field in fields.split()):
                yield at + begin, size, "little"
            at = data.find(signature, at + 4)


def change_hdf5(rng: random.Random, data: bytes) -> bytes:
    """Other arrays, often with the checksum that they have."""
    if rng.random() < 0.3:
        return flip(rng, data)
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        path.write_bytes(data)
        with h5py.File(path) as file:
            form, arrays = file.attrs["format"], {name: file[name][:] for name in file}
        name = rng.choice(list(arrays))
        arrays[name] = _other_array(rng, arrays[name])
        with h5py.File(path, "w") as file:
            file.attrs["format"] = form if rng.random() < 0.95 else rng.choice((1.5, "x", [1, 2]))
            if rng.random() < 0.7:
                file.attrs["index_crc32"] = rng.choice((index_crc(arrays), 0, "x", [1, 2]))
            for key, array in arrays.items():
                kind = rng.randrange(12) if key == name else 9
                if kind == 0:
                    file.create_group(key)
                elif kind == 1:
                    file[key] = h5py.SoftLink(rng.choice(("/", f"/{key}", "/names")))
                elif kind == 2:
                    file[key] = h5py.ExternalLink(rng.choice(("x.h5", "/etc/passwd")), f"/{key}")
                elif kind == 3 and array.size and array.ndim:
                    file.create_dataset(key, data=array, compression="gzip")
                elif kind == 4:
                    file.create_dataset(key, shape=(2**40,), dtype=array.dtype, chunks=(64,))
                elif kind == 5:
                    file.create_dataset(key, shape=(0,), dtype=array.dtype, maxshape=(None,))
                else:
                    file[key] = array
        return path.read_bytes()


def _other_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    kind = rng.randrange(9)
    if kind == 0:
        return array[: rng.randrange(len(array))]
    if kind == 1:
        return np.concatenate([array, array[-1:]])
    if kind == 2:
        return array.astype(rng.choice((np.float64, np.int64, np.uint8, np.bool_)))
    if kind == 3:
        return array[rng.choice((None, ...))] if rng.random() < 0.5 else np.array(rng.random())
    array = array.copy()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(array))
        number = rng.choice((int(array[at]) + 1, int(array[at]) - 1, rng.choice(NUMBERS)))
        array[at] = number % 2 ** (8 * array.itemsize)
    return array


def change_parquet(rng: random.Random, data: bytes) -> bytes:
    """Other cells and kinds of columns, groups and compressions, or other bytes."""
    import pyarrow
    from pyarrow import parquet

    if rng.random() < 0.4:
        return flip(rng, data)
    rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(rows))
        if (
            isinstance(rows[at], dict) and rng.random() < 0.5
        ):  # in all of them, else they would be of two kinds
            key = rng.choice([*rows[at], "image"])
            value = twist(rng, rows[at].get(key), (b"", b"x", [b"x"]))
            rows = [{**row, key: value} if isinstance(row, dict) else row for row in rows]
        else:
            rows[at] = twist(rng, rows[at], (b"", b"\xff"))
    buffer = io.BytesIO()
    try:
        table = pyarrow.Table.from_pylist(rows)
        if rng.random() < 0.2:
            table = table.rename_columns(
                [rng.choice(("id", "image", "", c)) for c in table.columns]
            )
        compression = rng.choice(("none", "gzip", "zstd", "snappy"))
        size = rng.choice((1, 3, 100))
        parquet.write_table(table, buffer, row_group_size=size, compression=compression)
    except (pyarrow.ArrowException, TypeError, OverflowError, AttributeError):  # cannot be written
        return flip(rng, data)
    return buffer.getvalue()


def change_tiff(rng: random.Random, data: bytes) -> bytes:
    """Other tags, kinds, counts and values in its folder."""
    if rng.random() < 0.2:
        return flip(rng, data)
    order = "little" if data[:2] == b"II" else "big"
    end, big = ("<" if order == "little" else ">"), data[2:4] in (b"+\0", b"\0+")
    at = struct.unpack_from(end + "Q" if big else end + "L", data, 8 if big else 4)[0]
    num = struct.unpack_from(end + "Q" if big else end + "H", data, at)[0]
    first, size, cell = at + (8 if big else 2), 20 if big else 12, 8 if big else 4
    fields: list[Field] = [(first + num * size, cell, order)]  # where the next folder lies
    for entry in range(first, first + num * size, size):
        value = entry + size - cell
        fields += [(entry, 2, order), (entry + 2, 2, order), (entry + 4, cell, order)]
        fields += 3 * [(value, 2, order), (value, cell, order)]
        far = struct.unpack_from(end + ("Q" if big else "L"), data, value)[0]
        fields += [(far, 4, order)] if far < len(data) - 4 else []
    data = poke(rng, data, fields)
    if rng.random() < 0.5:  # a tag that it does not have
        entry = first + rng.randrange(num) * size
        count = rng.choice((1, 1, 2, 3, 4, 100)).to_bytes(cell, order)
        value = (rng.choice(NUMBERS) % 2 ** (8 * cell)).to_bytes(cell, order)
        kind = rng.randrange(1, 19).to_bytes(2, order)
        tag = rng.choice(TIFF_TAGS).to_bytes(2, order)
        data = data[:entry] + tag + kind + count + value + data[entry + size :]
    return data


def change_jpeg(rng: random.Random, data: bytes) -> bytes:
    """Changed, new, doubled and lost segments, with lengths that are right."""
    if rng.random() < 0.2:
        return flip(rng, data)
    segments, at = [], 2
    while data[at + 1] != 0xDA:  # where the picture begins
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    for _ in range(rng.choice((1, 1, 2, 3))):
        where, kind = rng.randrange(len(segments)), rng.randrange(7)
        marker, body = segments[where]
        if kind == 0:
            begins = rng.choice(
                (b"", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01", b"Adobe\0d\0\0\0\0")
            )
            junk = rng.randbytes(rng.choice((0, 1, 2, 4, 20, 300)))
            segments.insert(where, (rng.choice(SEGMENTS), begins + junk))
        elif kind == 1:
            segments.insert(where, rng.choice(segments))
        elif kind == 2 and len(segments) > 1:
            del segments[where]
        elif kind == 3:
            segments[where] = rng.choice(SEGMENTS), body
        elif kind == 4 and body:
            segments[where] = marker, poke(rng, body, [(rng.randrange(len(body)), 1, "big")])
        else:
            segments[where] = marker, flip(rng, body)
    packed = (
        b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body
        for marker, body in segments
    )
    return data[:2] + b"".join(packed) + data[at:]


def change_png(rng: random.Random, data: bytes) -> bytes:
    """Changed chunks with checksums that are right."""
    if rng.random() < 0.1:
        return flip(rng, data)
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    for _ in range(rng.choice((1, 1, 2))):
        at, kind = rng.randrange(len(chunks)), rng.randrange(6)
        if kind == 0:
            chunks.insert(at, [rng.choice(CHUNKS), rng.randbytes(rng.choice((0, 1, 4, 26, 300)))])
        elif kind == 1:
            chunks.insert(at, chunks[rng.randrange(len(chunks))])
        elif kind == 2 and len(chunks) > 1:
            del chunks[at]
        else:
            chunks[at] = [chunks[at][0], flip(rng, chunks[at][1])]
    packed = (
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return data[:8] + b"".join(packed)


def change_box(rng: random.Random, data: bytes) -> bytes:
    """A picture of sizes and names one within the other, or of a short header: numbers that stand
    before or behind four letters, and those of the first bytes."""
    if rng.random() < 0.4:
        return flip(rng, data)
    letters = [at for at in range(4, len(data) - 8) if data[at : at + 4].isalpha()]
    fields: list[Field] = [
        (at, 2, rng.choice(("little", "big"))) for at in range(min(40, len(data)))
    ]
    for at in letters[:60]:
        fields += [(at - 4, 4, "big"), (at + 4, 4, "little")]
        fields += [(at + 4 + skip, 4, "big") for skip in (0, 4, 8) if at + skip + 8 < len(data)]
    return poke(rng, data, fields)
