"""Encoded bytes become the tensors that `Sample` promises, or an error that names the member."""

import contextlib
import io
import os
import struct
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps

from datasets import TASKS, images, load_task, photo
from datasets.decode import check_same_size, decode_target, depth_values
from datasets.photo import decode_image
from datasets.task import IGNORE, NO_DEPTH, Classes, Depth, Mask, UserError

DATA = Path(__file__).parents[2] / "shared" / "data"
DAMAGE = TASKS["damage"].outputs[0]
MASK = Mask("mask", "m/{key}.png")
DEPTH = Depth("depth", "d/{key}.png")
METRES = Depth("metres", "d/{key}.png", scale=0.001, max_depth=10.0, unit="m", missing=0)

real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not here")


def encode(pixels, format="PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def grey(*rows) -> np.ndarray:
    return np.array(rows, np.uint8)


def rgb_noise(height=5, width=7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Images


def test_image_rgb_png_is_lossless():
    pixels = rgb_noise()
    image = decode_image(encode(pixels), "a.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_image_modes_become_rgb(mode):
    original = Image.fromarray(rgb_noise()).convert(mode)
    data = encode(original, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:  # takes it for RGBX
        with pytest.raises(UserError, match="a: cannot be decoded"):
            decode_image(data, "a")
        return
    image = decode_image(data, "a")
    expected = np.asarray(original.convert("RGB"))
    assert torch.equal(image, torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_image_alpha_is_dropped_not_composited():
    pixels = np.dstack([rgb_noise(), np.zeros((5, 7), np.uint8)])
    assert torch.equal(
        decode_image(encode(pixels), "a"), decode_image(encode(pixels[..., :3]), "a")
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_image_of_16_bits_keeps_the_high_byte(dtype):
    pixels = np.array([[0, 255, 256, 32768, 65535]], dtype)
    image = decode_image(encode(pixels, "TIFF"), "a.tif")
    assert image.tolist() == [[[0, 0, 1, 128, 255]]] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_upright(orientation):
    pixels = np.kron(rgb_noise(2, 3), np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pixels, "JPEG", quality=100, subsampling=0, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = decode_image(data, "a.jpg")
    assert tuple(image.shape) == ((3, 24, 16) if orientation > 4 else (3, 16, 24))
    assert torch.equal(image, torch.from_numpy(expected.copy()).permute(2, 0, 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        encode(rgb_noise(64, 64))[:-4000],
        encode(rgb_noise(64, 64), "JPEG")[:-1000],
        encode(rgb_noise(64, 64), "TIFF")[:5000],
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "cut tiff"],
)
def test_unreadable_bytes_are_named(data):
    with pytest.raises(ValueError, match=r"^images/a\.png: .*[^.]$") as caught:
        decode_image(data, "images/a.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^labels/a\.png: "):
        decode_target(data, "labels/a.png", DAMAGE)


def test_flipped_bytes_raise_nothing_but_value_error():
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "GIF", "BMP"):
        whole = encode(rgb_noise(16, 16), format)
        for _ in range(50):
            data = bytearray(whole)
            data[rng.integers(len(data))] = rng.integers(256)
            with contextlib.suppress(ValueError):
                decode_image(bytes(data), "a")


def test_too_many_pixels_are_named_before_they_are_decoded(monkeypatch):
    data = encode(rgb_noise())
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=r"^a\.png: .*7x5 pixels in [0-9]+ bytes, expected at most 34"
    ):
        decode_image(data, "a.png")


def test_100_megapixels_pass_without_a_warning(recwarn):
    data = encode(Image.new("1", (10_100, 10_000)))
    assert decode_target(data, "a", MASK).shape == (10_000, 10_100)
    assert not recwarn.list


@pytest.mark.parametrize("size", [(20_000, 13_000), (70_000, 70_000)])
def test_a_bomb_is_one_line_and_no_warning(recwarn, size):
    """A small file that claims to be large."""
    data = encode(Image.new("1", (8, 1)))
    sizes = struct.pack(">II", *size)
    crc = zlib.crc32(b"IHDR" + sizes + data[24:29])
    with pytest.raises(ValueError, match="pixels") as caught:
        decode_image(data[:16] + sizes + data[24:29] + struct.pack(">I", crc) + data[33:], "a.png")
    assert "\n" not in str(caught.value)
    assert not recwarn.list


def test_float_image_is_refused():
    with pytest.raises(ValueError, match="a.tif: floating-point"):
        decode_image(encode(np.zeros((2, 2), np.float32), "TIFF"), "a.tif")


def test_a_transparent_palette_does_not_warn(recwarn):
    palette = Image.fromarray(rgb_noise()).convert("P")
    image = decode_image(encode(palette, transparency=bytes([0, 128, 255])), "a.png")
    assert torch.equal(image, decode_image(encode(palette), "a.png"))
    assert not recwarn.list


# Class labels


def labels(pixels, output=DAMAGE, format="PNG", **options) -> list:
    target = decode_target(encode(pixels, format, **options), "annotation/x.png", output)
    assert target.dtype == torch.uint8
    return target.tolist()


def test_ids_are_kept_and_255_is_ignored():
    assert labels(grey([0, 1, 15, 255])) == [[0, 1, 15, IGNORE]]


def test_every_storage_of_the_same_ids_is_equal():
    ids = np.random.default_rng(1).choice([*range(16), 255], (9, 11)).astype(np.uint8)
    palette = Image.fromarray(ids, mode="L").copy()
    palette.putpalette(list(range(255, -1, -1)) * 3)  # colours that say something else
    assert palette.mode == "P"
    for stored in (ids, palette, ids.astype(np.uint16), np.dstack([ids] * 3), np.dstack([ids] * 4)):
        assert labels(stored) == ids.tolist()
    assert labels(ids.astype(np.int32), format="TIFF") == ids.tolist()
    assert labels(Image.fromarray(ids).convert("LA")) == ids.tolist()


def test_colours_equal_ids():
    ids = np.random.default_rng(2).choice([*range(16), 255], (9, 11)).astype(np.uint8)
    colors = dict(enumerate(DAMAGE.colors)) | {255: DAMAGE.ignored_colors[0]}
    table = np.zeros((256, 3), np.uint8)
    for value, color in colors.items():
        table[value] = list(bytes.fromhex(color))
    coloured = table[ids]
    assert labels(coloured) == ids.tolist()
    assert labels(np.dstack([coloured, np.full(ids.shape, 9, np.uint8)])) == ids.tolist()
    assert labels(coloured, transparency=tuple(table[1].tolist())) == ids.tolist()


def test_grey_colours_that_are_no_ids_are_looked_up_as_colours():
    camvid = Classes("c", "x", classes=("sky", "road"), colors=("808080", "804080"))
    assert labels(np.full((1, 2, 3), 128, np.uint8), camvid) == [[0, 0]]


def test_of_two_classes_of_one_colour_the_first_is_meant():
    output = Classes("c", "x", classes=("a", "b", "c"), colors=("00ff00", "FF0000", "ff0000"))
    assert labels(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8), output) == [[1, 0]]


def test_cityscapes_ids_are_mapped_and_the_rest_is_ignored():
    output = TASKS["cityscapes"].outputs[0]
    assert labels(grey([7, 8, 33, 0, 9, 255]), output) == [[0, 1, 18, IGNORE, IGNORE, IGNORE]]
    assert sorted({*labels(grey([*range(34)]), output)[0]}) == [*range(19), IGNORE]


def test_a_class_at_255_beats_the_default_ignored_value():
    assert labels(grey([0, 255]), Classes("c", "x", classes=("a", "b"), values=(0, 255))) == [
        [0, 1]
    ]


def test_16_bit_values():
    output = Classes("c", "x", classes=("a", "b"), values=(0, 1000), ignored=(65535, -1))
    assert labels(np.array([[1000, 0, 65535]], np.uint16), output) == [[1, 0, IGNORE]]
    with pytest.raises(ValueError, match="label value 999 is not one of -1..0, 1000, 65535"):
        labels(np.array([[999]], np.uint16), output)


def test_one_bit_labels_are_ids_0_and_1():
    output = Classes("c", "x", classes=("a", "b"))
    assert labels(Image.fromarray(grey([0, 255])).convert("1"), output) == [[0, 1]]


@pytest.mark.parametrize("stored", [np.uint8, np.uint16])
def test_an_unseen_value_is_named(stored):
    with pytest.raises(ValueError) as caught:
        labels(np.array([[0, 77]], stored))
    assert str(caught.value) == (
        "annotation/x.png: label value 77 is not one of 0..15, 255: "
        'see "values" and "ignored" of the task'
    )


def test_many_unseen_values_are_counted():
    with pytest.raises(
        ValueError, match=r"values 20, 21, 22, 23, 24 and 3 more are not among 0\.\.15"
    ):
        labels(grey([*range(20, 28)]))


def test_an_unseen_colour_is_named():
    with pytest.raises(
        ValueError, match=r"x\.png: label colour 010203 is not one of 000000, 1CE6FF"
    ):
        labels(np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8))


def test_colours_without_a_colour_table_are_named():
    output = Classes("c", "x", classes=("a", "b"))
    with pytest.raises(ValueError, match="annotation/x.png: .*output c lists no colors"):
        labels(np.array([[[1, 2, 3]]], np.uint8), output)
    with pytest.raises(ValueError, match="label value 9 is not one of 0..1, 255"):
        labels(np.full((1, 1, 3), 9, np.uint8), output)


def test_jpeg_labels_are_refused():
    with pytest.raises(ValueError, match="annotation/x.png: JPEG"):
        labels(np.zeros((8, 8), np.uint8), format="JPEG")


def test_labels_in_other_modes_are_refused():
    with pytest.raises(ValueError, match="annotation/x.png: labels of mode F"):
        labels(np.zeros((2, 2), np.float32), format="TIFF")


# Masks


def mask(pixels, output=MASK, format="PNG", **options) -> list:
    target = decode_target(encode(pixels, format, **options), "m/x.png", output)
    assert target.dtype == torch.uint8
    return target.tolist()


def test_grey_is_foreground_from_the_threshold_on():
    assert mask(grey([0, 127, 128, 255])) == [[0, 0, 1, 1]]


def test_one_bit_mask():
    assert mask(Image.fromarray(grey([0, 255])).convert("1")) == [[0, 1]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_the_mask_unless_it_is_opaque(mode):
    cutout = Image.fromarray(grey([255, 0, 9])).convert(mode)
    assert mask(cutout) == [[1, 0, 0]]
    cutout.putalpha(Image.fromarray(grey([0, 255, 200])))
    assert mask(cutout) == [[0, 1, 1]]


def test_a_transparent_palette_is_a_mask():
    palette = Image.fromarray(grey([0, 1, 1]), mode="L").copy()
    palette.putpalette([255, 255, 255] * 2)
    assert mask(palette, transparency=bytes([0, 255])) == [[0, 1, 1]]


def test_coloured_masks_count_their_largest_channel():
    palette = Image.fromarray(grey([0, 1, 0]), mode="L").copy()
    palette.putpalette([0, 0, 0, 128, 0, 0])
    assert mask(palette) == [[0, 1, 0]]
    assert mask(palette.convert("RGB")) == [[0, 1, 0]]


def test_a_mask_of_zeros_and_ones_asks_for_its_threshold():
    with pytest.raises(ValueError) as caught:
        mask(grey([0, 1, 1]))
    assert str(caught.value) == 'm/x.png: holds only 0 and 1: set "threshold": 1 in the task'
    assert mask(grey([0, 1, 1]), Mask("mask", "m", threshold=1)) == [[0, 1, 1]]
    assert mask(grey([0, 0, 0])) == [[0, 0, 0]]


@pytest.mark.parametrize("threshold", [1, 128])
def test_a_mask_of_0_1_255_is_ambiguous(threshold):
    with pytest.raises(ValueError, match="m/x.png: holds 1 and 255"):
        mask(grey([0, 1, 255]), Mask("mask", "m", threshold=threshold))


def test_ignored_values_between_the_extremes_only():
    output = Mask("mask", "m", ignored=(0, 128, 255))
    assert mask(grey([0, 128, 129, 255]), output) == [[0, IGNORE, 1, 1]]
    assert IGNORE not in mask(np.full((8, 8), 128, np.uint8), output, "JPEG")[0]


def test_jpeg_masks_are_cut_at_the_threshold():
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, 8:] = 255
    assert mask(pixels, format="JPEG", quality=50) == (pixels // 255).tolist()
    assert mask(np.ones((8, 8), np.uint8), format="JPEG") == [[0] * 8] * 8


def test_16_bit_masks():
    pixels = np.array([[0, 127, 65535]], np.uint16)
    assert mask(pixels) == [[0, 0, 1]]
    assert mask(pixels, transparency=0) == [[0, 0, 1]]


COLORED = Mask("m", "x", colors=("FF0000", "ff80c0"), ignored_colors=("FFFFFF",))
COLORS = np.array(
    [[[255, 0, 0], [255, 128, 192], [255, 255, 255]], [[0, 0, 255], [254, 0, 0], [0, 0, 0]]],
    np.uint8,
)
MEANT = [[1, 1, IGNORE], [0, 0, 0]]


def test_a_mask_in_colours_is_what_has_one_of_them():
    assert mask(COLORS, COLORED) == MEANT
    assert mask(COLORS, COLORED, "BMP") == MEANT
    assert mask(COLORS, replace(COLORED, ignored_colors=())) == [[1, 1, 0], [0, 0, 0]]
    only_ignored = np.full((1, 2, 3), 255, np.uint8)
    assert mask(only_ignored, COLORED) == mask(only_ignored[..., 0], COLORED) == [[IGNORE] * 2]


def test_a_mask_in_colours_asks_neither_alpha_nor_how_colours_are_stored(recwarn):
    faint = np.dstack([COLORS, grey([0, 9, 255], [0, 255, 8])])
    assert mask(faint, COLORED) == MEANT
    assert mask(COLORS, COLORED, transparency=(255, 0, 0)) == MEANT
    palette = Image.fromarray(COLORS).quantize(8, dither=Image.Dither.NONE)
    assert mask(palette, COLORED) == MEANT
    assert mask(palette, COLORED, transparency=bytes([0, 128])) == MEANT
    assert not recwarn.list


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_mask_in_colours_that_compression_has_changed_is_refused(format):
    pixels = np.kron(COLORS, np.ones((8, 8, 1), np.uint8))
    with pytest.raises(UserError, match=f"m/x.png: .*{format} compression changes colours, exp"):
        mask(pixels, COLORED, format, quality=90)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_numbers_of_more_bits_are_no_colours(dtype):
    with pytest.raises(UserError, match="m/x.png: mask of mode .*, expected colours of 8 bits"):
        mask(np.zeros((2, 2), dtype), COLORED, "TIFF")


# Depth


def depth(pixels, output=DEPTH, format="PNG", **options) -> torch.Tensor:
    target = decode_target(encode(pixels, format, **options), "d/x.png", output)
    assert target.dtype == torch.float32
    return target


def test_relative_depth_fills_the_range_of_its_mode():
    assert torch.allclose(depth(grey([0, 51, 255])), torch.tensor([[0, 0.2, 1.0]]))
    wide = depth(np.array([[0, 13107, 65535]], np.uint16))
    assert torch.allclose(wide, torch.tensor([[0, 0.2, 1.0]]))


def test_depth_from_one_colour_of_three_lies_side_by_side():
    """numpy below 2.3 dies where what does not is compared with -1."""
    image = Image.new("RGB", (4, 3), (7, 7, 7))
    assert depth_values(image, "a.png")[0].flags.c_contiguous


def test_grey_stored_as_rgb():
    pixels = np.dstack([np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)] * 3)
    assert torch.equal(depth(pixels), depth(pixels[..., 0]))
    lossy = depth(pixels, format="JPEG", quality=95)
    assert (lossy - depth(pixels[..., 0])).abs().max() < 0.05


def test_colour_coded_depth_is_refused():
    with pytest.raises(ValueError, match="d/x.png: depth stored as colours"):
        depth(rgb_noise())


def test_millimetres():
    pixels = np.array([[0, 1, 2500, 10000, 10001, 65535]], np.uint16)
    expected = torch.tensor([[NO_DEPTH, 0.001, 2.5, 10.0, NO_DEPTH, NO_DEPTH]])
    assert torch.allclose(depth(pixels, METRES), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_depth_of_floats_of_any_length(order, kind):
    values = np.linspace(0.5, 9, 35).reshape(5, 7).astype(order + kind)
    fields = [(256, 7), (257, 5), (258, values.itemsize * 8), (259, 1), (262, 1), (273, 134)]
    fields += [(277, 1), (278, 5), (279, values.nbytes), (339, 3)]
    table = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    data = head + table + bytes(4) + values.tobytes()
    depth = decode_target(data, "d.tif", Depth(name="d", files="d", scale=1.0, max_depth=10.0))
    assert np.allclose(depth, values.astype(np.float32), rtol=1e-6)
    with pytest.raises(ValueError, match=r"d\.tif: floating-point image"):
        decode_image(data, "d.tif")


def test_float_depth_is_kept_and_what_is_not_a_number_is_missing():
    pixels = np.array([[0.25, np.nan, np.inf, -3.0, 2.0]], np.float32)
    assert depth(pixels, format="TIFF").tolist() == [[0.25, NO_DEPTH, NO_DEPTH, NO_DEPTH, 1.0]]


def test_missing_is_a_file_value():
    output = Depth("depth", "d", missing=255)
    assert depth(grey([0, 255]), output).tolist() == [[0.0, NO_DEPTH]]


# One channel of a file that several outputs share

SHARED = {
    "R": Classes("c", "x", classes=("a", "b", "c"), values=(0, 7, 200), channel="R"),
    "G": Mask("m", "x", ignored=(100,), channel="G"),
    "B": Depth("d", "x", missing=9, channel="B"),
    "A": Mask("n", "x", channel="A"),
}
PLANES = {
    "R": grey([0, 7, 200], [255, 7, 7]),
    "G": grey([0, 100, 255], [200, 9, 0]),
    "B": grey([0, 9, 51], [255, 128, 8]),
    "A": grey([0, 255, 3], [0, 200, 0]),
}


def shared(bands: str) -> np.ndarray:
    return np.dstack([PLANES[band] for band in bands])


@pytest.mark.parametrize(
    ("format", "bands"),
    [("PNG", "RGB"), ("PNG", "RGBA"), ("TIFF", "RGBA"), ("BMP", "RGB"), ("palette", "RGB")],
)
def test_each_channel_of_a_file_is_read_as_a_grey_one(format, bands):
    picture = Image.fromarray(shared(bands))
    if format == "palette":  # as programs that make files small store the same colours
        format, picture = "PNG", picture.quantize(256, dither=Image.Dither.NONE)
        assert np.array_equal(picture.convert("RGB"), shared(bands))
    data = encode(picture, format)
    for band in bands:
        alone = decode_target(encode(PLANES[band]), "x", replace(SHARED[band], channel=""))
        assert torch.equal(decode_target(data, "x", SHARED[band]), alone), band


def test_a_channel_is_no_colour_and_no_other_channel():
    """Grey everywhere, or of a listed colour: with a channel its numbers count alone."""
    output = replace(SHARED["R"], colors=("000000", "FF0000", "0700FF"))
    assert labels(np.array([[[7, 0, 255], [200, 0, 0]]], np.uint8), output) == [[1, 2]]
    assert labels(np.full((1, 2, 3), 7, np.uint8), output) == [[1, 1]]
    with pytest.raises(UserError, match="label value 255 is not one of 0, 7, 200:"):
        labels(np.array([[[255, 0, 0]]], np.uint8), replace(output, ignored=()))
    faint = np.dstack([np.full((1, 2, 3), 255, np.uint8), grey([0, 9])])
    assert mask(faint) == [[0, 0]]
    assert mask(faint, SHARED["G"]) == [[1, 1]]


def test_a_transparent_colour_is_a_channel_too():
    """A PNG's tRNS: colours without it, and alpha from it."""
    options = {"transparency": (0, 100, 9)}
    assert mask(shared("RGB")[:1], SHARED["G"], **options) == [[0, IGNORE, 1]]
    pixels = np.array([[[0, 100, 9], [1, 2, 3]]], np.uint8)
    assert mask(pixels, SHARED["A"], **options) == [[0, 1]]
    assert mask(grey([5, 6]), SHARED["A"], transparency=5) == [[0, 1]]
    palette = Image.fromarray(grey([0, 1, 1]), mode="L").copy()
    palette.putpalette([255, 255, 255] * 2)
    assert mask(palette, SHARED["A"], transparency=bytes([0, 255])) == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("pixels", "channel"),
    [
        (PLANES["G"], "G"),
        (np.dstack([PLANES["R"], PLANES["A"]]), "R"),
        (PLANES["G"].astype(np.uint16), "A"),
        (shared("RGB"), "A"),
        (Image.fromarray(shared("RGB")).convert("P"), "A"),
    ],
)
def test_a_file_without_the_channel_is_named(pixels, channel):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    options = {"transparency": 9} if image.mode.startswith("I") else {}
    with pytest.raises(UserError) as caught:
        decode_target(encode(pixels, **options), "m/x.png", SHARED[channel])
    expected = f"m/x.png: picture of mode {image.mode} without a channel {channel}, from which"
    assert str(caught.value) == f"{expected} output {SHARED[channel].name} is read"


def test_a_channel_of_classes_in_a_lossy_file_is_refused_as_the_file_is():
    with pytest.raises(UserError, match="annotation/x.png: JPEG"):
        labels(np.zeros((8, 8, 3), np.uint8), SHARED["R"], "JPEG")
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:, 1] = 255
    assert mask(pixels, SHARED["G"], "JPEG", quality=95) == (pixels[..., 1] // 255).tolist()


# Sizes and real files


def test_sizes_must_agree():
    image = torch.zeros(3, 80, 120, dtype=torch.uint8)
    check_same_size(image, torch.zeros(80, 120), "images/a.png", "labels/a.png")
    with pytest.raises(ValueError) as caught:
        check_same_size(image, torch.zeros(80, 100), "images/a.png", "labels/a.png")
    expected = "labels/a.png: is 100x80, its image 120x80: expected the same size as images/a.png"
    assert str(caught.value) == expected


@real_data
@pytest.mark.parametrize("task", ["camvid", "nyuv2"])
def test_real_samples(task):
    task = load_task(str(Path(__file__).parents[1] / "datasets" / f"{task}.json"))
    root = DATA / task.name
    for image_path in sorted(root.glob(task.image.format(split="train", key="*")))[:5]:
        image = decode_image(image_path.read_bytes(), image_path.name)
        for output in task.outputs:
            path = root / output.files.format(split="train", key=image_path.stem)
            target = decode_target(path.read_bytes(), str(path), output)
            check_same_size(image, target, str(image_path), str(path))
            if output.kind == "classes":
                assert set(target.unique().tolist()) <= {*range(output.channels), IGNORE}
            else:
                assert 0.3 < target[target >= 0].mean() < 10


@real_data
def test_real_cutouts_and_cracks():
    for path in sorted((DATA / "cutouts").glob("*.png"))[:5]:
        target = decode_target(path.read_bytes(), path.name, MASK)
        assert 0.05 < target.float().mean() < 0.95
    for path in sorted((DATA / "damage" / "deepcrack" / "masks").glob("*.png"))[:5]:
        target = decode_target(path.read_bytes(), path.name, MASK)
        assert 0 < target.float().mean() < 0.5


# What may be opened, and how much of it


def test_other_formats_are_refused_and_what_is_read_is_listed():
    for format in ("EPS", "PDF", "PCX", "SGI", "ICO"):
        data = encode(rgb_noise(32, 32), format)
        with pytest.raises(UserError, match=r"a.x: not an image .* expected PNG, JPEG, TIFF"):
            decode_image(data, "a.x")
    for format in ("PNG", "TIFF", "BMP", "PPM", "JPEG2000", "TGA"):
        assert decode_image(encode(rgb_noise(), format), "a").shape == (3, 5, 7)


def test_no_member_starts_a_program(monkeypatch):
    def refuse(*words, **options):
        raise AssertionError(words)

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(UserError, match="not an image"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n", "a.png")


LOSSY_LABELS = {
    "WEBP": {"quality": 90},
    "AVIF": {},
    "TIFF": {"compression": "jpeg"},
    "JPEG2000": {"irreversible": True},
}


@pytest.mark.parametrize("format", LOSSY_LABELS)
def test_labels_that_compression_has_changed_are_refused(format):
    pixels = np.random.default_rng(0).integers(0, 3, (32, 32)).astype(np.uint8)
    for extra in ({}, {"xmp": b"<x/>"} if format == "WEBP" else {}):  # RIFF with a header
        data = encode(Image.fromarray(pixels), format, **LOSSY_LABELS[format], **extra)
        with pytest.raises(UserError, match=f"a.x: .*{format}.* changes class labels"):
            decode_target(data, "a.x", DAMAGE)
    if format != "AVIF":
        lossless = {"lossless": True} if format == "WEBP" else {}
        data = encode(Image.fromarray(pixels), format, **lossless)
        assert decode_target(data, "a.x", DAMAGE).tolist() == pixels.tolist()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_strips_are_the_whole(monkeypatch, mode):
    original = Image.fromarray(rgb_noise(23, 7))
    if mode == "I;16":
        original = Image.fromarray(np.arange(161, dtype=np.uint16).reshape(23, 7) * 300)
    else:
        original = original.convert(mode)
    data = encode(original, "PNG")
    whole = decode_image(data, "a.png")
    monkeypatch.setattr(photo, "STRIP_PIXELS", 30)
    assert torch.equal(decode_image(data, "a.png"), whole)


def test_threads_that_decode_at_once_leave_stderr_where_it_was():
    """One begins while the other is within, and ends after it: each puts back what it found."""
    before, begun, seconds = os.fstat(2), threading.Event(), 0.2

    def decode(first: bool) -> None:
        if not first:
            begun.wait()
        with images._silent():
            begun.set()
            time.sleep(seconds if first else 2 * seconds)

    threads = [threading.Thread(target=decode, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.path.samestat(before, os.fstat(2))
