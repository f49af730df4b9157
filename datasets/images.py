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
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from datasets.place import place_of_tags
from datasets.task import UserError

# ARTeFACT has images of 100+ million; a larger one is a mistake or an attack, until it is allowed
MAX_PIXELS = 250_000_000
ORIENTATION = 0x0112  # the EXIF tag
# Many pixels in few bytes are no photograph: a picture of more than the first has at most so many
# for each of its bytes. A label may be of one value, and is as large as its photograph.
FEW_PIXELS, PIXELS_PER_BYTE = 2**23, 100
MOST_PAGES = 10_000  # of a file that are looked for
_ONE_THREAD = threading.Lock()
MOVING = ("GIF", "PNG", "WEBP", "AVIF")
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
    ArithmeticError,
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
    data: bytes | BinaryIO,
    name: str,
    per_byte: int | None = None,
    small: int = 0,
    page: int | None = None,
) -> Image.Image:
    """An encoded image, or its file, turned as EXIF says, of at most MAX_PIXELS; UserError begins
    with `name`. Of what moves it is the first frame, of a TIFF with pages (see `page_numbers`) the
    one of this number, and an error where none is named.

    Its `format` says how it was encoded; `info["lossy"]` names the compression that has changed its
    values, if one has. `info["maxval"]`: the largest number a sample of the file can be, where
    Pillow has spread these over 8 or 16 bits (PNG of 2 and 4 bits, PGM) or kept the high 8 of 16.
    `info["moves"]`: there are more frames. `info["dpi"]`, where the file tells it: pixels an inch
    across and down the upright image; `info["turned"]`: it was turned; `info["place"]`: its
    `Place`, if it was not. per_byte: pixels that a byte may stand for in a large one.
    small: a JPEG may come smaller, though no side below so many pixels: eight times as fast.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    image = _open(file, name, per_byte, page)
    noted: dict[str, Any] = {"lossy": _lossy(image, file), "maxval": _maxval(image)}
    is_half = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(339) == (3,)
    try:
        turned = image.getexif().get(ORIENTATION, 1)
        if turned >= 5 and "dpi" in image.info:  # a quarter turn
            noted["dpi"] = image.info["dpi"][::-1]
        noted["turned"] = turned != 1
        noted["place"] = None if turned != 1 else place_of_tags(getattr(image, "tag_v2", {}))
        if image.format in MOVING and getattr(image, "is_animated", False):
            noted["moves"] = True
        if small:
            image.draft("RGB", (small, small))
        _mark_planes(image)
        with _silent() if image.format == "TIFF" else nullcontext():
            image.load()
        seen = image.info.get("transparency")
        if image.mode == "P" and (not image.palette or isinstance(seen, bytes) and len(seen) > 256):
            raise ValueError("its palette is missing or of more than 256 colours")
        ImageOps.exif_transpose(image, in_place=True)
    except BROKEN as error:
        raise UserError(f"{name}: cannot be decoded: {error}") from None
    if is_half:  # 339 is the format of a sample, 3 a float
        bits = np.asarray(image)
        image = Image.fromarray(bits.view(bits.dtype.str.replace("u", "f")).astype(np.float32))
    image.info |= {key: value for key, value in noted.items() if value}
    return image


def header_size(data: bytes | BinaryIO, name: str, page: int | None = None) -> tuple[int, int]:
    """Width and height before anything is decoded, and before EXIF turns the image; UserError as
    `open_image`."""
    return _open(io.BytesIO(data) if isinstance(data, bytes) else data, name, page=page).size


def page_numbers(file: BinaryIO, name: str) -> list[int]:
    """Which pages of a file, from 0, are pictures of their own: not the smaller levels of a
    pyramid, nor a mask or a preview of another page. Only a TIFF has several. UserError: it is no
    image."""
    return _pages(_open_header(file, name))


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


def _open(
    file: BinaryIO, name: str, per_byte: int | None = None, page: int | None = None
) -> Image.Image:
    """An image of which only the header is read, at its page."""
    image = _open_header(file, name)
    if image.format == "TIFF":
        numbers = _pages(image)
        if page is None and len(numbers) > 1:
            pages = f"holds {len(numbers)} pages"
            raise UserError(f"{name}: {pages}, expected one: split it into files")
        try:
            image.seek(numbers[0] if page is None else page)
        except BROKEN as error:
            raise UserError(f"{name}: cannot be decoded: {error}") from None
        _forget_first(image)
    length = file.seek(0, io.SEEK_END)
    most = min(max(FEW_PIXELS, per_byte * length), MAX_PIXELS) if per_byte else MAX_PIXELS
    hint = "; infer.py --max-pixels allows more" if most == MAX_PIXELS else ""
    if image.width * image.height > most:
        raise UserError(
            f"{name}: {image.width}x{image.height} pixels in {length} bytes, expected at most "
            f"{most:,}{hint}"
        )
    return image


def _open_header(file: BinaryIO, name: str) -> Image.Image:
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: not an image that can be read ({length} bytes), "
            f"expected {', '.join(_formats())}"
        ) from None
    except BROKEN as error:
        raise UserError(f"{name}: cannot be decoded: {error}") from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow reads: older ones have no AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _pages(image: Image.Image) -> list[int]:
    """See `page_numbers`: of pages that say nothing, those are levels or previews of the first that
    have its shape, and half of its sides at most, if there are no others."""
    if image.format != "TIFF":
        return [0]
    found: list[tuple[int, tuple[int, int] | None]] = []
    for number in range(MOST_PAGES):
        size = None
        try:
            image.seek(number)
            size = image.size
        except EOFError:
            break
        except BROKEN:  # a page that will be named when it is read
            if image.tell() < number:
                found.append((number, None))
                break  # nor is there a way to those behind it
        purpose = image.tag_v2.get(254, 0)  # bits: smaller, one of several pages, a mask
        if not (isinstance(purpose, int) and purpose & 5):
            found.append((number, size))
    numbers, sizes = [number for number, _ in found], [size for _, size in found]
    if all(size and sizes[0] and _is_level(size, sizes[0]) for size in sizes[1:]):
        numbers = numbers[:1]
    return numbers or [0]


def _is_level(size: tuple[int, int], first: tuple[int, int]) -> bool:
    (w, h), (width, height) = size, first
    alike = abs(w * height - h * width) <= max(first) + w * height // 50
    return alike and 2 * w <= width + 1 and 2 * h <= height + 1


def _forget_first(image: Image.Image) -> None:
    """What Pillow goes on telling of a page that has not said so itself, but the first one."""
    for tag, key in ((34675, "icc_profile"), (282, "dpi")):
        if tag not in image.tag_v2:
            image.info.pop(key, None)


def _mark_planes(image: Image.Image) -> None:
    """Let Pillow take two bytes of each sample of a TIFF that has 16 bits in a plane of each
    colour: as it is, it takes one."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (8,))
    if tags.get(284) == 2 and bits[0] == 16 and image.tile[0][0] == "raw":
        mark = ";16B" if tags.prefix == b"MM" else ";16L" if len(bits) > 1 else ";16"
        image.tile = [
            part._replace(args=(f"{part.args[0]}{mark}", *part.args[1:])) for part in image.tile
        ]


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
