"""Pictures say what the arrays say: colours, order, sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.task import Classes, Depth, Mask
from utils import visualize
from utils.engine import EvalSample
from utils.panel import CELL, panel
from utils.visualize import (
    MASK_COLOR,
    class_colors,
    colorize,
    depth_picture,
    overlay,
    picture_of,
    rgb,
    sample_panel,
)

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
    blended = overlay(image, ids, COLORS, alpha=0.5)
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
