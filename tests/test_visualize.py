"""Pictures say what the arrays say: colours, order, sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.decode import decode_target
from datasets.photo import Photo
from datasets.task import Classes, Depth, Mask, Normals
from utils.maps.results import Form, write
from utils.pictures import visualize
from utils.pictures.gallery import EvalSample
from utils.pictures.legend import NARROWEST, draw_legend
from utils.pictures.paint import Style, class_colors, colorize, depth_picture, lighter, overlay, rgb
from utils.pictures.panel import CELL, panel
from utils.pictures.visualize import MASK_COLOR, picture_of, sample_panel

COLORS = ("000000", "1CE6FF", "FF4A46")
CLASSES = Classes("damage", "", classes=("Clean", "Peel", "Dust"), colors=COLORS)
MASK = Mask("mask", "")
DEPTH = Depth("depth", "", unit="m", max_depth=10.0)
DATA = Path(__file__).parents[2] / "shared" / "data"


def luma(picture):
    return picture.astype(float) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("ids", [np.uint8([[0, 1, 2, 255]]), torch.tensor([[0, 1, 2, 255]])])
def test_colorize_gives_each_class_its_colour(ids):
    painted = colorize(ids, COLORS)
    assert painted.dtype == np.uint8
    assert painted.tolist() == [[list(rgb(c)) for c in (*COLORS, "000000")]]


def test_overlay_blends_colours_spares_black_and_dims_ignored():
    image = np.full((3, 5, 3), 100, np.uint8)
    ids = np.zeros((3, 5), np.uint8)
    ids[0], ids[1] = 1, 255
    blended = overlay(image, ids, COLORS, Style(alpha=0.5))
    assert blended.shape == image.shape
    assert blended.dtype == np.uint8
    assert blended[0, 0].tolist() == [64, 165, 178]  # half 100, half 1CE6FF
    assert (blended[1] < 50).all()
    assert (blended[2] == 100).all()
    assert (image == 100).all()  # the caller's image is not painted over


def test_a_mask_is_painted_alone():
    image = np.full((7, 3, 3), 200, np.uint8)
    mask = np.zeros((7, 3), np.uint8)
    mask[2, 1] = 1
    painted = picture_of(MASK).view(image, mask)
    expected = 0.4 * 200 + 0.6 * np.array(rgb(MASK_COLOR))
    assert painted[2, 1].tolist() == np.rint(expected).tolist()
    assert ((painted != image).any(-1) == (mask > 0)).all()


def test_depth_grows_darker_and_unknown_is_black():
    ramp = torch.linspace(0, 4, 256)[None]
    shades = luma(depth_picture(ramp))[0]
    assert (np.diff(shades) < 0).all()
    assert shades[-1] > 15  # the farthest is not mistaken for unknown
    holes = depth_picture(np.float32([[-1, 2, np.nan]]))
    assert holes[0, 0].tolist() == holes[0, 2].tolist() == [0, 0, 0]
    assert holes[0, 1].any()


def test_depth_scale_is_shared_through_max_depth():
    near, far = np.float32([[1.0]]), np.float32([[1.0, 9.0]])
    assert (depth_picture(near, 10.0)[0, 0] == depth_picture(far, 10.0)[0, 0]).all()
    assert (depth_picture(far, 5.0)[0, 1] == depth_picture(far * 2, 5.0)[0, 1]).all()  # beyond
    assert not depth_picture(np.full((2, 3), -1, np.float32)).any()


def test_panel_holds_its_cells_and_legend():
    cell = np.full((200, 180, 3), 7, np.uint8)  # shown one to one: between CELL / 2 and CELL
    two = panel([[("a", cell), ("b", cell)]])
    gap = two.width - 2 * 180
    assert panel([[("a", cell)]]).width == 180 + gap * 2 // 3
    assert panel([[("a", cell), ("b", cell)]] * 3).height > 3 * 200
    assert (np.asarray(two) == 7).all(-1).sum() == 2 * 180 * 200
    chip = np.asarray(panel([[("a", cell)]], [("Peel", "1CE6FF")]))
    assert (chip == rgb("1CE6FF")).all(-1).sum() > 100


def test_legend_wraps_so_that_every_chip_is_seen():
    output = Classes("c", "", classes=tuple(f"class {i}" for i in range(24)))
    legend = list(zip(output.classes, class_colors(output), strict=True))
    page = np.asarray(panel([[("a", np.zeros((200, 200, 3), np.uint8))]], legend))
    for name, color in legend:
        assert (page == rgb(color)).all(-1).sum() > 100, name


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 47), (2000, 31), (31, 2000)])
def test_panel_takes_any_size(size):
    page = panel([[("a caption far too long for it " * 3, np.zeros((*size, 3), np.uint8))]])
    assert max(page.size) <= CELL + 60


def test_sample_panel_shows_truth_beside_prediction():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, 33, 47), np.uint8))
    targets = {
        "damage": torch.ones(33, 47, dtype=torch.uint8),
        "mask": torch.zeros(33, 47, dtype=torch.uint8),
        "depth": torch.full((33, 47), 2.0),
    }
    outputs = (CLASSES, MASK, DEPTH)
    sample = EvalSample("a.png", image, targets, targets)
    page = sample_panel([sample] * 2, outputs)
    single = sample_panel([sample], outputs)
    assert single.width == page.width
    assert single.height < page.height < 2 * single.height
    unlabelled = sample_panel([sample._replace(targets={})], outputs)
    assert unlabelled.width < page.width
    sample_panel([], outputs)  # a rank without samples


def test_sample_panel_hides_the_prediction_where_nothing_is_scored(monkeypatch):
    shown = []
    monkeypatch.setattr(visualize, "panel", lambda rows, legend: shown.append((rows, legend)))
    truth, prediction = torch.tensor([[[255, 1]], [[2, 0]]], dtype=torch.uint8)
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    sample = EvalSample("a.png", image, {"damage": truth}, {"damage": prediction})
    sample_panel([sample], [CLASSES])
    (rows, legend) = shown[0]
    assert [caption for caption, _ in rows[0]] == ["image", "damage: truth", "damage: prediction"]
    assert rows[0][2][1].tolist() == [[[30] * 3, [100] * 3]]  # dimmed; Clean: as it is
    assert [name for name, _ in legend] == ["Peel", "ignored (dimmed)"]


def test_default_colours_are_as_many_as_classes_and_all_different():
    output = Classes("c", "", classes=tuple(map(str, range(40))))
    assert len(set(class_colors(output))) == 40
    assert class_colors(CLASSES) == COLORS


@pytest.mark.skipif(not (DATA / "nyuv2").is_dir(), reason="the real images are not here")
def test_real_room_is_nearer_where_it_is_brighter():
    path = sorted((DATA / "nyuv2" / "depth_mm").glob("*.png"))[0]
    depth = np.asarray(Image.open(path)).astype(np.float32) / 1000
    shades = luma(depth_picture(depth))
    order = np.argsort(depth.ravel(), kind="stable")
    assert (np.diff(shades.ravel()[order]) <= 1e-6).all()


def luminance(color):
    return luma(np.array(rgb(color)))


def test_dark_colours_are_painted_lighter_and_black_is_not_painted():
    for color in ("0000A6", "004D43", "000001", "7A4900"):
        assert luminance(color) < 100 < luminance(lighter(color)) < 130
    assert lighter("1CE6FF") == "1CE6FF"
    assert lighter("000000") == "000000"
    dark = Classes("d", "", classes=("Clean", "Cracks"), colors=("000000", "0000A6"))
    image = np.zeros((9, 9, 3), np.uint8)
    assert luma(picture_of(dark, Style(1.0)).view(image, np.ones((9, 9), np.uint8))).min() > 100


@pytest.mark.parametrize("level", [0, 255])
def test_an_outline_is_seen_on_dark_and_on_light_and_stays_at_its_region(level):
    image = np.full((40, 40, 3), level, np.uint8)
    ids = np.zeros((40, 40), np.uint8)
    ids[10:30, 12:28] = 1
    view = picture_of(CLASSES, Style(0.0, 2)).view(image, ids)
    changed = (view != image).any(-1)
    assert changed[10:30, 12:28].sum() == 20 * 16 - 16 * 12  # two pixels inside, all around
    assert (view[10:12, 12:28] == rgb("1CE6FF")).all()
    around = np.zeros_like(changed)
    around[8:32, 10:30] = True
    assert not changed[~around].any()
    assert changed[8:10, 12:28].all() == (level > 0)


CASES = [
    (CLASSES, np.uint8),
    (MASK, np.uint8),
    (DEPTH, np.float32),
    (Normals("up", ""), np.float32),
]


@pytest.mark.parametrize(("output", "dtype"), CASES)
@pytest.mark.parametrize("size", [(1, 1), (70, 50), (40, 1500)])
def test_a_view_is_the_picture_over_its_legend(tmp_path, monkeypatch, output, dtype, size):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
    values = rng.integers(0, 2, output.target_shape(size)).astype(dtype)
    write(tmp_path / "whole", Photo(pixels), {output.name: values}, [output], "", Form(0.3))
    monkeypatch.setattr("utils.maps.results.STRIP_PIXELS", 7 * size[1])
    write(tmp_path / "strips", Photo(pixels), {output.name: values}, [output], "", Form(0.3))
    whole, strips = (
        np.asarray(Image.open(tmp_path / f"{name}_{output.name}_view.png"))
        for name in ("whole", "strips")
    )
    assert np.array_equal(whole, strips)
    image = pixels.permute(1, 2, 0).numpy()
    picture = picture_of(output, Style(0.3, max(1, round(max(size) / 1200))))
    assert np.array_equal(whole[: size[0], : size[1]], picture.view(image, values))
    strip = np.asarray(
        draw_legend(picture.key(values), max(size[1], NARROWEST), max(14, max(size) // 60))
    )
    assert np.array_equal(whole[-len(strip) :], strip)


def test_a_legend_tells_the_share_of_each_class():
    ids = np.zeros((100, 100), np.uint8)
    ids[:42, :10], ids[99, 99] = 1, 2
    assert picture_of(CLASSES).key(ids) == [
        ("Clean 96 %", ""),
        ("Peel 4.2 %", "1CE6FF"),
        ("Dust < 0.1 %", lighter("FF4A46")),
    ]
    assert [name for name, _ in picture_of(DEPTH).key(np.zeros((2, 2)))][::4] == ["0 m", "10 m"]


@pytest.mark.parametrize("colors", [(), COLORS, ("000000", "00FF00", "00FF00")])
@pytest.mark.parametrize("values", [(), (7, 2, 250)])
def test_a_file_of_ids_has_colours_and_reads_as_ids(tmp_path, colors, values):
    output = Classes("c", "", classes=("a", "b", "c"), colors=colors, values=values)
    ids = np.random.default_rng(0).integers(0, 3, (9, 5)).astype(np.uint8)
    write(tmp_path / "x", Photo(torch.zeros(3, 9, 5, dtype=torch.uint8)), {"c": ids}, [output])
    image = Image.open(tmp_path / "x_c.png")
    assert image.mode == "P"
    codes = np.uint8(output.values)
    assert np.array_equal(np.array(image), codes[ids])  # as a stranger reads it
    data = (tmp_path / "x_c.png").read_bytes()
    assert np.array_equal(decode_target(data, "x", output).numpy(), ids)
    painted = np.array(image.convert("RGB"))
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 3
    if colors == COLORS:
        assert np.array_equal(painted, colorize(ids, COLORS))
