"""A run's record survives: lines are read back, a resumed run goes on, wandb may fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.run import logger as logger_module
from utils.run.dashboard import PICTURE_WIDTH
from utils.run.logger import NullLogger, RunLogger, has_key, resolve_mode
from utils.run.record import flat_terms, read_metrics

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """A machine where nobody has logged in to wandb."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def settings(**known):
    return SimpleNamespace(
        **{"mode": "online", "api_key": None, "base_url": "https://api.wandb.ai", **known}
    )


def test_values_are_read_back(tmp_path):
    log = RunLogger(tmp_path / "run", {"lr": 0.1, "out": Path("a/b")}, "disabled")
    log.log(10, {"train/loss": 0.5, "train/lr": np.float32(0.25)})
    log.log(20, {"train/loss": float("nan"), "val/damage/miou": float("inf")})
    path = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]  # flushed: not closed yet
    assert lines[0].pop("time") >= 0
    assert lines[0] == {"step": 10, "train/loss": 0.5, "train/lr": 0.25}
    assert lines[1]["train/loss"] is None
    assert lines[1]["val/damage/miou"] is None
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"lr": 0.1, "out": "a/b"}
    log.finish({"best": 1.0})


def test_only_a_resumed_run_keeps_the_config(tmp_path):
    for lr, run_id, written in ((0.1, "a", 0.1), (0.2, "a", 0.1), (0.3, None, 0.3)):
        RunLogger(tmp_path, {"lr": lr}, "disabled", run_id=run_id).finish({})
        assert json.loads((tmp_path / "config.json").read_text()) == {"lr": written}


def test_null_logger_takes_what_a_run_logger_takes():
    used = [name for name in vars(RunLogger) if not name.startswith("_")]
    assert {"log", "images", "skipped", "truncate", "finish", "link"} <= set(used)
    assert all(hasattr(NullLogger(), name) for name in [*used, "run_id"])


def test_truncate_forgets_what_the_resumed_run_will_repeat(tmp_path):
    log = RunLogger(tmp_path, {}, "disabled")
    for step in (10, 20, 30):
        log.log(step, {"train/loss": step / 10})
    log.finish({})
    path = tmp_path / "metrics.jsonl"
    kept = [{**line, "time": 100.0} for line in read_metrics(path)]
    odd = '{"step": null, "train/loss": 1}\n[1]\n'  # whoever wrote them
    path.write_text(odd + "".join(json.dumps(line) + "\n" for line in kept) + '{"step": 35, "tra')

    resumed = RunLogger(tmp_path, {}, "disabled", run_id=log.run_id)
    resumed.truncate(20)
    resumed.log(30, {"train/loss": 7.0})
    resumed.finish({})
    lines = read_metrics(path)
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["train/loss"] == 7.0
    assert lines[-1]["time"] >= 100  # the clock goes on from the checkpoint's line
    assert resumed.run_id == log.run_id


def test_truncate_can_forget_everything(tmp_path):
    log = RunLogger(tmp_path, {}, "disabled")
    log.log(0, {"train/loss": 1.0})
    log.truncate(-1)
    log.finish({})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_loss_term_that_does_not_fall_is_named(tmp_path):
    log = RunLogger(tmp_path, {}, "disabled")
    path, outputs = tmp_path / "metrics.jsonl", ["leaf", "far"]
    for step in range(20):
        assert flat_terms(path, outputs) == {}
        noise = step % 2 / 10
        terms = {"leaf/bce": 1 - step / 40 + noise, "leaf/dice": 1 + noise, "agree/leaf+far": 1.0}
        log.log(step, {f"train/{name}": value for name, value in terms.items()} | {"val/far/l1": 1})
    log.finish({})
    (said,) = flat_terms(path, outputs).values()
    assert said.startswith(
        "leaf/dice: this loss term does not fall, from 1.05 at first to 1.05 now"
    )


def test_pictures_are_saved_by_step(tmp_path):
    log = RunLogger(tmp_path, {}, "disabled")
    log.images(7, {"val/damage": Image.new("RGB", (5, 3), "red")})
    log.finish({})
    picture = Image.open(tmp_path / "samples" / "000007_val_damage.png")
    assert picture.size == (5, 3)


def test_unknown_mode_names_the_flag(tmp_path):
    with pytest.raises(ValueError, match="--wandb on: expected one of auto"):
        RunLogger(tmp_path, {}, "on")


