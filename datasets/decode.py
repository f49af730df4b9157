"""Decodes targets of each kind; errors name the store member."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.images import open_image
from datasets.label_values import by_color, ids_by_value, look_up, ranges, unknown_values
from datasets.photo import rgb_pixels
from datasets.shapes import Shapes
from datasets.task import IGNORE, NO_DEPTH, Classes, Depth, Label, Mask, Normals, Output, UserError

LENGTH_TOLERANCE = 0.25  # of a coded normal: 8 bits and JPEG make less of an error
GREY_TOLERANCE = 16  # levels between the channels of a grey picture stored as colour JPEG
COLOR_MODES = ("RGB", "RGBA", "RGBX")


def decode_target(
    data: bytes | str | Shapes,
    name: str,
    output: Output,
    key: str = "",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The target of one output, upright, as in `Sample`, from the bytes of its file or the text of
    its field; UserError: what does not fit. Of a file with `output.channel`, that one is its grey.

    `classes`: ids from grey files (1 to 32 bits), or the same spread over 0 to 255 if those of few
        bits are not known; in palette files the index is the id, unless `output.colors` lists every
        colour that occurs. A label stored in RGB holds ids if its channels are equal everywhere and
        each value is known, else colours. Lossy compression is refused: it changes labels.
    `mask`: the alpha channel if any pixel is not opaque, else grey; of RGB and palettes the largest
        channel (VOC's palette starts with dark red). `output.ignored` is honoured from 2 to 253
        only, and in lossless files only: masks themselves are made of 0, 1, 254 and 255, so that an
        ignored 255 needs an output of kind `classes`. `output.colors`: lossless, of 8 bits.
    `depth`: 8, 16, 32 bits or float, one channel or grey stored as RGB. NO_DEPTH where the file's
        value is `missing`, negative or not finite, and where a depth with a unit exceeds
        `max_depth`; relative depth is clipped to [0, `max_depth`].
    `label`: the name of a class.
    `normals`: RGB; zeros where the colour is `invalid`, or no unit vector within LENGTH_TOLERANCE.
    Of shapes: those of the image `key` of that (width, height), see `Shapes.target`.
    """
    if isinstance(data, Shapes):
        return torch.from_numpy(data.target(output, name, key, size))
    source = data if isinstance(data, str) else open_target(data, name, output)
    return torch.from_numpy(DECODERS[output.kind](source, name, output))


def open_target(data: bytes, name: str, output: Output) -> Image.Image:
    """The picture that an output is read from: the whole file, or its `channel` as a grey one.

    UserError as `open_image`, a picture that moves, or a file without that channel: of a grey one
    there is A at most.
    """
    image, channel = open_image(data, name), output.channel
    if "moves" in image.info:
        raise UserError(f"{name}: a {image.format} of several frames, expected one: split it")
    if _maxval(image) > 255 and image.mode != "I" and not isinstance(output, Normals):
        raise UserError(f"{name}: 16 bits a channel, of which 8 are read: expected one channel")
    if not channel:
        return image
    has_color = image.mode in ("RGB", "RGBA", "RGBX", "P", "PA")
    has_alpha = image.has_transparency_data and not image.mode.startswith("I")
    if not (has_alpha if channel == "A" else has_color):
        raise UserError(
            f"{name}: picture of mode {image.mode} without a channel {channel}, from which output "
            f"{output.name} is read"
        )
    if channel not in image.getbands():  # of a palette, or of one colour that is transparent
        image = image.convert("RGBA")
    image = image.getchannel(channel)
    image.info.pop("transparency", None)  # it was of the colours
    return image


def check_headers(
    size: tuple[int, int], image_size: tuple[int, int], image_name: str, name: str
) -> None:
    """UserError unless a target's header speaks of its image's size, or of that size turned: known
    before memory is taken for what a few bytes may claim to be."""
    if sorted(size) != sorted(image_size):
        raise _other_size(name, size, image_size, image_name)


def check_same_size(image: Tensor, target: Tensor, image_name: str, name: str) -> None:
    """UserError unless the target called `name` (H, W) is as large as its image (3, H, W)."""
    if target.shape[-2:] != image.shape[-2:]:
        raise _other_size(name, target.shape[:-3:-1], image.shape[:-3:-1], image_name)


def _other_size(
    name: str, size: Sequence[int], expected: Sequence[int], image_name: str
) -> UserError:
    """Sizes are (width, height)."""
    (width, height), (image_width, image_height) = size, expected
    turned = (width, height) == (image_height, image_width)
    return UserError(
        f"{name}: is {width}x{height}, its image {image_width}x{image_height}: "
        f"expected the same size as {image_name}"
        + (", which is turned as its EXIF says" if turned else "")
    )


