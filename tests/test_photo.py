"""A photograph's colours come to the network in sRGB, and the size of its pixels is kept."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile import tiff as hostile_tiff
from PIL import Image, ImageCms, TiffImagePlugin
from test_infer import keep, opened, picture
from tiffs import tiff

import infer
from datasets.images import page_numbers
from datasets.photo import decode_image, decode_photo, read_photo
from datasets.task import UserError

SRGB = ImageCms.createProfile("sRGB")
# Its primaries in the D50 of profiles, by Adobe RGB (1998), annex C
ADOBE = {"rXYZ": (0.60974, 0.31111, 0.01947), "gXYZ": (0.20528, 0.62567, 0.06087),
         "bXYZ": (0.14919, 0.06322, 0.74457), "wtpt": (0.9642, 1.0, 0.8249)}  # fmt: skip


def profile(space="RGB ", name="Adobe RGB (1998)"):
    """The bytes of a version 2 profile of Adobe RGB, or of grey with the same tone curve."""
    description = b"desc" + struct.pack(">4xI", len(name) + 1) + name.encode() + bytes(79)
    tags = {"desc": description, "cprt": b"text\0\0\0\0none\0"}
    for tag, xyz in ADOBE.items():
        tags[tag] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * x) for x in xyz))
    curve = b"curv" + struct.pack(">4xIH", 1, round(256 * 2.19921875))
    tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC", "kTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag.encode(), start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"", 0x02100000, b"mntr",
                       space.encode(), b"XYZ ", b"acsp")  # fmt: skip
    return (
        head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + body
    )


def saved(image, form="PNG", **options):
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def smooth(size=(40, 30), mode="RGB"):
    """Colours that Adobe RGB and sRGB both have."""
    small = np.random.default_rng(0).integers(60, 190, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def in_adobe(image):
    """The same colours in numbers of Adobe RGB."""
    adobe = ImageCms.ImageCmsProfile(io.BytesIO(profile()))
    found = ImageCms.profileToProfile(image, SRGB, adobe)
    del found.info["icc_profile"]
    return found


@pytest.mark.parametrize(("form", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("TIFF", "RGB"),
                                            ("JPEG", "RGB"), ("WEBP", "RGB")])  # fmt: skip
def test_colours_come_in_srgb(form, mode):
    image = smooth()
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    told = saved(in_adobe(image).convert(mode), form, icc_profile=profile(), **options)
    untold = saved(in_adobe(image).convert(mode), form, **options)
    expected = np.asarray(image).astype(int).transpose(2, 0, 1)
    apart = np.abs(decode_image(told, "a").numpy() - expected)
    assert apart.max() <= (6 if form == "JPEG" else 4)
    assert np.abs(decode_image(untold, "a").numpy() - expected).max() > 10
    assert np.array_equal(read_photo(Image.open(io.BytesIO(told))).pixels, decode_image(told, "a"))


def test_grey_has_a_tone_curve():
    """18 % grey is 2.2 root in Adobe's numbers, and 118 in sRGB."""
    grey = Image.new("L", (3, 3), round(255 * 0.18 ** (1 / 2.2)))
    assert decode_image(saved(grey, icc_profile=profile("GRAY")), "a").unique().tolist() == [118]


@pytest.mark.parametrize(
    ("mode", "told"),
    [("RGB", b"no profile"), ("RGB", profile("GRAY")), ("L", profile()), ("CMYK", profile()),
     ("RGB", profile(name="sRGB, by its name")), ("1", profile("GRAY")), ("RGB", profile()[:200]),
     ("I;16", profile("GRAY")), ("RGB", ImageCms.ImageCmsProfile(SRGB).tobytes())],
    ids=lambda part: part if isinstance(part, str) else "",  # a profile says when it was made
)  # fmt: skip
def test_a_profile_that_is_of_no_use_changes_nothing(mode, told):
    image = picture(mode)
    with_it, without = (saved(image, "TIFF", icc_profile=each) for each in (told, b""))
    assert np.array_equal(decode_image(with_it, "a"), decode_image(without, "a"))


def test_a_profile_that_is_a_number_changes_nothing():
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (278, 4, 1, 8), (279, 4, 1, 64)]
    told = hostile_tiff([*entries, (34675, 4, 1, 77)])
    assert Image.open(io.BytesIO(told)).info["icc_profile"] == 77
    assert decode_image(told, "a").shape == (3, 8, 8)


