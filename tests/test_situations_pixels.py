"""What files hold, as people have it: read right, or said in one line that names file and cure."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from situations import (
    ANY_MASK,
    HALF,
    IDS,
    MASK,
    METRES,
    SIDES,
    THREE,
    Situation,
    files,
    saved,
)

from datasets.task import Classes, Depth, Mask

MM = (HALF.astype(np.uint16) * 1500 + 500).astype(np.uint16)  # 2 m and 0.5 m
FAR = MM.astype(np.float32) / 1000
RELATIVE = Depth("far", "masks/{key}.*")
COLORS = Classes("leaf", "masks/{key}.*", classes=("a", "b"), colors=("000000", "FF0000"))
RGB_HALF = HALF[..., None] * np.uint8([255, 0, 0])


def palette(ids, colors, **options):
    """A palette PNG with these indices and colours."""
    image = Image.fromarray(np.asarray(ids, np.uint8), "P")
    image.putpalette([level for color in colors for level in color])
    return saved(image, **options)


def png(raw, width, bits, kind=0):
    """A PNG of rows of packed bytes: `bits` a sample, kind 0 is grey, 2 colour."""

    def chunk(name, data):
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    rows = b"".join(b"\0" + row for row in raw)
    head = struct.pack(">IIBBBBB", width, len(raw), bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def packed(ids, bits):
    """A grey PNG of few bits."""
    rows = []
    for row in np.asarray(ids):
        number = 0
        for value in row:
            number = number << bits | int(value)
        rows.append((number << -len(row) * bits % 8).to_bytes((len(row) * bits + 7) // 8, "big"))
    return png(rows, np.asarray(ids).shape[1], bits)


def deep(values):
    """A colour PNG of 16 bits a channel."""
    rows = [np.repeat(row, 3).astype(">u2").tobytes() for row in np.asarray(values)]
    return png(rows, np.asarray(values).shape[1], 16, kind=2)


def turned(pixels, orientation, form="JPEG", **options):
    """A file whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(pixels, form, exif=exif, **options)


def pages(*pictures, **options):
    """A TIFF of several pages."""
    first, *others = map(Image.fromarray, pictures)
    return saved(first, "TIFF", save_all=True, append_images=others, **options)


def half(data):
    """The first half of a file."""
    return data[: len(data) // 2]


BIG = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
SIXTEEN = np.full((6, 10), 200 << 8, np.uint16)
CMYK = Image.fromarray(np.dstack([255 - SIDES, np.zeros((6, 10), np.uint8)]), "CMYK")
LAB = Image.fromarray(SIDES).convert("LAB")
GREY_SIDES = np.where(HALF, 200, 40).astype(np.uint8)


def image_row(words, data, shows=SIDES, near=0, **more):
    return Situation(f"image: {words}", files(image=data), shows=shows, near=near, **more)


def target_row(words, data, output=MASK, reads=None, **more):
    return Situation(f"{output.kind}: {words}", files(data), output, reads=reads, **more)


def grey(levels):
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=2)


def large_image(words, data, **more):
    """Of images that are large enough to be looked at."""
    mask = saved(np.tile(HALF * 255, (4, 2)))
    return Situation(f"image: {words}", files(mask, data), **more)


def black_and_white(alpha):
    """A mask drawn in black and white, with transparency of its own."""
    return saved(np.dstack([HALF * 255] * 3 + [alpha]))


