"""A page of an image, and a summary of a folder, say what the maps say."""

import csv
import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from test_infer import keep, picture
from test_regions import CLASSES, NAMES

from datasets.photo import Photo
from datasets.task import Classes, Depth, Label, Mask
from utils.maps import sheet
from utils.maps.results import Form, is_own, write
from utils.maps.sheet import PAGE, Sheet, contents, draw_map, draw_sheet, hatching
from utils.maps.summary import json_lines, write_summary


def dark(page):
    return np.asarray(page.convert("L")) < 110


def test_classes_are_told_apart_without_colours():
    """Any two of sixteen hatchings differ on a quarter of what they draw, wherever they begin."""
    ways = [hatching(number, (40, 40)) for number in range(16)]
    for one, other in combinations(ways, 2):
        for moved in (np.roll(other, shift, (0, 1)) for shift in ((0, 0), (3, 0), (0, 3), (5, 5))):
            assert (one ^ moved).sum() > 0.25 * max(one.sum(), moved.sum())


def test_hatching_survives_grey_printing_and_clean_has_none():
    photograph, label = Image.new("RGB", (60, 60), "#303030"), np.ones((60, 60), np.uint8)
    clean = np.asarray(draw_map(photograph, 0 * label, CLASSES).convert("L"))
    assert np.ptp(clean) == 0
    assert clean.min() > 140  # pale, whatever the photograph
    for number in range(1, len(NAMES)):
        grey = np.asarray(draw_map(photograph, number * label, CLASSES).convert("L"), float)
        lines = hatching(number, (60, 60))
        inner = np.zeros_like(lines)
        inner[2:-2, 2:-2] = True
        assert grey[lines & inner].mean() < 0.6 * grey[~lines & inner].mean()


def test_what_is_thin_is_still_there_where_a_map_shrinks():
    labels = np.zeros((3000, 2000), np.uint8)
    labels[1501], labels[:, 701] = 1, 3
    drawn = dark(draw_map(Image.new("RGB", (200, 300), "white"), labels, CLASSES))
    assert drawn[150].all()
    assert drawn[:, 70].all()
    assert drawn.sum() == 499


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 3), (120, 90), (700, 2500)])
@pytest.mark.parametrize("output", [CLASSES, Mask("crack", ""), "many"])
def test_a_page_takes_any_size_and_number_of_classes(size, output):
    if output == "many":
        output = Classes("c", "", classes=tuple(f"class {i} " * 9 for i in range(200)))
    labels = np.arange(np.prod(size)).reshape(size) % len(output.labels)
    pixels = np.full((*size, 3), 128, np.uint8)
    sheet = Sheet("a" * 300, pixels, labels.astype(np.uint8), output, (0.1, 0.2), "a model " * 99)
    page = draw_sheet(sheet)
    assert page.size == PAGE
    edge = np.asarray(page).copy()
    edge[30:-30, 50:-50] = 255
    assert (edge == 255).all()  # nothing leaves the page


def test_a_scale_bar_is_there_where_the_scale_is_known():
    pixels, labels = np.full((80, 100, 3), 255, np.uint8), np.zeros((80, 100), np.uint8)
    with_bar, without = (
        draw_sheet(Sheet("a.png", pixels, labels, CLASSES, mm, "")) for mm in ((0.5, 0.5), None)
    )
    row = (dark(with_bar) & ~dark(without))[783]  # of the bar's upper edge
    assert row[60:380].all()  # 20 of 50 mm, of 800 dots
    assert not row[382:390].any()


def test_a_sheet_is_a_picture_and_a_pdf(tmp_path):
    photo = Photo(torch.zeros(3, 20, 30, dtype=torch.uint8), (254.0, 254.0), "a.jpg")
    labels = {"damage": np.ones((20, 30), np.uint8)}
    for _ in range(2):  # what is its own may be replaced
        write(tmp_path / "a", photo, labels, [CLASSES], "", Form(sheet=True))
    page = tmp_path / "a_damage_sheet.png"
    assert is_own(page.read_bytes())
    assert Image.open(page).size == PAGE
    assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("values", [(0, 9, 2, 3), (0, 300, 2, 7)])
def test_a_summary_has_a_row_for_each_image_and_class(tmp_path, monkeypatch, values):
    output = Classes("damage", "", classes=NAMES, values=values)
    images = []
    for number, name in enumerate(("a.jpg", "sub/b.jpg")):
        labels = np.zeros((10, 20), np.uint8)
        labels[: 5 - number], labels[9, 9] = 1, 3
        photo = Photo(torch.zeros(3, 10, 20, dtype=torch.uint8), (254.0, 127.0), name)
        write(tmp_path / name[:-4], photo, {"damage": labels}, [output])
        images.append((name, tmp_path / name[:-4], output))
    shown = []
    monkeypatch.setattr(
        "utils.maps.summary.contents",
        lambda names, small: shown.extend(small) or contents(names, small),
    )
    write_summary(tmp_path, [*images, ("gone.jpg", tmp_path / "gone", output)])
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class"]) for row in rows] == [
        (name, label) for name, *_ in images for label in NAMES
    ]
    assert [int(row["pixels"]) for row in rows] == [99, 100, 0, 1, 119, 80, 0, 1]
    assert [float(row["percent"]) for row in rows[:4]] == [49.5, 50, 0, 0.5]
    assert float(rows[1]["mm2"]) == pytest.approx(100 * 0.1 * 0.2)
    assert [small.size for small in shown] == [(20, 10)] * 2  # without their legends
    told = json.loads((tmp_path / "summary.json").read_text())
    assert [{key: str(value) for key, value in row.items()} for row in told] == rows


