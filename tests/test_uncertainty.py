"""What is asked about is what the network is least sure of."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import infer
from datasets import TASKS
from datasets.photo import Photo
from datasets.task import Classes, Depth, Mask, Task, UserError
from models.heads import MaskHead
from utils.maps.results import write
from utils.predict import Part
from utils.uncertainty import CELL, MOST_OF_ONE, asked_outputs, crops_of, entropy_of, score_cells

OUTPUT = Classes("kind", "k/{key}.png", classes=("a", "b", "c"))


class Sure:
    """Says of each pixel, in two parts, how likely classes are: by its first channel, certain at 0
    and a guess at 255."""

    scale = 1.0
    model = SimpleNamespace(heads={"kind": SimpleNamespace(shares=lambda shares: shares)})

    def __call__(self, images, names):
        width = images.shape[-1]
        for columns in (slice(0, width // 3), slice(width // 3, width)):
            doubt = images[:, 0, :, columns].float() / 255 / 3
            shares = torch.stack([1 - 2 * doubt, doubt, doubt], 1)
            area = slice(0, 1), ..., slice(0, images.shape[-2]), columns
            yield Part(area, doubt.numel(), {"kind": shares})


def photo(doubt):
    return Photo(torch.from_numpy(np.stack([doubt] * 3).astype(np.uint8)))


def test_certain_is_0_and_a_guess_is_1():
    guess, certain = torch.full((1, 5, 2), 0.2), torch.eye(5)[None, :, :2]
    assert torch.allclose(entropy_of(guess), torch.ones(1, 2))
    assert torch.allclose(entropy_of(certain), torch.zeros(1, 2))
    mask = MaskHead(1, Mask("m", "")).shares(torch.tensor([[[0.0, 90.0, -90.0]]]))
    assert torch.allclose(entropy_of(mask), torch.tensor([[1.0, 0, 0]]))


def test_a_cell_has_the_mean_of_its_pixels_whatever_parts_it_comes_in():
    doubt = np.random.default_rng(0).integers(0, 256, (37, 70))
    found = score_cells(photo(doubt), Sure(), (OUTPUT,))
    d = doubt / 255 / 3
    p = np.stack([1 - 2 * d, d, d]).clip(1e-12)
    entropy = -(p * np.log(p)).sum(0) / np.log(3)
    assert found.shape == (3, 5)
    for row, column in np.ndindex(3, 5):
        cell = entropy[row * CELL :, column * CELL :][:CELL, :CELL]
        assert found[row, column] == pytest.approx(cell.mean(), abs=1e-5)


def test_the_worst_crops_come_first_inside_the_image_and_apart():
    scores = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) * 0.1
    scores[12:16, 20:24] = 0.9
    crops = crops_of(scores, (20 * CELL - 3, 30 * CELL - 5), (64, 64))
    assert len(crops) == MOST_OF_ONE
    assert crops[0][1] == (20 * CELL, 12 * CELL, 64, 64)
    assert crops[0][0] == pytest.approx(0.9)
    assert [score for score, *_ in crops] == sorted((score for score, *_ in crops), reverse=True)
    seen = np.zeros((20 * CELL - 3, 30 * CELL - 5), int)
    for _, (left, top, width, height), heat in crops:
        assert left + width <= seen.shape[1]
        assert top + height <= seen.shape[0]
        assert heat.shape == (4, 4)
        seen[top : top + height, left : left + width] += 1
    assert seen.max() == 1


def test_a_small_image_is_asked_about_as_a_whole():
    scores = torch.tensor([[0.2, 0.6]])
    ((score, box, heat),) = crops_of(scores, (16, 20), (64, 64))
    assert (box, heat.shape) == ((0, 0, 20, 16), (1, 2))
    assert score == pytest.approx((0.2 * 16 + 0.6 * 4) / 20)


def test_a_task_without_classes_is_refused():
    task = Task("far", "i/{key}.png", (Depth("metres", "d/{key}.png"),), "metres/delta1")
    with pytest.raises(UserError, match="--ask: expected an output of classes or a mask"):
        asked_outputs([task])
    assert asked_outputs([task, TASKS["damage"]]).keys() == {"damage"}


def test_a_folder_is_listed_by_doubt(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    photo = Photo(torch.zeros(3, 8, 8, dtype=torch.uint8))
    damage = TASKS["damage"].outputs[0]
    write(tmp_path / "in" / "0", photo, {"damage": np.zeros((8, 8), np.uint8)}, [damage])
    words = ["--task", "damage", "--ask", "9", "--device", "cpu"]
    words += ["--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["infer.py", *words])
    assert infer.main() == 1
    said = capsys.readouterr().err
    assert "bad.png" in said
    assert "3 images scored, 2 results of earlier runs left out" in said
    with (tmp_path / "out" / "ask.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert {row["image"] for row in rows} == {"0.png", "1.png", "2.png"}
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ask.csv", "ask.pdf"]
    assert infer.main() == 1  # its own files are replaced
    (tmp_path / "out" / "ask.csv").write_text("mine\n")
    assert infer.main() == 2
    assert "ask.csv: is there already" in capsys.readouterr().err