NOISE = np.random.default_rng(0).integers(0, 4096, (24, 20), np.uint16)
RIM = np.pad(np.full((4, 8), 255, np.uint8), 1)
TWO_MASKS = ("masks/0", "transparency", '"channel": "A"')
ONE_HOT = np.eye(3, dtype=np.uint8)[IDS] * 255
IMAGES = [
    image_row("RGB PNG", saved(SIDES)),
    image_row("JPEG called .png", saved(SIDES, "JPEG", quality=95, subsampling=0), near=8),
    image_row(
        "progressive JPEG",
        saved(SIDES, "JPEG", quality=95, subsampling=0, progressive=True),
        near=8,
    ),
    image_row("CMYK JPEG", saved(CMYK, "JPEG", quality=95, subsampling=0), near=12),
    image_row("CMYK TIFF", saved(CMYK, "TIFF"), near=2),
    image_row("YCbCr TIFF", saved(Image.fromarray(SIDES).convert("YCbCr"), "TIFF"), near=4),
    image_row("16-bit grey PNG", saved(SIXTEEN), np.full((6, 10, 3), 200)),
    image_row(
        "16-bit grey TIFF, big-endian",
        saved(Image.frombytes("I;16B", (10, 6), SIXTEEN.astype(">u2").tobytes()), "TIFF"),
        np.full((6, 10, 3), 200),
    ),
    image_row("16-bit colour PNG", deep(SIXTEEN), np.full((6, 10, 3), 200)),
    image_row("grey", saved(GREY_SIDES), grey(GREY_SIDES)),
    image_row("palette", palette(HALF, [(40, 40, 200), (200, 40, 40)])),
    image_row(
        "palette with a transparent colour",
        palette(HALF, [(40, 40, 200), (200, 40, 40)], transparency=0),
    ),
    image_row("alpha is dropped", saved(np.dstack([SIDES, HALF * 90]))),
    image_row("one bit", saved(Image.fromarray(HALF * 255).convert("1")), grey(HALF * 255)),
    image_row("two bits", packed(HALF * 3, 2), grey(HALF * 255)),
    image_row("lossless WebP", saved(SIDES, "WEBP", lossless=True)),
    image_row("BMP", saved(SIDES, "BMP")),
    image_row("GIF", saved(SIDES, "GIF"), near=3),
    image_row("JPEG 2000", saved(SIDES, "JPEG2000")),
    image_row("TGA", saved(SIDES, "TGA")),
    image_row("PPM", saved(SIDES, "PPM")),
    image_row("TIFF, deflated", saved(SIDES, "TIFF", compression="tiff_deflate")),
    image_row(
        "MPO of a phone",
        saved(
            SIDES,
            "MPO",
            quality=95,
            subsampling=0,
            save_all=True,
            append_images=[Image.fromarray(SIDES)],
        ),
        near=8,
    ),
    *(
        image_row(f"EXIF orientation {number}", turned(np.rot90(SIDES, turns), number, "PNG"))
        for number, turns in ((3, 2), (6, 1), (8, 3))
    ),
    image_row("Lab TIFF", saved(LAB, "TIFF"), near=8),
    image_row(
        "floats",
        saved(SIDES[..., 0].astype(np.float32), "TIFF"),
        says=("photos/0", "floating", "8 or 16 bits"),
    ),
    image_row(
        "several pages of a size", pages(SIDES, SIDES[::-1]), says=("photos/0", "2 pages", "one")
    ),
    image_row("a page and its preview", pages(SIDES, SIDES[::2, ::2])),
    image_row("empty", b"", says=("photos/0", "0 bytes", "PNG")),
    image_row(
        "HEIC called .png",
        b"\0\0\0\x18ftypheic" + bytes(99),
        says=("photos/0", "not an image", "PNG"),
    ),
    *(
        Situation(
            f"image: cut short, {form}",
            files(saved(BIG[..., 0]), half(saved(BIG, form))),
            says=("photos/0", "cannot be decoded"),
        )
        for form in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "TGA")
    ),
]

PART = np.where(HALF, 30000, 10000).astype(np.uint16)

