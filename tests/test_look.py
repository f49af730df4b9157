"""Targets that are read in another way than they are meant are noticed before training."""

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, put
from PIL import Image

from datasets import TASKS, load_task
from datasets.dataset import DenseDataset, open_task
from datasets.demo import demo_shards
from datasets.look import first_epoch, look
from datasets.stores.write import write_zip
from datasets.task import Batch, Classes, Depth, Label, Mask, Task, UserError

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
    "damage": ["damage/artefact_layout"],
}


@pytest.fixture
def looked(tmp_path):
    """looked(output, pixels, ...) -> the lines about ten images, of target pixels in turn; three
    validate."""

    def call(output, *pixels):
        task = Task("leaves", "img/{key}.png", (output,), "leaf/x", split="tail", val_share=0.3)
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
METRES = Depth("leaf", "t/{key}.png", scale=1.0, max_depth=10.0, unit="m")


def test_a_class_that_hides_among_the_ignored_pixels(looked):
    (line,) = looked(classes("ground", "plant"), half(255))
    assert "ground is the only class" in line
    assert "50.0% of the pixels are ignored (file value 255)" in line
    assert '"values"' in line


def test_one_of_three_classes_is_missing_and_much_is_ignored(looked):
    (line,) = looked(classes("a", "b", "c"), half(255, 0), half(255, 1))
    assert "c occurs in none" in line


def test_classes_that_never_occur_are_named(looked):
    (line,) = looked(classes(*"abcdef"), half(0, 1), half(2, 3))
    assert line == 'leaves: leaf: e, f occurs in none of 7 labels: see "classes" and "values"'


def test_a_class_that_validation_never_has(looked):
    (line,) = looked(classes("a", "b", "c"), half(2, 1), *[half(0, 1)] * 9)
    assert "c occurs in none of 3 labels to validate on" in line
    assert "--split-by" in line


def test_a_long_list_may_be_longer_than_the_data(looked):
    assert looked(classes(*"abcdefghijklmn"), np.uint8(np.arange(60) % 9).reshape(6, 10)) == []


def test_of_a_long_list_few_occur(looked):
    (line,) = looked(classes(*"abcdefghijklmn"), half(0, 1))
    assert "c, d, e, f, g, h, i, j, 4 more occurs in none" in line


def test_most_pixels_are_ignored_by_value(looked):
    pixels = np.full((6, 10), 7, np.uint8)
    pixels[:, :6], pixels[0, 8:] = 255, (0, 1)
    (line,) = looked(classes("a", "b", ignored=(7, 255)), pixels)
    assert "96.7% of the pixels are ignored (file value 7: 36.7%, file value 255: 60.0%)" in line


def test_nothing_to_validate_on_is_foreground(looked):
    (line,) = looked(MASK, *[half(255)] * 7, *[half(0)] * 3)
    assert "no foreground in 3 masks to validate on" in line


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


def test_a_mask_that_is_nearly_white(looked):
    assert looked(MASK, half(254)) == []


def test_a_mask_with_foreground_somewhere(looked):
    assert looked(MASK, half(0), half(255)) == []


@pytest.mark.parametrize("value", [2500, 0])
def test_a_depth_without_a_valid_pixel_ends_the_run(looked, value):
    output = Depth("leaf", "t/{key}.png", scale=1.0, max_depth=10.0, unit="m", missing=0)
    with pytest.raises(UserError, match="no valid pixel") as caught:
        looked(output, half(value, value, np.uint16))
    for key in ("scale", "max_depth", "missing", f"{value} to {value}"):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("values", "settings", "words"),
    [
        ((2500, 3), {}, ("50% of the pixels", "beyond max_depth", "3 to 2500", '"scale" (1')),
        ((4, 3), {"scale": 0.001}, ("the largest of 7 depths is 0.004m", '"max_depth" (10)')),
        ((4, 0), {}, ("50.0% of the pixels", "the next value is 4", '"missing": 0')),
        ((4, 0), {"missing": 0}, ()),
        ((4, 9), {}, ()),
        ((40000, 30000), {"scale": 0.001, "unit": ""}, ("100% of the pixels", "max_depth")),
    ],
)
def test_depths_against_the_range_of_the_head(looked, values, settings, words):
    lines = looked(replace(METRES, **settings), half(*values, np.uint16))
    assert len(lines) == bool(words)
    assert [word for word in words if word not in lines[0]] == []


