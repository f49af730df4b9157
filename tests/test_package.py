"""What a network is shared as: a folder with all it needs; folders and addresses as weights."""

import json
import os

import fsspec
import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from test_infer import keep, picture
from test_remote import serve  # noqa: F401

from infer import load
from utils import checkpoint
from utils.package import slim

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 41, 3), np.uint8)
FILES = {"best.pt", "README.md", "classes.json"}


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty again afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def agree(weights, expected):
    found = load(weights)(IMAGE)
    return all(np.array_equal(found[name], expected[name]) for name in found | expected)


def pictures(folder):
    return {path.name: np.array(Image.open(path)).tolist() for path in folder.iterdir()}


def test_weights_of_a_folder_and_of_an_address(memory, run_infer, tmp_path):
    run = tmp_path / "run"
    keep(run / "best.pt", TINY)
    expected = load(run / "best.pt")(IMAGE)
    memory.pipe("/nets/mine/best.pt", (run / "best.pt").read_bytes())
    for weights in (run, f"{run}/", "memory://nets/mine", "memory://nets/mine/best.pt"):
        assert agree(weights, expected), weights
    picture("RGB").save(tmp_path / "x.png")
    words = ("--input", "x.png", "--out")
    assert run_infer("--weights", "run", *words, "out").status == 0
    ran = run_infer("--weights", "memory://nets/mine/", *words, "remote")
    assert (ran.status, "weights: memory://nets/mine/best.pt" in ran.err) == (0, True), ran.err
    assert pictures(tmp_path / "out") == pictures(tmp_path / "remote")


def test_what_an_address_holds_is_judged_as_a_file_is(memory, run_infer, tmp_path, monkeypatch):
    keep(tmp_path / "best.pt", TINY)
    data = bytearray((tmp_path / "best.pt").read_bytes())
    data[len(data) // 2] ^= 1
    memory.pipe("/net/best.pt", bytes(data))
    torch.save({"format": checkpoint.FORMAT, "config": print}, tmp_path / "code.pt")
    memory.pipe("/net/code.pt", (tmp_path / "code.pt").read_bytes())
    monkeypatch.setattr(checkpoint, "MOST", len(data))
    memory.pipe("/net/large.pt", bytes(len(data) + 1))
    for name, said in (
        ("best.pt", "is not what was written"),
        ("code.pt", "it holds more than tensors and plain values"),
        ("large.pt", "expected a checkpoint of at most"),
        ("none.pt", "FileNotFoundError"),
    ):
        ran = run_infer("--weights", f"memory://net/{name}", "--input", "x.png")
        assert (ran.status, len(ran.err.splitlines())) == (2, 1)
        assert ran.err.startswith(f"error: memory://net/{name}: ")
        assert said in ran.err


def test_weights_over_http(serve, run_infer, tmp_path):  # noqa: F811
    class Claimed(bytes):
        def __len__(self):
            return 50 * 2**30

    keep(tmp_path / "best.pt", TINY)
    data = (tmp_path / "best.pt").read_bytes()
    server, url = serve({"/net/best.pt": data, "/large.pt?token=secret": Claimed(data)})
    assert agree(f"{url}/net", load(tmp_path / "best.pt")(IMAGE))
    url = url.replace("//", "//user:secret@")
    ran = run_infer("--weights", f"{url}/large.pt?token=secret", "--input", "x.png")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "50.0 GiB, expected a checkpoint of at most 4" in ran.err
    assert "secret" not in ran.err
    assert server.sent < 2**20


def test_an_encoder_begins_as_that_of_an_address(run_train, tiny_json, memory, tmp_path):
    path, data = tiny_json
    first = keep(tmp_path / "best.pt", TINY).state_dict()
    memory.pipe("/first/best.pt", (tmp_path / "best.pt").read_bytes())
    words = ("--task", path, "--data", data, "--steps", "1", "--lr", "0", "--out", "second")
    ran = run_train(*words, "--init", "memory://first")
    assert ran.status == 0, ran.err
    second = checkpoint.load(tmp_path / "second" / "last.pt")["learner"]["model"]
    names = [name for name in first if name.startswith("encoder") and "weight" in name]
    assert names
    assert all(torch.equal(first[name], second[name]) for name in names)


def test_a_folder_to_be_shared(run_train, run_infer, tiny_json, tmp_path):
    path, data = tiny_json
    assert run_train("--task", path, "--data", data, "--steps", "2", "--out", "run").status == 0
    ran = run_infer("--weights", "run", "--export", "shared/net.v1/")
    assert ran.status == 0, ran.err
    folder = tmp_path / "shared" / "net.v1"
    assert {each.name for each in folder.iterdir()} == FILES
    assert os.listdir(folder.parent) == ["net.v1"]
    assert agree(folder, load(slimmed(tmp_path / "run" / "best.pt"))(IMAGE))
    best, card = checkpoint.load(tmp_path / "run" / "best.pt"), (folder / "README.md").read_text()
    for name, score in best["scores"].items():
        assert f"| {name} | {score:.4f} |" in card or "baseline" in name or name == "loss"
    assert "Trained on tiny_data." in card
    assert "--weights net.v1 " in card
    assert 'load("net.v1")' in card
    assert "in m." in card
    for name in FILES:
        assert str(tmp_path).encode() not in (folder / name).read_bytes(), name
    outputs = json.loads((folder / "classes.json").read_text())["tasks"]["tiny"]["outputs"]
    assert [row["name"] for row in outputs["parts"]["classes"]] == ["a", "b", "c"]
    assert [row["value"] for row in outputs["edge"]["classes"]] == [0, 255]
    assert outputs["near"] == {"kind": "depth", "unit": "m", "max_depth": 5}
    for row in outputs["parts"]["classes"]:
        assert f"| {row['id']} | {row['name']} | {row['value']} | {row['color']} |" in card
    again = run_infer("--weights", folder, "--export", "again/net.v1/")
    assert again.status == 0, again.err
    assert (tmp_path / "again" / "net.v1" / "README.md").read_text() == card


def slimmed(path):
    checkpoint.save(path.with_name("slim.pt"), slim(path))
    return path.with_name("slim.pt")


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_there_stays(there, run_infer, tmp_path):
    keep(tmp_path / "tiny.pt", TINY)
    (tmp_path / "empty").mkdir()
    assert run_infer("--weights", "tiny.pt", "--export", "empty").status == 0
    target = tmp_path / "mine" if there == "file" else tmp_path / "mine" / "notes.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text("mine")
    ran = run_infer("--weights", "tiny.pt", "--export", "mine")
    assert (ran.status, len(ran.err.splitlines())) == (2, 2), ran.err
    assert "expected the name of a new or an empty folder" in ran.err
    assert target.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["empty", "mine", "tiny.pt"]


def test_a_full_disk_leaves_nothing(run_infer, tmp_path, monkeypatch):
    keep(tmp_path / "tiny.pt", TINY)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.package.write_whole", full)
    ran = run_infer("--weights", "tiny.pt", "--export", "net/")
    assert (ran.status, "No space left on device" in ran.err) == (2, True)
    assert os.listdir(tmp_path) == ["tiny.pt"]