IMAGES += [
    large_image("12 of 16 bits", saved(NOISE), tells=("nearly black", "16 bits")),
    large_image("0 and 1", saved((NOISE // 2048).astype(np.uint8)), tells=("nearly black",)),
    large_image("16 bits, all used", saved(NOISE * 16)),
]
TARGETS = [
    target_row("drawn on a scan whose rim is cut out", black_and_white(RIM), says=TWO_MASKS),
    target_row("half transparent", black_and_white(RIM * 0 + 128), says=TWO_MASKS),
    target_row("transparent everywhere", black_and_white(RIM * 0), says=TWO_MASKS),
    target_row(
        "grey with a rim cut out", saved(np.dstack([HALF * 255, RIM])), MASK, says=TWO_MASKS
    ),
    target_row(
        "white is the transparent grey",
        saved(Image.fromarray(HALF * 255), transparency=255),
        says=TWO_MASKS,
    ),
    target_row(
        "white is the transparent colour",
        palette(HALF, [(0, 0, 0), (255, 255, 255)], transparency=1),
        says=TWO_MASKS,
    ),
    target_row(
        "black is the transparent grey",
        saved(Image.fromarray(HALF * 255), transparency=0),
        reads=HALF,
    ),
    target_row(
        "a white brush, soft, with white specks unseen",
        saved(np.dstack([np.where(IDS == 1, 255, HALF * 255)] * 3 + [HALF * 250]).astype(np.uint8)),
        reads=HALF,
    ),
    target_row(
        "a black brush on white that is transparent",
        saved(np.dstack([255 - HALF * 255] * 3 + [HALF * 255])),
        reads=HALF,
    ),
    target_row("trimap", saved(IDS + 1), tells=("no foreground", "is 3")),
    target_row(
        "trimap of two classes",
        saved(IDS + 1),
        Classes("leaf", "masks/{key}.*", classes=("a", "b"), values=(1, 2), ignored=(3,)),
        np.where(IDS == 2, 255, IDS),
    ),
    target_row("ids from 1", saved(IDS + 1), THREE, says=("value 3", '"values"')),
    target_row(
        "ids from 1, a name for 0",
        saved(IDS + 1),
        Classes("leaf", "masks/{key}.*", classes=("none", "a", "b", "c")),
        tells=("none occurs in none", '"values"'),
    ),
    target_row("ids spread over the greys", saved(IDS * 85), THREE, says=("85, 170", '"values"')),
    target_row("one colour a class", saved(ONE_HOT), THREE, says=("lists no colors",)),
    target_row(
        "blue for red", saved(RGB_HALF[..., ::-1]), COLORS, says=("0000FF", '"ignored_colors"')
    ),
    target_row(
        "ignored is -1",
        saved(np.where(IDS == 2, np.int32(-1), IDS.astype(np.int32)), "TIFF"),
        Classes("leaf", "masks/{key}.*", classes=("a", "b"), ignored=(-1,)),
        np.where(IDS == 2, 255, IDS),
    ),
    target_row(
        "greys made a palette in another order",
        palette(np.array([1, 2, 0])[IDS], [(2,) * 3, (0,) * 3, (1,) * 3]),
        THREE,
        says=("masks/0", "palette", '"colors"'),
    ),
    target_row(
        "greys made a palette, 255 among them",
        palette(IDS, [(0,) * 3, (1,) * 3, (255,) * 3]),
        THREE,
        says=("masks/0", "palette", '"colors"'),
    ),
    target_row(
        "a palette in black and white",
        palette(HALF, [(0,) * 3, (255,) * 3]),
        Classes("leaf", "masks/{key}.*", classes=("a", "b")),
        HALF,
    ),
    target_row(
        "relative, 65535 where nothing was measured",
        saved(np.where(HALF, np.uint16(65535), MM)),
        RELATIVE,
        tells=("50.0%", '"missing": 65535'),
    ),
    target_row("of one value", saved(HALF * 0 + 128), RELATIVE, tells=("all pixels", '"scale"')),
    target_row("0 and 255", saved(HALF * 255), MASK, HALF),
    target_row("0 and 1", saved(HALF), MASK, says=("masks/0", '"threshold": 1')),
    target_row(
        "0 and 1 with their threshold",
        saved(HALF),
        Mask("leaf", "masks/{key}.png", threshold=1),
        HALF,
    ),
    target_row(
        "0, 1 and 255",
        saved(np.where(IDS == 2, 255, HALF).astype(np.uint8)),
        MASK,
        says=("masks/0", "two classes"),
    ),
    target_row("0 and 7", saved(HALF * 7), MASK, tells=("leaf", "7", '"threshold" is 128')),
    target_row("one bit", saved(Image.fromarray(HALF * 255).convert("1")), MASK, HALF),
    target_row("two bits", packed(HALF * 3, 2), MASK, HALF),
    target_row(
        "one bit, white is zero",
        saved(Image.fromarray(HALF * 255).convert("1"), "TIFF", tiffinfo={262: 0}),
        ANY_MASK,
        HALF,
    ),
    target_row("16 bits, 0 and 65535", saved(HALF * np.uint16(65535)), MASK, HALF),
    target_row("alpha", saved(np.dstack([SIDES, HALF * 255])), MASK, HALF),
    target_row("JPEG", saved(HALF * 255, "JPEG", quality=90), MASK, HALF),
    target_row(
        "JPEG of 0 and 1",
        saved(HALF, "JPEG", quality=100),
        MASK,
        tells=("leaf", "no foreground", '"threshold"'),
    ),
    target_row("red on black", saved(RGB_HALF), MASK, HALF),
    target_row(
        "red and green",
        saved(np.where(HALF[..., None], [255, 0, 0], [0, 255, 0]).astype(np.uint8)),
        MASK,
        tells=("leaf", "no background", '"colors"'),
    ),
    target_row(
        "red and green with their colours",
        saved(np.where(HALF[..., None], [255, 0, 0], [0, 255, 0]).astype(np.uint8)),
        Mask("leaf", "masks/{key}.png", colors=("FF0000",)),
        HALF,
    ),
    target_row(
        "ids of things, 1 to 200",
        saved(np.where(HALF, 200, IDS * 40).astype(np.uint8)),
        MASK,
        tells=("leaf", "between 0 and 255", "at 200", '"threshold"'),
    ),
    target_row(
        "unknown at 128",
        saved(np.where(IDS == 2, 128, HALF * 255).astype(np.uint8)),
        MASK,
        tells=("leaf", "128", '"ignored"'),
    ),
    target_row(
        "palette of VOC, dark colours",
        palette(IDS * 8, [(0, 0, 0)] + [(64, 0, 0)] * 19),
        MASK,
        tells=("leaf", "64", '"threshold"'),
    ),
    target_row(
        "floats",
        saved(HALF.astype(np.float32), "TIFF"),
        MASK,
        says=("masks/0", "floating", "8 or 16 bits"),
    ),
    target_row("empty file", b"", MASK, says=("masks/0", "0 bytes")),
    target_row(
        "another size", saved(HALF[:, 1:] * 255), MASK, says=("masks/0", "9x6", "10x6", "photos/0")
    ),
    target_row("cut short", half(saved(BIG[..., 0], compress_level=0)), MASK, says=("masks/0",)),
    Situation(
        "mask: drawn on the picture as it was before EXIF turned it",
        files(saved(HALF * 255), turned(SIDES, 6)),
        says=("masks/0", "6x10", "EXIF"),
    ),
    # classes
    target_row("ids", saved(IDS), THREE, IDS),
    target_row("ids as grey RGB", saved(grey(IDS)), THREE, IDS),
    target_row("ids with alpha", saved(np.dstack([grey(IDS), IDS * 0 + 255])), THREE, IDS),
    target_row("ids with a channel of alpha", saved(np.dstack([IDS, IDS * 0 + 255])), THREE, IDS),
    target_row("ids in 16 bits", saved(IDS.astype(np.uint16)), THREE, IDS),
    target_row("ids in 32 bits", saved(IDS.astype(np.int32), "TIFF"), THREE, IDS),
    target_row("ids as a palette", palette(IDS, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), THREE, IDS),
    target_row("ids in two bits", packed(IDS, 2), THREE, IDS),
    target_row("ids in four bits", packed(IDS, 4), THREE, IDS),
    target_row(
        "ids in one bit",
        packed(HALF, 1),
        Classes("leaf", "masks/{key}.*", classes=("a", "b")),
        HALF,
    ),
    target_row(
        "0 and 255 in one bit",
        packed(HALF, 1),
        Classes("leaf", "masks/{key}.*", classes=("a", "b"), values=(0, 255)),
        HALF,
    ),
    target_row("ids in a PGM whose maximum is 2", b"P5 10 6 2\n" + IDS.tobytes(), THREE, IDS),
    target_row(
        "ids in a text PGM", b"P2 10 6 2\n" + " ".join(map(str, IDS.ravel())).encode(), THREE, IDS
    ),
    target_row(
        "a palette in another order, colours listed",
        palette(1 - HALF, [(255, 0, 0), (0, 0, 0)]),
        COLORS,
        HALF,
    ),
    target_row(
        "a palette of the listed colours", palette(HALF, [(0, 0, 0), (255, 0, 0)]), COLORS, HALF
    ),
    target_row(
        "a palette of other colours, ids", palette(HALF, [(9, 9, 9), (0, 99, 0)]), COLORS, HALF
    ),
    target_row(
        "a palette with indices beyond, colours listed",
        palette(HALF * 9, [(0, 0, 0)] + [(255, 0, 0)] * 9),
        COLORS,
        HALF,
    ),
    target_row("colours", saved(RGB_HALF), COLORS, HALF),
    target_row("colours that nobody lists", saved(RGB_HALF), THREE, says=("masks/0", "colors")),
    target_row(
        "a colour too many",
        saved(HALF[..., None] * np.uint8([0, 255, 0])),
        COLORS,
        says=("masks/0", "00FF00", "FF0000"),
    ),
    target_row("an id too many", saved(IDS + 1), THREE, says=("masks/0", "3", "0..2, 255")),
    target_row(
        "0 and 255 as two classes",
        saved(HALF * 255),
        Classes("leaf", "masks/{key}.*", classes=("a", "b")),
        tells=("leaf", "255", '"values"'),
    ),
    target_row(
        "floats",
        saved(IDS.astype(np.float32), "TIFF"),
        THREE,
        says=("masks/0", "mode F", "palette"),
    ),
    target_row("colour of 16 bits", deep(IDS), THREE, says=("masks/0", "16 bits", "channel")),
    target_row("JPEG called .png", saved(IDS, "JPEG"), THREE, says=("masks/0", "JPEG", "PNG")),
    target_row(
        "WebP, lossy", saved(grey(IDS), "WEBP"), THREE, says=("masks/0", "lossy WEBP", "PNG")
    ),
    target_row("WebP, lossless", saved(grey(IDS), "WEBP", lossless=True), THREE, IDS),
    target_row("AVIF", saved(grey(IDS), "AVIF"), THREE, says=("masks/0", "AVIF", "PNG")),
    target_row(
        "TIFF with JPEG inside",
        saved(IDS, "TIFF", compression="jpeg"),
        THREE,
        says=("masks/0", "JPEG in TIFF", "PNG"),
    ),
    target_row("TIFF, LZW", saved(IDS, "TIFF", compression="tiff_lzw"), THREE, IDS),
    target_row(
        "JPEG 2000, irreversible",
        saved(grey(IDS), "JPEG2000", irreversible=True),
        THREE,
        says=("masks/0", "lossy JPEG2000", "PNG"),
    ),
    target_row("GIF", saved(Image.fromarray(IDS), "GIF"), THREE, IDS),
    target_row("BMP", saved(IDS, "BMP"), THREE, IDS),
    target_row("several pages", pages(IDS, IDS), THREE, says=("masks/0", "2 pages", "one")),
    *(
        target_row(
            f"{form} of several frames",
            saved(
                Image.fromarray(IDS),
                form,
                save_all=True,
                append_images=[Image.fromarray(255 - IDS)],
                **words,
            ),
            THREE,
            says=("masks/0", form, "several frames"),
        )
        for form, words in (("WEBP", {"lossless": True}), ("GIF", {}), ("PNG", {}))
    ),
    # depth
    target_row("millimetres", saved(MM), METRES, FAR),
    target_row(
        "millimetres, big-endian",
        saved(Image.frombytes("I;16B", (10, 6), MM.astype(">u2").tobytes()), "TIFF"),
        METRES,
        FAR,
    ),
    target_row("millimetres in 32 bits", saved(MM.astype(np.int32), "TIFF"), METRES, FAR),
    target_row(
        "metres as floats",
        saved(FAR, "TIFF"),
        Depth("far", "masks/{key}.*", scale=1, max_depth=10, unit="m"),
        FAR,
    ),
    target_row(
        "metres as a PFM",
        b"Pf\n10 6\n-1.0\n" + FAR[::-1].astype("<f4").tobytes(),
        Depth("far", "masks/{key}.*", scale=1, max_depth=10, unit="m"),
        FAR,
    ),
    target_row(
        "NaN, infinite and below 0",
        saved(np.where(HALF, FAR, np.float32([np.nan, np.inf, -np.inf, -9999, -1] * 2)), "TIFF"),
        Depth("far", "masks/{key}.*", scale=1, max_depth=10, unit="m"),
        np.where(HALF, FAR, -1),
    ),
    target_row(
        "0 is missing",
        saved(np.where(HALF, MM, 0).astype(np.uint16)),
        METRES,
        np.where(HALF, FAR, -1),
    ),
    target_row(
        "metres where millimetres are meant",
        saved(np.where(HALF, 2, 3).astype(np.uint16)),
        Depth("far", "masks/{key}.*", scale=1000, max_depth=10, unit="m"),
        says=("far", '"scale"', "2 to 3"),
    ),
    target_row("relative, 8 bits", saved(HALF * 255), RELATIVE, HALF),
    target_row("relative, 16 bits", saved(PART), RELATIVE, PART / 65535),
    target_row("grey as RGB", saved(grey(GREY_SIDES)), RELATIVE, GREY_SIDES / 255),
    target_row("grey as RGB of 16 bits", deep(MM), METRES, says=("masks/0", "16 bits", "channel")),
    target_row("colour map", saved(SIDES), RELATIVE, says=("masks/0", "colours", "one channel")),
    target_row(
        "numpy called .png",
        b"\x93NUMPY\1\0" + bytes(99),
        RELATIVE,
        says=("masks/0", "not an image", "PNG"),
    ),
]


@pytest.mark.parametrize("situation", IMAGES + TARGETS, ids=lambda each: each.words)
def test_what_files_hold_is_read_right_or_said(situation, tmp_path):
    situation.check(tmp_path / "data")
