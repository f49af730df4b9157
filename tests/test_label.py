"""One class for each image, read from a field: beside dense outputs, or alone."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, members_of, put
from PIL import Image

from datasets import loader
from datasets.dataset import open_task
from datasets.task import IGNORE, Label, Task
from models import ModelSpec, UNet
from utils import checkpoint
from utils.compute import Compute
from utils.predict import Predictor

MATERIAL = Label("material", field="material")
BY_NAME = Task(
    "named", "img/{material}_{key}.png", (MATERIAL,), "material/accuracy", val_share=0.25
)


def with_label(task, *labels):
    return replace(task, outputs=task.outputs + labels, metadata="metadata.csv")


@pytest.fixture
def labelled(tmp_path):
    """The tiny task with a metadata column of two materials: (file, folder)."""
    task = replace(TINY, metadata="metadata.csv")
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(task.to_json()))
    return path, put(tmp_path / "data", members_of(task))


def test_a_label_is_trained_beside_dense_outputs(run_train, run_infer, labelled, tmp_path):
    path, data = labelled
    words = ("--task", path, "--label", "material", "content", "--data", data, "--class-weights")
    ran = run_train(*words, "--steps", "3", "--out", "run")
    assert ran.status == 0, ran.err
    assert (tmp_path / "run" / "confusion_material.png").is_file()
    state = checkpoint.load(tmp_path / "run" / "best.pt")
    (task,) = (Task.from_json(task) for task in state["config"]["tasks"])
    found = {output.name: output.labels for output in task.outputs[3:]}
    assert found == {"material": ("glass", "paper"), "content": ("c0", "c1", "c2")}
    assert {"material/accuracy", "content/macro_f1", "parts/miou"} <= state["scores"].keys()

    table = (data / "metadata.csv").read_text()
    (data / "metadata.csv").write_text(table.replace("glass", "x").replace("paper", "glass"))
    ran = run_train("--resume", "run/last.pt", "--steps", "4")
    assert (ran.status, "these samples changed" in ran.err) == (2, True)
    (data / "metadata.csv").write_text(table)
    ran = run_train("--resume", "run/last.pt", "--steps", "4")
    assert ran.status == 0, ran.err
    ran = run_infer("--weights", "run/best.pt", "--input", data, "--evaluate", "val")
    scores = json.loads(ran.out)
    assert 0 <= scores["material/accuracy"] <= 1
    assert [row["name"] for row in scores["material/per_class"]] == ["glass", "paper"]

    ran = run_infer("--weights", "run/best.pt", "--input", data / "img", "--out", "found")
    assert ran.status == 0, ran.err
    with open(tmp_path / "found" / "material.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(p.name for p in (data / "img").iterdir())
    one = json.loads((tmp_path / "found" / "k00_material.json").read_text())
    assert one["material"] == rows[0]["material"] in ("glass", "paper")
    assert Image.open(tmp_path / "found" / "k00_material_view.png").size == (48, 40)
    again = run_infer("--weights", "run/best.pt", "--input", data / "img", "--out", "found")
    assert again.status == 0, again.err  # what is its own may be replaced


def test_classes_are_those_of_training_and_others_are_ignored(tmp_path, make_data):
    """`wood` is in validation alone, one row is empty, one is not there."""
    task, data = with_label(TINY, MATERIAL), make_data(replace(TINY, metadata="metadata.csv"))
    table = open_task(task, [data], (32, 32)).val.table
    held_out = [table.key(i)[4:-4] for i in range(len(table))]
    rows = dict(row.split(",", 1) for row in (data / "metadata.csv").read_text().splitlines())
    rows |= {held_out[0]: "wood,c0", held_out[1]: ",c0"}
    del rows[held_out[2]]
    (data / "metadata.csv").write_text("\n".join(map(",".join, rows.items())))
    opened = open_task(task, [data], (32, 32))
    assert opened.task.outputs[-1].classes == ("glass", "paper")
    assert opened.val.task == opened.train.task == opened.task
    found = [opened.val.load(i).targets["material"].item() for i in range(3)]
    assert found == [IGNORE] * 3
    known = {opened.train.load(i).targets["material"].item() for i in range(len(opened.train))}
    assert known == {0, 1}


@pytest.fixture
def named(tmp_path):
    names = [f"img/{('glass', 'paper', 'wood')[i % 3]}_{i:02d}.png" for i in range(12)]
    pixels = np.zeros((8, 9, 3), np.uint8)
    folder = tmp_path / "named"
    (folder / "img").mkdir(parents=True)
    for name in names:
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_a_field_of_the_name_without_any_file(named):
    data = open_task(BY_NAME, [named], (8, 8))
    assert data.task.outputs[0].classes == ("glass", "paper", "wood")
    for split in (data.train, data.val):
        for i in range(len(split)):
            sample = split[0, i]
            assert sample.key.split("/")[1].startswith(
                data.task.outputs[0].classes[int(sample.targets["material"])]
            )
    (batch,) = loader.eval_batches(data.val, 8, 0)
    assert batch.targets["material"].shape == (len(data.val),)
    assert data.task.empty_batch(0, (8, 8)).targets["material"].shape == (0,)


def test_a_network_of_labels_alone(run_train, run_infer, named, tmp_path):
    (tmp_path / "named.json").write_text(json.dumps(BY_NAME.to_json()))
    words = ("--task", "named.json", "--data", named, "--steps", "2", "--out", "run")
    ran = run_train(*words, "--ckpt", "full")
    assert ran.status == 0, ran.err
    names = checkpoint.weights(checkpoint.load(tmp_path / "run" / "best.pt"))
    assert [name for name in names if not name.startswith("encoder")] == [
        "heads.material.weight",
        "heads.material.bias",
    ]
    assert run_infer("--weights", "run/best.pt", "--input", named, "--out", "found").status == 0
    assert run_train("--task", "named.json", "--plan").status == 0


def test_the_tables_of_large_shards_are_kept(named, monkeypatch, tmp_path):
    from datasets.stores import index_cache, write_zip

    monkeypatch.setattr(index_cache, "MIN_MEMBERS", 1)
    shard, files = tmp_path / "n.zip", sorted((named / "img").iterdir())
    write_zip(shard, ((f"img/{path.name}", path.read_bytes()) for path in files))
    first, second = (open_task(BY_NAME, [shard], (8, 8)).train for _ in range(2))
    assert second.table.columns.path is not None
    assert all(first[0, i].targets == second[0, i].targets for i in range(len(first)))
    other = replace(BY_NAME, outputs=(replace(MATERIAL, field="key"),))
    assert len(open_task(other, [shard], (8, 8)).task.outputs[0].classes) == 9


def test_a_label_in_tiles_is_the_mean_of_what_they_say():
    torch.manual_seed(0)
    output = replace(MATERIAL, classes=("a", "b", "c"))
    model = UNet(ModelSpec.of([output], width=4, depth=2))
    image = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    compute = Compute(torch.device("cpu"))
    ((index, pixels, found),) = Predictor(model, compute, tile=16)(image, ("material",))
    assert (index, pixels) == ((slice(0, 2), ...), 2 * 16 * 24)
    with torch.no_grad():
        left, right = (
            model(image[..., columns] / 255)["material"] for columns in (slice(16), slice(8, 24))
        )
    torch.testing.assert_close(found["material"], (left + right) / 2)
    labels = Predictor(model, compute, tile=16).labels(image, ("material",))
    assert torch.equal(labels["material"], found["material"].argmax(-1))


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (
            {"field": "colour"},
            "output material: field 'colour': no such field, expected",
        ),
        ({"field": "id"}, None),
        ({}, "output material: key 'field' is missing"),
        ({"field": "a", "files": "x/{key}.png"}, "a label has no files"),
        ({"field": "a", "classes": ["one"]}, "1 classes, expected 2 to 255"),
        ({"field": "a", "values": [1, 2]}, "values is a key of classes, not of label"),
    ],
)
def test_mistakes_are_named(run_train, labelled, output, named):
    path, data = labelled
    value = json.loads(path.read_text())
    value["outputs"].append({"name": "material", "kind": "label", **output})
    path.write_text(json.dumps(value))
    ran = run_train("--task", path, "--data", data, "--steps", "1")
    assert ran.status == (2 if named else 0)
    assert (named or "") in ran.err


def test_a_field_that_says_one_thing_only(run_train, labelled):
    path, data = labelled
    text = (data / "metadata.csv").read_text()
    (data / "metadata.csv").write_text(text.replace("paper", "glass"))
    ran = run_train("--task", path, "--label", "material", "--data", data)
    assert ran.status == 2
    assert "says glass of all images to train on, expected two classes or more" in ran.err


def test_labels_are_for_a_single_new_task(run_train, labelled, tmp_path):
    path, data = labelled
    ran = run_train("--task", path, "damage", "--label", "material")
    assert (ran.status, ran.err.strip()) == (2, "error: --label: expected a single task")
    assert run_train("--task", path, "--data", data, "--steps", "1", "--out", "r").status == 0
    ran = run_train("--resume", "r/last.pt", "--label", "material")
    assert "--label: a resumed run goes on with its own outputs" in ran.err


def test_check_counts_images(run, labelled, tmp_path):
    from datasets.check import __main__ as check

    path, data = labelled
    task = with_label(TINY, MATERIAL)
    path.write_text(json.dumps(task.to_json()))
    ran = run(check, data, "--task", path, "--workers", "1", "--out", tmp_path / "sheet.png")
    assert ran.status == 0, ran.err
    assert "material (label)" in ran.out
    assert "share of images" in ran.out
    assert (tmp_path / "sheet.png").is_file()