def test_palettes_have_profiles_too():
    image = in_adobe(smooth()).quantize(256)
    found = decode_image(saved(image, icc_profile=profile()), "a").float()
    expected = np.asarray(smooth()).transpose(2, 0, 1)
    assert np.abs(found.numpy().mean((1, 2)) - expected.mean((1, 2))).max() < 2


def test_a_photo_in_adobe_rgb_is_predicted_as_its_copy_in_srgb():
    folder = Path(infer.__file__).parent / "models"
    image = Image.open(folder / "demo.jpg").convert("RGB").crop((100, 100, 420, 420))
    predictor = infer.load(folder / "demo_damage.pt", device="cpu")
    copy = Image.open(io.BytesIO(saved(in_adobe(image), icc_profile=profile())))
    first, second = (predictor(each)["damage"] for each in (image, copy))
    assert len(np.unique(first)) > 3
    assert (first != second).mean() <= 0.01


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "BMP"])
def test_pixels_an_inch_are_kept_in_every_picture(run_infer, tmp_path, form):
    from conftest import TINY

    keep(tmp_path / "tiny.pt", TINY)
    picture("RGB").save(tmp_path / "x.bin", form, dpi=(300, 150))
    (tmp_path / "x.bin").rename(tmp_path / "x.png")  # whatever a name says
    assert run_infer("--weights", "tiny.pt", "--input", "x.png").status == 0
    for path in (tmp_path / "predictions").iterdir():
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((300, 150), rel=1e-3), path.name
            assert ("srgb" in image.info) == ("_view" in path.name)  # labels are no colours


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_quarter_turn_turns_them_too(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture("RGB", (30, 20)), form, dpi=(300, 150), exif=exif)
    found = decode_photo(data, "a")
    turned = orientation > 4
    assert found.pixels.shape == ((3, 30, 20) if turned else (3, 20, 30))
    assert found.dpi == pytest.approx((150, 300) if turned else (300, 150))


@pytest.mark.parametrize("dpi", [(0, 0), (1e-3, 300), (2e6, 2e6)])
def test_sizes_that_cannot_be_are_none(dpi):
    assert decode_photo(saved(picture("RGB"), "TIFF", dpi=dpi), "a").dpi is None
    assert decode_photo(saved(picture("RGB")), "a").dpi is None


def test_labels_are_no_colours():
    """A profile in a file of labels, as editors write, changes no number."""
    from datasets.decode import decode_target
    from datasets.task import Depth, Mask

    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    grey, coloured = Image.fromarray(values), Image.fromarray(np.repeat(values[..., None], 3, 2))
    for image, told in ((grey, profile("GRAY")), (coloured, profile())):
        for output in (Mask("m", "m/{key}.png"), Depth("d", "d/{key}.png")):
            found = [decode_target(saved(image, **more), "a", output)
                     for more in ({"icc_profile": told}, {})]  # fmt: skip
            assert np.array_equal(*found)


FORMS = {
    "PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "TIFF": {}, "BMP": {}, "GIF": {},
    "WEBP": {"lossless": True}, "JPEG2000": {}, "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "PPM": {}, "TGA": {}, "PCX": {}, "DDS": {},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_type_of_file_in_every_mode(form):
    """Read, as it is, or refused in a line; a mode that a type does not have is left out."""
    seen = 0
    for mode in ("L", "RGB", "RGBA", "P", "CMYK", "I;16", "1", "LA"):
        if mode == "RGB" and form == "GIF" or mode == "I;16" and form in ("GIF", "WEBP", "AVIF"):
            continue  # Pillow writes other colours than it is given
        image = smooth((64, 48))
        if mode == "I;16":
            grey = np.asarray(image)[..., 0]
            given, expected = Image.fromarray(grey.astype(np.uint16) * 257), Image.fromarray(grey)
        else:
            given = expected = image.convert(mode)
        try:
            data = saved(given, form, **FORMS[form])
        except (OSError, ValueError):
            continue
        seen += 1
        if form in ("PCX", "DDS"):
            with pytest.raises(UserError, match=r"^a: not an image that can be read \(\d+ bytes\)"):
                decode_image(data, "a")
            continue
        apart = decode_image(data, "a").permute(1, 2, 0).numpy() - np.asarray(
            expected.convert("RGB"), np.int16
        )
        most = {"JPEG": 5, "AVIF": 4}.get(form, 0) if (form, mode) != ("GIF", "RGBA") else 255
        assert np.abs(apart).max() <= most, mode
    assert seen >= 3


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("planar", [False, True])
def test_tiffs_of_tiles_and_planes(bits, channels, tile, planar):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2**bits, (37, 50, channels)).astype(f"uint{bits}")
    found = decode_image(tiff(pixels, tile=tile, planar=planar), "a").permute(1, 2, 0).numpy()
    expected = (pixels >> (bits - 8)).astype(np.uint8)[..., :3]
    assert np.array_equal(found, np.broadcast_to(expected, (37, 50, 3)))


