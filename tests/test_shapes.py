"""Polygons and run lengths as targets: what this program writes comes back, and so do others'."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, members_of, put
from test_regions import CLASSES, blobs, noise

from datasets.check.checking import examine, list_samples
from datasets.dataset import open_split, open_task
from datasets.decode import decode_target
from datasets.look import look
from datasets.photo import Photo
from datasets.shapes import MOST_SMALL, filled, parse_shapes
from datasets.stores import open_stores, write_zip
from datasets.task import IGNORE, Classes, Mask, UserError
from utils.maps.results import Form, write

PAINT = Classes("damage", "{key}.json", classes=("Clean", "Peel", "Cracks"))
MASK = Mask("crack", "{key}.json")
SQUARE = [[1, 1], [4, 1], [4, 3], [1, 3], [1, 1]]


def geojson(*shapes, **more):
    """(class, rings) each."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {"classification": {"name": name}} if name else {},
        }
        for name, rings in shapes
    ]
    return {"type": "FeatureCollection", "features": features} | more


def coco(*segmentations, name="Peel", size=(6, 5), file_name="a.png"):
    """As CVAT exports it: ids from 1. A list of numbers is one polygon."""
    listed = [[each] if each and isinstance(each, list) else each for each in segmentations]
    listed = [
        each[0] if each and isinstance(each, list) and isinstance(each[0][0], list) else each
        for each in listed
    ]
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": each}
        for i, each in enumerate(listed, 1)
    ]
    return {
        "images": [{"id": 1, "file_name": file_name, "width": size[0], "height": size[1]}],
        "categories": [{"id": 1, "name": name}],
        "annotations": rows,
    }


def target(value, output=PAINT, key="img/a.png", size=(6, 5)):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode_target(parse_shapes(data), "s.json", output, key, size).numpy()


MAPS = [blobs(), noise((33, 37), 4), noise((9, 1), 2), np.ones((5, 7), np.uint8)]


@pytest.mark.parametrize("labels", MAPS, ids=lambda labels: str(labels.shape))
@pytest.mark.parametrize("form", ["geojson", "coco"])
def test_what_is_written_comes_back_exactly(tmp_path, labels, form):
    pixels = torch.zeros(3, *labels.shape, dtype=torch.uint8)
    photo = Photo(pixels, None, "sub/a.jpg")
    for output in (CLASSES, Mask("crack", "")):
        ids = labels if output is CLASSES else (labels == 1).astype(np.uint8)
        form_ = Form(shapes=(form,), tolerance=0)
        write(tmp_path / "a", photo, {output.name: ids}, [output], "", form_)
        end = {"geojson": ".geojson", "coco": "_coco.json"}[form]
        data = (tmp_path / f"a_{output.name}{end}").read_bytes()
        for size in (labels.shape[::-1], None):  # the file tells it
            back = target(data, replace(output, files="{key}.json"), "x/sub/a.jpg", size)
            assert np.array_equal(back, ids)


def test_simplified_outlines_come_back_nearly(tmp_path):
    labels = blobs()
    photo = Photo(torch.zeros(3, *labels.shape, dtype=torch.uint8), None, "a.jpg")
    write(tmp_path / "a", photo, {"damage": labels}, [CLASSES], "", Form(shapes=("geojson",)))
    data = (tmp_path / "a_damage.geojson").read_bytes()
    back = target(data, replace(CLASSES, files="{key}.json"), "a.jpg", labels.shape[::-1])
    assert (back != labels).mean() < 0.01


def square(value=1):
    expected = np.zeros((5, 6), np.uint8)
    expected[1:3, 1:4] = value
    return expected


def test_classes_go_by_their_names():
    assert np.array_equal(target(geojson(("Peel", [SQUARE]))), square())
    assert np.array_equal(target(geojson(("ignored", [SQUARE]))), square(255))
    assert np.array_equal(target(coco([1, 1, 4, 1, 4, 3, 1, 3], name="Cracks")), square(2))
    assert np.array_equal(target(coco([1, 1, 4, 1, 4, 3, 1, 3], name="crack"), MASK), square())
    assert np.array_equal(target(geojson((None, [SQUARE])), MASK), square())
    one, several = geojson(("Peel", [SQUARE]))["features"][0], geojson(("Peel", [SQUARE]))
    assert np.array_equal(target(one), square())
    assert np.array_equal(target(several["features"]), square())  # as QuPath exports them
    one["properties"] = {"class": "Peel"}
    assert np.array_equal(target(one), square())


