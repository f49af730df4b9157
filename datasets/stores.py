"""A folder, a zip or an HDF5 shard goes in; member names and the bytes of any member come out."""

from __future__ import annotations

import os
import re
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_MEMBER = 2**31  # bytes a member may claim to hold
MAX_RATIO = 1100  # deflate cannot shrink more than 1032 to 1, so a larger claim is an attack
MAX_NAME = 1000  # bytes of a member name
HDF5_FORMAT = "manyhead-shard-1"
SHARD_SUFFIXES = (".zip", ".h5", ".hdf5")

# Names are held a line each. Not in one: a root, a drive, `..`, a backslash, a control character.
# Each pattern begins with what is rare, so that a million names are searched in a second.
_REFUSED = (
    re.compile(rb"\n(?:/|\n|[A-Za-z]:/)"),
    re.compile(rb"[\\\x00-\x09\x0b-\x1f\x7f]"),
    re.compile(rb"\.\.(?<=[\n/]\.\.)(?=[\n/])"),
)
_SKIPPED = re.compile(
    rb"^(?:.*/|(?:.*/)?__MACOSX/.*|(?:.*/)?\.DS_Store)$", re.MULTILINE
)  # folder entries, and what macOS adds


class Names(Sequence[str]):
    """Member names in one UTF-8 blob: about 30 bytes a name, where a list of str takes 100.

    blob: bytes, every name followed by a newline. starts: unsigned (n + 1), name i is
    `blob[starts[i] : starts[i + 1] - 1]`. Both are plain values that an index can search whole.
    """

    def __init__(self, blob: bytes, starts: np.ndarray) -> None:
        self.blob = blob
        self.starts = starts
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # hashes, positions; made by find

    @classmethod
    def collect(cls, path: Path, names: Iterable[bytes]) -> Names:
        """Join encoded names; ValueError names the shard and the name that cannot be a member."""
        blob, lengths = bytearray(), array("q", [0])
        for name in names:
            if b"\n" in name or len(name) > MAX_NAME:
                raise ValueError(
                    f"{path}: {name[:80]!r}: expected a name of one line, at most {MAX_NAME} bytes"
                )
            blob += name
            blob.append(10)
            lengths.append(len(name) + 1)
        starts = np.cumsum(lengths, dtype=np.uint32 if len(blob) < 2**32 else np.uint64)
        found = cls(bytes(blob), starts)
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        """Refuse unsafe names, names that are not UTF-8, and duplicates."""
        lines = b"\n" + self.blob
        for bad in filter(None, (pattern.search(lines) for pattern in _REFUSED)):
            at = max(bad.end() - 2, 0)  # a byte of the name, or the newline of an empty one
            name = self.raw(int(np.searchsorted(self.starts, at, "right")) - 1)
            raise ValueError(f"{path}: {name!r}: expected a relative name without '..' or '\\'")
        try:
            self.blob.decode("utf-8")
        except UnicodeDecodeError as error:
            name = self.raw(int(np.searchsorted(self.starts, error.start, "right")) - 1)
            raise ValueError(f"{path}: {name!r}: the name is not UTF-8") from None
        hashes, order = self._hashes_in_order()
        seen = set()
        for at in np.flatnonzero(hashes[1:] == hashes[:-1]) + 1:
            if at < 2 or hashes[at - 1] != hashes[at - 2]:  # a new run of equal hashes
                seen = {self.raw(order[at - 1])}
            if (name := self.raw(order[at])) in seen:
                raise ValueError(f"{path}: {name.decode()}: the name occurs twice")
            seen.add(name)

    def raw(self, index: int) -> bytes:
        """The encoded name at 0 <= index < len."""
        return self.blob[int(self.starts[index]) : int(self.starts[index + 1]) - 1]

    def find(self, name: str) -> int:
        """Position of a name, -1 where there is none. A process's first call sorts the hashes."""
        if self._sorted is None:
            self._sorted = self._hashes_in_order()
        hashes, order = self._sorted
        try:
            wanted = name.encode("utf-8")
        except UnicodeEncodeError:  # lone surrogates: no member has such a name
            return -1
        sought = _hash_lines(wanted + b"\n", np.array([0, len(wanted) + 1], np.uint32))[0]
        for at in range(int(np.searchsorted(hashes, sought)), len(hashes)):
            if hashes[at] != sought:
                break
            if self.raw(order[at]) == wanted:
                return int(order[at])
        return -1

    def _hashes_in_order(self) -> tuple[np.ndarray, np.ndarray]:
        hashes = _hash_lines(self.blob, self.starts)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order.astype(np.uint32)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        """A name, or a list of names for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.raw(index % len(self)).decode()

    def __iter__(self) -> Iterator[str]:
        return (self.raw(i).decode() for i in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) >= 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sorted": None}


def _hash_lines(blob: bytes, starts: np.ndarray) -> np.ndarray:
    """uint64 (n): a multiply-xor hash of each line, eight bytes a step. Verify what it finds."""
    words = np.ndarray((len(blob),), "<u8", blob + bytes(8), strides=(1,))  # from every byte on
    begin = starts[:-1].astype(np.int64)
    lengths = np.diff(starts).astype(np.int64) - 1
    hashes = lengths.astype(np.uint64)
    for done in range(0, int(lengths.max(initial=0)), 8):
        on = np.flatnonzero(lengths > done)
        unused = (8 - np.minimum(lengths[on] - done, 8)).astype(np.uint64)
        mixed = hashes[on] ^ (words[begin[on] + done] << (unused * np.uint64(8)))
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        hashes[on] = mixed ^ (mixed >> np.uint64(29))
    return hashes


class Store:
    """Named members, read as bytes. Pickles, forks, spawns: each process opens its own handle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = Names(b"", np.zeros(1, np.uint32))
        self._file: BinaryIO | None = None
        self._owner = 0  # the process that opened _file

    def names(self) -> Names:
        """Names of all members, in the store's order."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def read(self, name: str) -> bytes:
        """Bytes of the member with this name; ValueError names shard and member."""
        index = self._names.find(name)
        if index < 0:
            raise ValueError(f"{self.path}: {name}: no such member")
        return self.read_at(index)

    def read_at(self, index: int) -> bytes:
        """Bytes of member 0 <= index < len; ValueError names shard and member."""
        raise NotImplementedError

    def _pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes of the shard; fewer only at its end. Moves no shared file position."""
        file = self._file
        try:
            if file is None or self._owner != os.getpid():
                file = self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
                self._owner = os.getpid()
            data = os.pread(file.fileno(), size, offset)
            while len(data) < size:  # one call gives at most 2 GiB
                more = os.pread(file.fileno(), size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read: {error.strerror}") from None
        return data

    def _checked(self, index: int, data: bytes, size: int, crc: int) -> bytes:
        if len(data) != size:
            raise self._error(index, f"{len(data)} bytes, expected {size}")
        if zlib.crc32(data) != crc:
            raise self._error(index, "damaged, its CRC-32 does not match")
        return data

    def _error(self, index: int, what: str) -> ValueError:
        return ValueError(f"{self.path}: {self._names[index]}: {what}")

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        """ValueError that names the first member for which `wrong`, bool (n), is set."""
        if wrong.any():
            raise self._error(int(wrong.argmax()), what)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class FolderStore(Store):
    """Files below a folder: names relative to it with `/`, sorted; hidden files are skipped."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._root = os.path.realpath(path)
        try:
            names = sorted(os.fsencode(name) for name in self._walk(""))
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read: {error.filename}: {error.strerror}"
            ) from None
        if not names:
            raise ValueError(f"{path}: the folder holds no files")
        self._names = Names.collect(path, names)

    def _walk(self, below: str) -> Iterator[str]:
        for entry in os.scandir(self.path / below):
            name = below + entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if not entry.is_dir():
                if entry.is_file() or entry.is_symlink():  # a broken link is named when it is read
                    yield name
            elif not entry.is_symlink():
                yield from self._walk(name + "/")
            else:
                self._inside(name)  # a link to a folder within: its files are listed where they are

    def _inside(self, name: str) -> str:
        """The real path of a member; ValueError if a symbolic link leads out of the folder."""
        real = os.path.realpath(os.path.join(self._root, name))
        if not real.startswith(os.path.join(self._root, "")):
            raise ValueError(f"{self.path}: {name}: a symbolic link out of the folder")
        return real

    def read_at(self, index: int) -> bytes:
        real = self._inside(self._names[index])
        try:
            with open(real, "rb") as file:
                return file.read()
        except OSError as error:
            raise self._error(index, f"cannot be read: {error.strerror}") from None


# A central directory entry and the records that end a zip: APPNOTE.TXT 6.3, 4.3.12 to 4.3.16.
_ENTRY = np.dtype(
    "<u4,<u2,<u2,<u2,<u2,<u2,<u2,<u4,<u4,<u4,<u2,<u2,<u2,<u2,<u2,<u4,<u4"
)  # f3 flags, f4 method, f7 crc, f8 compressed, f9 size, f13 disk, f16 offset of the local header
_LENGTHS = struct.Struct("<HHH")  # of name, extra field and comment
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_STORED, _DEFLATED = 0, 8


class ZipStore(Store):
    """A zip (zip64 too), members stored or deflated. Opening reads the central directory alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        directory, count, shift, limit = self._directory()
        places = array("q")
        raw = list(_walk_directory(path, directory, count, places))
        at = np.array(places, np.int64)
        # A view of an entry from every byte on: picking rows copies 46 bytes a member, no more.
        room = max(len(directory) - _ENTRY.itemsize + 1, 0)
        entries = np.ndarray((room,), _ENTRY, directory, strides=(1,))[at]
        kept = [i for i, name in enumerate(raw) if not _SKIPPED.match(name)]
        if not kept:
            raise ValueError(f"{path}: the zip holds no files")
        self._names = Names.collect(path, (raw[i] for i in kept))
        del raw
        entries, at = entries[kept], at[kept]
        method, flags = entries["f4"], entries["f3"]
        size, packed, offset = self._wide(directory, at, entries)
        self._refuse(flags & 0x2041 != 0, "encrypted, expected a plain member")
        self._refuse(
            (method != _STORED) & (method != _DEFLATED), "compression is neither stored nor deflate"
        )
        self._refuse(size > MAX_MEMBER, f"claims more than {MAX_MEMBER} bytes")
        self._refuse(size > packed * MAX_RATIO, f"claims to expand more than {MAX_RATIO} times")
        self._refuse((method == _STORED) & (size != packed), "stored, but its two sizes differ")
        offset += shift
        self._refuse(offset + 30 + packed > limit, "lies outside the file")
        self._size = self._packed = size.astype(np.uint32)
        if (method == _DEFLATED).any():
            self._packed = packed.astype(np.uint32)
        self._offset = offset.astype(np.uint32 if limit < 2**32 else np.uint64)
        self._deflated, self._crc = method == _DEFLATED, entries["f7"].copy()

    def _directory(self) -> tuple[bytes, int, int, int]:
        """Central directory, its number of entries, bytes before the zip begins, its position."""
        path = self.path
        try:
            length = path.stat().st_size
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        begin = max(length - _END.size - 0xFFFF, 0)
        tail = self._pread(length - begin, begin)
        at = tail.rfind(b"PK\5\6")
        while at >= 0 and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") != len(tail):
            at = tail.rfind(b"PK\5\6", 0, at)
        if at < 0:
            begun = self._pread(4, 0) == b"PK\3\4"
            raise ValueError(
                f"{path}: " + ("cut short: the zip has no end" if begun else "not a zip")
            )
        _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, at)
        end = begin + at
        locator = self._pread(_LOCATOR64.size, max(end - _LOCATOR64.size, 0))
        if locator[:4] == b"PK\6\7":
            end = min(_LOCATOR64.unpack(locator)[2], length)
            record = self._pread(_END64.size, end)
            if record[:4] != b"PK\6\6" or len(record) < _END64.size:
                raise ValueError(f"{path}: cut short: the zip64 record is not where it should be")
            _, _, _, _, disk, _, _, count, size, start = _END64.unpack(record)
        if disk != 0:
            raise ValueError(f"{path}: one part of a split zip, expected a whole one")
        if start + size > end:
            raise ValueError(f"{path}: cut short: {start + size - end} bytes are missing")
        return self._pread(size, end - size), count, end - size - start, end - size

    def _wide(
        self, directory: bytes, at: np.ndarray, entries: np.ndarray
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
                    raise self._error(int(i), "its zip64 sizes are missing or absurd")
                values[row, i], wide = number, wide[8:]
        return values[0], values[1], values[2]

    def read_at(self, index: int) -> bytes:
        size, packed = int(self._size[index]), int(self._packed[index])
        offset, name = int(self._offset[index]), self._names.raw(index)
        # The local header may be longer than the central entry says: 64 bytes to spare.
        data = self._pread(30 + len(name) + 64 + packed, offset)
        if len(data) < 30 or data[:4] != b"PK\3\4":
            raise self._error(index, "damaged, no member begins where the zip says")
        start = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
        data = data[start : start + packed]
        if len(data) < packed:
            data = self._pread(packed, offset + start)
        if self._deflated[index]:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflate.decompress(data, size + 1)  # never more than one byte too many
            except zlib.error as error:
                raise self._error(index, f"damaged: {error}") from None
        return self._checked(index, data, size, int(self._crc[index]))


def _walk_directory(path: Path, directory: bytes, count: int, places: array) -> Iterator[bytes]:
    """Every entry's name in UTF-8; its position in the directory is appended to `places`."""
    at = 0
    while at < len(directory):
        if directory[at : at + 4] != b"PK\1\2" or at + _ENTRY.itemsize > len(directory):
            raise ValueError(
                f"{path}: damaged: entry {len(places)} of the zip's directory is not one"
            )
        name_length, extra, comment = _LENGTHS.unpack_from(directory, at + 28)
        name = directory[at + 46 : at + 46 + name_length]
        if not name.isascii() and not directory[at + 9] & 8:  # flag bit 11 unset: IBM code page 437
            name = name.decode("cp437").encode()
        places.append(at)
        yield name
        at += 46 + name_length + extra + comment
    if at != len(directory) or len(places) != count:
        raise ValueError(f"{path}: damaged: {len(places)} members in the zip, expected {count}")


class Hdf5Store(Store):
    """An HDF5 shard of the layout `datasets.pack` writes.

    Attribute `format`; datasets `data` uint8 (all members' bytes, contiguous), `offsets` uint64
    (n + 1), `names` uint8 (UTF-8), `name_offsets` uint64 (n + 1), `crc32` uint32 (n). h5py opens
    the shard and says where `data` lies; members are then read as a zip's are, without h5py.
    """

    def __init__(self, path: Path) -> None:
        import h5py  # a quarter of a second that folders and zips need not pay

        super().__init__(path)
        try:
            with h5py.File(path, "r") as file:
                self._load(file)
        except (OSError, RuntimeError, KeyError, TypeError):  # what h5py makes of damaged headers
            raise ValueError(f"{path}: not an HDF5 file, cut short or damaged") from None

    def _load(self, file: Any) -> None:
        path, length = self.path, self.path.stat().st_size
        form = file.attrs.get("format", "")
        if form not in (HDF5_FORMAT, HDF5_FORMAT.encode()):
            raise ValueError(f"{path}: format is {form!r}, expected an HDF5 shard {HDF5_FORMAT!r}")
        kinds = {"data": "u1", "offsets": "u8", "names": "u1", "name_offsets": "u8", "crc32": "u4"}
        for name, kind in kinds.items():
            item = file.get(name)
            shape = getattr(item, "shape", None)  # a group or a named type has none
            if not shape or len(shape) != 1 or item.dtype != np.dtype(kind):
                raise ValueError(
                    f"{path}: dataset {name}: expected {np.dtype(kind)} in one dimension"
                )
            if item.nbytes > length:
                raise ValueError(f"{path}: dataset {name}: claims more bytes than the file has")
        data, names = file["data"], file["names"][:].tobytes()
        self._crc, self._offsets = file["crc32"][:], file["offsets"][:]
        self._begin = data.id.get_offset()  # None: chunked, or without a byte
        if self._begin is None and len(data):
            raise ValueError(f"{path}: dataset data: expected contiguous storage, not chunks")
        name_offsets = file["name_offsets"][:]
        if not len(self._crc):
            raise ValueError(f"{path}: the shard holds no files")
        for name, offsets, end in (
            ("offsets", self._offsets, len(data)),
            ("name_offsets", name_offsets, len(names)),
        ):
            wrong = len(offsets) != len(self._crc) + 1 or offsets[0] != 0 or offsets[-1] != end
            if wrong or (offsets[1:] < offsets[:-1]).any():
                raise ValueError(
                    f"{path}: dataset {name}: expected {len(self._crc) + 1} from 0 up to {end}"
                )
        bounds = zip(name_offsets[:-1], name_offsets[1:], strict=True)
        self._names = Names.collect(path, (names[begin:end] for begin, end in bounds))
        self._refuse(np.diff(self._offsets) > MAX_MEMBER, f"claims more than {MAX_MEMBER} bytes")

    def read_at(self, index: int) -> bytes:
        begin, end = int(self._offsets[index]), int(self._offsets[index + 1])
        data = self._pread(end - begin, (self._begin or 0) + begin)
        return self._checked(index, data, end - begin, int(self._crc[index]))


def open_stores(paths: Sequence[Path]) -> list[Store]:
    """One store for each zip, HDF5 shard or folder; a folder of shards gives one for each, sorted.

    ValueError names a path that is missing, of another kind, given twice, or that cannot be opened.
    """
    shards = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if _is_shard(p) and p.is_file())
            shards += inside or [path]
        elif not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        elif _is_shard(path):
            shards.append(path)
        else:
            raise ValueError(f"{path}: expected a folder or a file of {', '.join(SHARD_SUFFIXES)}")
    if not shards:
        raise ValueError("no data paths given")
    real = [os.path.realpath(path) for path in shards]
    for i, path in enumerate(real):
        if path in real[:i]:
            raise ValueError(f"{shards[i]}: given twice")
    return [_open(path) for path in shards]


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() in SHARD_SUFFIXES and not path.name.startswith(".")


def _open(path: Path) -> Store:
    if path.is_dir():
        return FolderStore(path)
    return ZipStore(path) if path.suffix.lower() == ".zip" else Hdf5Store(path)
