"""Charts of a run are valid PNGs and show what its numbers say."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.task import Classes, Depth, Mask
from utils.run import charts
from utils.run.charts import draw_confusion, draw_curves

OUTPUTS = (Classes("damage", "", classes=("a", "b")), Mask("iou", ""), Depth("depth", ""))


def is_png(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG" and min(picture.size) > 100


def test_curves_from_a_run(tmp_path):
    lines = [
        {"step": step, "time": 1.0, "train/loss": 10 / step, "lr": 1e-3, "val/loss": None}
        for step in range(1, 100)
    ]
    lines += [{"step": 50, "val/loss": 1.0, "val/damage/miou": 0.2, "val/depth/absrel": 0.3}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 51, "tr')
    draw_curves(path, tmp_path / "curves.png", OUTPUTS)
    assert is_png(tmp_path / "curves.png")
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("text", [None, "", '{"step": 1, "time": 0.1, "train/loss": null}\n'])
def test_curves_without_values(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_text(text)
    draw_curves(path, tmp_path / "curves.png", OUTPUTS)
    assert is_png(tmp_path / "curves.png")


def test_loss_axis_is_logarithmic_over_a_decade():
    from matplotlib.figure import Figure

    wide, narrow = Figure().subplots(1, 2)
    charts._draw_chart(wide, {"train/loss": ([1, 2], [10.0, 1.0])}, {})
    charts._draw_chart(narrow, {"train/loss": ([1, 2], [5.0, 1.0])}, {})
    assert (wide.get_yscale(), narrow.get_yscale()) == ("log", "linear")


def test_best_is_the_least_error_and_the_highest_score():
    from matplotlib.figure import Figure

    error, score = Figure().subplots(1, 2)
    signs = charts._headlines(OUTPUTS)
    charts._draw_chart(error, {"val/depth/absrel": ([1, 2, 3], [0.4, 0.2, 0.3])}, signs)
    charts._draw_chart(score, {"val/damage/miou": ([1, 2, 3], [0.4, 0.2, 0.3])}, signs)
    assert error.get_title() == "val/depth/absrel: best 0.2 at 2"
    assert score.get_title() == "val/damage/miou: best 0.4 at 1"


def test_baseline_is_a_dashed_line_beside_its_score(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        charts, "_draw_chart", lambda axes, series, signs: drawn.append(list(series))
    )
    path = tmp_path / "metrics.jsonl"
    scores = {"val/iou/iou": 0.5, "val/iou/baseline_iou": 0.1, "val/iou/dice": 0.6}
    path.write_text(json.dumps({"step": 1, "train/lr": 0.1, "val/loss": 2.0, **scores}))
    draw_curves(path, tmp_path / "curves.png", OUTPUTS)
    assert drawn == [["val/loss"], ["val/iou/iou", "val/iou/baseline_iou"], ["train/lr"]]


def test_smoothing_keeps_a_line_and_its_length():
    line = np.arange(200.0)
    assert np.allclose(charts._smooth(list(line)), line)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num", [2, 24])
def test_confusion_is_drawn_with_an_empty_class(tmp_path, num):
    matrix = torch.randint(0, 1000, (num, num), generator=torch.manual_seed(0))
    matrix[0] = 0
    draw_confusion(matrix, [f"class {i}" for i in range(num)], tmp_path / "confusion.png")
    assert is_png(tmp_path / "confusion.png")