def test_disabled_never_imports_wandb(tmp_path):
    code = (
        "import sys, pathlib; from utils.run.logger import RunLogger;"
        "RunLogger(pathlib.Path(sys.argv[1]), {}, 'disabled').log(1, {'a': 1.0});"
        "assert not {'wandb', 'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


def test_failing_start_costs_one_warning(tmp_path, monkeypatch, no_key, capsys):
    import wandb

    def fail(**_):
        raise RuntimeError("no disk\nsecond line")

    monkeypatch.setattr(wandb, "init", fail)
    log = RunLogger(tmp_path / "run", {}, "auto")
    log.log(1, {"train/loss": 1.0})
    log.finish({})
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert "no disk second line; this run is recorded only in" in warned[0]
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 1


def test_failing_log_costs_one_warning(tmp_path, capsys):
    class Broken(NullLogger):
        def log(self, step, values):
            raise OSError("connection lost")

    log = RunLogger(tmp_path, {}, "disabled")
    log._run = Broken()
    log.log(1, {"train/loss": 1.0})
    log.log(2, {"train/loss": 2.0})
    log.images(2, {"a": Image.new("RGB", (2, 2))})
    log.finish({})
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert "connection lost; wandb misses what follows" in warned[0]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_a_server_that_does_not_answer_means_offline(tmp_path, monkeypatch, no_key, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setitem(logger_module.SETTINGS, "init_timeout", 1)
    log = RunLogger(tmp_path / "run", {}, "auto")
    log.log(1, {"train/loss": 1.0})
    log.finish({})
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert warned[0].endswith("; this run is recorded offline")
    assert list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{log.run_id}/*.wandb"))


def test_auto_without_a_key_is_offline_silent_and_leaves_no_process(tmp_path, no_key):
    """In a process of its own, whose stdin would answer a prompt and whose sockets stay at home."""
    code = """
import os, pathlib, socket, sys
connect = socket.socket.connect
def stay_home(self, address):
    assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", address
    return connect(self, address)
socket.socket.connect = stay_home
def look_up(*_, **__):
    raise AssertionError("looked up a host")
socket.getaddrinfo = look_up
from PIL import Image
from utils.run.logger import RunLogger
log = RunLogger(pathlib.Path(sys.argv[1]), {"lr": 0.1}, "auto", run_id="abcd1234")
assert log.run_id == "abcd1234" and "offline-run" in log.link, log.link
for step in range(3):
    log.log(step, {"train/loss": 1.0})
log.images(3, {"val": Image.new("RGB", (2000, 10))})
for _ in range(2):
    log.skipped(3, {"a.zip: x.png": "cut"})
log.skipped(4, {"a.zip: x.png": "cut", "a.zip: y.png": "its CRC"})
log.finish({"best": 1.0})
try:
    print("a child is left:", os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("finished")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=ROOT,
        input="1\n" * 5,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished\n", "")
    run = next((tmp_path / "run" / "wandb").glob("offline-run-*-abcd1234"))
    (jpeg,) = run.rglob("*.jpg")
    assert Image.open(jpeg).width == PICTURE_WIDTH
    tables = sorted(json.loads(path.read_text())["data"] for path in run.rglob("*.table.json"))
    assert tables == [
        [["a.zip: x.png", "cut"]],
        [["a.zip: x.png", "cut"], ["a.zip: y.png", "its CRC"]],
    ]


@pytest.mark.parametrize(
    ("asked", "found", "environment", "expected"),
    [
        ("auto", {}, {}, "offline"),
        ("auto", {}, {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"mode": "offline"}, {"WANDB_API_KEY": "k"}, "offline"),
        ("auto", {"mode": "dryrun"}, {"WANDB_API_KEY": "k"}, "offline"),
        ("auto", {"mode": "disabled"}, {"WANDB_API_KEY": "k"}, "disabled"),
        ("offline", {}, {"WANDB_API_KEY": "k"}, "offline"),
        ("online", {"mode": "offline"}, {"WANDB_API_KEY": "k"}, "online"),
        ("online", {}, {}, "offline"),
    ],
)
def test_modes(asked, found, environment, expected, monkeypatch, no_key, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(asked, settings(**found)) == expected
    assert ("no API key" in capsys.readouterr().err) == (asked == "online" and not environment)


def test_key_in_the_netrc_file(tmp_path, monkeypatch, no_key):
    assert not has_key(settings())
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert has_key(settings())
    assert has_key(settings(base_url="https://api.forge.coreweave.com"))
    assert not has_key(settings(base_url="https://wandb.example.org"))
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert not has_key(settings())
    (tmp_path / "elsewhere").write_text("not a netrc file")
    assert not has_key(settings())


def test_log_is_cheap(tmp_path, no_key):
    """With wandb offline: about 0.5 ms a call on two cores, against steps of 100 ms and more."""
    log = RunLogger(tmp_path / "run", {}, "offline")
    values = {f"train/term{i}": 0.1 * i for i in range(12)}
    start = time.perf_counter()
    for step in range(200):
        log.log(step, values)
    cost_us = 1e6 * (time.perf_counter() - start) / 200
    log.finish({})
    print(f"log: {cost_us:.0f} us a call")
    assert cost_us < 10_000
