"""Where a picture lies on a map is kept in what has its geometry."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from test_infer import keep, picture
from test_regions import CLASSES

from datasets.photo import decode_photo
from datasets.place import KEYS, MATRIX, SCALE, TIES, Place, place_beside, place_of_tags
from datasets.task import UserError
from utils.maps.results import Form, write

DOUBLE, SHORT, ORIENTATION = 12, 3, 274


def tiff(tags):
    info = ImageFileDirectory_v2()
    for tag, values in tags.items():
        info.tagtype[tag] = SHORT if tag in (KEYS, ORIENTATION) else DOUBLE
        info[tag] = values
    file = io.BytesIO()
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(file, "TIFF", tiffinfo=info)
    return file.getvalue()


def keys(**found):
    numbers = {"raster": 1025, "geographic": 2048, "projected": 3072}
    rows = [(numbers[name], 0, 1, value) for name, value in sorted(found.items())]
    return (1, 1, 0, len(rows), *(word for row in rows for word in row))


# pixel (2, 3) counted in corners is at 500 km east, 4600 km north; pixels of half a metre
CORNER = {SCALE: (0.5, 0.5, 0.0), TIES: (2.0, 3.0, 0.0, 500000.0, 4600000.0, 0.0)}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (CORNER, Place((0.5, 0, 0, -0.5, 499999.25, 4600001.25))),
        (CORNER | {KEYS: keys(raster=2)}, Place((0.5, 0, 0, -0.5, 499999.0, 4600001.5))),
        (
            CORNER | {KEYS: keys(raster=1, projected=32633)},
            Place((0.5, 0, 0, -0.5, 499999.25, 4600001.25), 32633),
        ),
        (
            {MATRIX: (0, 2.0, 0, 100, 3.0, 0, 0, 50, *[0] * 7, 1), KEYS: keys(geographic=4326)},
            Place((0, 3.0, 2.0, 0, 101.0, 51.5), 4326),
        ),
        (CORNER | {KEYS: keys(projected=32767)}, Place((0.5, 0, 0, -0.5, 499999.25, 4600001.25))),
        ({}, None),
        ({SCALE: (0.5, 0.5, 0.0)}, None),
        (CORNER | {SCALE: (0.0, 0.5, 0.0)}, None),
        (CORNER | {SCALE: (float("nan"), 1.0, 0.0)}, None),
        ({MATRIX: (1.0, 2.0)}, None),
        (CORNER | {ORIENTATION: 3}, None),  # the numbers are of the picture before it was turned
    ],
)
def test_a_geotiff_tells_its_place_or_nothing(tags, expected):
    assert decode_photo(tiff(tags), "a.tif").place == expected


@pytest.mark.parametrize("value", ["text", 7, b"\xff", (10**400,) * 16, (None,) * 16, ((),) * 16])
@pytest.mark.parametrize("tag", [SCALE, TIES, MATRIX, KEYS])
def test_tags_of_any_kind_are_no_error(tag, value):
    place_of_tags(CORNER | {tag: value})


@pytest.mark.parametrize("name", ["a.jgw", "a.jpgw", "a.wld", "a.JGW"])
def test_a_world_file_beside_a_picture_is_read(tmp_path, name):
    (tmp_path / name).write_text("0.5\n0\n0\n-0.5\n10.25\r\n20\n")
    assert place_beside(tmp_path / "a.jpg") == Place((0.5, 0, 0, -0.5, 10.25, 20))
    assert place_beside(tmp_path / "b.jpg") is None
    assert place_beside(tmp_path / f"{'b' * 300}.jpg") is None


@pytest.mark.parametrize("text", ["", "1 2 3", "a b c d e f", "1 2 1 2 0 0", "1 0 0 inf 0 0"])
def test_another_world_file_is_named(tmp_path, text):
    (tmp_path / "a.tfw").write_text(text)
    with pytest.raises(UserError, match=r"a\.tfw: expected the six numbers"):
        place_beside(tmp_path / "a.tif")


def test_results_lie_where_the_photograph_does(tmp_path):
    photo = decode_photo(tiff(CORNER | {KEYS: keys(projected=32633)}), "a.tif")
    labels = np.zeros((10, 20), np.uint8)
    labels[2:5, 3:9] = 1
    write(tmp_path / "a", photo, {"damage": labels}, [CLASSES], "", Form(shapes=("geojson",)))
    for name in ("a_damage.png", "a_damage_view.png"):
        assert place_beside(tmp_path / name) == Place(photo.place.world)
    page = json.loads((tmp_path / "a_damage.geojson").read_text())
    assert page["epsg"] == 32633
    assert page["world_file"] == list(photo.place.world)
    assert page["features"][0]["properties"]["box"] == [3, 2, 6, 3]  # of pixels, as ever

    plain = photo._replace(place=None)
    write(tmp_path / "b", plain, {"damage": labels}, [CLASSES])
    assert not list(tmp_path.glob("b*.pgw"))
    assert torch.equal(plain.pixels, photo.pixels)


def test_a_folder_of_pictures_is_placed_and_again_when_a_world_file_comes(run_infer, tmp_path):
    keep(tmp_path / "tiny.pt", TINY)
    scans, out = tmp_path / "scans", tmp_path / "predictions"
    scans.mkdir()
    for i in range(2):
        picture("RGB", (24, 16), i).save(scans / f"{i}.jpg")
    (scans / "0.jgw").write_text("0.5\n0\n0\n-0.5\n10\n20\n")
    words = ("--weights", "tiny.pt", "--input", "scans")
    assert run_infer(*words).status == 0
    assert place_beside(out / "0_parts.png") == Place((0.5, 0, 0, -0.5, 10, 20))
    assert not list(out.glob("1_*.pgw"))
    (scans / "1.jgw").write_text("2\n0\n0\n-2\n10\n20\n")
    ran = run_infer(*words)
    assert "1 images predicted, 1 predicted before" in ran.err
    assert place_beside(out / "1_parts_view.png") == Place((2.0, 0, 0, -2.0, 10, 20))
    (scans / "1.jgw").write_text("mine")
    ran = run_infer(*words)
    assert ran.status == 1
    assert "1.jgw: expected the six numbers of a world file" in ran.err
