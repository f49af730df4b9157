"""Stores hold the members of a data set, as names and bytes: a folder, a zip, an HDF5 shard."""

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np

from datasets.stores import index_cache
from datasets.stores.blocks import BlockCache, from_environment
from datasets.stores.files import File, LocalFile, shown
from datasets.stores.hdf5files import is_other, read_layout
from datasets.stores.index_cache import Columns
from datasets.stores.names import SKIPPED, Names, of_a_file, spelled
from datasets.stores.zipfiles import MAX_MEMBER, PLACE, read_directory, utf8_name
from datasets.task import UserError

SHARD_SUFFIXES = (".zip", ".h5", ".hdf5")
HEADER = 256  # bytes that are read with a zip's member: most local headers are shorter

ROW = PLACE.itemsize
_place = struct.Struct("<QIIII?").unpack_from  # a row of PLACE


class Store:
    """Named members, read as bytes. Pickles, forks, spawns: each process opens its own handle.

    path: where the store lies; the text of its address if that is not on this machine.
    columns: arrays that say where each member lies; `names` and `starts` as in `Names`.
    named: the folder that was named where this is one of the shards in it.
    """

    named: Path | None = None

    def __init__(self, path: Path | str, columns: Columns) -> None:
        self.path = path
        self.columns = columns
        self._view()

    def _view(self) -> None:
        """What reads and names are looked up in, made from the columns, never pickled."""
        self._names = Names(memoryview(self.columns["names"]), self.columns["starts"])

    def names(self) -> Names:
        """Names of all members, in the store's order."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def read(self, name: str) -> bytes:
        """Bytes of the member with this name; UserError names shard and member."""
        index = self._names.find(name)
        if index < 0:
            raise UserError(f"{self.path}: {name}: no such member")
        return self.read_at(index)

    def read_at(self, index: int) -> bytes:
        """Bytes of member 0 <= index < len; UserError names shard and member."""
        raise NotImplementedError

    def open_at(self, index: int) -> BinaryIO:
        """As `read_at`, as a file from its beginning, which may be read in parts."""
        return io.BytesIO(self.read_at(index))

    def sizes(self) -> np.ndarray:
        """Bytes of each member, int64 (n)."""
        raise NotImplementedError

    def marks(self, members: np.ndarray) -> dict[str, np.ndarray]:
        """What tells the contents of these members from others without reading them, the surest
        first, uint32 (k): `crc` (CRC-32), `size` (bytes), or `name` (CRC-32 of it)."""
        return {"size": self.sizes()[members].astype(np.uint32)}

    def fingerprint(self) -> dict[str, Any] | None:
        """What changes when the store does; None if nothing short of reading it would tell."""
        return None

    def cache_location(self) -> tuple[Path | None, str]:
        """The folder where an index may be kept, None if nowhere, and the store's name there."""
        return None, str(self.path)

    def _checked(self, index: int, data: bytes, size: int, crc: int) -> bytes:
        if len(data) != size:
            raise self._error(index, f"{len(data)} bytes, expected {size}")
        if zlib.crc32(data) != crc:
            raise self._error(index, "damaged, its CRC-32 does not match")
        return data

    def _error(self, index: int, what: str) -> UserError:
        return UserError(f"{self.path}: {self._names[index]}: {what}")

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_names", "_places")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._view()


