"""A checkpoint is whole or it is the old one; it is read without running what it says."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from utils import checkpoint, package

STATE = {
    "step": 7,
    "best": 0.25,
    "model": {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)},
    "nested": [{"a": (1, 2.5, None, "text", True)}],
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_round_trip(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    loaded = checkpoint.load(path)
    assert equal({key: loaded[key] for key in STATE}, STATE)
    assert loaded.keys() - STATE.keys() == {"format"}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_nothing_but_tensors_and_plain_values_is_read(tmp_path):
    class Shell:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "broken_into"),)

    path = tmp_path / "evil.pt"
    torch.save({"format": checkpoint.FORMAT, "step": Shell()}, path)
    with pytest.raises(ValueError, match="evil.pt: not a checkpoint") as caught:
        checkpoint.load(path)
    assert not (tmp_path / "broken_into").exists()
    assert "\n" not in str(caught.value)
    path.write_bytes(pickle.dumps({"format": checkpoint.FORMAT, "step": Shell()}))
    with pytest.raises(ValueError, match="evil.pt: not a checkpoint"):
        checkpoint.load(path)
    assert not (tmp_path / "broken_into").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_file_cut_short(tmp_path, keep):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep in (0, 1, 100) else int(keep * len(data))])
    with pytest.raises(ValueError, match="last.pt: not a checkpoint") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_named_or_changes_nothing(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    good, written = path.read_bytes(), checkpoint.load(path)
    with zipfile.ZipFile(path) as file:
        contents = [good.index(file.read(record)) for record in file.infolist() if record.file_size]
        names = [good.rindex(record.filename.encode()) for record in file.infolist()]
    attributes = [start - 46 + 38 for start in names]  # of its entry in the directory
    draw = random.Random(0)
    flips = [(place, draw.randrange(8)) for place in contents]
    flips += [(place, bit) for place in attributes for bit in range(8)]
    flips += [(draw.randrange(len(good)), draw.randrange(8)) for _ in range(300)]
    for place, bit in flips:
        data = bytearray(good)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            same, line = equal(checkpoint.load(path), written), None
        except ValueError as error:
            same, line = False, str(error)
        assert same or (line.startswith(f"{path}: ") and "\n" not in line), (place, bit)
        assert not (same and place in contents)


def test_weights_that_come_with_the_code_are_whole(tmp_path):
    for path in Path("models").glob("*.pt"):
        damaged = tmp_path / path.name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
        assert checkpoint.weights(checkpoint.load(path))
        with pytest.raises(ValueError, match=f"{path.name}: damaged"):
            checkpoint.load(damaged)


@pytest.mark.parametrize("data", [b"text", b"PK\3\4", b"\x89HDF", b"\x80\x02N.", bytes(1000)])
def test_files_of_another_kind(tmp_path, data):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="model.pt: not a checkpoint"):
        checkpoint.load(path)


def test_a_checkpoint_of_an_earlier_version(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"format": checkpoint.FORMAT - 1, "model": {}}, path)
    with pytest.raises(ValueError, match=r"old.pt: of an earlier version \(format 3, expected 4\)"):
        checkpoint.load(path)


@pytest.mark.parametrize("state", [{"model": {}}, {"format": 99}, [1, 2], torch.zeros(3)])
def test_other_projects_checkpoints(tmp_path, state):
    path = tmp_path / "model.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match="model.pt: not a checkpoint of this project"):
        checkpoint.load(path)


def test_missing_files(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ValueError, match="no such checkpoint") as caught:
            checkpoint.load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")]
)
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, error):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def full(state, target):
        target.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match="last.pt: checkpoint cannot be written"):
        checkpoint.save(path, {"step": 8})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "small.pt"])
def test_a_predecessor_gives_way_where_there_is_no_room(tmp_path, monkeypatch, capsys, name):
    """Only to what a run itself writes. What torch says of a file cut short is not told."""
    for step in (1, 2):
        checkpoint.save(tmp_path / "last.pt", STATE | {"step": step})
    before, save = tmp_path / "previous.pt", torch.save

    def write(state, target):
        try:
            if before.exists():
                raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos")  # noqa: B904
        save(state, target)

    monkeypatch.setattr(torch, "save", write)
    if name == "small.pt":
        with pytest.raises(ValueError, match="small.pt: checkpoint cannot be written: No space"):
            checkpoint.save(tmp_path / name, STATE | {"step": 3})
        assert checkpoint.load(before)["step"] == 1
        return
    checkpoint.save(tmp_path / name, STATE | {"step": 3})
    assert checkpoint.load(tmp_path / name)["step"] == 3
    assert checkpoint.load(before if name == "last.pt" else tmp_path / "last.pt")["step"] == 2
    said = capsys.readouterr().err
    assert (
        said
        == f"warning: {tmp_path / name}: No space left on device beside it: {before} gave way\n"
    )


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)

    def crash(state, target):
        target.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"step": 8})
    monkeypatch.undo()
    assert checkpoint.load(path)["step"] == 7
    checkpoint.save(path, {"step": 9})
    assert checkpoint.load(path)["step"] == 9
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "previous.pt"}


def test_a_predecessor_is_kept_until_its_successor_was_read(tmp_path, monkeypatch):
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2, 3):
        checkpoint.save(path, STATE | {"step": step})
    assert [checkpoint.load(each)["step"] for each in (path, before)] == [3, 2]
    save = torch.save

    def flipped(state, target):
        written = io.BytesIO()
        save(state, written)
        data = bytearray(written.getvalue())
        data[data.index(b"PK\3\4") + 200] ^= 1
        target.write(data)

    monkeypatch.setattr(torch, "save", flipped)
    with pytest.raises(ValueError, match="last.pt: .* is not read as it was written"):
        checkpoint.save(path, STATE | {"step": 4})
    assert [checkpoint.load(each)["step"] for each in (path, before)] == [3, 2]
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "previous.pt"}


def test_the_newest_whole_one_is_taken(tmp_path, capsys):
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        checkpoint.save(path, STATE | {"step": step, "config": {}})
    assert checkpoint.load_last(tmp_path)[1]["step"] == 2
    assert capsys.readouterr().err == ""
    path.write_bytes(path.read_bytes()[:-50])
    found, state = checkpoint.load_last(tmp_path)
    assert (found, state["step"]) == (before, 1)
    said = capsys.readouterr().err
    assert said.startswith(f"passed over: {path}: not a checkpoint")
    assert said.endswith(f"; {before} is whole\n")
    before.write_bytes(b"")
    with pytest.raises(ValueError, match=r"previous.pt: not a checkpoint"):
        checkpoint.load_last(tmp_path)


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match="checkpoint cannot be written"):
        checkpoint.save(tmp_path / "none" / "last.pt", STATE)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_found_wherever_it_is(value, dtype):
    largest = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    state = {"best": value, "none": torch.zeros(0), "model": [largest, {"w": torch.ones(2, 3)}]}
    assert checkpoint.not_finite(state) is None
    state["model"][1]["w"] = torch.ones(2, 3, dtype=dtype)
    state["model"][1]["w"][1, 2] = value
    assert checkpoint.not_finite(state) == "model/1/w"


def test_what_is_not_finite_is_neither_written_nor_read(tmp_path):
    path, slim = tmp_path / "last.pt", tmp_path / "slim.pt"
    config = {"tasks": [], "sizes": [], "model": {}}
    state = {"model": {"w": torch.tensor([1e5])}, "scores": {"miou": float("nan")}}
    checkpoint.save(path, state | {"config": config})
    assert checkpoint.load(path)["model"]["w"] == 1e5
    with pytest.raises(ValueError, match="slim.pt: not written: model/w is infinite"):
        checkpoint.save(slim, package.slim(path))  # more than half precision can say
    state = checkpoint.load(path) | {"learner": [torch.tensor(float("nan"))]}
    with pytest.raises(ValueError, match="last.pt: not written: learner/0 is infinite"):
        checkpoint.save(path, state)
    assert "learner" not in checkpoint.load(path)
    torch.save(state, path)
    with pytest.raises(ValueError, match="last.pt: learner/0 is infinite or not a number"):
        checkpoint.load(path)


def test_weights_of_best_and_last():
    plain, averaged = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    assert checkpoint.weights({"model": averaged}) == averaged
    assert checkpoint.weights({"learner": {"model": plain}}) == plain
    ema = {"n_averaged": torch.tensor(4), "module.w": averaged["w"]}
    found = checkpoint.weights({"learner": {"model": plain, "ema": ema}})
    assert found == averaged


def test_generators_go_on_where_they_were():
    def draw():
        return torch.rand(3).tolist(), random.random(), torch.randperm(5).tolist()

    torch.manual_seed(1)
    random.seed(1)
    draw()
    state = checkpoint.rng_state()
    expected = draw()
    torch.manual_seed(2)
    random.seed(2)
    checkpoint.set_rng_state(state)
    assert draw() == expected


def test_generators_survive_a_file(tmp_path):
    state = {"rng": checkpoint.rng_state()}
    expected = torch.rand(3)
    checkpoint.save(tmp_path / "last.pt", state)
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "last.pt")["rng"])
    assert torch.equal(torch.rand(3), expected)