def test_what_no_shape_covers_is_the_first_class_or_ignored():
    asked = replace(PAINT, classes=("Peel", "Cracks"), values=(1, 2), ignored=(0,))
    expected = np.where(square() == 1, 0, 255)
    assert np.array_equal(target(geojson(("Peel", [SQUARE])), asked), expected)
    with pytest.raises(UserError, match="what no shape covers has the value 0"):
        target(geojson(), replace(asked, ignored=()))
    assert not target(geojson()).any()


def test_holes_overlaps_and_order():
    hole = [[2, 1], [3, 1], [3, 2], [2, 2]]
    expected = square()
    expected[1, 2] = 0
    assert np.array_equal(target(geojson(("Peel", [SQUARE, hole]))), expected)
    later = square()
    later[1, 2] = 2
    assert np.array_equal(target(geojson(("Peel", [SQUARE]), ("Cracks", [hole]))), later)
    parts = coco([[1, 1, 4, 1, 4, 3, 1, 3], [2, 1, 3, 1, 3, 2, 2, 2]])
    assert np.array_equal(target(parts), square())  # parts of one shape are joined


def test_run_lengths_plain_and_packed():
    runs = [6, 2, 3, 2, 3, 2, 12]  # column by column
    for counts in (runs, "6230009"):  # what pycocotools packs these into
        value = coco({"size": [5, 6], "counts": counts})
        assert np.array_equal(target(value), square())


@pytest.fixture
def shaped(tmp_path):
    """The tiny task and its data with the parts as shapes of one COCO file, and the edges as one
    of GeoJSON an image."""
    members = members_of(TINY, 8)
    first = open_split(TINY, [put(tmp_path / "pictures", members)], "train")
    val = open_split(TINY, [tmp_path / "pictures"], "val")
    pictures = {
        name: data for name, data in members.items() if not name.startswith(("parts", "edge"))
    }
    whole = {"images": [], "categories": [], "annotations": []}
    samples = [each.load(i) for each in (first, val) for i in range(len(each))]
    parts, edge, near = TINY.outputs
    for number, sample in enumerate(samples, 10):
        photo = Photo(sample.image, None, sample.key)
        for name in ("parts", "edge"):
            sample.targets[name][sample.targets[name] == IGNORE] = 0
        found = {name: sample.targets[name].numpy() for name in ("parts", "edge")}
        form = Form(shapes=("coco", "geojson"), tolerance=0)
        painted = replace(parts, colors=("000000", "FF0000", "00FF00"))
        write(tmp_path / "out" / sample.key, photo, found, [painted, edge], "", form)
        value = json.loads((tmp_path / "out" / f"{sample.key}_parts_coco.json").read_bytes())
        whole["images"] += [each | {"id": number} for each in value["images"]]
        whole["annotations"] += [each | {"image_id": number} for each in value["annotations"]]
        whole["categories"] = value["categories"]
        key = sample.key.removeprefix("img/")
        data = (tmp_path / "out" / f"{sample.key}_edge.geojson").read_bytes()
        pictures[f"edges/{key.removesuffix('.png')}.geojson"] = data
    pictures["annotations.json"] = json.dumps(whole).encode()
    outputs = (
        replace(parts, files="annotations.json"),
        replace(edge, files="edges/{key}.geojson"),
        near,
    )
    return replace(TINY, outputs=outputs), pictures, samples


@pytest.mark.parametrize("name", ["data", "d.zip"])
def test_a_task_reads_shapes_as_it_reads_pictures(shaped, tmp_path, name):
    task, members, samples = shaped
    folder = tmp_path / name
    write_zip(folder, members.items()) if folder.suffix else put(folder, members)
    data = open_task(task, [folder], (32, 32))
    loaded = [each.load(i) for each in (data.train, data.val) for i in range(len(each))]
    assert [sample.key for sample in loaded] == [sample.key for sample in samples]
    for sample, other in zip(loaded, samples, strict=True):
        for output in TINY.outputs:
            assert torch.equal(sample.targets[output.name], other.targets[output.name])
    assert not [line for line in look(data) if "left out" in line or "ignored" in line]
    findings = examine(list_samples(open_stores([folder]), task), 0)
    assert not findings.problems


def test_one_file_speaks_of_the_images_of_several_shards(shaped, tmp_path):
    task, members, samples = shaped
    names = sorted(name for name in members if name.startswith("img"))
    away = {name: members.pop(name) for name in names[4:]}
    for name, some in (("a.zip", members), ("b.zip", away)):
        write_zip(tmp_path / name, some.items())
    data = open_task(task, [tmp_path / "a.zip", tmp_path / "b.zip"], (32, 32))
    loaded = [each.load(i) for each in (data.train, data.val) for i in range(len(each))]
    assert [sample.key for sample in loaded] == [sample.key for sample in samples]


