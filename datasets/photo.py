"""Decodes photographs for a network: upright, in 8-bit sRGB, with the size of their pixels."""

import functools
import io
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from datasets.images import PIXELS_PER_BYTE, open_image, page_numbers
from datasets.place import Place
from datasets.task import UserError

STRIP_PIXELS = 4_000_000  # converted at a time
MAX_DPI = 1_000_000
COLOR_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # of ICC, by the mode of an image


class Photo(NamedTuple):
    """An image, uint8 (3, H, W), its pixels an inch (across, down) where a file tells them, the
    name of the file, whether this has more frames, which were left out, where it lies on a map, and
    whether it was turned, as its EXIF says."""

    pixels: Tensor
    dpi: tuple[float, float] | None = None
    name: str = ""
    moves: bool = False
    place: Place | None = None
    turned: bool = False


def decode_photo(data: bytes | BinaryIO, name: str, page: int | None = None) -> Photo:
    """As `decode_image`, from bytes or a file, with what this says of its geometry. page: of a
    TIFF."""
    image = open_image(data, name, PIXELS_PER_BYTE, page=page)
    place, turned = image.info.get("place"), "turned" in image.info
    dpi, moves = _dpi(image.info.get("dpi")), "moves" in image.info
    return Photo(_image_tensor(image, name), dpi, moves=moves, place=place, turned=turned)


def _dpi(told: Any) -> tuple[float, float] | None:
    """What a file tells, if it can be true."""
    try:
        across, down = map(float, told)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if min(across, down) >= 1 and max(across, down) <= MAX_DPI else None


def decode_image(data: bytes, name: str) -> Tensor:
    """The image as uint8 (3, H, W) RGB, upright: the EXIF orientation is applied. An ICC profile
    is, too: what is given is sRGB.

    Alpha is dropped; of 16-bit grey (also in 32-bit integers) the high byte is kept. The tensor is
    a view of interleaved pixels (not contiguous), which torchvision resizes fastest.
    UserError: no image, cut or damaged bytes, above MAX_PIXELS or what its bytes can hold, floating
    point (unknown range).
    """
    return decode_photo(data, name).pixels


def read_photo(image: np.ndarray | Image.Image | str | Path, page: int | None = None) -> Photo:
    """What Python code calls an image, as uint8 (3, H, W) RGB, with its dpi if it tells them.

    An array uint8 (H, W, 3) or (H, W), a Pillow image as it stands, or the path of a file, which is
    turned as its EXIF says. page: of a file of several, from 1. UserError: another array, a file
    that holds no image, or several and no page is named.
    """
    if isinstance(image, str | Path):
        with Path(image).open("rb") as file:
            numbers = page_numbers(file, str(image))
            if page is None and len(numbers) == 1:
                page = 1
            if page is None or not 1 <= page <= len(numbers):
                raise UserError(
                    f"{image}: holds {len(numbers)} pages, expected page=1 to page={len(numbers)}"
                )
            return decode_photo(file, str(image), numbers[page - 1])
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2:] == (3,)):
            raise UserError(
                f"image: {image.dtype} {image.shape}, expected uint8 (H, W, 3) or (H, W)"
            )
        image = Image.fromarray(image)
    return Photo(_image_tensor(image, "image"), _dpi(image.info.get("dpi")))


def _image_tensor(image: Image.Image, name: str) -> Tensor:
    """An opened image of any mode; see `decode_image`."""
    if image.mode == "F":
        raise UserError(f"{name}: floating-point image of unknown range, expected 8 or 16 bits")
    rgb = rgb_pixels(image, image.info.get("icc_profile", b""))
    return torch.from_numpy(rgb).permute(2, 0, 1)  # (3, H, W)


def rgb_pixels(image: Image.Image, profile: bytes = b"") -> np.ndarray:
    """Red, green and blue without alpha, of 16-bit grey the high byte; uint8 (H, W, 3). profile: of
    the colours, else they are sRGB, or numbers.

    Large images are converted in strips: Pillow makes three copies on the way.
    """
    if image.width * image.height <= STRIP_PIXELS:
        return _strip_pixels(image, profile)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        rgb[top:bottom] = _strip_pixels(image.crop((0, top, image.width, bottom)), profile)
    return rgb


def _strip_pixels(image: Image.Image, profile: bytes) -> np.ndarray:
    """As `rgb_pixels`, of a few rows."""
    if image.mode.startswith("I"):
        high = np.clip(np.asarray(image), 0, 65535) >> 8
        return np.repeat(high.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # from here at once to RGB, Pillow warns
    if profile:
        image = _to_srgb(image, profile)
    return np.array(image.convert("RGB"))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of whose colours an ICC profile tells the meaning, in sRGB; as it is where the
    profile is of no use."""
    if image.mode in ("LA", "RGBA", "RGBX", "P", "PA"):  # alpha has no colour
        image = image.convert("L" if image.mode == "LA" else "RGB")
    transform = _transform(profile, image.mode)
    return transform.apply(image) if transform else image


@functools.lru_cache(8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile's colours to sRGB; None for a profile that is sRGB itself, speaks of other
    channels than the image has, or is damaged."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return None
        if source.profile.xcolor_space.strip() != COLOR_SPACES.get(mode):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError):
        return None