def test_json_tells_what_is_there_of_each_image(tmp_path):
    wood = Label("wood", field="wood", classes=("oak", "fir"))
    metres = Depth("metres", "", max_depth=10.0, unit="m")
    labels = np.zeros((10, 20), np.uint8)
    labels[:5], labels[9, 9] = 1, 3
    photo = Photo(torch.zeros(3, 10, 20, dtype=torch.uint8), (254.0, 127.0), "a.jpg")
    found = {"damage": labels, "wood": np.array(1), "metres": np.ones((10, 20), np.float32)}
    outputs = [CLASSES, wood, metres]
    write(tmp_path / "a", photo, found, outputs)
    (line,) = json_lines([("a.jpg", tmp_path / "a", output) for output in outputs])
    told = json.loads(line)
    assert (told["image"], told["width"], told["height"]) == ("a.jpg", 20, 10)
    assert told["outputs"]["wood"]["label"] == "fir"
    classes = told["outputs"]["damage"]["classes"]
    assert [(row["class"], row["pixels"]) for row in classes] == [
        (NAMES[0], 99),
        (NAMES[1], 100),
        (NAMES[3], 1),
    ]
    assert classes[1]["mm2"] == pytest.approx(100 * 0.1 * 0.2)
    for output in told["outputs"].values():
        assert is_own(Path(output["file"]).read_bytes())


@pytest.mark.parametrize(
    ("mm2", "text"),
    [
        (0.0042, "0.0042 sq mm"),
        (99.5, "99.5 sq mm"),
        (9999.4, "9,999 sq mm"),
        (618780.7, "6,188 sq cm"),
        (31512, "315.1 sq cm"),
        (2.5e9, "2,500 sq m"),
    ],
)
def test_areas_are_short_and_never_powers_of_ten(mm2, text):
    assert sheet._area(mm2) == text


def test_contents_show_every_picture():
    red = [Image.new("RGB", (50, 40), "#FF0000") for _ in range(23)]
    pages = contents([f"{i}.png" for i in range(23)], red)
    painted = [(np.asarray(page) == (255, 0, 0)).all(-1).sum() for page in pages]
    assert painted == [20 * 50 * 40, 3 * 50 * 40]


def test_one_command_makes_all_of_it(run_infer, tmp_path):
    keep(tmp_path / "tiny.pt", TINY)
    (tmp_path / "scans").mkdir()
    for i in range(2):
        picture("RGB", (24, 16), i).save(tmp_path / "scans" / f"{i}.png")
    words = ("--weights", "tiny.pt", "--input", "scans", "--sheet", "--shapes", "coco", "svg")
    (tmp_path / "scans" / "bad.png").write_bytes(b"no image")
    for _ in range(2):  # kept images are in the summary too
        ran = run_infer(*words, "--mm-per-pixel", "0.5", "--json")
        assert ran.status == 1, ran.err
        told = [json.loads(line) for line in ran.out.splitlines()]
        assert [row["image"] for row in told[:2]] == ["0.png", "1.png"]
        assert "not an image" in told[2]["error"]
        out = tmp_path / "predictions"
        names = {path.name for path in out.iterdir() if re.match("0_parts|[a-z]", path.name)}
        ends = (".png", "_view.png", "_sheet.png", "_sheet.pdf", "_coco.json", ".svg")
        assert names == {"summary.csv", "summary.json", "contents.pdf"} | {
            f"0_parts{e}" for e in ends
        }
        rows = json.loads((out / "summary.json").read_text())
        whole = [row for row in rows if row["image"] == "1.png" and row["output"] == "parts"]
        assert sum(row["pixels"] for row in whole) == 24 * 16
        assert sum(row["mm2"] for row in whole) == 24 * 16 / 4


@pytest.mark.parametrize(
    "name", ["summary.csv", "summary.json", "contents.pdf", "0_parts_sheet.pdf"]
)
def test_files_of_another_program_are_not_replaced(run_infer, tmp_path, name):
    keep(tmp_path / "tiny.pt", TINY)
    (tmp_path / "scans").mkdir()
    picture("RGB", (24, 16), 0).save(tmp_path / "scans" / "0.png")
    (tmp_path / "predictions").mkdir()
    path = tmp_path / "predictions" / name
    path.write_bytes(b"%PDF-1.4 or what a person wrote")
    ran = run_infer("--weights", "tiny.pt", "--input", "scans", "--sheet")
    assert ran.status in (1, 2)
    assert f"{name}: is there already and no result of this program" in ran.err
    assert path.read_bytes() == b"%PDF-1.4 or what a person wrote"
