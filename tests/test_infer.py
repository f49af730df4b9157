"""A checkpoint and an image of any kind give pictures of the image's size, or scores."""

import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, members_of, needs_gpu, put
from PIL import Image

import infer
from datasets import TASKS
from datasets.dataset import open_split
from datasets.photo import Photo, read_photo
from datasets.stores import write_zip
from datasets.task import Classes, Depth, Task
from models import ModelSpec, UNet
from utils import checkpoint
from utils.maps import results

OUTPUTS = ("parts", "edge", "near")


def keep(path, *tasks, size=(32, 32), seed=0):
    """A best.pt of an untrained network whose answers vary from pixel to pixel."""
    outputs = [output for task in tasks for output in task.outputs]
    spec = ModelSpec.of(outputs, width=4, depth=2)
    torch.manual_seed(seed)
    model = UNet(spec)
    for head in model.heads.values():
        torch.nn.init.normal_(head.weight, std=2.0)
    config = {
        "tasks": [task.to_json() for task in tasks],
        "sizes": [list(size)] * len(tasks),
        "model": spec.to_json(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {"step": 1, "model": model.state_dict(), "config": config})
    return model.eval()


@pytest.fixture
def network(tmp_path):
    """The tiny task's network, kept in tiny.pt of the working directory."""
    return keep(tmp_path / "tiny.pt", TINY)


def picture(mode, size=(37, 23), seed=0):
    """A picture of any of Pillow's modes; size is (width, height)."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_images_of_any_mode(run_infer, network, tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    picture(mode).save(tmp_path / f"a.b{suffix}")
    ran = run_infer("--weights", "tiny.pt", "--input", f"a.b{suffix}")
    assert ran.status == 0, ran.err
    assert ran.out == ""
    names = {f"a.b_{output}{view}.png" for output in OUTPUTS for view in ("", "_view")}
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == names
    for output in OUTPUTS:
        data = opened(tmp_path / "predictions" / f"a.b_{output}.png")
        view = opened(tmp_path / "predictions" / f"a.b_{output}_view.png")
        assert data.shape == (23, 37)
        assert view.shape[2] == 3
        assert view.shape[0] > 23  # the picture over its legend, which is wider


@pytest.mark.parametrize("size", [(1, 1), (3, 100), (64, 64), (65, 31)])
def test_what_is_written_is_what_the_network_says(run_infer, network, tmp_path, size):
    image = picture("RGB", size)
    image.save(tmp_path / "x.png")
    assert run_infer("--weights", "tiny.pt", "--input", "x.png", "--out", "out").status == 0
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        found = network(pixels)
    ids, mask, depth = (opened(tmp_path / "out" / f"x_{name}.png") for name in OUTPUTS)
    assert ids.dtype == mask.dtype == np.uint8
    assert depth.dtype == np.uint16
    assert set(np.unique(ids)) <= {0, 1, 2}
    assert set(np.unique(mask)) <= {0, 255}
    assert (ids == found["parts"][0].argmax(0).numpy()).mean() > 0.99
    assert ((mask == 255) == (found["edge"][0, 0] > 0).numpy()).mean() > 0.99
    assert np.abs(depth - 1000 * found["near"][0, 0].numpy()).max() <= 2  # in millimetres
    assert depth.max() <= 5000


def values_task():
    """File values that are not 0, 1, 2, one of them beyond 8 bits, and relative depth."""
    outputs = (
        Classes("kind", "k/{key}.png", classes=("a", "b"), values=(7, 300)),
        Depth("far", "f/{key}.png"),
    )
    return Task("values", "i/{key}.png", outputs, "kind/miou")


def test_files_hold_the_values_of_the_task(run_infer, tmp_path):
    keep(tmp_path / "values.pt", values_task())
    picture("RGB", (40, 30)).save(tmp_path / "x.png")
    ran = run_infer("--weights", "values.pt", "--input", "x.png")
    assert ran.status == 0, ran.err
    ids = opened(tmp_path / "predictions" / "x_kind.png")
    assert set(np.unique(ids)) == {7, 300}
    depth = opened(tmp_path / "predictions" / "x_far.png")
    assert depth.dtype == np.uint16
    assert depth.max() > 32768  # the full range is 1


@pytest.mark.parametrize(
    ("unit", "max_depth", "scale"),
    [("m", 65.0, 1000), ("m", 80.0, 65535 / 80), ("cm", 8000.0, 65535 / 8000), ("", 1.0, 65535)],
)
def test_the_largest_depth_fits_the_file(tmp_path, unit, max_depth, scale):
    output = Depth("far", "f/{key}.png", unit=unit, max_depth=max_depth)
    values = torch.tensor([[0.0, 0.25, 0.9], [0.99, 1.0, 0.5]]) * max_depth
    image = torch.zeros(3, 2, 3, dtype=torch.uint8)
    results.write(tmp_path / "x", Photo(image), {"far": values.numpy()}, [output])
    data = opened(tmp_path / "x_far.png")
    assert np.abs(data / scale - values.numpy()).max() <= 0.51 / scale
    assert data[1, 1] > data[1, 0] > data[0, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_large_pictures_are_painted_in_strips(run_infer, network, tmp_path, monkeypatch):
    picture("RGB", (37, 50)).save(tmp_path / "x.png")
    words = ("--weights", "tiny.pt", "--input", "x.png", "--out")
    assert run_infer(*words, "whole").status == 0
    monkeypatch.setattr(results, "STRIP_PIXELS", 37 * 7)
    assert run_infer(*words, "strips").status == 0
    for path in (tmp_path / "whole").iterdir():
        assert np.array_equal(opened(path), opened(tmp_path / "strips" / path.name)), path.name


@pytest.mark.parametrize("out", ["found/here", "."])
def test_own_results_are_no_input(run_infer, network, tmp_path, out):
    """Wherever they lie, and of whichever task."""
    keep(tmp_path / "values.pt", values_task())
    picture("RGB").save(tmp_path / "x.png")
    words = ("--input", ".", "--out", out)
    assert "1 images predicted, see" in run_infer("--weights", "tiny.pt", *words).err
    ran = run_infer("--weights", "values.pt", *words)
    assert "1 images predicted, 6 results of earlier runs left out" in ran.err
    assert run_infer("--weights", "tiny.pt", *words).status == 0
    names = {path.name for path in (tmp_path / out).glob("*.png")} - {"x.png"}
    outputs = (*OUTPUTS, "kind", "far")
    assert names == {f"x_{name}{view}.png" for name in outputs for view in ("", "_view")}


def test_a_file_of_somebody_else_is_not_written_over(run_infer, network, tmp_path):
    picture("RGB").save(tmp_path / "x.png")
    picture("L", seed=1).save(tmp_path / "x_edge.png")  # a mask drawn by hand
    before = (tmp_path / "x_edge.png").read_bytes()
    ran = run_infer("--weights", "tiny.pt", "--input", "x.png", "--out", ".")
    assert ran.status == 2
    assert "x_edge.png: is there already" in ran.err
    assert (tmp_path / "x_edge.png").read_bytes() == before


def test_names_that_leave_no_room_for_results_are_cut(run_infer, network, tmp_path):
    for name in ("n" * 245, "z"):
        picture("RGB").save(tmp_path / f"{name}.png")
    ran = run_infer("--weights", "tiny.pt", "--input", f"{'n' * 245}.png", "z.png")
    assert ran.status == 0, ran.err
    cut, short = stems(tmp_path / "predictions")
    assert (cut[:181], short) == ("n" * 180 + "~", "z")
    assert "2 images predicted" in ran.err


def test_what_infer_does_not_read_is_said(run_infer, network, tmp_path):
    (tmp_path / "in").mkdir()
    picture("RGB").save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.heic").write_bytes(b"x")
    ran = run_infer("--weights", "tiny.pt", "--input", "in")
    assert (ran.status, stems(tmp_path / "predictions")) == (0, ["a"])
    assert "left out: 1 of a suffix that is not read (b.heic)" in ran.err


def stems(folder, output="parts"):
    return sorted(
        path.relative_to(folder).as_posix().removesuffix(f"_{output}.png")
        for path in folder.rglob(f"*_{output}.png")
    )


def test_folders_zips_and_files_together(run_infer, network, tmp_path):
    for name in ("mine/a.png", "mine/deeper/b.jpg", "c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture("RGB").save(tmp_path / name)
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    data = {"d/e.png": (tmp_path / "c.png").read_bytes(), "d/read.me": b"text"}
    write_zip(tmp_path / "some.zip", data.items())
    ran = run_infer("--weights", "tiny.pt", "--input", "mine", "c.png", "some.zip")
    assert ran.status == 0, ran.err
    assert stems(tmp_path / "predictions") == ["a", "c", "d/e", "deeper/b"]
    assert "4 images" in ran.err


@pytest.mark.parametrize("name", ["tiny", "damage", "cityscapes", "maskdepth"])
def test_labels_in_the_input_are_no_images(run_infer, make_data, tmp_path, name):
    """A laid out store: masks and depths of the course lie in folders that its images' fits too."""
    task = TINY if name == "tiny" else TASKS[name]
    keep(tmp_path / "net.pt", task)
    data = make_data(task, "data.zip", num=3)
    ran = run_infer("--weights", "net.pt", "--input", data)
    assert ran.status == 0, ran.err
    (output, *_) = task.outputs
    splits = 2 if "{split}" in task.image else 1
    found = stems(tmp_path / "predictions", output.name)
    assert len(found) == 3 * splits
    folder = {"tiny": "img", "damage": "image", "cityscapes": "leftImg8bit"}.get(name, "bg_fg_1")
    assert all(stem.startswith(f"{folder}/") for stem in found)


def test_two_images_of_one_name_do_not_overwrite_each_other(run_infer, network, tmp_path):
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        picture("RGB").save(tmp_path / name)
    ran = run_infer("--weights", "tiny.pt", "--input", "a/x.png", "b/x.png")
    assert ran.status == 2
    assert "a/x.png and b/x.png would both be written as predictions/x" in ran.err


def test_names_that_differ_in_their_suffix_alone(run_infer, network, tmp_path):
    for i, name in enumerate(("a.jpg", "a.tif", "b.png")):
        picture("RGB", (30 + i, 20)).save(tmp_path / name)
    ran = run_infer("--weights", "tiny.pt", "--input", ".")
    assert ran.status == 0, ran.err
    assert stems(tmp_path / "predictions") == ["a.jpg", "a.tif", "b"]
    for i, name in enumerate(("a.jpg", "a.tif", "b")):
        assert opened(tmp_path / "predictions" / f"{name}_parts.png").shape == (20, 30 + i)


def test_images_of_all_tasks_are_counted(run_infer, tmp_path):
    """A store may be laid out for one task and hold others for the next."""
    keep(tmp_path / "both.pt", TINY, values_task())
    for name in ("img/a.png", "img/b.png", "img/c.png", "i/d.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        picture("RGB").save(tmp_path / "data" / name)
    ran = run_infer("--weights", "both.pt", "--input", "data")
    assert ran.status == 0, ran.err
    assert "4 images predicted" in ran.err


def resized_task():
    return replace(TINY, name="resized", resize=True)


@pytest.mark.parametrize("words", [(), ("--tile", "24", "--overlap", "8")])
def test_tasks_that_resize_come_back_at_native_size(run_infer, tmp_path, words):
    """Tiles are for native scale: of an image resized to the training size, one is all of it."""
    model = keep(tmp_path / "net.pt", resized_task(), size=(32, 48))
    image = picture("RGB", (90, 61))
    smooth = image.resize((9, 6)).resize((90, 61), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.png")
    assert run_infer("--weights", "net.pt", "--input", "x.png", *words).status == 0
    ids = opened(tmp_path / "predictions" / "x_parts.png")
    assert ids.shape == (61, 90)
    small = np.array(smooth.resize((48, 32), Image.Resampling.BILINEAR))
    with torch.no_grad():
        found = model(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)["parts"]
    expected = torch.nn.functional.interpolate(found, (61, 90), mode="bilinear").argmax(1)[0]
    assert (ids == expected.numpy()).mean() > 0.95


@pytest.mark.parametrize("resize", [False, True])
def test_scores_are_those_of_the_files_that_are_written(run_infer, make_data, tmp_path, resize):
    """At the labels' own size, counted by numpy, whatever size the network was trained at."""
    task = replace(TINY, resize=resize)
    keep(tmp_path / "net.pt", task, size=(24, 32))
    data = make_data(task)
    words = ("--weights", "net.pt", "--input", data)
    scores = json.loads(run_infer(*words, "--evaluate", "train").out)
    assert run_infer(*words).status == 0
    confusion, apart = np.zeros((3, 3)), []
    train = open_split(task, [data], "train")
    for name in map(train.table.key, range(len(train))):
        key = Path(name).stem
        truth, found = opened(data / f"parts/{key}.png"), opened(f"predictions/img/{key}_parts.png")
        np.add.at(confusion, (truth[truth < 255], found[truth < 255]), 1)
        truth, found = opened(data / f"near/{key}.png"), opened(f"predictions/img/{key}_near.png")
        apart.append(np.abs(found.astype(float) - truth)[truth > 0])
    hit = confusion.diagonal()
    iou = hit / (confusion.sum(0) + confusion.sum(1) - hit)
    assert scores["parts/miou"] == pytest.approx(iou.mean(), abs=1e-4)
    assert scores["near/mae"] == pytest.approx(np.concatenate(apart).mean() / 1000, abs=1e-3)


def test_tiles_and_mirrors(run_infer, network, tmp_path):
    picture("RGB", (72, 90)).save(tmp_path / "x.png")  # a width that needs no padding
    base = ("--weights", "tiny.pt", "--input", "x.png")
    for out, words in {
        "whole": (),
        "never": ("--tile", "0"),
        "tiled": ("--tile", "48", "--overlap", "32"),
        "mirrored": ("--tta",),
    }.items():
        assert run_infer(*base, "--out", out, *words).status == 0
    whole, never, tiled, mirrored = (
        opened(tmp_path / out / "x_near.png").astype(int)
        for out in ("whole", "never", "tiled", "mirrored")
    )
    assert np.array_equal(whole, never)
    assert whole.shape == tiled.shape == mirrored.shape
    assert np.abs(tiled - whole)[:16, :16].max() <= 1
    assert not np.array_equal(whole, mirrored)
    image = Image.open(tmp_path / "x.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.save(tmp_path / "x.png")
    assert run_infer(*base, "--out", "again", "--tta").status == 0
    again = opened(tmp_path / "again" / "x_near.png").astype(int)
    assert np.abs(again[:, ::-1] - mirrored).max() <= 1


@pytest.mark.parametrize("words", [(), ("--amp",)])
def test_a_rotated_photograph_is_predicted_upright(run_infer, network, tmp_path, words):
    image = picture("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # held upright
    image.save(tmp_path / "x.png", exif=exif)
    assert run_infer("--weights", "tiny.pt", "--input", "x.png", *words).status == 0
    assert opened(tmp_path / "predictions" / "x_parts.png").shape == (40, 30)


@pytest.mark.parametrize("ema", ["0", "0.5"])
def test_scores_are_those_of_training(run_train, run_infer, tiny_json, tmp_path, ema):
    path, data = tiny_json
    words = ("--steps", "4", "--eval-steps", "2", "--ema", ema)
    assert run_train("--task", path, "--data", data, *words).status == 0
    best = tmp_path / "runs" / "tiny" / "best.pt"
    expected = checkpoint.load(best)["scores"]
    ran = run_infer("--weights", best, "--input", data, "--evaluate")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    rows = found.pop("parts/per_class")
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    known = [row["iou"] for row in rows if row["iou"] is not None]
    assert np.mean(known) == pytest.approx(found["parts/miou"])
    assert {name for name in expected if name.count("/") and name not in found} == {
        *("parts/ce", "edge/bce", "near/l1")
    }
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1e-3, nan_ok=True), name

    last = tmp_path / "runs" / "tiny" / "last.pt"
    state = checkpoint.load(last)
    scores = json.loads(run_infer("--weights", last, "--input", data, "--evaluate").out)
    lines = (last.parent / "metrics.jsonl").read_text().splitlines()
    final = json.loads(lines[-1])
    assert final["step"] == state["step"] == 4
    assert scores["parts/miou"] == pytest.approx(final["val/parts/miou"], abs=1e-3)

    other = json.loads(run_infer("--weights", best, "--input", data, "--evaluate", "train").out)
    assert other["parts/miou"] != found["parts/miou"]


def test_a_task_that_resizes_is_scored_alike_in_training(run_train, run_infer, tiny_json, tmp_path):
    """At the labels' own size, by a network that was trained at another."""
    path, data = tiny_json
    path.write_text(json.dumps(resized_task().to_json()))
    words = ("--task", path, "--data", data, "--size", "24", "32", "--steps", "2")
    assert run_train(*words).status == 0
    best = checkpoint.load(tmp_path / "runs" / "resized" / "best.pt")
    found = json.loads(run_infer("--task", path, "--input", data, "--evaluate").out)
    for name in ("parts/miou", "edge/accuracy", "near/rmse"):
        assert best["scores"][name] == pytest.approx(found[name], abs=1e-4), name


def test_nothing_but_the_checkpoint_is_read(run_infer, run_train, tiny_json, tmp_path):
    path, data = tiny_json
    assert run_train("--task", path, "--data", data, "--steps", "1").status == 0
    shutil.copy(tmp_path / "runs" / "tiny" / "best.pt", tmp_path / "alone.pt")
    expected = run_infer("--weights", "alone.pt", "--input", data, "--evaluate").out
    shutil.rmtree(tmp_path / "runs")
    path.unlink()
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    ran = run_infer("--weights", "alone.pt", "--input", moved, "--evaluate")
    assert ran.status == 0, ran.err
    assert ran.out == expected


def test_the_newest_run_of_the_task_is_found(run_infer, network, tmp_path):
    picture("RGB").save(tmp_path / "x.png")
    for name in ("old", "new"):
        keep(tmp_path / "runs" / name / "best.pt", TINY, seed=len(name))
    keep(tmp_path / "runs" / "newest" / "best.pt", TASKS["maskdepth"])
    ran = run_infer("--task", "tiny", "--input", "x.png")
    assert ran.status == 0, ran.err
    assert "runs/new/best.pt" in ran.err
    assert "runs/newest/best.pt" in run_infer("--task", "maskdepth", "--input", "x.png").err
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "best.pt").write_bytes(b"text")
    ran = run_infer("--task", "tiny", "--input", "x.png")
    assert ran.status == 0, ran.err
    assert "passed over: runs/broken/best.pt: not a checkpoint" in ran.err
    assert "runs/new/best.pt" in ran.err


SPOILT = {
    "a weight too few": lambda state: state["model"].popitem(),
    "a weight too many": lambda state: state["model"].update(more=torch.zeros(2)),
    "other shapes": lambda state: state["model"].update(
        {k: w[None] for k, w in state["model"].items()}
    ),
    "no weights": lambda state: state.pop("model"),
    "numbers": lambda state: state.update(model=[1, 2]),
    "no config": lambda state: state.pop("config"),
    "a config of text": lambda state: state.update(config="text"),
    "no network": lambda state: state["config"].pop("model"),
    "half a network": lambda state: state["config"]["model"].pop("convs"),
    "another network": lambda state: state["config"]["model"].update(width=5),
    "no tasks": lambda state: state["config"].pop("tasks"),
    "no sizes": lambda state: state["config"].update(sizes=[]),
    "not a number": lambda state: next(iter(state["model"].values())).fill_(float("nan")),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_network_that_cannot_be_built(run_infer, network, tmp_path, spoil):
    state = checkpoint.load(tmp_path / "tiny.pt")
    spoil(state)
    torch.save(state, tmp_path / "spoilt.pt")
    picture("RGB").save(tmp_path / "x.png")
    ran = run_infer("--weights", "spoilt.pt", "--input", "x.png")
    assert ran.status == 2
    (line,) = ran.err.splitlines()
    assert line.startswith("error: spoilt.pt: ")
    assert not (tmp_path / "predictions").exists()


def test_a_task_file_names_its_run(run_infer, tiny_json, network, tmp_path):
    path, _ = tiny_json
    picture("RGB").save(tmp_path / "x.png")
    ran = run_infer("--task", path, "--input", "x.png")
    assert ran.status == 2
    assert "--task tiny: no run of it" in ran.err
    keep(tmp_path / "runs" / "some" / "best.pt", TINY)
    ran = run_infer("--task", path, "--input", "x.png")
    assert ran.status == 0, ran.err
    assert "runs/some/best.pt" in ran.err
    assert "none.json: cannot be read" in run_infer("--task", "none.json").err


def test_one_task_of_several(run_infer, tmp_path):
    keep(tmp_path / "both.pt", TINY, values_task())
    picture("RGB").save(tmp_path / "x.png")
    assert run_infer("--weights", "both.pt", "--task", "values", "--input", "x.png").status == 0
    found = {path.name for path in (tmp_path / "predictions").iterdir()}
    assert found == {f"x_{name}{view}.png" for name in ("kind", "far") for view in ("", "_view")}
    assert run_infer("--weights", "both.pt", "--input", "x.png", "--out", "all").status == 0
    assert len(list((tmp_path / "all").iterdir())) == 2 * 5


def test_export(run_infer, network, tmp_path):
    ran = run_infer("--weights", "tiny.pt", "--export", "new/net.pt2")
    assert ran.status == 0, ran.err
    program = torch.export.load(tmp_path / "new" / "net.pt2").module()
    image = torch.rand(1, 3, 21, 50)
    with torch.no_grad():
        expected = network(image)
    found = program(image)
    for name in OUTPUTS:
        assert torch.allclose(found[name], expected[name], atol=1e-4)
    assert run_infer("--weights", "tiny.pt", "--export", "newer/net.pt").status == 0
    picture("RGB").save(tmp_path / "x.png")
    assert run_infer("--weights", "newer/net.pt", "--input", "x.png").status == 0


@pytest.mark.parametrize("name", [name for name in TASKS if name != "cityscapes24"])
def test_weights_that_come_with_the_code(run_infer, tmp_path, name):
    shipped = infer.SHIPPED / f"demo_{name}.pt"
    if not shipped.is_file():
        pytest.skip(f"{shipped.name} is not there")
    picture("RGB", (90, 70)).save(tmp_path / "x.png")
    ran = run_infer("--task", name, "--input", "x.png")
    assert ran.status == 0, ran.err
    assert shipped.name in ran.err
    for output in TASKS[name].outputs:
        assert opened(tmp_path / "predictions" / f"x_{output.name}.png").shape == (70, 90)


@pytest.mark.parametrize("kind", ["data.zip", "data.h5", "data"])
def test_scores_from_any_store(run_infer, network, make_data, kind):
    ran = run_infer("--weights", "tiny.pt", "--input", make_data(TINY, kind), "--evaluate", "train")
    assert ran.status == 0, ran.err
    scores = json.loads(ran.out)
    assert {"parts/miou", "edge/iou", "near/delta1"} <= set(scores)
    assert all(0 <= scores[name] <= 1 for name in ("parts/miou", "edge/iou", "near/delta1"))


def test_a_split_by_a_field(run_infer, make_data, tmp_path):
    keep(tmp_path / "damage.pt", TASKS["damage"])
    data = make_data(TASKS["damage"], "data.zip", num=4)
    base = ("--weights", "damage.pt", "--input", data, "--evaluate", "--split-by")
    paper, glass = (run_infer(*base, f"material={m}") for m in ("paper", "glass"))
    assert paper.status == glass.status == 0
    assert json.loads(paper.out) != json.loads(glass.out)


def test_a_folder_of_labels_left_as_it_was(run_infer, network, tmp_path):
    data = put(tmp_path / "data", members_of(TINY))
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert run_infer("--weights", "tiny.pt", "--input", data, "--evaluate").status == 0
    assert run_infer("--weights", "tiny.pt", "--input", data).status == 0
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    (data / "report.html").write_text("mine")
    ran = run_infer("--weights", "tiny.pt", "--input", data, "--evaluate", "--out", data)
    assert ran.status == 2
    assert "report.html: is there already and no result of this program" in ran.err
    assert not list(Path(tmp_path).rglob("*.part"))


def test_help_answers_before_torch_is_imported():
    script = Path(infer.__file__)
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert "--overlap" in ran.stdout
    assert "| datasets" in ran.stderr
    assert not re.search(r"\|\s+(torch|PIL|numpy)$", ran.stderr, re.M)


def snippets():
    """Python that is shown to users: in `load`, and in the README if it shows any."""
    shown = re.findall(r"^ {8}.*|^$", infer.load.__doc__, re.M)
    readme = (Path(infer.__file__).parent / "README.md").read_text(encoding="utf-8")
    return ["\n".join(shown)] + [
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.S)
        if "infer import" in block
    ]


@pytest.mark.parametrize("code", snippets())
def test_what_is_shown_runs(tmp_path, monkeypatch, capsys, code):
    keep(tmp_path / "runs" / "damage" / "best.pt", TASKS["damage"])
    picture("RGB", (50, 40)).save(tmp_path / "scan.jpg")
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(code), names := {})
    assert names["damage"].shape == (40, 50)
    assert names["damage"].dtype == np.uint8
    assert "Clean" in capsys.readouterr().out


def test_a_loaded_network_predicts_as_the_command_does(run_infer, network, tmp_path):
    image = picture("RGB", (60, 45))
    image.save(tmp_path / "x.png")
    assert run_infer("--weights", "tiny.pt", "--input", "x.png").status == 0
    predictor = infer.load(tmp_path / "tiny.pt", device="cpu")
    assert predictor.outputs["parts"].classes == ("a", "b", "c")
    assert predictor.outputs["near"].unit == "m"
    for given in (tmp_path / "x.png", str(tmp_path / "x.png"), image, np.asarray(image)):
        found = predictor(given)
        assert list(found) == list(OUTPUTS)
        assert all(values.shape == (45, 60) for values in found.values())
        assert np.array_equal(found["parts"], opened("predictions/x_parts.png"))
        assert np.array_equal(found["edge"] * 255, opened("predictions/x_edge.png"))
        assert found["near"].dtype == np.float32
        millimetres = np.maximum(found["near"] * 1000, 1)  # in its files, 0 is no depth
        assert np.abs(millimetres - opened("predictions/x_near.png")).max() <= 0.51


def test_a_loaded_network_gives_regions_with_areas(run_infer, network, tmp_path):
    picture("RGB", (60, 45)).save(tmp_path / "x.png", dpi=(254, 254))
    predictor = infer.load(tmp_path / "tiny.pt", device="cpu")
    labels = predictor(tmp_path / "x.png")
    asked = [{"tolerance": 0}, {"tolerance": 0, "mm": 0.5}]
    for more, pixel in zip(asked, (0.01, 0.25), strict=True):
        found = predictor.regions(tmp_path / "x.png", **more)
        assert list(found) == ["parts", "edge"]
        painted = {name: sum(each.area for each in regions) for name, regions in found.items()}
        assert painted["edge"] == labels["edge"].sum()
        for each in [each for regions in found.values() for each in regions]:
            assert each.area_mm2 == pytest.approx(each.area * pixel)
            assert each.outline.equals(each.exact)
            assert 0.3 < each.score <= 1
    done = run_infer("--weights", "tiny.pt", "--input", "x.png", "--shapes", "geojson", "coco")
    assert done.status == 0
    for name, regions in predictor.regions(tmp_path / "x.png").items():
        page = json.loads(Path(f"predictions/x_{name}.geojson").read_text())
        assert [each["properties"]["score"] for each in page["features"]] == [
            each.score for each in regions
        ]
        rows = json.loads(Path(f"predictions/x_{name}_coco.json").read_text())["annotations"]
        assert [row["score"] for row in rows] == [each.score for each in regions]
    asked = predictor.tasks[0].predictor
    torch.nn.init.constant_(asked.model.heads["edge"].bias, -9)  # all is background
    photo = read_photo(tmp_path / "x.png").pixels[None]
    said = asked.labels(photo, tuple(OUTPUTS), lambda num: None, True, True)
    for name, classes in (("parts", slice(None)), ("edge", slice(0, 1))):
        shares = said[name + "_probability"].numpy()[:, classes] / 65535
        shares = shares if name == "parts" else np.concatenate([shares, 1 - shares], 1)
        confidence = said[name + "_confidence"].numpy() / 255
        assert np.abs(confidence - shares.max(1)).max() <= 0.5 / 255 + 1e-4
    grey = predictor.regions(picture("RGB", (60, 45)))
    assert all(each.area_mm2 is None for regions in grey.values() for each in regions)


def test_a_loaded_network_takes_grey_tiles_and_one_task(tmp_path):
    keep(tmp_path / "both.pt", TINY, replace(values_task(), resize=True))
    predictor = infer.load(tmp_path / "both.pt", task="values", device="cpu")
    assert list(predictor.outputs) == ["kind", "far"]
    grey = np.asarray(picture("L", (64, 80)))
    coloured = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(predictor(grey)["far"], predictor(coloured)["far"])
    both = infer.load(str(tmp_path / "both.pt"), device="cpu", tile=48, overlap=32, tta=True)
    whole = infer.load(str(tmp_path / "both.pt"), device="cpu", tta=True)
    assert list(both.outputs) == [*OUTPUTS, "kind", "far"]
    assert (both(grey)["parts"] == whole(grey)["parts"]).mean() > 0.99


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((3, 8, 9), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_arrays_that_are_no_image(network, tmp_path, image):
    predictor = infer.load(tmp_path / "tiny.pt", device="cpu")
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\) or \(H, W\)"):
        predictor(image)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="none.pt: no such checkpoint"):
        infer.load(tmp_path / "none.pt")


@needs_gpu
def test_a_gpu_predicts_what_the_cpu_does(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "20", "--out", tmp_path / "run")
    assert run_train(*words).status == 0
    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
    found = [
        infer.load(tmp_path / "run" / "last.pt", device=device, tile=64, overlap=16)(image)
        for device in ("cpu", "cuda")
    ]
    for name, labels in found[0].items():
        close = np.isclose(labels, found[1][name], rtol=1e-3, atol=1e-3)
        assert close.mean() > 0.999, name


def test_names_from_standard_input(run_infer, network, tmp_path, monkeypatch):
    for name in ("a b.png", "c.png"):
        picture("RGB").save(tmp_path / name)
    monkeypatch.setattr("sys.stdin", io.StringIO("a b.png\n\nc.png\n"))
    ran = run_infer("--weights", "tiny.pt", "--input", "-")
    assert (ran.status, stems(tmp_path / "predictions")) == (0, ["a b", "c"])
    ran = run_infer("--weights", "tiny.pt", "--input", "-")
    assert "error: --input -: no name on standard input" in ran.err


def test_a_scale_gives_other_results_of_the_same_size(run_infer, network, tmp_path):
    picture("RGB", (60, 45)).save(tmp_path / "x.png")
    words = ("--weights", "tiny.pt", "--input", "x.png")
    for words_more in ((), ("--scale", "0.5")):
        assert "1 images predicted, see" in run_infer(*words, *words_more).err  # none is kept
    small = opened(tmp_path / "predictions" / "x_near.png")
    assert small.shape == (45, 60)
    loaded = infer.load(tmp_path / "tiny.pt", device="cpu", scale=0.5)(tmp_path / "x.png")["near"]
    assert np.abs(np.maximum(loaded * 1000, 1) - small).max() <= 0.51
    keep(tmp_path / "fixed.pt", resized_task())
    ran = run_infer("--weights", "fixed.pt", "--input", "x.png", "--scale", "2")
    assert (ran.status, "error: --scale 2: images of resized are resized" in ran.err) == (2, True)


def test_probabilities_are_those_of_the_network(run_infer, network, tmp_path, monkeypatch):
    image = picture("RGB", (60, 45))
    image.save(tmp_path / "x.png")
    words = ("--weights", "tiny.pt", "--input", "x.png", "--probabilities")
    for alpha in ("0.3", "0.4"):  # results of its own are written over
        ran = run_infer(*words, "--alpha", alpha)
        assert ran.status == 0, ran.err
    with torch.no_grad():
        found = network(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
    out = tmp_path / "predictions"
    with np.load(out / "x_parts_probability.npz") as file:
        assert file["classes"].tolist() == ["a", "b", "c"]
        shares = file["probability"]
    assert shares.dtype == np.float16
    assert np.abs(shares - found["parts"][0].softmax(0).numpy()).max() < 2e-3
    assert np.abs(shares.astype(np.float32).sum(0) - 1).max() < 2e-3
    mask = opened(out / "x_edge_probability.png")
    assert mask.dtype == np.uint16
    assert np.abs(mask / 65535 - found["edge"][0, 0].sigmoid().numpy()).max() < 1e-4
    assert not (out / "x_near_probability.png").exists()

    monkeypatch.setattr("utils.maps.predict_files.MOST_PROBABILITIES", 60 * 45 * 8 - 1)
    ran = run_infer(*words, "--out", "other")
    assert ran.status == 2
    assert "error: x.png: --probabilities of 4 classes are 0.0 GiB, expected" in ran.err


def test_a_scale_by_dpi_is_that_of_the_task(run_infer, tmp_path):
    keep(tmp_path / "tiny.pt", replace(TINY, pixels_per_mm=4.0))
    image = picture("RGB", (60, 45))
    image.save(tmp_path / "x.png", dpi=(203.2, 203.2))  # 8 pixels a millimetre
    image.save(tmp_path / "y.png", dpi=(96, 96))
    image.save(tmp_path / "z.tif", dpi=(2, 2))
    words = ("--weights", "tiny.pt", "--input")
    assert run_infer(*words, "x.png", "--scale", "0.5", "--out", "half").status == 0
    ran = run_infer(*words, "x.png", "y.png", "z.tif", "--scale", "auto")
    assert ran.status == 1
    assert "skipped y.png: --scale auto: expected dpi in the file, other than 72" in ran.err
    assert "skipped z.tif: --scale auto: 50.8 by its dpi, expected 0.02 to 8" in ran.err
    half = opened(tmp_path / "half" / "x_near.png")
    assert np.abs(opened(tmp_path / "predictions" / "x_near.png") - half).max() <= 1
    loaded = infer.load(tmp_path / "tiny.pt", device="cpu", scale="auto")(tmp_path / "x.png")
    assert np.abs(np.maximum(loaded["near"] * 1000, 1) - half).max() <= 2
    told = run_infer(*words, "y.png", "--scale", "auto", "--mm-per-pixel", "0.125")
    assert told.status == 0
    assert np.array_equal(opened(tmp_path / "predictions" / "y_near.png"), half)
    keep(tmp_path / "tiny.pt", TINY)
    ran = run_infer(*words, "x.png", "--scale", "auto")
    assert (ran.status, "task tiny has no pixels_per_mm; give a number" in ran.err) == (2, True)
