"""Makes images smaller, or of another quality, on the way into a shard."""

import io

from PIL import Image

from datasets.images import BROKEN, LOSSY, open_image
from datasets.task import UserError

TARGET_QUALITY = 95  # of a target that was JPEG already: masks and depth of the course's zips


def reencode_image(
    data: bytes, name: str, size: tuple[int, int] | None = None, quality: int | None = None
) -> bytes:
    """An image of size (H, W), resampled as training does it (bilinear, antialiased).

    quality: 1 to 100, for JPEG and WebP; PNG stays lossless, and unchanged without a new size.
    UserError names an image that cannot be decoded.
    """
    image = open_image(data, name)
    lossy = image.format in (*LOSSY, "WEBP")
    if not (size or (quality and lossy)):
        return data
    form = image.format
    if size:
        if image.mode in ("P", "PA", "1"):  # numbers of colours cannot be mixed, colours can
            transparent = "transparency" in image.info or image.mode == "PA"
            image = image.convert("RGBA" if transparent else "RGB")
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return _encode(image, name, form, {"quality": quality or 95} if lossy else {})


def reencode_target(data: bytes, name: str, size: tuple[int, int]) -> bytes:
    """A target of size (H, W): the nearest value of each, in the file's own mode and palette."""
    image = open_image(data, name)
    form = image.format
    lossy = {"quality": TARGET_QUALITY, "subsampling": 0} if form in LOSSY else {}
    if form == "WEBP":
        lossy = {"lossless": True}
    return _encode(image.resize(size[::-1], Image.Resampling.NEAREST), name, form, lossy)


def _encode(image: Image.Image, name: str, form: str, settings: dict) -> bytes:
    """Bytes in the format of the source, without its metadata, which may no longer be true."""
    buffer = io.BytesIO()
    for entry in ("exif", "xmp", "icc_profile"):
        image.info.pop(entry, None)
    try:
        image.save(buffer, "JPEG" if form in LOSSY else form, **settings)
    except (*BROKEN, KeyError) as error:
        raise UserError(f"{name}: cannot be encoded as {form}: {error}") from None
    return buffer.getvalue()
