"""Encoded bytes -> a Pillow image, decoded and upright; errors name where they came from."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.task import UserError

# ARTeFACT has images of 100+ million; a 1.2 GB image is a mistake or an attack
MAX_PIXELS = 400_000_000
LOSSY = ("JPEG", "MPO")  # MPO: the JPEG of phones, with a preview appended

# Pillow's own limit is global and warns at 89 million pixels. It is raised, not removed: others who
# use Pillow in this process keep a guard.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# What Pillow raises for bytes that are cut or changed.
BROKEN = (
    OSError,
    EOFError,
    LookupError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def open_image(data: bytes, name: str) -> Image.Image:
    """The first frame, turned as EXIF says, of at most MAX_PIXELS; UserError begins with `name`.

    Its `format` says how it was encoded.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{image.width}x{image.height} pixels, expected at most {MAX_PIXELS:,}")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError:
        raise UserError(f"{name}: not an image that can be read ({len(data)} bytes)") from None
    except BROKEN as error:
        raise UserError(f"{name}: cannot be decoded: {error}") from None
    return image