def test_a_depth_with_one_valid_pixel(looked):
    pixels = np.zeros((12, 12), np.uint16)
    pixels[0, 0] = 3
    (line,) = looked(replace(METRES, missing=0), pixels)
    assert "0.69% of the pixels of 7 depths are valid" in line


def test_labels_of_nothing_but_ignored_pixels_end_the_run(looked):
    with pytest.raises(UserError, match="leaf: all pixels of .* are ignored"):
        looked(classes("a", "b"), half(255, 255))


def photograph(seed, size=(64, 96)):
    """A picture of its own: soft blotches under a sky that all have."""
    small = np.random.default_rng(seed).integers(0, 160, (5, 7, 3), np.uint8)
    small[:2] = small[:2] // 4 + 200
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def quarter_off(image):
    return image.resize((72, 48))


COPIES = {
    "re-encoded": lambda image: encode(np.asarray(image), "x.jpg"),
    "smaller": lambda image: encode(np.asarray(quarter_off(image)), "x.png"),
    "mirrored": lambda image: encode(np.asarray(image)[:, ::-1], "x.png"),
    "of less contrast": lambda image: encode(np.asarray(image) // 2 + 40, "x.png"),
}


@pytest.fixture
def judged(tmp_path):
    """judged(images, write) -> the lines about images, the last tenth of which validate; write: of
    a shard, else they are files."""

    def call(images, write=None):
        members = {}
        for i, data in enumerate(images):
            height, width = np.asarray(Image.open(io.BytesIO(data))).shape[:2]
            mask = np.zeros((height, width), np.uint8)
            mask[: height // 2] = 255
            members |= {f"img/{i:03d}.png": data, f"m/{i:03d}.png": encode(mask, "x.png")}
        path = tmp_path / "a.zip"
        if write:
            write(path, members.items())
        else:
            put(path, members)
        mask = Mask("leaf", "m/{key}.png")
        task = Task("leaves", "img/{key}.*", (mask,), "leaf/iou", split="tail")
        return look(open_task(task, [path], (8, 8)))

    return call


@pytest.mark.parametrize("rim", [False, True])
def test_images_of_their_own_raise_no_alarm(judged, rim):
    """Also where the dark rim of a lens is most of what each shows."""
    images = np.stack([np.asarray(photograph(i)) for i in range(100)]).astype(int)
    if rim:
        across, down = np.linspace(-1, 1, 96), np.linspace(-1, 1, 64)[:, None]
        images = 110 + images // 10 - 90 * (np.hypot(across, down) > 0.8)[..., None]
    assert judged([encode(pixels.astype(np.uint8), "x.png") for pixels in images]) == []


@pytest.mark.parametrize("kind", COPIES)
def test_a_validation_image_that_training_sees(judged, kind):
    images = [encode(np.asarray(photograph(i)), "x.png") for i in range(98)]
    (line,) = judged([*images, *(COPIES[kind](photograph(i)) for i in (3, 50))])
    assert line.startswith("leaves: 2 of 10 images to validate on are copies of images to train on")
    assert "img/098.png is like img/003.png" in line or "img/099.png is like img/050.png" in line
    assert "{group}" in line
    assert "--split-by" in line


def test_one_copy_far_from_its_original_in_a_shard(judged):
    """A shard knows what its members hold: none is read to find an equal one."""
    images = [encode(np.asarray(photograph(i, (16, 16))), "x.png") for i in range(900)]
    images[-2] = images[101]
    (line,) = judged(images, write_zip)
    assert line.startswith("leaves: 1 images to validate on are copies")
    assert "(img/898.png)" in line


def test_a_slow_disk_is_read_for_seconds_only(judged, monkeypatch):
    """Each look at the clock, ten seconds have passed."""
    clock, read = itertools.count(0, 10), []
    for module in ("datasets.look", "datasets.check.alike"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: next(clock))
    monkeypatch.setattr(
        "datasets.dataset.DenseDataset.read",
        lambda self, index, output="", own=DenseDataset.read: (
            read.append(output) or own(self, index, output)
        ),
    )
    assert judged([encode(np.asarray(photograph(i)), "x.png") for i in range(100)]) == []
    assert len(read) == 2 * 4 + 48 + 10 + 48  # images, masks of each split, those with what is odd


def test_images_that_are_all_alike(judged):
    lines = judged([encode(np.full((32, 32, 3), 90 + i % 2, np.uint8), "x.png") for i in range(60)])
    assert lines == [
        'leaves: all 54 images looked at are alike (img/000.png): see "image" of the task'
    ]


@pytest.mark.parametrize(("num", "said"), [(12, True), (44, True), (55, False)])
def test_few_images_to_validate_on(judged, num, said):
    lines = judged([encode(np.asarray(photograph(i)), "x.png") for i in range(num)])
    assert len(lines) == said
    assert all('"val_share" and --split-by' in line for line in lines)


def test_classes_that_the_first_epoch_does_not_show():
    outputs = (classes("a", "b", "c"), MASK, METRES, classes(*"abcdefghijklmn"))
    outputs = [replace(output, name=name) for output, name in zip(outputs, "pmdq", strict=True)]
    steps = [[batch(p=1, m=0, q=n), batch(p=0, m=0, q=n + 7)] for n in range(7)]
    told = []
    passed = list(first_epoch(steps[:5], 5, outputs, lambda seen: [*seen, "p/2"], told.append))
    assert passed == steps[:5]
    (line,) = told
    assert line.startswith("worth a look: m: foreground: in no target of the first epoch; ")
    told.clear()
    list(first_epoch(steps, 3, outputs, sorted, told.append))
    assert [line.split(":")[1:3] for line in told] == [
        [" p", " c"], [" m", " foreground"], [" q", " d, e, f, g, k, l, m, n"]
    ]  # fmt: skip
    told.clear()
    list(first_epoch(steps[:4], 5, outputs, sorted, told.append))
    assert told == []


def batch(**values):
    targets = {name: torch.full((2, 3, 3), value) for name, value in values.items()}
    return Batch(torch.zeros(2, 3, 3, 3), targets, ["x", "y"])


def test_training_tells_what_its_first_epoch_lacks(run_train, tiny_json):
    path, folder = tiny_json
    task = json.loads(path.read_text())
    task["outputs"][0]["classes"].append("d")
    task["outputs"][0]["values"].append(3)
    task["outputs"] = task["outputs"][:1]
    path.write_text(json.dumps(task))
    ran = run_train("--task", path, "--data", folder, "--epochs", "2")
    assert ran.status == 0
    assert "worth a look: tiny: parts: d occurs in none of 7 labels" in ran.err
    assert ran.out.count("worth a look: parts: d: in no target of the first epoch") == 1


@pytest.mark.parametrize("task", EVERY_TASK[:2] + EVERY_TASK[3:], ids=lambda task: task.name)
def test_no_false_alarm_of_the_tasks_that_come_along(task, tmp_path):
    small = replace(task, defaults={"size": (96, 96)})
    assert (
        look(
            open_task(
                small, demo_shards(small, tmp_path, 30 if "{split}" in task.image else 48), (32, 32)
            )
        )
        == []
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not here")
@pytest.mark.parametrize("name", REAL)
def test_no_false_alarm_of_real_data(name):
    task = next(task for task in EVERY_TASK if task.name == name)
    assert look(open_task(task, [DATA / folder for folder in REAL[name]], (64, 64))) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (("oak", "elm"), ()),
        (("oak", "elm", "Oak"), ("Oak and oak are two classes of 'tree'",)),
        ([f"{i / 7:.2f}" for i in range(20)], ("14 classes of 14 images", "'tree'")),
    ],
)
def test_the_classes_of_images(tmp_path, said, words):
    """Each name, whatever its letters' case, is a class, and a number is no class."""
    output = Label("tree", field="tree")
    layout = {"metadata": "t.csv", "split": "tail", "val_share": 0.3}
    task = Task("leaves", "{key}.png", (output,), "tree/accuracy", **layout)
    rows = [f"{i:02d},{said[i % len(said)]}" for i in range(20)]
    (tmp_path / "t.csv").write_text("id,tree\n" + "\n".join(rows))
    for i in range(20):
        (tmp_path / f"{i:02d}.png").write_bytes(encode(np.zeros((6, 8, 3), np.uint8), "x.png"))
    lines = [line for line in look(open_task(task, [tmp_path], (8, 8))) if ": tree: " in line]
    assert len(lines) == (len(words) > 0)
    assert all(word in lines[0] for word in words)