def decode_classes(image: Image.Image, name: str, output: Classes) -> np.ndarray:
    """Class ids and IGNORE, uint8 (H, W)."""
    _refuse_lossy(image, name, "class labels")
    colors = by_color(output.colors, tuple(range(len(output.colors))), output.ignored_colors)
    if image.mode == "P" and output.colors:
        ids, known = look_up(_palette(image), colors)
        indices = np.asarray(image)
        if np.take(known, indices).all():
            return np.take(ids, indices)
    readings = _label_values(image, name)
    for values in readings:
        ids, known = look_up(values, ids_by_value(output))
        if known.all():
            if image.mode == "P":
                _check_greys(image, name, output)
            return ids
    if image.mode not in COLOR_MODES or (readings and not output.colors):
        _, known = look_up(readings[0], ids_by_value(output))
        unseen = [str(value) for value in np.unique(readings[0][~known])]
        raise unknown_values(name, "label value", unseen, ranges(ids_by_value(output)))
    if not output.colors:
        raise UserError(f"{name}: coloured labels, but output {output.name} lists no colors")
    values = _opaque(image).view("<u4")[..., 0]
    ids, known = look_up(values, colors)
    if not known.all():
        unseen = [int(c).to_bytes(4, "little")[:3].hex().upper() for c in np.unique(values[~known])]
        listed = dict.fromkeys(color.upper() for color in output.colors + output.ignored_colors)
        raise unknown_values(name, "label colour", unseen, ", ".join(listed))
    return ids


def _check_greys(image: Image.Image, name: str, output: Classes) -> None:
    """UserError if a palette's greys are labels as its indices are, but others: programs that make
    files smaller turn ids into a palette, in any order."""
    colors = _palette(image)[np.unique(image)]
    levels = colors & 255
    ids, known = look_up(levels.astype(np.uint8), ids_by_value(output))
    drawn = {0, IGNORE}.issuperset(levels.tolist())  # two classes in black and white
    if known.all() and not drawn and (colors == levels * 0x010101 + 0xFF000000).all():
        own, _ = look_up(np.unique(image), ids_by_value(output))
        if (ids != own).any():
            raise UserError(
                f"{name}: the palette's indices are labels, and its greys others: save it as grey, "
                'or list the greys in "colors"'
            )