class FolderStore(Store):
    """Regular files below a folder: names relative to it with `/`, sorted.

    A symbolic link is what it leads to, a file or a folder, outside too: so hub caches and clusters
    lay folders out, and whoever names a folder has made its links or taken them. No folder is
    listed twice, nor one that holds this one. Members of zip and HDF5 are bytes and lead nowhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = os.path.abspath(path)
        try:
            raw = sorted(map(os.fsencode, self._walk()), key=lambda name: spelled(of_a_file(name)))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.filename}: {error.strerror}") from None
        names, usable = Names.collect(path, map(of_a_file, raw))
        listed = ((i, raw[number]) for i, number in enumerate(usable))
        self._on_disk = {i: os.fsdecode(name) for i, name in listed if name != names.raw(i)}
        super().__init__(path, Columns(names.columns()))

    def _walk(self) -> Iterator[str]:
        """Names as the system spells them. Links to folders come last."""
        folders, links, listed, home = [""], [], set(), os.path.realpath(self._root)
        while folders or links:
            below = folders.pop() if folders else links.pop(0)
            real = os.path.realpath(os.path.join(self._root, below))
            if real in listed or (below and Path(home).is_relative_to(real)):
                continue
            listed.add(real)
            for entry in sorted(os.scandir(real), key=lambda entry: entry.name):
                name = below + entry.name
                if SKIPPED.match(b"\n%s\n" % os.fsencode(entry.name).lower()):
                    continue
                linked = entry.is_symlink()
                if os.path.isdir(entry) if linked else entry.is_dir():
                    (links if linked else folders).append(f"{name}/")
                elif entry.is_file() if not linked else not _is_special(entry.path):
                    yield name

    def _file(self, index: int) -> str:
        return os.path.join(self._root, self._on_disk.get(index) or self._names[index])

    def read_at(self, index: int) -> bytes:
        with self.open_at(index) as file:
            try:
                return file.read()
            except OSError as error:
                raise self._error(index, f"cannot be read: {error.strerror}") from None

    def open_at(self, index: int) -> BinaryIO:
        try:
            if os.stat(self._file(index)).st_size > MAX_MEMBER:  # perhaps of a single hole
                raise self._error(index, f"larger than {MAX_MEMBER} bytes")
            return open(self._file(index), "rb")
        except OSError as error:
            raise self._error(index, f"cannot be read: {error.strerror}") from None

    def marks(self, members: np.ndarray) -> dict[str, np.ndarray]:
        """Sizes, of as many as a slow file system tells in seconds; else names."""
        few = len(members) <= index_cache.MIN_MEMBERS
        mark = self._size if few else lambda i: zlib.crc32(self._names.raw(i))
        values = np.fromiter(map(mark, members.tolist()), np.uint32, len(members))
        return {"size" if few else "name": values}

    def _size(self, index: int) -> int:
        """In bytes; 0 of a file whose reading will tell what is wrong."""
        try:
            return os.stat(self._file(index)).st_size & 0xFFFFFFFF
        except OSError:
            return 0

    def sizes(self) -> np.ndarray:
        try:
            sizes = [os.path.getsize(self._file(index)) for index in range(len(self))]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
        return np.array(sizes, np.int64)


class Shard(Store):
    """One file that holds all members. A large one's index is kept beside it, see `index_cache`."""

    def __init__(self, file: File | Path) -> None:
        self._file = file = LocalFile(file) if isinstance(file, Path) else file
        self._fingerprint = file.fingerprint()
        cached = index_cache.cache_path(file.folder, file.name)
        key = [type(self).__name__, self._fingerprint]
        columns = index_cache.load(cached, key)
        if columns is None:
            columns = Columns(self._index(self._fingerprint["size"]))
            if len(columns["starts"]) > index_cache.MIN_MEMBERS:  # starts has one more
                columns = index_cache.save(cached, key, columns)
        super().__init__(file.path, columns)

    def _view(self) -> None:
        super()._view()
        raw = self.columns["places"].view(np.uint8)
        few = len(self) < index_cache.MIN_MEMBERS  # a copy that a read looks into at once
        self._places = raw.tobytes() if few else memoryview(raw)

    def _index(self, length: int) -> dict[str, np.ndarray]:
        """The columns, read from a shard of `length` bytes."""
        raise NotImplementedError

    def marks(self, members: np.ndarray) -> dict[str, np.ndarray]:
        """As the base class's, and the CRC-32 that the shard holds."""
        crc = self.columns["places"].view(PLACE)["crc"][members]
        return {"crc": crc, **super().marks(members)}

    def fingerprint(self) -> dict[str, Any]:
        """The file's, taken when it was opened."""
        return self._fingerprint

    def cache_location(self) -> tuple[Path | None, str]:
        """Beside the file, under its name."""
        return self._file.folder, self._file.name

    def sizes(self) -> np.ndarray:
        return self.columns["places"].view(PLACE)["size"].astype(np.int64)


