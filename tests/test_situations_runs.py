"""Flags of a resumed run, samples that cannot be used, pictures to predict, as people have them:
taken or refused, left out and listed, predicted or named."""

import argparse
import json
import os

import numpy as np
import pytest
from conftest import TINY, members_of, put
from PIL import Image
from situations import photo, saved, zip_file
from test_infer import keep
from test_settings import stopped  # noqa: F401

from datasets import TASKS
from datasets.dataset import open_split
from datasets.index.sources import find_images
from datasets.loader import eval_batches
from datasets.task import UserError
from utils.command import one_line
from utils.flags import train_parser
from utils.settings import parse

# Every flag, with a value that a run of `damage` does not have; of other flags one is found.
WORDS = {
    "task": "maskdepth",
    "data": "elsewhere",
    "label": "material",
    "outputs": "damage",
    "out": "elsewhere",
    "size": "32 48",
    "split_by": "material=Paper",
    "encoder": "resnet18",
    "convs": "1 2 3",
    "init": "other.pt",
    "pretrained": "other.pth",
    "losses": "damage=dice",
    "loss_weights": "uncertainty",
    "device": "cpu",
    "name": "again",
}
FLAGS = {
    each.dest: each for each in train_parser(TASKS)._actions if each.dest not in ("help", "resume")
}


def words_of(action, now):
    """A flag with another value than it has now."""
    flag = action.option_strings[0]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [action.option_strings[1 if now else 0]]
    if action.nargs == 0:
        return [flag]
    if action.dest in WORDS:
        return [flag, *WORDS[action.dest].split()]
    if action.choices:
        return [flag, str(next(choice for choice in action.choices if choice != now))]
    try:
        action.type("7")
    except argparse.ArgumentTypeError:
        return [flag, "0.123"]
    return [flag, "7"]


def flat(settings):
    """A run's settings by flag name."""
    values = settings.to_json() | {name: getattr(settings, name) for name in ("plan", "out")}
    return {name: v[0] if name in ("class_weights", "bs") else v for name, v in values.items()}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_beside_resume_is_taken_or_refused(stopped, name):  # noqa: F811
    resume = stopped("--task", "damage")
    now = flat(parse(resume))
    words = words_of(FLAGS[name], now.get(name))
    try:
        taken, line = flat(parse([*resume, *words])), ""
    except UserError as error:
        taken, line = now, one_line(error)
    assert words[0] in line or taken[name] != now[name]