def _label_values(image: Image.Image, name: str) -> list[np.ndarray]:
    """What a label's numbers (H, W) may be, the likeliest first; nothing of one in colour."""
    if image.mode in COLOR_MODES:
        red, green, blue = np.moveaxis(_opaque(image)[..., :3], 2, 0)
        return [red] if (red == green).all() and (red == blue).all() else []
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise UserError(f"{name}: labels of mode {image.mode}, expected grey, palette or RGB")
    if image.mode == "1":
        spread = np.asarray(image.convert("L"))
        return [spread // 255, spread]
    return [file_numbers(image), np.asarray(image)] if _maxval(image) else [np.asarray(image)]


def _maxval(image: Image.Image) -> int:
    """See `open_image`; 0 where the file's numbers are as they are."""
    return image.info.get("maxval", 0)


def file_numbers(image: Image.Image) -> np.ndarray:
    """The numbers (H, W) that the file of a grey picture holds, whatever Pillow has made of them,
    see `open_image`."""
    values, maxval = np.asarray(image), _maxval(image)
    full = 255 if values.dtype == np.uint8 else 65535
    return np.rint(values * (maxval / full)).astype(values.dtype) if maxval else values


def _palette(image: Image.Image) -> np.ndarray:
    """The colours of a palette, packed as in `by_color`, (256)."""
    colors = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    rgba = np.full((256, 4), 255, np.uint8)
    rgba[len(colors) :] = 0  # no colour at all
    rgba[: len(colors), :3] = colors
    return rgba.view("<u4")[:, 0]


def _opaque(image: Image.Image) -> np.ndarray:
    """Red, green, blue and 255, uint8 (H, W, 4)."""
    if image.mode != "P":  # whose colours beside transparency Pillow reads in this way alone
        image = image.convert("RGB")
    rgba = np.array(image.convert("RGBA"))
    rgba[..., 3] = 255
    return rgba


def _refuse_lossy(image: Image.Image, name: str, what: str) -> None:
    """UserError if compression may have made another of a pixel's number or colour."""
    if "lossy" in image.info:
        raise UserError(f"{name}: {image.info['lossy']} compression changes {what}, expected a PNG")


def decode_mask(image: Image.Image, name: str, output: Mask) -> np.ndarray:
    """0, 1 and IGNORE, uint8 (H, W)."""
    if output.colors:
        return _colored_mask(image, name, output)
    values = mask_values(image, name)
    mask = (values >= output.threshold).astype(np.uint8)
    if "lossy" in image.info:
        return mask
    if (values == 1).any() and not ((values > 1) & (values != 255)).any():
        if values.max() == 255:
            raise UserError(f"{name}: holds 1 and 255: to ignore 255, make two classes of the mask")
        if output.threshold > 1:
            raise UserError(f'{name}: holds only 0 and 1: set "threshold": 1 in the task')
    for value in output.ignored:
        if 2 <= value <= 253:
            mask[values == value] = IGNORE
    return mask


def _colored_mask(image: Image.Image, name: str, output: Mask) -> np.ndarray:
    """As `decode_mask`, of a file whose colours tell; one that is not listed is background."""
    _refuse_lossy(image, name, "colours")
    if image.mode == "F" or image.mode.startswith("I"):
        raise UserError(f"{name}: mask of mode {image.mode}, expected colours of 8 bits")
    table = by_color(output.colors, (1,) * len(output.colors), output.ignored_colors)
    ids, known = look_up(_opaque(image).view("<u4")[..., 0], table)
    return ids * known


def mask_values(image: Image.Image, name: str) -> np.ndarray:
    """The numbers (H, W) that a mask's threshold is compared with."""
    if image.mode.startswith("I"):
        return file_numbers(image)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        colors, alpha = rgba[..., :3].max(axis=2), rgba[..., 3]
        if alpha.min() < 255:
            drawn = colors.min() == 0 and colors.max() == 255 and not (colors % 255).any()
            shown = colors[alpha > 0]  # of one level, where the brush was transparency
            one = len(shown) and shown.min() == shown.max()
            if drawn and not (one and (shown[0] or "transparency" not in image.info)):
                raise UserError(
                    f"{name}: black and white show one mask, transparency another: save it without "
                    'transparency, or set "channel": "A"'
                )
            return alpha
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if image.mode == "F":
        raise UserError(f"{name}: floating-point mask, expected 1, 8 or 16 bits")
    return rgb_pixels(image).max(axis=2)


def decode_depth(image: Image.Image, name: str, output: Depth) -> np.ndarray:
    """Depth in the output's unit and NO_DEPTH, float32 (H, W)."""
    values, full = depth_values(image, name)
    depth = values.astype(np.float32) * np.float32(output.scale or 1 / full)
    nothing = (values == output.missing) | ~(np.isfinite(depth) & (depth >= 0))
    if output.unit:
        nothing |= depth > output.max_depth
    else:
        depth = np.clip(depth, 0, output.max_depth)
    depth[nothing] = NO_DEPTH
    return depth


def depth_values(image: Image.Image, name: str) -> tuple[np.ndarray, int]:
    """The file's numbers (H, W) and what counts as full range: 255, 65535, what a file of other
    numbers says, or 1 for floats."""
    if image.mode == "F":
        return np.asarray(image), 1
    if image.mode.startswith("I") or (image.mode == "L" and _maxval(image)):
        return file_numbers(image), _maxval(image) or 65535
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L")), 255
    rgb = rgb_pixels(image)
    if (rgb.max(axis=2) - rgb.min(axis=2)).max() > GREY_TOLERANCE:
        raise UserError(f"{name}: depth stored as colours, expected one channel or grey")
    return np.ascontiguousarray(rgb[..., 0]), 255  # numpy below 2.3 dies of strided == -1


def decode_normals(image: Image.Image, name: str, output: Normals) -> np.ndarray:
    """Unit vectors, and zeros, float32 (3, H, W)."""
    if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
        raise UserError(f"{name}: normals of mode {image.mode}, expected RGB")
    rgb = rgb_pixels(image)
    normals = rgb.transpose(2, 0, 1) / np.float32(127.5) - 1
    lengths = np.sqrt(np.square(normals).sum(0))
    valid = np.abs(lengths - 1) < LENGTH_TOLERANCE
    valid &= (rgb != list(bytes.fromhex(output.invalid))).any(2)
    return np.where(valid, normals / np.maximum(lengths, LENGTH_TOLERANCE), 0)


def decode_label(text: str, name: str, output: Label) -> np.ndarray:
    """The id of a class by its name, IGNORE for any other text: uint8 ()."""
    known = text in output.classes
    return np.array(output.classes.index(text) if known else IGNORE, np.uint8)


# kind -> function of (image, or the text of its field, name of its member, output): what
# `decode_target` gives, as an array
DECODERS: dict[str, Callable[[Any, str, Any], np.ndarray]] = {
    "classes": decode_classes,
    "mask": decode_mask,
    "depth": decode_depth,
    "normals": decode_normals,
    "label": decode_label,
}