class ZipStore(Shard):
    """A zip (zip64 too), members stored or deflated. Opening reads the central directory alone."""

    def _index(self, length: int) -> dict[str, np.ndarray]:
        return read_directory(self._file, length)

    def read_at(self, index: int) -> bytes:
        """As the base class's: checked against the name and the CRC-32 in the zip."""
        row = _place(self._places, index * ROW)
        offset, packed, size, crc, name_crc, deflated = row
        data = self._file.read(HEADER + packed, offset)
        if len(data) < 30 or data[:4] != b"PK\3\4":
            raise self._error(index, "damaged, no member begins where the zip says")
        end_of_name = 30 + int.from_bytes(data[26:28], "little")
        start = end_of_name + int.from_bytes(data[28:30], "little")
        if len(data) < start + packed:
            data = self._file.read(start + packed, offset)
        if zlib.crc32(data[30:end_of_name]) != name_crc:
            self._check_name(index, data[30:end_of_name], int.from_bytes(data[6:8], "little"))
        data = data[start : start + packed]
        if deflated:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflate.decompress(data, size + 1)  # never more than one byte too many
            except zlib.error as error:
                raise self._error(index, f"damaged: {error}") from None
        return self._checked(index, data, size, crc)

    def _check_name(self, index: int, local: bytes, flags: int) -> None:
        """UserError unless a name that stands before a member is spelled otherwise only."""
        if spelled(utf8_name(local, flags)) != self._names.raw(index):
            raise self._error(
                index, f"damaged, the member that lies there is called {local[:80]!r}"
            )


class Hdf5Store(Shard):
    """An HDF5 shard as `datasets.pack` writes it, see `hdf5files`. h5py says where the members lie;
    they are then read as a zip's are, without h5py."""

    def _index(self, length: int) -> dict[str, np.ndarray]:
        return read_layout(self._file.path, self._file.as_file(length), length)

    def read_at(self, index: int) -> bytes:
        """As the base class's: checked against the CRC-32 in the shard."""
        offset, _, size, crc, _, _ = _place(self._places, index * ROW)
        return self._checked(index, self._file.read(size, offset), size, crc)


def parse_path(text: str) -> Path | str:
    """Where data lies, from a command line: a Path, or the text itself if it is an address."""
    return text if _is_address(text) else Path(text)


def open_stores(paths: Sequence[Path | str], keep: BlockCache | None = None) -> list[Store]:
    """One store for each zip, HDF5 shard or folder; a folder of shards gives one for each, sorted.

    A str with `://` is an address, see `remote`; `{000..019}` in it counts. keep: where parts of
    such files are kept, by default what `blocks.from_environment` says.
    UserError names a path that is missing, of another kind, given twice, or that cannot be opened.
    """
    shards: list[Path | str] = []
    folders: list[Path | None] = []
    for path in (parse_path(path) if isinstance(path, str) else path for path in paths):
        expanded = _expand_address(path) if isinstance(path, str) else _expand_path(path)
        shards += expanded
        folders += [None if isinstance(path, str) or expanded == [path] else path] * len(expanded)
    if not shards:
        raise UserError("no data paths given")
    real = [path if _is_address(path) else os.path.realpath(path) for path in shards]
    for i, path in enumerate(real):
        if path in real[:i]:
            raise UserError(f"{shown(shards[i])}: given twice")
    if any(map(_is_address, shards)) and keep is None:
        keep = from_environment()
    stores = [_open(path, keep) for path in shards]
    for store, folder in zip(stores, folders, strict=True):
        store.named = folder
    return stores


def _is_special(path: str) -> bool:
    """Whether a link leads to a pipe, socket or device. One that leads nowhere is named when it is
    read."""
    return os.path.exists(path) and not os.path.isfile(path)


def _is_address(path: Path | str) -> bool:
    return isinstance(path, str) and "://" in path


def _expand_address(url: str) -> list[str]:
    from datasets.stores.remote import expand

    return expand(url, SHARD_SUFFIXES)


def _expand_path(path: Path) -> list[Path]:
    if path.is_dir():
        inside = (p for p in path.iterdir() if _is_shard(p) and p.is_file())
        return sorted(p for p in inside if p.suffix.lower() == ".zip" or not is_other(p)) or [path]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not (_is_shard(path) and path.is_file()):  # no pipe, socket or device, which may never end
        raise UserError(
            f"{path}: expected a folder or a regular file of {', '.join(SHARD_SUFFIXES)}; "
            "python -m datasets.pack makes one of folders or parquet"
        )
    return [path]


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() in SHARD_SUFFIXES and not path.name.startswith(".")


def _open(path: Path | str, keep: BlockCache | None) -> Store:
    if _is_address(path):
        from datasets.stores.remote import RemoteFile  # fsspec, which few runs need

        kind = ZipStore if urlsplit(path).path.lower().endswith(".zip") else Hdf5Store
        return kind(RemoteFile(path, keep))
    if path.is_dir():
        return FolderStore(path)
    return ZipStore(path) if path.suffix.lower() == ".zip" else Hdf5Store(path)
