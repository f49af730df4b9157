"""What wandb is given of a run lies in its offline folder, by key, and is read back."""

import json
import struct
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from utils.run.logger import fields_of

SCORES = ("miou", "f1", "pixel_accuracy", "mean_accuracy", "fwiou", "baseline_miou")


def records(path):
    """The records of a .wandb file: LevelDB's log, in blocks of 32 KiB, after seven bytes."""
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def items(each):
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in each}


def test_an_offline_folder_holds_the_dashboard(run_train, tiny_json, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")  # so that what the run sets is forgotten, too
        monkeypatch.delenv(name)
    monkeypatch.setattr("utils.run.report.PLAN_SECONDS", 0)
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--wandb", "offline", "--encoder-lr", "0.5")
    ran = run_train(*words, "--steps", "4", "--eval-steps", "2", "--out", "run")
    assert ran.status == 0, ran.err
    assert "warning" not in ran.err
    ran = run_train("--resume", "run", "--steps", "6", "--wandb", "offline")
    assert ran.status == 0, ran.err
    folders = sorted(Path("run/wandb").glob("offline-run-*"))
    (file,) = folders[0].glob("*.wandb")
    found = list(records(file))
    (run,) = [record.run for record in found if record.HasField("run")]
    assert {folder.name.rpartition("-")[2] for folder in folders} == {run.run_id}  # resumed
    fields = items(run.config.update)
    assert (fields["lr"], fields["bs"], fields["seed"]) == (0.005, [2], 0)
    assert fields["tasks"]["tiny"]["best"] == "parts/miou"

    rows = {}  # step -> values
    for record in found:
        if record.HasField("history"):
            values = items(record.history.item)
            rows.setdefault(values.pop("_step"), {}).update(values)
    last = rows[max(rows)]
    assert last["train/lr_encoder"] == pytest.approx(0.5 * last["train/lr"])
    assert 0 < last["memory/planned_gib"] < last["memory/used_gib"]
    assert {"time/waiting", "time/images_per_second", "train/loss", "val/loss"} < last.keys()
    assert {f"val/parts/{score}" for score in SCORES} < last.keys()

    def table(key):
        return json.loads((folders[0] / "files" / last[f"{key}/path"]).read_text())

    classes = table("classes/parts_table")
    assert [row[0] for row in classes["data"]] == ["a", "b", "c"]
    known = [row[1] for row in classes["data"] if row[1] is not None]
    assert sum(known) / len(known) == pytest.approx(last["val/parts/miou"])
    counts = table("confusion/parts_table")
    assert counts["columns"] == ["Actual", "Predicted", "nPredictions"]
    assert sum(row[2] for row in counts["data"]) > 0
    samples = table("samples/tiny")
    assert samples["columns"][:5] == ["sample", "shown as", "score", "output", "class"]
    assert {row[4] for row in samples["data"]} <= {"a", "b", "c"}
    assert {row[1] for row in samples["data"]} == {"worst", "best", "spread over all"}
    staged = [path.read_bytes() for path in Path("run/wandb/artifacts/staging").iterdir()]
    jpegs = [data for data in staged if data.startswith(b"\xff\xd8")]
    assert len(jpegs) == 3 * len({(row[0], row[1]) for row in samples["data"]})  # evaluations
    assert (folders[0] / "files" / last["panels/tiny/path"]).is_file()


def test_settings_are_fields_by_which_runs_are_sorted():
    config = {"settings": {"lr": 0.1, "data": [["a"]]}, "tasks": [{"name": "t"}], "model": {"w": 1}}
    expected = {"lr": 0.1, "data": [["a"]], "tasks": {"t": {"name": "t"}}, "model": {"w": 1}}
    assert fields_of(config) == expected
    assert fields_of({"lr": 0.1}) == {"lr": 0.1}
