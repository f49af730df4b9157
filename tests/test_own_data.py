"""The README's example of one's own data, followed with what people get wrong: a line that leads to
the cure each time, and none where nothing is wrong.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import encode, put
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLE = re.search(r"```json\n(.*?)```", README, re.DOTALL)[1]
COMMAND = re.search(r"^python train\.py (--task leaves\.json) --data leaves", README, re.MULTILINE)
SIZE = 24, 32


def leaves(photos="photos/{}.jpg", masks="masks/{}.png", num=50, on=255, times=1, without=0):
    """Photographs and masks by name; the masks `times` as large, and missing of some."""
    members = {}
    for i in range(num):
        small = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        photo = Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        mask = np.zeros(SIZE, np.uint8)
        mask[:, : 8 + i % 16] = on
        mask = mask.repeat(times, 0).repeat(times, 1)
        members[photos.format(f"leaf_{i:02d}")] = encode(np.asarray(photo), "x.jpg")
        if i >= without:
            members[masks.format(f"leaf_{i:02d}")] = encode(mask, "x.png")
    return members


class Mistake(NamedTuple):
    """words: what is wrong. cure: what the line tells. members: the data. change: of the task's
    file, text and its replacement. data: for --data. flags: added. status: 0 where it is said, and
    trained all the same."""

    words: str
    cure: tuple[str, ...]
    members: dict[str, bytes] = {}
    change: tuple[str, str] = ("", "")
    data: str = "data"
    flags: tuple[Any, ...] = ()
    status: int = 2


IDS = '"kind": "classes", "classes": ["soil", "leaf"], "loss": "ce"'
MISTAKES = [
    Mistake("a misspelt key", ("unknown key 'images'", "image,"), change=('"image"', '"images"')),
    Mistake("a key of the list", ("'output'", "outputs"), change=('"outputs"', '"output"')),
    Mistake(
        "folders off by case",
        ("no image fits photos/{key}.*", "50 Photos/*.jpg"),
        leaves("Photos/{}.jpg", "Masks/{}.png"),
    ),
    Mistake(
        "masks in a folder of another case",
        ("expected masks/leaf_00.png", "near it lies Masks/leaf_00.png"),
        leaves(masks="Masks/{}.png"),
    ),
    Mistake("masks of 0 and 1", ('set "threshold": 1',), leaves(on=1)),
    Mistake(
        "masks of 0 and 2",
        ("no foreground", "largest value in their files is 2", '"threshold" is 128'),
        leaves(on=2),
        status=0,
    ),
    Mistake(
        "masks of 0 and 255 as classes",
        ("soil is the only class", "(file value 255)", '"values"'),
        change=('"kind": "mask"', IDS),
        status=0,
    ),
    Mistake(
        "masks larger than their images",
        ("masks/leaf_", "is 64x48, its image 32x24", "expected the same size"),
        leaves(times=2),
    ),
    Mistake(
        "masks missing",
        ("expected masks/leaf_00.png", "5 of 46 images have none", "--skip-bad 5"),
        leaves(without=5),
    ),
    Mistake("a comma in a number", ('"weight": 0,5', "a number has a point"),
            change=('"bce+dice"', '"bce+dice", "weight": 0,5')),
    Mistake("a comma in a flag", ("--lr: '0,001', expected a number",), flags=("--lr", "0,001")),
    Mistake("a comma before a bracket", ("near", "no comma stands before a closing bracket"),
            change=('"width": 16}', '"width": 16},')),
    Mistake("quotes of a word processor", ("straight double quotes",), change=('"name"', "“name”")),
    Mistake(
        "another suffix",
        ("expected masks/leaf_00.jpg", "near it lies masks/leaf_00.png"),
        change=("{key}.png", "{key}.jpg"),
    ),
    Mistake("images without {key}", ("'photos/*.jpg' has no {key}",),
            change=("photos/{key}.*", "photos/*.jpg")),
    Mistake("masks without {key}", ("masks/*.png shares no field with photos/{key}.*",),
            change=("masks/{key}.png", "masks/*.png")),
    Mistake(
        "the folder of the images",
        ("no image fits photos/{key}.*", "--data names the folder that photos lies in"),
        data="data/photos",
    ),
    Mistake("a folder that is not there", ("leaves.zip: no such file",), data="leaves.zip"),
    Mistake(
        "a split that has nothing",
        ("split 'val' has no sample", "found train", '"splits"'),
        leaves("train/photos/{}.jpg", "train/masks/{}.png"),
        change=("photos/{key}", "{split}/photos/{key}"),
    ),
    Mistake("a split by nothing", ("split by 'kind'", "expected one of key"),
            flags=("--split-by", "kind=oak")),
    Mistake("a single image", ("1 sample fits", "at least two"), leaves(num=1)),
    Mistake("few images", ("one image to validate on", '"val_share"'), leaves(num=12), status=0),
    Mistake("one number for two", ("defaults: --size", "expected 2"),
            change=("[256, 256]", "[256]")),
    Mistake("another kind's score", ("'leaf/miou', expected leaf/ and one of iou",),
            change=("leaf/iou", "leaf/miou")),
    Mistake("a term that is none", ("no term 'dise'", "dice"), change=("dice", "dise")),
    Mistake(
        "images and masks mixed up",
        ("lies between 0 and 255", '"threshold"'),
        leaves(photos="masks/{}.jpg", masks="photos/{}.png"),
        change=("masks/{key}.png", "masks/{key}.jpg"),
        status=0,
    ),
]  # fmt: skip
SOUND = [
    Mistake("as it says", ()),
    Mistake("the folder above", (), data="."),
    Mistake("backslashes", (), change=("photos/{key}", r"photos\\{key}")),
    Mistake("a dot for the folder", (), change=("photos/{key}", "./photos/{key}")),
    Mistake("suffixes in upper case", (), leaves("photos/{}.JPG", "masks/{}.PNG")),
]


@pytest.fixture
def follow(run_train, tmp_path):
    """follow(mistake) -> what the README's command does then."""

    def call(mistake):
        put(tmp_path / "data", mistake.members or leaves())
        text = EXAMPLE.replace(*mistake.change) if mistake.change[0] else EXAMPLE
        if mistake.change[0]:
            assert text != EXAMPLE
            if "{split}" in mistake.change[1]:
                text = text.replace("masks/", "{split}/masks/")
            if IDS in text:
                text = text.replace("leaf/iou", "leaf/miou").replace(', "loss": "bce+dice"', "")
        (tmp_path / "leaves.json").write_text(text, encoding="utf-8")
        words = COMMAND[1].split()
        return run_train(*words, "--data", mistake.data, "--steps", "1", *mistake.flags)

    return call


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.words)
def test_a_mistake_is_told_with_its_cure(follow, mistake):
    ran = follow(mistake)
    assert ran.status == mistake.status, ran.err
    begins = "error: " if mistake.status else "worth a look: "
    lines = [line for line in ran.err.splitlines() if line.startswith(begins)]
    assert any(all(word in line for word in mistake.cure) for line in lines), lines


@pytest.mark.parametrize("mistake", SOUND, ids=lambda mistake: mistake.words)
def test_what_is_no_mistake_is_not_told(follow, mistake):
    ran = follow(mistake)
    assert ran.status == 0, ran.err
    assert "worth a look" not in ran.err