CHANGES = {  # of the file that --task names again: what changes in it, and whether it is refused
    "nothing": (lambda task: None, ""),
    "its defaults": (lambda task: task.update(defaults={"lr": 1.0}), ""),
    "a threshold": (lambda task: task["outputs"][1].update(threshold=7), "outputs"),
    "an output": (lambda task: task["outputs"].pop(), "outputs"),
    "where images are": (lambda task: task.update(image="photos/{key}.png"), "image"),
    "a label": (
        lambda task: task["outputs"].append({"name": "s", "kind": "label", "field": "key"}),
        "outputs",
    ),
    "its name": (lambda task: task.update(name="other"), "trained for tiny"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_task_file_that_has_changed_is_not_overridden(stopped, tmp_path, change):  # noqa: F811
    path, (edit, said) = tmp_path / "tiny.json", CHANGES[change]
    task = TINY.to_json() | {"outputs": list(TINY.to_json()["outputs"])}
    path.write_text(json.dumps(task))
    resume = stopped("--task", str(path))
    edit(task)
    path.write_text(json.dumps(task))
    words = [*resume, "--task", str(path)]
    if not said:
        assert parse(words).tasks == parse(resume).tasks
        return
    with pytest.raises(UserError, match=f"--task.*{said}.*last.pt|--task.*last.pt.*{said}"):
        parse(words)


def test_loss_weights_are_learnt_to_the_end_or_not_at_all(run_train, tiny_json):
    path, data = tiny_json
    assert run_train("--task", path, "--data", data, "--steps", "1", "--out", "run").status == 0
    ran = run_train("--resume", "run/last.pt", "--steps", "2", "--loss-weights", "uncertainty")
    assert ran.status == 2
    assert "run/last.pt" in ran.err
    assert "--loss-weights uncertainty" in ran.err


def without(*names):
    return lambda members: [members.pop(name) for name in names]


def replaced(data, *names):
    return lambda members: members.update(dict.fromkeys(names, data))


OTHER_SIZE = saved(np.zeros((40, 47), np.uint8))
UNKNOWN = saved(np.full((40, 48), 77, np.uint8))
PAGES = saved(
    Image.new("RGB", (48, 40)), "TIFF", save_all=True, append_images=[Image.new("RGB", (48, 40))]
)
BOTH = ("img/k01.png", "img/k00.png")  # one to train on, one to validate
BAD = {  # what is done to the members; what is listed; how many images can be predicted
    "empty images": (replaced(b"", *BOTH), BOTH, 8),
    "images of several pages": (replaced(PAGES, *BOTH), BOTH, 8),
    "no labels": (without("parts/k01.png", "edge/k00.png"), BOTH, 10),
    "labels of another size": (
        replaced(OTHER_SIZE, "parts/k01.png", "edge/k00.png"),
        ("parts/k01.png", "edge/k00.png"),
        10,
    ),
    "labels out of range": (
        replaced(UNKNOWN, "parts/k01.png", "parts/k00.png"),
        ("parts/k01.png", "parts/k00.png"),
        10,
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_used_is_left_out_alike(run_train, run_infer, tmp_path, bad):
    """In training, evaluation and prediction; and named, without --skip-bad."""
    spoil, names, predicted = BAD[bad]
    members = members_of(TINY)
    spoil(members)
    data = zip_file(tmp_path / "data.zip", members)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_json()))
    keep(tmp_path / "tiny.pt", TINY)
    words = ("--task", tmp_path / "tiny.json", "--data", data, "--steps", "4", "--skip-bad", "2")
    assert run_train(*words).status == 0
    lines = (tmp_path / "runs" / "tiny" / "skipped.txt").read_text().splitlines()
    assert {line.partition("\t")[0] for line in lines} == {f"{data}: {name}" for name in names}
    met = {}
    for split in ("train", "val"):
        samples = open_split(TINY, [data], split, unlabelled=2)
        sum(each.batch_size for each in eval_batches(samples, 4, 0, on_bad=met.setdefault))
    assert met.keys() == {f"{data}: {name}" for name in names}
    words = ("--weights", "tiny.pt", "--input", data)
    ran = run_infer(*words, "--skip-bad", "2")
    assert f"{predicted} images predicted" in ran.err
    assert ran.err.count("skipped") == 10 - predicted
    ran = run_infer(*words, "--evaluate", "train")
    assert ran.status == 2
    assert names[0] in ran.err.splitlines()[-1]


PREDICTED = {  # pictures of any name and kind, and the names of what is written of them
    b"a.PNG": (photo(1), "a"),
    b"scan \xe4.png": (photo(2), "scan \u00e4"),
    "u\u0308.png".encode(): (photo(3), "\u00fc"),
    b"tab\there.png": (photo(4), "tab\u2409here"),
    b"two.dots.png": (photo(5), "two.dots"),
    b"b.jpg": (saved(Image.new("CMYK", (10, 6)), "JPEG"), "b.jpg"),
    b"b.tif": (saved(Image.new("I;16", (10, 6)), "TIFF"), "b.tif"),
    b"c.gif": (saved(Image.new("P", (10, 6)), "GIF"), "c"),
    b"lab.tiff": (saved(Image.new("LAB", (10, 6)), "TIFF"), "lab"),
    b"n" * 200 + b".webp": (saved(Image.new("RGBA", (10, 6)), "WEBP"), "n" * 180 + "~"),
}


def test_pictures_of_any_name_are_predicted(run_infer, tmp_path):
    keep(tmp_path / "tiny.pt", TINY)
    folder = os.fsencode(tmp_path / "scans")
    os.mkdir(folder)
    for name, (data, _) in (PREDICTED | {b"x.heic": (b"", ""), b"Thumbs.db": (b"", "")}).items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    ran = run_infer("--weights", "tiny.pt", "--input", "scans")
    assert ran.status == 0, ran.err
    assert f"{len(PREDICTED)} images predicted" in ran.err
    assert "1 of a suffix that is not read (x.heic)" in ran.err
    written = {path.name for path in (tmp_path / "predictions").glob("*_parts.png")}
    for _, stem in PREDICTED.values():
        assert [name for name in written if name.startswith(stem)], stem


INPUTS = {  # what --input names, and the words of the line
    "a picture of another type": ({"a.heic": b"x"}, "a.heic", ("a.heic", ".png")),
    "a picture that is not there": ({"a.png": b"x"}, "b.png", ("b.png", "no such file")),
    "a folder without pictures": ({"d/a.txt": b"x"}, "d", ("d", "no image found")),
    "an empty folder": ({".x": b""}, ".", ("no files",)),
}


@pytest.mark.parametrize("words", INPUTS)
def test_what_cannot_be_predicted_is_named(tmp_path, monkeypatch, words):
    members, named, says = INPUTS[words]
    monkeypatch.chdir(put(tmp_path / "here", members))
    with pytest.raises(UserError) as error:
        find_images([named], TINY)
    assert [word for word in says if word not in one_line(error.value)] == []
