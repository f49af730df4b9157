"""Checking: what is counted is what is there, and each member that cannot be used is named."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import encode, put
from PIL import Image

from datasets.check import __main__ as check
from datasets.dataset import open_task
from datasets.look import look
from datasets.stores.write import write_hdf5, write_zip
from datasets.task import IGNORE, Classes, Depth, Mask, Task
from utils.pictures.panel import CELL
from utils.pictures.visualize import MASK_COLOR, rgb

TASK = Task(
    name="toy",
    image="{split}/img/{key}.png",
    outputs=(
        Classes("kinds", "{split}/kinds/{key}.png", classes=("a", "b", "c")),
        Mask("edge", "{split}/edge/{key}.png"),
        Depth("near", "{split}/near/{key}.png", scale=0.001, max_depth=5, unit="m", missing=0),
    ),
    best="kinds/miou",
)
SIZE = 10, 20


def toy() -> dict[str, bytes]:
    """8 training samples and 2 of validation. Of each: a tenth of the pixels is unlabelled, a fifth
    of the rest class b; a quarter foreground; depths 1 and 3 m, half of them unknown."""
    rng, members = np.random.default_rng(0), {}
    kinds, edge, near = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8), np.zeros(SIZE)
    kinds[0], kinds[1:, :4] = IGNORE, 1
    edge[:, :5] = 255
    near[:, 10:15], near[:, 15:] = 1000, 3000
    for split, num in (("train", 8), ("val", 2)):
        for i in range(num):
            members[f"{split}/img/{i}.png"] = encode(
                rng.integers(0, 256, (*SIZE, 3), np.uint8), "_.png"
            )
            members[f"{split}/kinds/{i}.png"] = encode(kinds, "_.png")
            members[f"{split}/edge/{i}.png"] = encode(edge, "_.png")
            members[f"{split}/near/{i}.png"] = encode(near.astype(np.uint16), "_.png")
    return members


@pytest.fixture
def run_check(run, tmp_path):
    """run_check(members, "--workers", ...): of a folder; the report's lines without their runs of
    blanks."""
    (tmp_path / "toy.json").write_text(json.dumps(TASK.to_json()))

    def call(members: dict[str, bytes], *words):
        put(tmp_path / "data", members)
        return run(check, "data", "--task", "toy.json", "--workers", 1, *words)

    return call


def lines(text: str) -> list[str]:
    return [re.sub(" +", " ", line).strip() for line in text.splitlines()]


def test_what_is_there_is_counted(run_check):
    ran = run_check({**toy(), "train/notes.txt": b"not a sample's"})
    assert (ran.status, ran.err) == (0, "")
    for line in (
        "task toy: 10 samples in 1 store",
        "41 members, 1 of them used by no sample",
        "split train val",
        "samples 8 2",
        "share 80 % 20 %",
        "width 20 20 20",
        "height 10 10 10",
        "1 distinct, the commonest 20x10 (100 % of images)",
        "a 80 % 80 %",
        "b 20 % 20 %",
        "c absent absent",
        "(unlabelled) 10 % 10 %",
        "background 75 % 75 %",
        "foreground 25 % 25 %",
        "smallest 1 1",
        "mean 2 2",
        "largest 3 3",
        "(invalid) 50 % 50 %",
        "copies of an image within a split: 0 in train, 0 in val",
        "copies across splits: 0",
        "members that cannot be used: 0",
    ):
        assert line in lines(ran.out), line


def test_sizes_that_differ(run_check):
    members = toy()
    for folder, shape in (("img", (30, 50, 3)), ("kinds", (30, 50)), ("edge", (30, 50))):
        members[f"train/{folder}/0.png"] = encode(np.zeros(shape, np.uint8), "_.png")
    members["train/near/0.png"] = encode(np.ones((30, 50), np.uint16), "_.png")
    ran = run_check(members)
    assert ran.status == 0
    assert "width 20 20 50" in lines(ran.out)
    assert "height 10 10 30" in lines(ran.out)
    assert "2 distinct, the commonest 20x10 (90 % of images)" in lines(ran.out)


SPOILT = {
    "a label cut short": (
        lambda m: m.update({"val/kinds/1.png": m["val/kinds/1.png"][:-30]}),
        "data: val/kinds/1.png: cannot be decoded",
    ),
    "an image cut short": (
        lambda m: m.update({"train/img/3.png": m["train/img/3.png"][:200]}),
        "data: train/img/3.png: cannot be decoded",
    ),
    "an empty image": (
        lambda m: m.update({"train/img/3.png": b""}),
        "data: train/img/3.png: not an image that can be read (0 bytes)",
    ),
    "a target of another size": (
        lambda m: m.update({"train/edge/5.png": encode(np.zeros((9, 20), np.uint8), "_.png")}),
        "data: train/edge/5.png: is 20x9, its image 20x10",
    ),
    "a label out of range": (
        lambda m: m.update({"train/kinds/5.png": encode(np.full(SIZE, 7, np.uint8), "_.png")}),
        "data: train/kinds/5.png: label value 7 is not one of 0..2, 255",
    ),
    "a coloured depth": (
        lambda m: m.update(
            {"val/near/0.png": encode(np.full((*SIZE, 3), (0, 99, 200), np.uint8), "_.png")}
        ),
        "data: val/near/0.png: depth stored as colours",
    ),
    "no target": (
        lambda m: m.pop("train/near/6.png"),
        "data: train/img/6.png: no target for near, expected train/near/6.png",
    ),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_used_is_named(run_check, case, workers):
    spoil, what = SPOILT[case]
    members = toy()
    spoil(members)
    ran = run_check(members, "--workers", workers)
    assert ran.status == 2
    assert ran.err == "error: 1 of 40 members cannot be used\n"
    found = lines(ran.out)
    at = found.index("members that cannot be used: 1")
    assert found[at + 1].startswith(what)
    assert found[at + 2 :] == []
    assert "samples 8 2" in found  # the rest is counted all the same


@pytest.mark.parametrize("write", [write_zip, write_hdf5])
def test_a_flipped_byte_in_a_shard(run, tmp_path, write):
    (tmp_path / "toy.json").write_text(json.dumps(TASK.to_json()))
    members = toy()
    shard = tmp_path / ("s.zip" if write is write_zip else "s.h5")
    write(shard, members.items())
    whole = bytearray(shard.read_bytes())
    whole[whole.index(members["val/img/1.png"]) + 100] ^= 1
    shard.write_bytes(whole)
    ran = run(check, shard, "--task", "toy.json", "--workers", 2)
    assert ran.status == 2
    assert f"{shard}: val/img/1.png: damaged, its CRC-32 does not match" in lines(ran.out)


def test_all_are_counted_and_fifty_printed(run_check):
    members = toy()
    for i in range(60):
        for folder in ("img", "kinds", "edge", "near"):
            members[f"train/{folder}/x{i}.png"] = members[f"train/{folder}/0.png"]
        members[f"train/edge/x{i}.png"] = b"nothing"
    ran = run_check(members)
    assert ran.err == "error: 60 of 280 members cannot be used\n"
    found = lines(ran.out)
    at = found.index("members that cannot be used: 60")
    assert len(found[at + 1 :]) == 51
    assert found[-1] == "and 10 more"
    assert "copies of an image within a split: 60 in train, 0 in val" in found


def test_a_copy_on_both_sides_is_a_leak(run_check):
    members = toy()
    members["val/img/1.png"] = members["train/img/4.png"]
    members["train/img/7.png"] = members["train/img/0.png"]
    ran = run_check(members)
    assert (ran.status, ran.err) == (0, "")
    found = lines(ran.out)
    assert "copies of an image within a split: 1 in train, 0 in val" in found
    at = found.index("copies across splits: 1, a leak")
    assert found[at + 1] == "train/img/4.png (train) = val/img/1.png (val)"


def test_a_split_by_a_field_is_obeyed(run_check, run, tmp_path):
    task = replace(TASK, image="{part}/img/{key}.png", outputs=(TASK.outputs[1],), best="edge/iou")
    task = replace(task, outputs=(replace(task.outputs[0], files="{part}/edge/{key}.png"),))
    (tmp_path / "part.json").write_text(json.dumps(task.to_json()))
    put(tmp_path / "data", toy())
    words = ("data", "--task", "part.json", "--workers", 1)
    assert "samples 9 1" in lines(run(check, *words).out)  # by hash, a tenth
    assert "samples 8 2" in lines(run(check, *words, "--split-by", "part=val").out)
    ran = run(check, *words, "--split-by", "part=nothing")
    assert ran.status == 2
    assert ran.err.startswith("error: split by part: no sample has the value 'nothing'")


def test_images_of_no_split_are_read_too(run_check):
    members = {name.replace("val/", "extra/"): data for name, data in toy().items()}
    members["extra/kinds/0.png"] = b""
    ran = run_check(members)
    assert "split train other" in lines(ran.out)
    assert ran.err == "error: 1 of 40 members cannot be used\n"


def test_processes_change_nothing(run_check):
    reports = {run_check(toy(), "--workers", workers).out for workers in (1, 2, 3)}
    assert len(reports) == 1


@pytest.mark.parametrize("bad", [False, True])
def test_a_contact_sheet(run_check, tmp_path, bad):
    members = toy()
    if bad:
        members["val/img/0.png"] = b""
    for name in ("sheet.png", "sub/page.html"):
        assert run_check(members, "--out", tmp_path / name).status == (2 if bad else 0)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    page = (tmp_path / "sub" / "page.html").read_text()
    (embedded,) = re.findall('data:image/png;base64,([^"]+)', page)
    embedded = Image.open(io.BytesIO(base64.b64decode(embedded)))
    assert np.array_equal(np.asarray(embedded), np.asarray(sheet))
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # it needs no other file
    assert "(unlabelled)" in page
    painted = (np.asarray(sheet) == rgb(MASK_COLOR)).all(axis=2)  # of the legend, which stands last
    assert painted[-40:].any()
    # Images and three targets in four columns, each sample in a row of its own.
    assert sheet.width > 4 * CELL - 4 * SIZE[1]
    assert sheet.height // (CELL // 2 + 28) == (9 if bad else 10)


def test_what_is_worth_a_look(run_check):
    members = toy()
    for name in members:
        if "/edge/" in name:
            members[name] = encode(np.full(SIZE, 3, np.uint8), "_.png")
    ran = run_check(members)
    found = [line for line in lines(ran.out) if line.startswith("worth a look: ")]
    rare, dark = (line.removeprefix("worth a look: ") for line in found)
    assert rare.startswith(
        "kinds: c occurs in none of 8 labels looked at; 10.0% of the pixels are ignored"
    )
    assert dark.startswith(
        "edge: no foreground in 8 masks looked at: the largest value in their files is 3"
    )
    assert len([line for line in lines(run_check(toy()).out) if "worth a look" in line]) == 1
    assert (ran.status, run_check(members, "--strict").status) == (0, 1)


def test_what_is_sound_passes_the_strict(run_check):
    """Each class occurs in both splits, and no image twice, until one does."""
    kinds = np.repeat([[0, 1, 2, IGNORE]], [5, 5, 9, 1], axis=1).repeat(SIZE[0], 0).astype(np.uint8)
    members = {n: encode(kinds, "_.png") if "/kinds/" in n else d for n, d in toy().items()}
    ran = run_check(members, "--strict")
    assert ran.status == 0, ran.out
    members["val/img/1.png"] = members["train/img/4.png"]
    assert run_check(members, "--strict").status == 1


def test_the_same_lines_as_before_training(run_check, tmp_path):
    members = {n: encode(np.full(SIZE, 9, np.uint8), "_.png") if "/edge/" in n else d
               for n, d in toy().items()}  # fmt: skip
    found = [line for line in lines(run_check(members).out) if line.startswith("worth a look: ")]
    said = look(open_task(TASK, [tmp_path / "data"], (8, 8)))
    assert [line.replace("worth a look: ", "toy: ") for line in found] == said


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--out", "sheet.gif"), "--out: sheet.gif, expected a file of .png or .html"),
        (("--split-by", "part"), "--split-by: 'part', expected FIELD=VALUE"),
        (("--task", "nothing"), "error: --task nothing: expected one of"),
        (("--task", "maskdepth"), "error: data: no image fits"),
        (("--workers", 0), "--workers: '0', expected a whole number from 1"),
    ],
)
def test_bad_words_are_named(run_check, words, what):
    ran = run_check(toy(), *words)
    assert ran.status == 2
    assert what in ran.err
    assert "Traceback" not in ran.err


def test_what_is_no_data_is_named(run, tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4 and no more")
    for path, what in (("cut.zip", "cut short"), ("nowhere", "no such file or folder")):
        ran = run(check, tmp_path / path, "--task", "damage")
        assert ran.status == 2
        assert re.fullmatch(rf"error: .*{what}.*\n", ran.err)


def test_where_nothing_can_be_read_all_is_named(run_check):
    ran = run_check(dict.fromkeys(toy(), b"nothing"))
    assert ran.err == "error: 40 of 40 members cannot be used\n"
    assert "no image can be read" in lines(ran.out)
    assert "(invalid) - -" in lines(ran.out)
