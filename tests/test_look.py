"""Targets that are read in another way than they are meant are noticed before training."""

from pathlib import Path

import numpy as np
import pytest
from conftest import encode

from datasets import TASKS, load_task
from datasets.dataset import open_task
from datasets.look import look
from datasets.task import Classes, Depth, Mask, Task, UserError

DATA = Path(__file__).parents[2] / "shared" / "data"
EVERY_TASK = [
    *TASKS.values(),
    *(load_task(str(p)) for p in sorted(Path(__file__).parents[1].glob("datasets/*.json"))),
]
REAL = {
    "camvid": ["camvid"],
    "nyuv2": ["nyuv2"],
    "deepcrack": ["damage/deepcrack"],
    "neu_seg": ["damage/neu_seg"],
}


@pytest.fixture
def looked(tmp_path):
    """looked(output, pixels, ...) -> the lines about ten images, of target pixels in turn."""

    def call(output, *pixels):
        task = Task("leaves", "img/{key}.png", (output,), f"{output.name}/x", val_share=0.3)
        for name in ("img", "t"):
            (tmp_path / name).mkdir()
        for i in range(10):
            target = np.asarray(pixels[i % len(pixels)])
            image = np.zeros((*target.shape[:2], 3), np.uint8)
            (tmp_path / "img" / f"{i}.png").write_bytes(encode(image, "x.png"))
            (tmp_path / "t" / f"{i}.png").write_bytes(encode(target, "x.png"))
        return look(open_task(task, [tmp_path], (8, 8)))

    return call


def half(on, off=0, dtype=np.uint8):
    pixels = np.full((6, 10), off, dtype)
    pixels[:, :5] = on
    return pixels


def classes(*names, **settings):
    return Classes("leaf", "t/{key}.png", classes=names, **settings)


MASK = Mask("leaf", "t/{key}.png")
METRES = Depth("far", "t/{key}.png", scale=1.0, max_depth=10.0, unit="m")


def test_a_class_that_hides_among_the_ignored_pixels(looked):
    (line,) = looked(classes("ground", "plant"), half(255))
    assert "ground is the only class" in line
    assert "50.0% of the pixels are ignored (file value 255)" in line
    assert '"values"' in line


def test_one_of_three_classes_is_missing_and_much_is_ignored(looked):
    (line,) = looked(classes("a", "b", "c"), half(255, 0), half(255, 1))
    assert "c occurs in none" in line


def test_one_of_three_classes_is_rare_and_nothing_is_ignored(looked):
    assert looked(classes("a", "b", "c"), half(0, 1)) == []


def test_one_of_many_classes_is_rare(looked):
    assert looked(classes(*"abcdef"), half(255, 0), half(255, 3)) == []


def test_labels_of_ids_are_as_they_should_be(looked):
    assert looked(classes("ground", "plant"), half(1)) == []


@pytest.mark.parametrize("value", [2, 7, 100])
def test_a_mask_below_its_threshold(looked, value):
    (line,) = looked(MASK, half(value))
    assert "no foreground" in line
    assert f"is {value}, " in line
    assert '"threshold" is 128' in line


def test_a_mask_without_one_of_its_colours(looked):
    mask = Mask("leaf", "t/{key}.png", colors=("00FF00", "00AA00"))
    (line,) = looked(mask, np.dstack([half(255)] * 3))
    assert line.endswith("no pixel of their files is of a colour in 00FF00, 00AA00")


def test_of_a_channel_its_own_values_are_told(looked):
    mask = Mask("leaf", "t/{key}.png", channel="G")
    (line,) = looked(mask, np.dstack([half(255), half(9), half(0)]))
    assert "no foreground" in line
    assert "the largest value in their files is 9, " in line


def test_a_mask_with_foreground_somewhere(looked):
    assert looked(MASK, half(0), half(255)) == []


@pytest.mark.parametrize("value", [2500, 0])
def test_a_depth_without_a_valid_pixel_ends_the_run(looked, value):
    output = Depth("far", "t/{key}.png", scale=1.0, max_depth=10.0, unit="m", missing=0)
    with pytest.raises(UserError, match="no valid pixel") as caught:
        looked(output, half(value, value, np.uint16))
    for key in ("scale", "max_depth", "missing", f"{value} to {value}"):
        assert key in str(caught.value)


def test_a_depth_with_one_valid_pixel(looked):
    pixels = half(2500, 2500, np.uint16)
    pixels[0, 0] = 3
    assert looked(METRES, pixels) == []


def test_labels_of_nothing_but_ignored_pixels_end_the_run(looked):
    with pytest.raises(UserError, match="leaf: all pixels of .* are ignored"):
        looked(classes("a", "b"), half(255, 255))


@pytest.mark.parametrize("task", EVERY_TASK, ids=lambda task: task.name)
def test_no_false_alarm_of_the_tasks_that_come_along(task, make_data):
    assert look(open_task(task, [make_data(task)], (32, 32))) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not here")
@pytest.mark.parametrize("name", REAL)
def test_no_false_alarm_of_real_data(name):
    task = next(task for task in EVERY_TASK if task.name == name)
    assert look(open_task(task, [DATA / folder for folder in REAL[name]], (64, 64))) == []