FULL = np.asarray(smooth((40, 30)))
HALF, QUARTER = FULL[::2, ::2], FULL[::4, ::4]


@pytest.mark.parametrize(
    ("data", "numbers"),
    [(tiff(FULL), [0]), (tiff(FULL, HALF, QUARTER, tile=16), [0]),
     (tiff(FULL, HALF, tile=16, purposes=(0, 1)), [0]), (tiff(FULL, FULL), [0, 1]),
     (tiff(FULL, FULL, purposes=(2, 2)), [0, 1]), (tiff(HALF, FULL, purposes=(1, 0)), [1]),
     (tiff(QUARTER, FULL), [0, 1]), (tiff(FULL, FULL[1:], HALF), [0, 1, 2]),
     (tiff(FULL, HALF[:, ::2]), [0, 1]), (tiff(FULL, FULL, purposes=(0, 4)), [0]),
     (tiff(FULL, purposes=(1,)), [0]), (saved(smooth(), "TIFF", big_tiff=True), [0])],
)  # fmt: skip
def test_levels_of_a_pyramid_are_no_pages(data, numbers):
    """A level is smaller, and says so, or has the shape of the first page."""
    assert page_numbers(io.BytesIO(data), "a") == numbers
    if len(numbers) == 1:
        assert np.array_equal(decode_image(data, "a").permute(1, 2, 0), FULL)


def test_a_page_tells_of_itself():
    """Neither the profile nor the dpi of the first page are those of the second."""
    pages = TiffImagePlugin.AppendingTiffWriter(file := io.BytesIO(), new=True)
    smooth().save(pages, "TIFF", icc_profile=profile(), dpi=(300, 300))
    pages.newFrame()
    smooth().save(pages, "TIFF")
    pages.finalize()
    found = decode_photo(file, "a", 1)
    assert found.dpi is None
    assert np.array_equal(found.pixels.permute(1, 2, 0), FULL)


def test_each_page_of_a_file_is_a_picture(run_infer, tmp_path):
    from conftest import TINY

    keep(tmp_path / "tiny.pt", TINY)
    pictures = [np.asarray(picture("RGB", size, i)) for i, size in enumerate([(30, 20), (28, 21)])]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.tif").write_bytes(whole := tiff(*pictures, FULL))
    Image.fromarray(pictures[0]).save(tmp_path / "in" / "scan.png")
    (tmp_path / "in" / "cut.tif").write_bytes(whole[:-100])  # of its last page, only a part
    ran = run_infer("--weights", "tiny.pt", "--input", "in")
    assert ran.status == 1
    assert "skipped in: cut.tif, page 3: cannot be decoded" in ran.err
    assert "6 images predicted, 1 cannot be read, see predictions" in ran.err
    predictor = infer.load(tmp_path / "tiny.pt", device="cpu")
    for i, pixels in enumerate((*pictures, FULL), 1):
        found = opened(tmp_path / "predictions" / f"scan_p00{i}_parts.png")
        assert np.array_equal(found, predictor(pixels)["parts"])
        assert np.array_equal(found, predictor(tmp_path / "in" / "scan.tif", page=i)["parts"])
    assert np.array_equal(
        opened(tmp_path / "predictions" / "scan_parts.png"), predictor(pictures[0])["parts"]
    )
    for page in (None, 0, 4):
        with pytest.raises(UserError, match="scan.tif: holds 3 pages, expected page=1 to page=3"):
            predictor(tmp_path / "in" / "scan.tif", page=page)
    assert (
        "0 images predicted, 6 predicted before"
        in run_infer("--weights", "tiny.pt", "--input", "in").err
    )


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_what_moves_is_known_by_its_first_frame(run_infer, tmp_path, form):
    from conftest import TINY

    keep(tmp_path / "tiny.pt", TINY)
    first, second = smooth().quantize(), smooth().rotate(90).quantize()
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(first, form, save_all=True, append_images=[second], **options)
    (tmp_path / "a.gif").write_bytes(data)
    ran = run_infer("--weights", "tiny.pt", "--input", "a.gif")
    assert "1 images predicted, 1 by their first frame, see predictions" in ran.err
    assert np.array_equal(decode_image(data, "a").permute(1, 2, 0), first.convert("RGB"))
