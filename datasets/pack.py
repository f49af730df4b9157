"""Stores of any kind go in; one zip or HDF5 shard with the same names and bytes comes out."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.stores import HDF5_FORMAT, SHARD_SUFFIXES, Names, Store, open_stores

CHUNK = 2**24  # bytes copied at a time


class Packed(NamedTuple):
    """What `pack` did: number of members, bytes of the sources on disk, bytes of the shard."""

    members: int
    before: int
    after: int


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) pairs into an uncompressed zip; equal members give equal files.

    ValueError names the file and a member whose name is unsafe or occurs twice, or why it cannot be
    written. The file appears when it is complete.
    """
    with _replacing(path) as partial, zipfile.ZipFile(partial, "w") as file:
        for name, data in _named_once(path, members):
            info = zipfile.ZipInfo(name)  # 1980-01-01, stored
            info.create_system, info.external_attr = 3, 0o644 << 16  # Unix, wherever it is written
            file.writestr(info, data)


def write_hdf5(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) pairs into an HDF5 shard, see `Hdf5Store`; as `write_zip` otherwise.

    The bytes pass through a temporary file beside it: contiguous storage needs their number first.
    """
    import h5py

    offsets, name_offsets, crcs = array("Q", [0]), array("Q", [0]), array("I")
    names = bytearray()
    with _replacing(path) as partial, tempfile.TemporaryFile(dir=path.parent) as spool:
        for name, data in _named_once(path, members):
            spool.write(data)
            names += name.encode()
            offsets.append(offsets[-1] + len(data))
            name_offsets.append(len(names))
            crcs.append(zlib.crc32(data))
        spool.seek(0)
        with h5py.File(partial, "w") as file:
            file.attrs["format"] = np.bytes_(HDF5_FORMAT)  # fixed length, in the header
            data = file.create_dataset("data", (offsets[-1],), np.uint8)
            for begin in range(0, offsets[-1], CHUNK):
                data[begin : begin + CHUNK] = np.frombuffer(spool.read(CHUNK), np.uint8)
            file["offsets"] = np.array(offsets, np.uint64)
            file["names"] = np.frombuffer(bytes(names), np.uint8)
            file["name_offsets"] = np.array(name_offsets, np.uint64)
            file["crc32"] = np.array(crcs, np.uint32)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if all goes well and vanishes if not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if partial.exists():  # not replaced: something failed
            partial.unlink()


def _named_once(path: Path, members: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The members as they come; ValueError if a name is unsafe or repeated, or if there is none."""
    encoded = {}
    for name, data in members:
        if name in encoded:
            raise ValueError(f"{path}: {name}: the name occurs twice")
        try:
            encoded[name] = name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path}: {name!r}: the name is not UTF-8") from None
        yield name, data
    if not encoded:
        raise ValueError(f"{path}: no members to write")
    Names.collect(path, encoded.values())


def pack(sources: list[Path], target: Path, force: bool = False) -> Packed:
    """Copy every member of the sources into one shard, verbatim, then read the shard back.

    ValueError if `target` exists and `force` is not set, is a source itself, has another suffix
    than .zip, .h5 or .hdf5, if two sources hold the same name, or if a member fails its check.
    """
    if target.suffix.lower() not in SHARD_SUFFIXES:
        raise ValueError(f"{target}: expected a file of {', '.join(SHARD_SUFFIXES)}")
    if target.exists() and not force:
        raise ValueError(f"{target}: already there; --force replaces it")
    stores = open_stores(sources)
    for store in stores:
        if store.path.resolve() == target.resolve():
            raise ValueError(f"{target}: is also a source")
    _refuse_shared_names(stores)
    lengths = [0] * len(stores)
    write = write_zip if target.suffix.lower() == ".zip" else write_hdf5
    write(target, _copied(stores, lengths))
    (shard,) = open_stores([target])
    if len(shard) != sum(map(len, stores)):
        raise ValueError(f"{target}: {len(shard)} members, expected {sum(map(len, stores))}")
    for i in tqdm(range(len(shard)), "verifying", unit="file", disable=None):
        shard.read_at(i)
    before = sum(
        s.path.stat().st_size if s.path.is_file() else n
        for s, n in zip(stores, lengths, strict=True)
    )
    return Packed(len(shard), before, target.stat().st_size)


def _refuse_shared_names(stores: list[Store]) -> None:
    holder = {}
    for store in stores:
        for name in store.names():
            if (other := holder.setdefault(name, store)) is not store:
                raise ValueError(
                    f"{name}: is in {other.path} and in {store.path}; pack them into two shards"
                )


def _copied(stores: list[Store], lengths: list[int]) -> Iterator[tuple[str, bytes]]:
    """Every member of every store; `lengths` receives the bytes of each store's members."""
    with tqdm(total=sum(map(len, stores)), desc="packing", unit="file", disable=None) as progress:
        for number, store in enumerate(stores):
            for i, name in enumerate(store.names()):
                data = store.read_at(i)
                lengths[number] += len(data)
                yield name, data
                progress.update()


def main(argv: list[str] | None = None) -> int:
    """Pack as the command line says; 0, or 2 after one line that begins with `error:`."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.pack",
        description="Copy folders, zips or HDF5 shards into one shard, bytes verbatim.",
    )
    parser.add_argument("src", nargs="+", type=Path, help="folder, zip or HDF5 shard")
    parser.add_argument("dst", type=Path, help="shard to write: .zip, .h5 or .hdf5")
    parser.add_argument("--force", action="store_true", help="replace DST if it is there")
    args = parser.parse_args(argv)
    try:
        packed = pack(args.src, args.dst, args.force)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.dst}: {packed.members} members, {packed.before} bytes before, "
        f"{packed.after} bytes after, ratio {packed.after / max(packed.before, 1):.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