def test_a_run_learns_from_shapes(shaped, run_train, tmp_path):
    task, members, _ = shaped
    put(tmp_path / "data", members)
    (tmp_path / "t.json").write_text(json.dumps(task.to_json()))
    ran = run_train("--task", "t.json", "--data", "data", "--steps", "2", "--workers", "2")
    assert ran.status == 0, ran.err


def test_what_was_predicted_is_a_target_of_a_run(run_train, run_infer, make_data, tmp_path):
    """The loop closes without a script: infer.py writes shapes, train.py reads them."""
    make_data(TINY)
    (tmp_path / "t.json").write_text(json.dumps(TINY.to_json()))
    assert run_train("--task", "t.json", "--data", "data", "--steps", "2", "--out", "a").status == 0
    words = ("--input", "data/img", "--shapes", "coco", "geojson", "--tolerance", "0")
    assert run_infer("--weights", "a/last.pt", *words, "--out", "data/shapes").status == 0
    parts, edge, _ = TINY.outputs
    outputs = (
        replace(parts, files="shapes/{key}_parts_coco.json"),
        replace(edge, files="shapes/{key}_edge.geojson"),
    )
    (tmp_path / "u.json").write_text(json.dumps(replace(TINY, outputs=outputs).to_json()))
    ran = run_train("--task", "u.json", "--data", "data", "--steps", "2", "--out", "b")
    assert ran.status == 0, ran.err


BAD = {
    "an unknown class": (geojson(("Rust", [SQUARE])), "features[0]: class 'Rust', expected one"),
    "no class": (geojson((None, [SQUARE])), "features[0]: no class"),
    "another size": (coco([1, 1, 4, 1, 4, 3], size=(9, 9)), "9x9, its image 6x5"),
    "a size below 0": (coco(size=(-6, 5)), "images[0]: -6x5 is no size"),
    "a size beyond memory": (coco(size=(10**6, 10**6)), "images[0]: 1000000x1000000 is no size"),
    "another image": (coco(file_name="b.png"), "no a.png"),
    "far away": (geojson(("Peel", [[[60, 50], [70, 50], [70, 60]]])), "none of its 1 shapes lies"),
    "a point": ({"geometry": {"type": "Point", "coordinates": [1, 2]}}, "Point"),
    "not JSON": (b"II*\0", "not JSON"),
    "brackets": (b"[" * 10**5, "not JSON"),
    "a number": (b"7", "features: expected a list"),
    "NaN": (geojson(("Peel", [[[float("nan"), 1], [2, 2], [3, 1]]])), "not finite"),
    "a huge number": (geojson(("Peel", [[[10**400, 1], [2, 2], [3, 1]]])), "pairs of numbers"),
    "texts": (geojson(("Peel", [[["a", 1], [2, 2]]])), "pairs of numbers"),
    "no geometry": ({"features": [{}]}, "features[0]: geometry: expected an object, got nothing"),
    "no category": (coco([1, 1, 4, 1, 4, 3]) | {"categories": []}, "category_id 1 is not in"),
    "no image": ({"annotations": [], "categories": []}, "images: expected a list, got nothing"),
    "only a box": (coco([]) | {"annotations": [{"image_id": 1, "category_id": 1}]}, "no segment"),
    "runs of another size": (coco({"size": [5, 5], "counts": [25]}), "run lengths of (width"),
    "runs too long": (coco({"size": [5, 6], "counts": [2**30, 2**30]}), "expected 5 x 6"),
    "runs below 0": (coco({"size": [5, 6], "counts": [31, -1]}), "whole numbers from 0"),
    "runs of a text": (coco({"size": [5, 6], "counts": "o" * 10**6}), "not the text"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named(case):
    value, words = BAD[case]
    with pytest.raises(UserError) as caught:
        target(value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_million_points_and_rings_that_cross_themselves():
    rng, num = np.random.default_rng(0), 10**6
    points = rng.uniform(0, 60, (num, 2))
    with pytest.raises(UserError, match="cross .* rows"):
        filled([points * (1, 10)], (600, 60))
    assert num * 30 > MOST_SMALL
    filled([points[:1000]], (60, 60))
    bow = filled([np.array([[0, 0], [8, 8], [8, 0], [0, 8]])], (8, 8))  # as every viewer fills it
    assert bow[4, [0, 7]].all()
    assert not bow[[0, 7], 4].any()


def test_an_output_of_depth_has_no_shapes():
    with pytest.raises(UserError, match="expected pictures, not shapes"):
        replace(TINY.outputs[2], files="a.json")
