"""Regions say what the map says: the same pixels, areas, holes; and so do the files of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch

from datasets.photo import Photo
from datasets.shapes import filled
from datasets.task import Classes, Mask
from utils.maps import outlines, regions
from utils.maps.regions import find_regions
from utils.maps.results import Form, is_own, mm_of, write
from utils.maps.shapes import rings_of, run_lengths

NAMES = ("Clean", "Peel", "Dust <&>", "Cracks")
CLASSES = Classes(
    "damage",
    "",
    classes=NAMES,
    colors=("000000", "1CE6FF", "FF4A46", "0000A6"),
    values=(0, 9, 2, 3),
)


def noise(size, num, seed=0):
    return np.random.default_rng(seed).integers(0, num, size).astype(np.uint8)


def blobs(size=(230, 310), seed=0):
    """Smooth regions with holes, as a network draws them."""
    coarse = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 4, 12, 16)))
    coarse[:, 0] += 0.4
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].argmax(0).byte().numpy()


MAPS = [noise(size, num) for size in ((1, 1), (1, 9), (9, 1), (33, 37)) for num in (1, 2, 4)]
MAPS += [np.ones((5, 7), np.uint8), np.full((5, 7), 255, np.uint8), blobs()]


def inside(region, size):
    return filled([ring for rings in rings_of(region.exact) for ring in rings], size)


def painted(found, size):
    labels = np.zeros(size, np.uint8)
    for region in found:
        labels[inside(region, size)] = region.label
    return labels


@pytest.mark.parametrize("labels", MAPS, ids=lambda labels: f"{labels.shape} {labels.max()}")
@pytest.mark.parametrize("strip", [2**20, 40])
def test_exact_outlines_give_the_map_back(monkeypatch, labels, strip):
    monkeypatch.setattr(outlines, "STRIP_PIXELS", strip)
    monkeypatch.setattr(regions, "AT_ONCE", strip)
    found = find_regions(labels, CLASSES)
    assert np.array_equal(painted(found, labels.shape), np.where(labels == 255, 0, labels))
    for region in found:
        rows, columns = np.nonzero(inside(region, labels.shape))
        left, top, width, height = region.box
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        assert region.area == region.exact.area == len(rows)
        assert region.name == NAMES[region.label]


@pytest.mark.parametrize("labels", MAPS, ids=lambda labels: f"{labels.shape} {labels.max()}")
@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1.0, 4.0])
def test_outlines_are_valid_near_and_of_the_same_area(labels, tolerance):
    for region in find_regions(labels, CLASSES, tolerance):
        assert region.exact.is_valid
        assert region.outline.is_valid
        assert abs(region.outline.area - region.area) <= 0.005 * region.area
        assert shapely.hausdorff_distance(region.outline, region.exact) <= max(1, tolerance)
        assert tolerance or region.outline == region.exact


def test_smooth_outlines_are_shorter():
    exact, smooth = (find_regions(blobs(), CLASSES, t) for t in (0, 1.0))
    points = [sum(shapely.get_num_coordinates(r.outline) for r in each) for each in (exact, smooth)]
    assert points[1] < 0.6 * points[0]


def test_pixels_that_touch_by_a_corner_are_one_region_and_others_are_not():
    line = np.eye(6, dtype=np.uint8)
    (region,) = find_regions(line, Mask("crack", ""))
    assert (region.name, region.area, region.box) == ("crack", 6, (0, 0, 6, 6))
    ring = np.ones((5, 5), np.uint8)
    ring[1:4, 1:4], ring[2, 2] = 0, 1
    outer, inner = find_regions(ring, CLASSES)
    assert (outer.area, inner.area) == (16, 1)
    assert len(outer.exact.geoms[0].interiors) == 1
    crossed = np.uint8([[1, 2], [2, 1]])
    assert [region.label for region in find_regions(crossed, CLASSES)] == [1, 2]


def written(tmp_path, labels, output=CLASSES, **form):
    pixels = torch.full((3, *labels.shape), 90, dtype=torch.uint8)
    photo = Photo(pixels, (254.0, 127.0), "sub/a.jpg")
    shapes = ("geojson", "coco", "svg")
    write(tmp_path / "a", photo, {output.name: labels}, [output], "", Form(shapes=shapes, **form))
    paths = [tmp_path / f"a_{output.name}{end}" for end in (".geojson", "_coco.json", ".svg")]
    assert all(is_own(path.read_bytes()) for path in paths)
    return [path.read_text() for path in paths]


@pytest.mark.parametrize("form", [{}, {"mm": 0.5}])
def test_geojson_has_every_region_with_class_area_and_box(tmp_path, form):
    labels = blobs()
    found, page = find_regions(labels, CLASSES), json.loads(written(tmp_path, labels, **form)[0])
    assert page["type"] == "FeatureCollection"
    assert page["coordinates_are"].endswith("y down")
    assert page["image"] == {"file_name": "sub/a.jpg", "width": 310, "height": 230}
    pixel = 0.25 if form else 0.1 * 0.2  # in mm2
    for feature, region in zip(page["features"], found, strict=True):
        shape, told = shapely.geometry.shape(feature["geometry"]), feature["properties"]
        assert shape.is_valid
        assert abs(shape.area - region.area) <= 0.006 * region.area
        assert told["class"] == region.name
        assert told["label"] == CLASSES.values[region.label]
        assert told["area_px"] == (painted([region], labels.shape) > 0).sum()
        assert told["area_mm2"] == pytest.approx(region.area * pixel, abs=1e-3)
        assert tuple(told["box"]) == region.box
        for ring in (ring for rings in feature["geometry"]["coordinates"] for ring in rings):
            assert ring[0] == ring[-1]
            assert len(ring) >= 4


@pytest.mark.parametrize("labels", [blobs(), noise((20, 30), 2), np.ones((4, 6), np.uint8)])
def test_coco_has_polygons_or_where_there_are_holes_run_lengths(tmp_path, labels):
    page = json.loads(written(tmp_path, labels, tolerance=0)[1])
    (image,), height = page["images"], len(labels)
    names = {row["id"]: row["name"] for row in page["categories"]}
    back, kinds = np.zeros_like(labels), set()
    for row in page["annotations"]:
        assert row["image_id"] == image["id"]
        if row["iscrowd"]:
            counts = row["segmentation"]["counts"]
            inside = np.repeat(np.arange(len(counts)) % 2, counts).reshape(-1, height).T > 0
        else:
            rings = [np.reshape(numbers, (-1, 2)) for numbers in row["segmentation"]]
            inside = filled(rings, labels.shape)
        kinds.add(row["iscrowd"])
        assert inside.sum() == row["area"]
        assert names[row["category_id"]] == NAMES[row["category_id"]]
        back[inside] = row["category_id"]
    assert np.array_equal(back, labels)
    assert kinds == {0, 1} or labels.shape == (4, 6)


@pytest.mark.parametrize("strip", [2**20, 40])
def test_a_region_has_the_mean_of_its_own_pixels_as_score(monkeypatch, strip):
    monkeypatch.setattr(outlines, "STRIP_PIXELS", strip)
    for labels in MAPS:
        plane = noise(labels.shape, 256, seed=3)
        found = list(regions.each_region(labels, CLASSES, 1, plane))
        for region in found:
            mean = plane[inside(region, labels.shape)].mean() / 255
            assert region.score == pytest.approx(mean, abs=6e-5)
        assert [each._replace(score=None) for each in found] == find_regions(labels, CLASSES)


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("labels", [blobs(), noise((20, 30), 3), np.ones((4, 6), np.uint8)])
def test_geojson_is_built_and_wound_as_rfc_7946_says(tmp_path, labels, tolerance):
    text = written(tmp_path, labels, tolerance=tolerance)[0]
    assert shapely.from_geojson(text).geom_type == "GeometryCollection"
    page = json.loads(text)
    assert not {"coordinates", "geometries", "geometry", "properties", "crs"} & set(page)
    for feature in page["features"]:
        assert set(feature) == {"type", "geometry", "properties"}
        assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "MultiPolygon")
        for outer, *holes in feature["geometry"]["coordinates"]:
            assert all(len(place) == 2 for ring in (outer, *holes) for place in ring)
            # in the numbers as they stand: y goes down, so on the screen it is the other way round
            assert shapely.LinearRing(outer).is_ccw
            assert not any(shapely.LinearRing(ring).is_ccw for ring in holes)


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("labels", [blobs(), noise((20, 30), 3), np.ones((4, 6), np.uint8)])
def test_coco_has_the_fields_that_its_readers_expect(tmp_path, labels, tolerance):
    """Run lengths go with iscrowd 1, as CVAT writes them; pycocotools goes by the type of
    `segmentation` and takes them for a list of polygons where it is a list."""
    page, (height, width) = (
        json.loads(written(tmp_path, labels, tolerance=tolerance)[1]),
        labels.shape,
    )
    rows = page["annotations"]
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["category_id"] for row in rows} <= {row["id"] for row in page["categories"]}
    for row in rows:
        left, top, across, down = row["bbox"]
        assert min(left, top) >= 0 < min(across, down, row["area"])
        assert left + across <= width
        assert top + down <= height
        if row["iscrowd"] == 1:
            runs = row["segmentation"]
            assert set(runs) == {"size", "counts"}
            assert runs["size"] == [height, width]
            assert sum(runs["counts"]) == height * width
            assert sum(runs["counts"][1::2]) == row["area"]
        else:
            assert row["iscrowd"] == 0
            assert row["segmentation"]
            assert all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in row["segmentation"])


def test_run_lengths_are_those_of_the_whole_image():
    labels = noise((9, 11), 3)
    for region in find_regions(labels, CLASSES):
        counts = run_lengths(region, 9, 11)
        told = np.repeat(np.arange(len(counts)) % 2, counts).reshape(11, 9).T > 0
        assert np.array_equal(told, inside(region, labels.shape))


def test_svg_has_a_layer_for_each_class_over_the_photograph(tmp_path):
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.fromstring(written(tmp_path, blobs())[2])
    label = "{http://www.inkscape.org/namespaces/inkscape}label"
    layers = {group.get(label): group for group in root if group.get(label)}
    assert list(layers) == ["photograph", *NAMES[1:]]
    assert root.get("viewBox") == "0 0 310 230"
    assert (root.get("width"), root.get("height")) == ("31.00mm", "46.00mm")
    found = find_regions(blobs(), CLASSES)
    for number, name in enumerate(NAMES[1:], 1):
        assert len(layers[name]) == sum(region.label == number for region in found)
        assert re.fullmatch("#[0-9A-F]{6}", layers[name].get("fill"))


def test_a_dpi_that_nobody_measured_gives_no_millimetres():
    assert mm_of((254.0, 508.0), None) == pytest.approx((0.1, 0.05))
    assert mm_of((254.0, 508.0), 2.0) == (2.0, 2.0)
    for dpi in ((72.0, 72.0), (96.0, 95.99), None):
        assert mm_of(dpi, None) is None


def test_what_finds_outlines_is_imported_when_they_are_asked_for():
    code = "import sys, infer; sys.exit('shapely' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
