"""Bad input is status 2 and one line that names the thing, wherever in the program it shows."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, SMALL, TINY, encode, members_of, put

from datasets import TASKS
from datasets.stores import write_hdf5, write_zip
from datasets.task import Output
from utils import checkpoint

REPOSITORY = Path(__file__).parents[1]


def refused(ran, *named):
    """Status 2, and nothing on stderr but one line that names what is wrong."""
    assert ran.status == 2, ran
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("error: ")
    for name in named:
        assert str(name) in lines[0]
    assert "Traceback" not in ran.out + ran.err


def with_member(name, change):
    """The tiny task's members with one of them changed, or left out by None."""
    members = members_of(TINY)
    data = change(members.pop(name))
    return members | ({} if data is None else {name: data})


def labels(value=0, size=(40, 48)):
    return lambda _: encode(np.full(size, value, np.uint8), "x.png")


def half(data):
    return data[: len(data) // 2]


def flipped(data):
    return data[:-30] + bytes([data[-30] ^ 255]) + data[-29:]


BROKEN = {
    "image without label": ("parts/k03.png", lambda _: None, ["img/k03.png", "parts"]),
    "label of another size": ("parts/k03.png", labels(size=(40, 47)), ["parts/k03.png", "47x40"]),
    "truncated PNG": ("img/k03.png", half, ["img/k03.png", "cannot be decoded"]),
    "damaged PNG": ("near/k03.png", flipped, ["near/k03.png", "cannot be decoded"]),
    "empty file": ("img/k03.png", lambda _: b"", ["img/k03.png", "not an image"]),
    "text file": ("parts/k03.png", lambda _: b"label", ["parts/k03.png", "not an image"]),
    "class id out of range": ("parts/k03.png", labels(77), ["parts/k03.png", "77", "0..2, 255"]),
}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_samples(run_train, tiny_json, tmp_path, fault, workers):
    name, change, named = BROKEN[fault]
    data = put(tmp_path / "broken", with_member(name, change))
    words = ("--task", tiny_json[0], "--data", data, "--workers", workers, "--steps", "20")
    refused(run_train(*words), "broken", *named)


def test_broken_samples_among_those_that_are_only_validated(run_train, tiny_json, tmp_path):
    data = put(tmp_path / "broken", members_of(TINY))
    for label in (data / "parts").iterdir():
        label.write_bytes(labels(9)(b""))
    words = ("--task", tiny_json[0], "--data", data, "--steps", "1", "--workers", "2")
    refused(run_train(*words), "parts/k", "label value 9 is not one of 0..2, 255")
    refused(run_train(*words, "--class-weights"), "parts/k", "label value 9")


def missing(folder):
    return folder / "none"


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def no_layout(folder):
    return put(folder / "other", {"pictures/a.png": members_of(TINY)["img/k00.png"]})


def one_sample(folder):
    members = {n: d for n, d in members_of(TINY).items() if "k00" in n}
    return put(folder / "single", members)


def a_file(folder):
    (folder / "data.tar").write_bytes(b"tar")
    return folder / "data.tar"


def cut_zip(folder):
    write_zip(folder / "cut.zip", members_of(TINY).items())
    data = (folder / "cut.zip").read_bytes()
    (folder / "cut.zip").write_bytes(data[: len(data) // 2])
    return folder / "cut.zip"


def damaged_zip(folder):
    write_zip(folder / "damaged.zip", members_of(TINY).items())
    data = bytearray((folder / "damaged.zip").read_bytes())
    for at in range(2000, len(data) - 4000, 500):
        data[at] ^= 255
    (folder / "damaged.zip").write_bytes(data)
    return folder / "damaged.zip"


def no_hdf5(folder):
    (folder / "data.h5").write_bytes(b"text" * 100)
    return folder / "data.h5"


def cut_hdf5(folder):
    write_hdf5(folder / "cut.h5", members_of(TINY).items())
    data = (folder / "cut.h5").read_bytes()
    (folder / "cut.h5").write_bytes(data[: len(data) // 2])
    return folder / "cut.h5"


def other_hdf5(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    return folder / "other.h5"


STORES = [missing, empty, no_layout, one_sample, a_file, cut_zip, damaged_zip]
STORES += [no_hdf5, cut_hdf5, other_hdf5]


@pytest.mark.parametrize("make", STORES)
def test_stores_that_are_none(run_train, tiny_json, tmp_path, make):
    path = make(tmp_path)
    named = path if make is not one_sample else "1 sample fits"
    words = ("--task", tiny_json[0], "--data", path, "--workers", "2", "--steps", "9")
    refused(run_train(*words), named)
    assert not list(tmp_path.rglob("last.pt"))


WORDS = {
    "no task": ([], ["--task", "damage, cityscapes"]),
    "unknown task": (["--task", "street"], ["--task street", "damage"]),
    "missing task file": (["--task", "none.json"], ["none.json"]),
    "the same task twice": (["--task", "damage", "damage"], ["--task", "damage, damage"]),
    "unknown flag": (["--task", "damage", "--speed", "9"], ["--speed"]),
    "unknown value": (["--task", "damage", "--optimizer", "lion"], ["--optimizer", "lion", "sgd"]),
    "unknown schedule": (["--task", "damage", "--schedule", "step"], ["--schedule", "step"]),
    "unknown norm": (["--task", "damage", "--norm", "layer"], ["--norm", "layer", "batch"]),
    "unknown recomputation": (["--task", "damage", "--ckpt", "all"], ["--ckpt", "all", "full"]),
    "unknown order": (["--task", "damage", "--shuffle", "none"], ["--shuffle", "none", "shards"]),
    "fewer than no bad ones": (["--task", "damage", "--skip-bad", "-1"], ["--skip-bad", "'-1'"]),
    "no number": (["--task", "damage", "--lr", "fast"], ["--lr", "fast"]),
    "a negative number": (["--task", "damage", "--lr", "-1"], ["--lr", "-1"]),
    "not a number": (["--task", "damage", "--lr", "nan"], ["--lr", "nan"]),
    "infinite": (["--task", "damage", "--clip", "inf"], ["--clip", "inf"]),
    "no batch": (["--task", "damage", "--bs", "0"], ["--bs", "'0'"]),
    "half a step": (["--task", "damage", "--steps", "1.5"], ["--steps", "1.5"]),
    "all dropped out": (["--task", "damage", "--dropout", "1"], ["--dropout", "'1'"]),
    "one side": (["--task", "damage", "--size", "32"], ["--size"]),
    "too small": (["--task", "damage", "--size", "32", "2"], ["--size", "'2'", "from 3"]),
    "two convolutions": (["--task", "damage", "--convs", "1", "2"], ["--convs", "1 or 3"]),
    "an enormous seed": (["--task", "damage", "--seed", str(2**70)], ["--seed", "2^63"]),
    "unknown output": (["--task", "damage", "--losses", "mask=bce"], ["--losses", "'mask'"]),
    "no pair": (["--task", "damage", "--losses", "ce"], ["--losses", "'ce'", "NAME=VALUE"]),
    "weight of no output": (["--task", "damage", "--loss-weights", "x=2"], ["--loss-weights", "x"]),
    "weight that is none": (
        ["--task", "damage", "--loss-weights", "damage=much"],
        ["--loss-weights", "damage", "much"],
    ),
    "unknown loss": (
        ["--task", "TINY", "DATA", "--losses", "parts=bce"],
        ["--losses", "bce", "expected one of ce, smooth, dice"],
    ),
    "count of data": (
        ["--task", "damage", "maskdepth", "--data", "a", "b", "c"],
        ["--data", "3 paths for 2 tasks"],
    ),
    "split without value": (
        ["--task", "damage", "--split-by", "material"],
        ["--split-by", "material"],
    ),
    "split of several": (
        ["--task", "damage", "maskdepth", "--split-by", "a=b"],
        ["--split-by", "single task"],
    ),
    "split by no field": (
        ["--task", "TINY", "DATA", "--split-by", "colour=red"],
        ["colour", "key"],
    ),
    "split by no value": (["--task", "TINY", "DATA", "--split-by", "key=x9"], ["key", "x9", "k00"]),
    "unknown device": (["--task", "TINY", "DATA", "--device", "tpu9"], ["--device tpu9"]),
    "unknown encoder": (["--task", "TINY", "DATA", "--encoder", "resnet9"], ["resnet9"]),
    "missing weights": (["--task", "TINY", "DATA", "--init", "none.pt"], ["--init", "none.pt"]),
    "missing pretrained": (
        ["--task", "TINY", "DATA", "--encoder", "resnet18", "--pretrained", "none.pth"],
        ["none.pth"],
    ),
    "pretrained for our own": (["--task", "TINY", "DATA", "--pretrained"], ["--pretrained"]),
    "missing checkpoint": (["--resume", "none.pt"], ["none.pt"]),
    "nothing to resume": (["--resume"], ["--resume", "runs"]),
    "nothing of the task": (["--task", "damage", "--resume"], ["--resume", "damage"]),
    "no folder for the run": (["--task", "TINY", "DATA", "--out", "TINY/run"], ["tiny.json"]),
    "a file for the run": (["--task", "TINY", "DATA", "--out", "TINY"], ["--out", "tiny.json"]),
    "a loss that explodes": (
        ["--task", "TINY", "DATA", "--lr", "1e30", "--steps", "10"],
        ["step 10", "--lr than 1e+30", "--clip"],
    ),
    "a depth that is not a number": (
        ["--task", "TINY", "DATA", "--lr", "1e30", "--steps", "10", "--losses", "near=bce"],
        ["step 10", "--lr"],
    ),
    "nothing fits": (
        ["--task", "damage", "--depth=2", "--size", "128", "128", "--bs=auto", "--vram=0.002"],
        ["--vram 0.002", "nothing that was tried would fit"],
    ),
    "a batch too small": (
        ["--task", "TINY", "DATA", "--size", "4", "4", "--bs", "1"],
        ["--bs 1", "one value per channel", "--norm group"],
    ),
}


@pytest.mark.parametrize("fault", WORDS)
def test_flags(run_train, tiny_json, fault):
    words, named = WORDS[fault]
    path, data = tiny_json
    given = []
    for word in words:
        word = word.replace("TINY", str(path))
        given += ["--data", data] if word == "DATA" else [word]
    refused(run_train(*given), *named)


def changed_task(tiny_json, **values):
    path = tiny_json[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return "--task", path, "--data", tiny_json[1], "--steps", "1"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"best": "parts/iou"}, ["best", "parts/iou", "miou"]),
        ({"best": "near/absrel"}, ["best", "near/absrel", "delta1"]),
        ({"best": "near/logstd"}, ["best", "near/logstd", "delta1"]),
        ({"best": "parts/baseline_miou"}, ["best", "parts/baseline_miou"]),
        ({"defaults": {"speed": 3}}, ["tiny", "--speed"]),
        ({"defaults": {"out": "elsewhere"}}, ["tiny", "defaults", "--out"]),
        ({"defaults": {"data": ["/"]}}, ["tiny", "--data"]),
        ({"defaults": {"init": "a.pt"}}, ["tiny", "--init"]),
        ({"defaults": {"pretrained": "a.pt"}}, ["tiny", "--pretrained"]),
        ({"defaults": {"losses": ["parts=ce", "--out", "elsewhere"]}}, ["losses", "--out"]),
        ({"defaults": {"losses": "--out=elsewhere"}}, ["losses", "--out=elsewhere"]),
        ({"defaults": {"lr": "fast"}}, ["tiny", "--lr", "fast"]),
        ({"defaults": {"size": 64}}, ["tiny", "--size"]),
        ({"defaults": {"size": [64]}}, ["tiny", "--size"]),
        ({"defaults": {"size": "64 64"}}, ["tiny", "--size"]),
        ({"defaults": {"bs": 0}}, ["tiny", "--bs"]),
        ({"defaults": {"bs": [2]}}, ["tiny", "bs"]),
        ({"defaults": {"size": ["64", "64"]}}, ["tiny", "size"]),
        ({"defaults": {"class_weights": "yes"}}, ["tiny", "defaults", "yes"]),
        ({"image": "img/{key.png"}, ["img/{key.png"]),
        ({"image": "img/{a}{key}.png"}, ["img/{a}{key}.png"]),
        ({"wrong": 1}, ["tiny.json", "'wrong'"]),
    ],
    ids=str,
)
def test_task_files(run_train, tiny_json, values, named):
    refused(run_train("--width", "4", *changed_task(tiny_json, **values)), *named)


def test_a_task_file_that_is_no_json(run_train, tiny_json):
    tiny_json[0].write_text("{name: tiny}")
    refused(run_train("--task", tiny_json[0], "--data", tiny_json[1]), "tiny.json", "not a task")


@pytest.fixture
def trained(run_train, tiny_json, tmp_path):
    """A finished run of two steps: the folder."""
    path, data = tiny_json
    ran = run_train("--task", path, "--data", data, "--steps", "2", "--out", tmp_path / "run")
    assert ran.status == 0, ran.err
    return tmp_path / "run"


def test_checkpoints(run_train, run_infer, trained, tiny_json, tmp_path):
    path, data = tiny_json
    base = ("--task", path, "--data", data, "--steps", "3")
    refused(run_train(*base, "--out", trained), "--out", trained, "holds a run", "--resume")
    last, best = trained / "last.pt", trained / "best.pt"
    refused(run_train("--task", "damage", "--resume", last), last, "tiny", "damage")
    refused(run_train("--resume", best), best, "last.pt")
    refused(run_train("--resume", last, "--width", "8"), "--width", last, "its own")
    refused(run_train("--resume", last, "--optimizer", "sgd"), "--optimizer", last, "its own")
    refused(run_infer("--task", "damage", "--weights", best), best, "tiny", "damage")
    refused(run_train(*base, "--init", best, "--width", "8", "--out", "new"), best, "does not fit")
    refused(run_train(*base, "--init", path, "--out", "new"), "--init", path, "not a checkpoint")

    refused(run_train("--resume", last, "--out", "new"), "--out new", trained)
    foreign = tmp_path / "foreign.pt"
    foreign.write_bytes(pickle.dumps({"a": Path("b")}))
    refused(run_train("--resume", foreign), foreign, "not a checkpoint", "tensors and plain values")

    last.write_bytes(last.read_bytes()[:5000])
    refused(run_train("--resume", last), last, "not a checkpoint")
    torch.save({"epoch": 3}, best)
    refused(run_infer("--weights", best, "--input", data), best, "not a checkpoint of this project")


def test_a_full_disk(run_train, tiny_json, monkeypatch):
    def full(state, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    words = ("--task", tiny_json[0], "--data", tiny_json[1], "--steps", "1")
    refused(run_train(*words), "best.pt", "cannot be written")


INFER = {
    "nothing asked": ([], ["--task", "--weights"]),
    "unknown task": (["--task", "street"], ["--task street", "runs"]),
    "missing weights": (["--weights", "none.pt"], ["none.pt", "no such checkpoint"]),
    "unknown flag": (["--speed"], ["--speed"]),
    "wide overlap": (["BEST", "--tile", "64", "--overlap", "64"], ["--overlap 64", "--tile 64"]),
    "missing input": (["BEST", "--input", "none.png"], ["none.png"]),
    "empty folder": (["BEST", "--input", "EMPTY"], ["empty"]),
    "folder without images": (["BEST", "--input", "TEXTS"], ["texts", "no image"]),
    "no image": (["BEST", "--input", "FAKE"], ["fake.png", "not an image"]),
    "no zip": (["BEST", "--input", "tiny.json"], ["tiny.json"]),
    "unknown split": (["BEST", "--evaluate", "half", "--input", "DATA"], ["half", "train"]),
    "no labels": (["BEST", "--evaluate", "--input", "IMAGES"], ["images", "parts"]),
    "no layout": (["BEST", "--evaluate", "--input", "TEXTS"], ["texts", "img/{key}.png"]),
    "unknown field": (
        ["BEST", "--evaluate", "--split-by", "a=b", "--input", "DATA"],
        ["'a'", "key"],
    ),
    "split without value": (["BEST", "--evaluate", "--split-by", "a"], ["--split-by", "'a'"]),
    "unknown export": (["BEST", "--export", "net.pth"], ["--export net.pth", ".onnx"]),
    "export to no folder": (["BEST", "--export", "tiny.json/a.pt2"], ["--export tiny.json/a.pt2"]),
    "export to a folder": (["BEST", "--export", "folder.pt2"], ["--export folder.pt2"]),
    "weights to a folder": (["BEST", "--export", "folder.pt"], ["folder.pt"]),
    "output to no folder": (["BEST", "--input", "DATA", "--out", "tiny.json"], ["--out tiny.json"]),
    "unknown device": (["BEST", "--device", "tpu9"], ["--device tpu9"]),
}


@pytest.fixture(scope="module")
def best_file(tmp_path_factory):
    """An untrained network of the tiny task, as train.py would keep it."""
    from models import ModelSpec, UNet

    spec = ModelSpec.of(TINY.outputs, width=4, depth=2)
    config = {"tasks": [TINY.to_json()], "sizes": [[32, 32]], "model": spec.to_json()}
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    checkpoint.save(path, {"step": 1, "model": UNet(spec).state_dict(), "config": config})
    return path


@pytest.mark.parametrize("fault", INFER)
def test_infer(run_infer, tiny_json, tmp_path, best_file, fault):
    words, named = INFER[fault]
    data = tiny_json[1]
    for name in ("empty", "folder.pt", "folder.pt2"):
        (tmp_path / name).mkdir()
    put(tmp_path / "texts", {"a.txt": b"text"})
    put(tmp_path / "images", {n: d for n, d in members_of(TINY).items() if n.startswith("img")})
    (tmp_path / "fake.png").write_bytes(b"text")
    known = {"DATA": data, "EMPTY": "empty", "TEXTS": "texts", "IMAGES": "images"}
    known |= {"FAKE": "fake.png"}
    given = []
    for word in words:
        given += ["--weights", best_file] if word == "BEST" else [known.get(word, word)]
    ran = run_infer(*given)
    err = [line for line in ran.err.splitlines() if not line.startswith("weights: ")]
    refused(ran._replace(err="\n".join(err)), *named)


@pytest.mark.parametrize("fault", [f for f in BROKEN if f != "image without label"])
def test_infer_evaluates_no_broken_samples(run_infer, tmp_path, best_file, fault):
    name, change, named = BROKEN[fault]
    data = put(tmp_path / "broken", with_member(name, change))
    ran = run_infer("--weights", best_file, "--input", data, "--evaluate", "train")
    err = [line for line in ran.err.splitlines() if not line.startswith("weights: ")]
    refused(ran._replace(err="\n".join(err)), "broken", *named)


def test_packing(tmp_path, capfd):
    from datasets.pack.__main__ import main

    for words, named in (
        ([str(tmp_path / "none"), str(tmp_path / "new.zip")], "none"),
        ([str(tmp_path), str(tmp_path / "new.tar")], "new.tar"),
    ):
        assert main(words) == 2
        out, err = capfd.readouterr()
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert named in err


@pytest.mark.parametrize(
    "words",
    [
        ("train.py", "--task", "TINY", "--data", "BROKEN", "--workers", "2", *SMALL, *QUIET[:4]),
        ("infer.py", "--weights", "none.pt"),
    ],
)
def test_as_a_process(tiny_json, tmp_path, words):
    """What Python itself, its warnings and the workers say on stderr is seen here too."""
    broken = put(tmp_path / "broken", with_member("parts/k03.png", labels(77)))
    given = [{"TINY": tiny_json[0], "BROKEN": broken}.get(word, word) for word in words]
    command = [sys.executable, REPOSITORY / given[0], *given[1:]]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert ("k03" if "TINY" in words else "none.pt") in ran.stderr


def test_every_built_in_task_names_its_layout(run_train, tmp_path):
    data = put(tmp_path / "other", {"a.png": members_of(TINY)["img/k00.png"]})
    for name, task in TASKS.items():
        refused(run_train("--task", name, "--data", data), data, task.image)


@pytest.mark.parametrize("script", ["train", "infer"])
def test_ctrl_c_anywhere_is_one_line(run_train, run_infer, monkeypatch, script):
    def interrupted(*_):
        raise KeyboardInterrupt

    work = {"train": "train.train", "infer": "infer.run"}[script]
    monkeypatch.setattr(work, interrupted)
    ran = (run_train if script == "train" else run_infer)("--task", "damage")
    assert (ran.status, ran.out, ran.err) == (130, "", "stopped\n")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"values": [0, 70000]}, ["values", "65535"]),
        ({"values": [-1, 3]}, ["values", "65535"]),
        ({"weight": -1}, ["weight is -1"]),
        ({"weight": float("inf")}, ["weight is inf"]),
    ],
    ids=str,
)
def test_outputs_that_cannot_be(values, named):
    given = {"name": "a", "kind": "classes", "files": "a/{key}.png", "classes": ("x", "y")}
    with pytest.raises(ValueError, match=".*".join(named)):
        Output.from_json(given | values)


def test_a_bug_keeps_its_traceback(run_train, tiny_json, monkeypatch):
    """Only what a user can mend becomes one line: a ValueError of the code's own goes through."""

    def broken(*_):
        raise ValueError("too many values to unpack")

    monkeypatch.setattr("train.open_data", broken)
    task, data = tiny_json
    with pytest.raises(ValueError, match="too many values"):
        run_train("--task", task, "--data", data)
