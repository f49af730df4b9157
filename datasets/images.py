"""Opens image files: decoded and upright; errors name where they came from."""

import functools
import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from datasets.task import UserError

# ARTeFACT has images of 100+ million; a larger one is a mistake or an attack, until it is allowed
MAX_PIXELS = 250_000_000
ORIENTATION = 0x0112  # the EXIF tag
# Many pixels in few bytes are no photograph: a picture of more than the first has at most so many
# for each of its bytes. A label may be of one value, and is as large as its photograph.
FEW_PIXELS, PIXELS_PER_BYTE = 2**23, 100
_ONE_THREAD = threading.Lock()
LOSSY = ("JPEG", "MPO")  # MPO: the JPEG of phones, with a preview appended
# All that is opened, whatever a file's name says: a format that an interpreter draws (PostScript)
# or that reads other files has no place in a data set. TGA comes last: it has no signature.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA")
# By these names an image is known among other files.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
)

# TIFF of 64-bit and 16-bit floats, of either byte order: Pillow reads the first under no key of its
# own, and of the second only the bits (`open_image` makes them numbers).
for _order, _mark in ((b"II", ""), (b"MM", "B")):
    TiffImagePlugin.OPEN_INFO[_order, 1, (3,), 1, (64,), ()] = ("F", f"F;64{_mark}F")
    TiffImagePlugin.OPEN_INFO[_order, 1, (3,), 1, (16,), ()] = (f"I;16{_mark}",) * 2

warnings.filterwarnings(
    "ignore", module=r"PIL\."
)  # of tags that are broken: an image is read or not

# Pillow's own limit is global, warns, and is no error before its double. It is raised beyond ours,
# not removed: others who use Pillow in this process keep a guard.
Image.MAX_IMAGE_PIXELS = 2**31

# What Pillow raises for bytes that are cut or changed.
BROKEN = (
    OSError,
    EOFError,
    LookupError,
    RuntimeError,  # of libavif
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def allow_pixels(most: int) -> None:
    """From here on images of up to so many pixels are opened in this process."""
    global MAX_PIXELS
    MAX_PIXELS = most


def open_image(
    data: bytes | BinaryIO, name: str, per_byte: int | None = None, small: int = 0
) -> Image.Image:
    """The first frame of an encoded image, or of its file, turned as EXIF says, of at most
    MAX_PIXELS; UserError begins with `name`.

    Its `format` says how it was encoded; `info["lossy"]` names the compression that has changed its
    values, if one has. `info["maxval"]`: the largest number a sample of the file can be, where
    Pillow has spread these over 8 or 16 bits (PNG of 2 and 4 bits, PGM) or kept the high 8 of 16.
    `info["dpi"]`, where the file tells it: pixels an inch across and down the upright image.
    per_byte: pixels that a byte may stand for in a large one. small: a JPEG may come smaller,
    though no side below so many pixels: eight times as fast.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    image = _open(file, name, per_byte)
    _refuse_pages(image, name)
    noted = {"lossy": _lossy(image, file), "maxval": _maxval(image)}
    is_half = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(339) == (3,)
    try:
        if image.getexif().get(ORIENTATION, 1) >= 5 and "dpi" in image.info:  # a quarter turn
            noted["dpi"] = image.info["dpi"][::-1]
        if small:
            image.draft("RGB", (small, small))
        with _silent() if image.format == "TIFF" else nullcontext():
            image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except BROKEN as error:
        raise UserError(f"{name}: cannot be decoded: {error}") from None
    if is_half:  # 339 is the format of a sample, 3 a float
        bits = np.asarray(image)
        image = Image.fromarray(bits.view(bits.dtype.str.replace("u", "f")).astype(np.float32))
    image.info |= {key: value for key, value in noted.items() if value}
    return image


def header_size(data: bytes | BinaryIO, name: str) -> tuple[int, int]:
    """Width and height before anything is decoded, and before EXIF turns the image; UserError as
    `open_image`."""
    return _open(io.BytesIO(data) if isinstance(data, bytes) else data, name).size


@contextmanager
def _silent() -> Iterator[None]:
    """What libtiff says of a broken file goes nowhere, not on stderr beside our own line. One
    thread at a time: a second would keep the first one's nowhere as the process's stderr."""
    with _ONE_THREAD:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _open(file: BinaryIO, name: str, per_byte: int | None = None) -> Image.Image:
    """An image of which only the header is read."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: not an image that can be read ({length} bytes), "
            f"expected {', '.join(_formats())}"
        ) from None
    except BROKEN as error:
        raise UserError(f"{name}: cannot be decoded: {error}") from None
    most = min(max(FEW_PIXELS, per_byte * length), MAX_PIXELS) if per_byte else MAX_PIXELS
    hint = "; infer.py --max-pixels allows more" if most == MAX_PIXELS else ""
    if image.width * image.height > most:
        raise UserError(
            f"{name}: {image.width}x{image.height} pixels in {length} bytes, expected at most "
            f"{most:,}{hint}"
        )
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow reads: older ones have no AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _refuse_pages(image: Image.Image, name: str) -> None:
    """UserError if a second page of a TIFF is a picture of its own, not a preview of the first."""
    if image.format != "TIFF":
        return
    width, height = image.size
    try:
        image.seek(1)
        is_preview = image.tag_v2.get(254, 0) & 5  # what it is for: smaller, or a mask of the first
        is_preview |= image.width * image.height < width * height
    except BROKEN:  # there is none
        is_preview = True
    image.seek(0)
    if not is_preview:
        raise UserError(f"{name}: holds 2 pages or more, expected one: split it into files")


def _maxval(image: Image.Image) -> int:
    """See `open_image`; 0 where a number is what the file says."""
    if not image.tile:
        return 0
    codec, _, _, args = image.tile[0]
    rawmode, *more = args if isinstance(args, tuple) else (args,)
    if codec.startswith("ppm") and more:
        return more[0] if more[0] != (65535 if image.mode == "I" else 255) else 0
    bits = re.fullmatch(r"(?:L|LA|RGB[AXa]?|CMYK);(2|4|16)\D*", str(rawmode))
    return 2 ** int(bits[1]) - 1 if bits else 0


def _lossy(image: Image.Image, file: BinaryIO) -> str:
    """The lossy compression of an opened image, or nothing if its values are as they were drawn.

    AVIF does not say which it is, and is nearly always lossy.
    """
    form = image.format or ""
    if form in LOSSY:
        return "JPEG"
    if form == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"{image.info['compression'].removeprefix('tiff_').upper()} in TIFF"
    if form not in ("WEBP", "JPEG2000"):
        return "AVIF" if form == "AVIF" else ""
    at = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(at)
    if form == "WEBP":
        return "lossy WEBP" if b"VP8 " in _webp_chunks(data) else ""
    style = data.find(b"\xff\x52")  # of coding: 0 is the irreversible wavelet
    return "lossy JPEG2000" if style >= 0 and data[style + 13 : style + 14] == b"\0" else ""


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    """The chunk names of a WebP file, those inside its frames too: `VP8 ` or `VP8L`, and others."""
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield name
        at += 24 if name == b"ANMF" else 8 + length + length % 2
