"""A resumed run goes on with the data that it began with, wherever this lies, or not at all."""

import numpy as np
import pytest
from conftest import encode, members_of, put

from datasets.contents import contents, difference
from datasets.dataset import DenseDataset, open_split
from datasets.index import find_samples
from datasets.stores import index_cache, open_stores, write_hdf5, write_zip
from utils import checkpoint

GONE, REPLACED = ["k03"], "k05"


def written(path, members):
    """The members as a folder or a shard, as the name of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        (write_zip if path.suffix == ".zip" else write_hdf5)(path, members.items())
    else:
        put(path, members)
    return path


def without(members, *keys):
    return {name: data for name, data in members.items() if not any(k in name for k in keys)}


def changed(members):
    """Another target of one sample, of other bytes."""
    pixels = np.zeros((40, 48), np.uint8)
    return members | {f"parts/{REPLACED}.png": encode(pixels, "a.png")}


def compared(task, tmp_path, old, new, split="train"):
    """The difference between two data sets, each (name of the store, members)."""
    then, now = (
        open_split(task, [written(tmp_path / f"{side}_{name}", members)], split)
        for side, (name, members) in zip("ab", (old, new), strict=True)
    )
    return difference(contents(then), contents(now), now)


@pytest.fixture
def members(tiny_task):
    return members_of(tiny_task)


@pytest.mark.parametrize("first", ["data", "d.zip", "d.h5"])
@pytest.mark.parametrize("second", ["data", "d.zip", "d.h5"])
def test_the_same_samples_are_the_same_in_any_store(tiny_task, tmp_path, members, first, second):
    assert compared(tiny_task, tmp_path, (first, members), (second, members)) == ""
    other = (second, changed(members))
    assert REPLACED in compared(tiny_task, tmp_path / "c", (first, members), other)


def test_files_that_are_called_otherwise_on_disk(tiny_task, tmp_path, members):
    """Their sizes were asked for under names that no file has, and all were 0."""
    for side in "ab":
        data = changed(members) if side == "b" else members
        written(tmp_path / side, {n.replace("/k", "/a\u0308"): d for n, d in data.items()})
    then, now = (open_split(tiny_task, [tmp_path / side], "train") for side in "ab")
    assert REPLACED[1:] in difference(contents(then), contents(now), now)


def test_stores_without_a_mark_in_common_are_counted(tiny_task, tmp_path, members, monkeypatch):
    """Images in a large folder are known by name, targets in a shard by checksum."""
    monkeypatch.setattr(index_cache, "MIN_MEMBERS", 2)

    def known(side, members):
        images = {name: data for name, data in members.items() if name.startswith("img/")}
        targets = {name: data for name, data in members.items() if name not in images}
        paths = written(tmp_path / side, images), written(tmp_path / f"{side}.zip", targets)
        split = open_split(tiny_task, list(paths), "train")
        return contents(split), split

    (then, _), (now, split) = known("a", members), known("b", without(members, *GONE))
    assert difference(then, then, split) == ""
    assert difference(then, now, split) == "1 fewer"
    assert [len(marks) for marks in now.values()] == [len(split)]
    assert difference({}, now, split) == ""  # as it was saved before


@pytest.mark.parametrize("name", ["data", "d.zip"])
def test_what_changed_is_named_and_counted(tiny_task, tmp_path, members, name):
    fewer = without(members, *GONE)
    said = compared(tiny_task, tmp_path / "1", (name, members), (name, fewer))
    assert said == "1 fewer"
    said = compared(tiny_task, tmp_path / "2", (name, fewer), (name, members))
    assert said == "1 more (img/k03.png)"
    said = compared(tiny_task, tmp_path / "3", (name, members), (name, changed(fewer)))
    assert said == f"1 other, 1 fewer (img/{REPLACED}.png)"
    swapped = {n.translate({ord("1"): "2", ord("2"): "1"}): data for n, data in members.items()}
    said = compared(tiny_task, tmp_path / "4", (name, members), (name, swapped))
    assert said == "another order"


@pytest.mark.parametrize("name", ["data", "d.zip"])
def test_a_target_that_is_not_there_leaves_no_mark(tiny_task, tmp_path, members, name):
    known = [f"{folder}/{REPLACED}.png" for folder in ("edge", "near")]
    stores = open_stores([written(tmp_path / name, without(members, *known))])
    then = DenseDataset(find_samples(stores, tiny_task, "train", unlabelled=1), tiny_task)
    now = open_split(tiny_task, [written(tmp_path / f"b_{name}", members)], "train")
    said = difference(contents(then), contents(now), now)
    assert said == f"1 other (img/{REPLACED}.png)"
    assert difference(contents(then), contents(then), then) == ""


def test_of_very_many_files_the_names_count(tiny_task, tmp_path, members, monkeypatch):
    """To ask a slow file system for the sizes of a million takes minutes."""
    monkeypatch.setattr(index_cache, "MIN_MEMBERS", 5)
    renamed = {name.replace("k05", "k055"): data for name, data in members.items()}
    assert compared(tiny_task, tmp_path / "1", ("data", members), ("data", changed(members))) == ""
    said = compared(tiny_task, tmp_path / "2", ("data", members), ("data", renamed))
    assert said.startswith("1 other (img/")
    packed = compared(tiny_task, tmp_path / "c", ("data", members), ("d.zip", changed(members)))
    assert packed == ""  # nothing to compare but how many there are


def test_a_run_goes_on_with_its_own_data_alone(run_train, tiny_task, tiny_json, tmp_path, members):
    words = ("--task", tiny_json[0], "--data", "d.zip", "--out", "run", "--steps")
    written(tmp_path / "d.zip", members)
    assert run_train(*words, "2").status == 0
    for other in (without(members, *GONE), changed(members)):
        written(tmp_path / "d.zip", other)
        ran = run_train("--resume", "run/last.pt", "--steps", "4")
        assert (ran.status, ran.err.count("\n")) == (2, 1), ran.err
        assert "run/last.pt: its run began with other data" in ran.err
        assert "tiny train: " in ran.err
    written(tmp_path / "renamed.h5", members)
    ran = run_train("--resume", "run/last.pt", "--steps", "4", "--data", "renamed.h5")
    assert ran.status == 0, ran.err
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 4
