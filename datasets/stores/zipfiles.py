"""Finds the members in a zip: their names, sizes and places, in arrays."""

import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.stores.files import File
from datasets.stores.names import Names
from datasets.task import UserError

MAX_MEMBER = 2**31  # bytes a member may claim to hold
MAX_RATIO = 1100  # deflate cannot shrink more than 1032 to 1, so a larger claim is an attack
MAX_SPARSE = 2**28  # bytes of a member that deflate has made 50 times smaller
STORED, DEFLATED = 0, 8
UTF8_FLAG = 0x800  # else a name that is not UTF-8 is in IBM code page 437

# Where a member lies: from which byte on, bytes that it takes there, its bytes, CRC-32 of them, and
# of its name as it stands in the shard. One row of plain bytes, because a read of one of hundreds
# of shards finds nothing in the processor's cache: an array for each field cost a microsecond more.
PLACE = np.dtype(
    [("offset", "<u8"), ("packed", "<u4"), ("size", "<u4"), ("crc", "<u4"), ("name", "<u4")]
    + [("deflated", "?")]
)

# A central directory entry and the records that end a zip: APPNOTE.TXT 6.3, 4.3.12 to 4.3.16.
_ENTRY = np.dtype(
    "<u4,<u2,<u2,<u2,<u2,<u2,<u2,<u4,<u4,<u4,<u2,<u2,<u2,<u2,<u2,<u4,<u4"
)  # f3 flags, f4 method, f7 crc, f8 compressed, f9 size, f13 disk, f16 offset of the local header
_LENGTHS = struct.Struct("<HHH")  # of name, extra field and comment
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")


class _Directory(NamedTuple):
    """entries: the central directory. count: entries it should have. shift: bytes before the zip
    begins. limit: where the directory begins, and members end."""

    entries: bytes
    count: int
    shift: int
    limit: int


def read_directory(file: File, length: int) -> dict[str, np.ndarray]:
    """Members of a zip (zip64 too) of `length` bytes, read from its central directory alone.

    names uint8 and starts (n + 1) as in `Names`; places (n): see `PLACE`.
    UserError names the zip, and the member that is encrypted, absurdly large or out of place.
    """
    directory, count, shift, limit = _find_directory(file, length)
    positions, sums = array("q"), array("L")
    raw = _walk_directory(file.path, directory, count, positions, sums)
    names, usable = Names.collect(file.path, raw)
    at = np.array(positions, np.int64)[usable]
    # A view of an entry from every byte on: picking rows copies 46 bytes a member, no more.
    room = max(len(directory) - _ENTRY.itemsize + 1, 0)
    entries = np.ndarray((room,), _ENTRY, directory, strides=(1,))[at]
    method, flags = entries["f4"], entries["f3"]
    size, packed, offset = _wide(file.path, names, directory, at, entries)
    offset += shift
    for wrong, what in (
        (flags & 0x2041 != 0, "encrypted, expected a plain member"),
        ((method != STORED) & (method != DEFLATED), "compression is neither stored nor deflate"),
        (size > MAX_MEMBER, f"claims more than {MAX_MEMBER} bytes"),
        (size > packed * MAX_RATIO, f"claims to expand more than {MAX_RATIO} times"),
        (
            (size > MAX_SPARSE) & (size > packed * 50),
            f"claims {MAX_SPARSE} bytes and more of a few",
        ),
        ((method == STORED) & (size != packed), "stored, but its two sizes differ"),
        (offset + 30 + packed > limit, "lies outside the file"),
    ):
        if wrong.any():
            raise UserError(f"{file.path}: {names[int(wrong.argmax())]}: {what}")
    places = np.empty(len(names), PLACE)
    places["offset"], places["packed"], places["size"] = offset, packed, size
    places["crc"], places["name"] = entries["f7"], np.array(sums, np.uint32)[usable]
    places["deflated"] = method == DEFLATED
    return {**names.columns(), "places": places}


def _find_directory(file: File, length: int) -> _Directory:
    path, begin = file.path, max(length - _END.size - 0xFFFF, 0)
    tail = file.read(length - begin, begin)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") != len(tail):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        begun = file.read(4, 0) == b"PK\3\4"
        raise UserError(f"{path}: " + ("cut short: the zip has no end" if begun else "not a zip"))
    _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, at)
    end = begin + at
    locator = file.read(_LOCATOR64.size, max(end - _LOCATOR64.size, 0))
    if locator[:4] == b"PK\6\7":
        end = min(_LOCATOR64.unpack(locator)[2], length)
        record = file.read(_END64.size, end)
        if record[:4] != b"PK\6\6" or len(record) < _END64.size:
            raise UserError(f"{path}: cut short: the zip64 record is not where it should be")
        _, _, _, _, disk, _, _, count, size, start = _END64.unpack(record)
    if disk != 0:
        raise UserError(f"{path}: one part of a split zip, expected a whole one")
    if start + size > end:
        raise UserError(f"{path}: cut short: {start + size - end} bytes are missing")
    return _Directory(file.read(size, end - size), count, end - size - start, end - size)


def _walk_directory(
    path: Path | str, directory: bytes, count: int, positions: array, sums: array
) -> Iterator[bytes]:
    """Every entry's name in UTF-8; its position in the directory is appended to `positions`, the
    CRC-32 of the name as it stands there to `sums`."""
    at = 0
    while at < len(directory):
        if directory[at : at + 4] != b"PK\1\2" or at + _ENTRY.itemsize > len(directory):
            raise UserError(
                f"{path}: damaged: entry {len(positions)} of the zip's directory is not one"
            )
        name_length, extra, comment = _LENGTHS.unpack_from(directory, at + 28)
        name = directory[at + 46 : at + 46 + name_length]
        sums.append(zlib.crc32(name))
        if not name.isascii():
            name = utf8_name(name, int.from_bytes(directory[at + 8 : at + 10], "little"))
        positions.append(at)
        yield name
        at += 46 + name_length + extra + comment
    if at != len(directory) or len(positions) != count:
        raise UserError(f"{path}: damaged: {len(positions)} members in the zip, expected {count}")


def utf8_name(name: bytes, flags: int) -> bytes:
    """A member's name as UTF-8, from the bytes and the flags that its header holds: macOS and
    others write UTF-8 without its flag, and no text of code page 437 looks so."""
    try:
        return name.decode().encode()
    except UnicodeDecodeError:
        return name if flags & UTF8_FLAG else name.decode("cp437").encode()


def _wide(
    path: Path | str, names: Names, directory: bytes, at: np.ndarray, entries: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size, packed size and local header offset as int64 (n), from zip64 fields where used."""
    values = np.stack([entries[f].astype(np.int64) for f in ("f9", "f8", "f16")])  # (3, n)
    for i in np.flatnonzero((values == 0xFFFFFFFF).any(0)):
        begin = int(at[i]) + _ENTRY.itemsize + int(entries["f10"][i])
        extra = directory[begin : begin + int(entries["f11"][i])]
        while len(extra) >= 4 and extra[:2] != b"\1\0":
            extra = extra[4 + int.from_bytes(extra[2:4], "little") :]
        wide = extra[4 : 4 + int.from_bytes(extra[2:4], "little")]
        for row in np.flatnonzero(values[:, i] == 0xFFFFFFFF):
            number = int.from_bytes(wide[:8], "little")
            if len(wide) < 8 or number >= 2**61:
                raise UserError(f"{path}: {names[int(i)]}: its zip64 sizes are missing or absurd")
            values[row, i], wide = number, wide[8:]
    return values[0], values[1], values[2]
