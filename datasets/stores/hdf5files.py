"""Finds the members in an HDF5 shard.

Layout: attribute `format`; datasets `data` uint8 (all members' bytes, contiguous), `offsets` uint64
(n + 1), `names` uint8 (UTF-8), `name_offsets` uint64 (n + 1), `crc32` uint32 (n, of each member's
bytes). Attribute `index_crc32`, where there is one: CRC-32 of the last four datasets.
"""

import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datasets.stores.names import Names
from datasets.stores.zipfiles import MAX_MEMBER, PLACE
from datasets.task import UserError

HDF5_FORMAT = "manyhead-shard-1"
INDEX = ("offsets", "names", "name_offsets", "crc32")  # what `index_crc32` is about, in this order

_KINDS = {"data": "u1", "offsets": "u8", "names": "u1", "name_offsets": "u8", "crc32": "u4"}


def read_layout(path: Path | str, file: Path | BinaryIO, length: int) -> dict[str, np.ndarray]:
    """Members of an HDF5 shard of `length` bytes; `path` is its name in errors.

    names uint8 and starts (n + 1) as in `Names`; places (n): see `PLACE`. UserError names what does
    not fit.
    """
    import h5py  # a quarter of a second that folders and zips need not pay

    try:
        with h5py.File(file, "r") as opened:
            return _read(path, opened, length)
    except (OSError, RuntimeError, KeyError, TypeError):  # what h5py makes of damaged headers
        raise UserError(f"{path}: not an HDF5 file, cut short or damaged") from None


def is_other(path: Path) -> bool:
    """Whether a file is HDF5 and whole, but no shard: a network's weights, arrays."""
    import h5py

    try:
        with h5py.File(path, "r") as opened:
            return "format" not in opened.attrs
    except (OSError, RuntimeError, KeyError, TypeError):
        return False


def index_crc(arrays: dict[str, np.ndarray]) -> int:
    """CRC-32 of the bytes of the datasets in INDEX, one after the other."""
    crc = 0
    for name in INDEX:
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8), crc)
    return crc


def _read(path: Path | str, file: Any, length: int) -> dict[str, np.ndarray]:
    form = file.attrs.get("format", "")
    if not isinstance(form, str | bytes) or form not in (HDF5_FORMAT, HDF5_FORMAT.encode()):
        raise UserError(
            f"{path}: format is {form!r}, expected an HDF5 shard {HDF5_FORMAT!r}, as python -m "
            "datasets.pack writes it"
        )
    for name, dtype in _KINDS.items():
        _check_dataset(path, file, name, np.dtype(dtype), length)
    index = {name: file[name][:] for name in INDEX}
    expected = index_crc(index)
    if not np.array_equal(file.attrs.get("index_crc32", expected), expected):
        raise UserError(f"{path}: damaged, the CRC-32 of its index does not match")
    data, names, crc = file["data"], index["names"].tobytes(), index["crc32"]
    begin = data.id.get_offset()  # None: chunked, or without a byte
    if begin is None and len(data):
        raise UserError(f"{path}: dataset data: expected contiguous storage, not chunks")
    if not len(crc):
        raise UserError(f"{path}: holds no files")
    for name, end in (("offsets", len(data)), ("name_offsets", len(names))):
        offsets = index[name]
        wrong = len(offsets) != len(crc) + 1 or offsets[0] != 0 or offsets[-1] != end
        if wrong or (offsets[1:] < offsets[:-1]).any():
            raise UserError(f"{path}: dataset {name}: expected {len(crc) + 1} from 0 up to {end}")
    bounds = zip(index["name_offsets"][:-1], index["name_offsets"][1:], strict=True)
    listed, usable = Names.collect(path, (names[first:last] for first, last in bounds))
    size = np.diff(index["offsets"])[usable]
    too_large = size > MAX_MEMBER
    if too_large.any():
        name = listed[int(too_large.argmax())]
        raise UserError(f"{path}: {name}: claims more than {MAX_MEMBER} bytes")
    places = np.zeros(len(listed), PLACE)
    places["offset"] = index["offsets"][usable] + np.uint64(begin or 0)
    places["packed"] = places["size"] = size
    places["crc"] = crc[usable]
    return {**listed.columns(), "places": places}


def _check_dataset(
    path: Path | str, file: Any, name: str, kind: np.dtype[Any], length: int
) -> None:
    """UserError unless the file itself holds one dimension of this kind, no larger than it is."""
    import h5py

    item = file.get(name)
    shape = getattr(item, "shape", None)  # a group or a named type has none
    if not shape or len(shape) != 1 or item.dtype != kind:
        raise UserError(f"{path}: dataset {name}: expected {kind} in one dimension")
    if item.nbytes > length:
        raise UserError(f"{path}: dataset {name}: claims more bytes than the file has")
    hard = isinstance(file.get(name, getlink=True), h5py.HardLink)
    if not hard or item.external or item.is_virtual:
        raise UserError(f"{path}: dataset {name}: lies in another file, expected it in this one")
