"""Writes zip and HDF5 shards, complete or not there at all."""

import json
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.stores.hdf5files import HDF5_FORMAT, index_crc
from datasets.stores.names import Names
from datasets.task import UserError
from utils.files import write_whole

CHUNK = 2**24  # bytes copied at a time
# HDF5 1.8's own layout of headers, the oldest with checksums: a flipped bit in them is an error.
HDF5_VERSIONS = ("v108", "v108")


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) pairs into an uncompressed zip; equal members give equal files.

    UserError names the file and a member whose name is unsafe or occurs twice, or why it cannot be
    written. The file appears when it is complete.
    """

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w") as file:
            for name, data in _named_once(path, members):
                info = zipfile.ZipInfo(name)  # 1980-01-01, stored
                info.create_system, info.external_attr = 3, 0o644 << 16  # Unix, on every system
                file.writestr(info, data)

    _write(path, write)


def write_hdf5(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) pairs into an HDF5 shard, see `hdf5files`; as `write_zip` otherwise.

    The bytes pass through a temporary file beside it: contiguous storage needs their number first.
    """
    import h5py

    def write(part: Path) -> None:
        offsets, name_offsets, crcs = array("Q", [0]), array("Q", [0]), array("I")
        names = bytearray()
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            for name, data in _named_once(path, members):
                spool.write(data)
                names += name.encode()
                offsets.append(offsets[-1] + len(data))
                name_offsets.append(len(names))
                crcs.append(zlib.crc32(data))
            spool.seek(0)
            index = {
                "offsets": np.array(offsets, np.uint64),
                "names": np.frombuffer(bytes(names), np.uint8),
                "name_offsets": np.array(name_offsets, np.uint64),
                "crc32": np.array(crcs, np.uint32),
            }
            with h5py.File(part, "w", libver=HDF5_VERSIONS) as file:
                file.attrs["format"] = np.bytes_(HDF5_FORMAT)  # fixed length, in the header
                file.attrs["index_crc32"] = np.uint32(index_crc(index))
                data = file.create_dataset("data", (offsets[-1],), np.uint8)
                for begin in range(0, offsets[-1], CHUNK):
                    data[begin : begin + CHUNK] = np.frombuffer(spool.read(CHUNK), np.uint8)
                for name, values in index.items():
                    file[name] = values

    _write(path, write)


def begin_shards(note: Path, facts: dict[str, Any], pattern: str, advice: str) -> bool:
    """Note what the shards beside `note` that fit `pattern` are made of; whether some are there,
    which an interrupted call made of the same. What it left half written is removed.

    UserError, with the advice: shards that were begun with other facts, which are named, or that
    nobody noted.
    """
    facts, there = json.loads(json.dumps(facts)), sorted(note.parent.glob(pattern))
    if there:
        try:
            before = dict(json.loads(note.read_text()))
        except (OSError, ValueError, TypeError):
            raise UserError(f"{there[0]}: already there; {advice}") from None
        changed = [name for name in facts if before.get(name) != facts[name]]
        if changed:
            raise UserError(f"{there[0]}: begun with other {', '.join(changed)}; {advice}")
    note.parent.mkdir(parents=True, exist_ok=True)
    for part in note.parent.glob(f".{pattern}.*.part"):
        part.unlink()
    write_whole(note, (json.dumps(facts, indent=2) + "\n").encode())
    return bool(there)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file that takes the place of `path` if all goes well, else vanishes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _named_once(path: Path, members: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The members as they come; UserError if a name is unsafe or repeated, or if there is none."""
    encoded = {}
    for name, data in members:
        if name in encoded:
            raise UserError(f"{path}: {name}: the name occurs twice")
        try:
            encoded[name] = name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{path}: {name!r}: the name is not UTF-8") from None
        yield name, data
    if not encoded:
        raise UserError(f"{path}: no members to write")
    Names.collect(path, encoded.values())
