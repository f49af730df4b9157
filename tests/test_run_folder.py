"""What a run leaves and says, and when it waits for other ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from utils import checkpoint, compute, engine
from utils.compute import busy_notice
from utils.distributed import Distributed
from utils.run.folder import RunFolder
from utils.run.progress import Meter, Steps
from utils.settings import RUNS, parse
from utils.terminal import next_command

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("words", "path", "expected"),
    [
        ("--task damage", RUNS / "damage", "--task damage"),
        ("--task damage", Path("mine"), "--weights mine/best.pt"),
        ("--task damage", Path("my run"), "--weights 'my run/best.pt'"),
        ("--task damage --data a.zip", RUNS / "damage", "--weights runs/damage/best.pt "
         "--input a.zip"),
        ("--task damage maskdepth --data a b", RUNS / "x", "--weights runs/x/best.pt --task damage "
         "--input a"),
    ],
)  # fmt: skip
def test_the_next_command_is_of_the_users_own_task(words, path, expected):
    settings = parse(words.split())
    assert next_command(settings, path) == f"python infer.py {expected}"


def test_a_folder_that_nothing_was_written_to_goes_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    distributed, settings = Distributed(CPU), parse(["--task", "damage"])
    with RunFolder(settings, {}, distributed) as run:
        assert run.path.is_dir()
    assert not run.path.exists()
    (tmp_path / "mine").mkdir()
    with RunFolder(replace(settings, out=tmp_path / "mine"), {}, distributed) as run:
        pass
    assert run.path.is_dir()
    with RunFolder(replace(settings, out=tmp_path / "new"), {}, distributed) as run:
        assert run.path.is_dir()
    assert not run.path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX alone has such locks")
def test_a_folder_has_one_run_at_a_time(tmp_path):
    settings = replace(parse(["--task", "damage"]), out=tmp_path)
    other = "from pathlib import Path; from utils.files import lock_folder; lock_folder(Path({!r}))"
    command = [sys.executable, "-c", other.format(str(tmp_path))]
    with RunFolder(settings, {}, Distributed(CPU)):
        asked = {"cwd": Path(train.__file__).parent, "capture_output": True, "text": True}
        ran = subprocess.run(command, **asked)
        assert f"{tmp_path}: process {os.getpid()} on " in ran.stderr
    assert subprocess.run(command, **asked).returncode == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_speaks_and_writes(tmp_path, monkeypatch, capsys, rank):
    distributed = Distributed(CPU)
    distributed.rank, distributed.is_main = rank, rank == 0
    settings = replace(parse(["--task", "damage", "--wandb", "disabled"]), out=tmp_path / "run")
    with RunFolder(settings, {}, distributed) as run:
        run.begin(0, Steps(9, 9, 9), "what is trained")
        run.say("step 4: evaluated")
        run.save(4, SimpleNamespace(state_dict=dict))
    assert capsys.readouterr().out.count("\n") == (2 if rank == 0 else 0)
    for name in ("config.json", "last.pt"):
        assert (tmp_path / "run" / name).exists() == (rank == 0)


@pytest.mark.parametrize(("world", "waits"), [(1, 25), (2, 3)])
def test_ranks_wait_for_each_other_at_logged_steps_alone(monkeypatch, world, waits):
    asked = []
    distributed = SimpleNamespace(
        world_size=world, part=(0, world), stops=lambda flag: asked.append(flag), union=sorted
    )
    state = SimpleNamespace(
        micro_batches=1,
        distributed=distributed,
        compute=compute.Compute(CPU),
        schedule=SimpleNamespace(lr=1),
    )
    state.schedule.evaluated = lambda score: None
    does = dict.fromkeys(("add", "log", "say", "check_finite", "evaluated", "save"), lambda *_: 0)
    run = SimpleNamespace(**does, meter=Meter(CPU), is_late=lambda: False, due=False)
    run.skipped = SimpleNamespace(add=None)
    monkeypatch.setattr(train, "train_batches", lambda *_, **__: repeat([]))
    monkeypatch.setattr(train, "validate", lambda *_: SimpleNamespace(score=1.0))
    monkeypatch.setattr(engine, "train_step", lambda *_: {})
    run.settings, run.steps = parse(["--task", "damage", "--data", "a.zip"]), Steps(25, 100, 25)
    assert train.fit([], state, 0, run) == 25
    assert len(asked) == waits


def test_a_busy_machine_is_named_and_left_as_it_is(monkeypatch):
    """Another number of threads sums in another order: a resumed run would not repeat itself."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(compute.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 0, 0))
    assert busy_notice(CPU) == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (1.6, 0, 0))
    assert "busy (1.6 of 2 cores): 2 threads wait" in busy_notice(CPU)
    assert busy_notice(torch.device("meta")) == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert busy_notice(CPU) == ""


def test_a_cuda_device_that_is_not_used_is_not_opened(monkeypatch):
    def opened(*_):
        raise AssertionError("this opens a context on every device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", opened)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", opened)
    state = checkpoint.rng_state()
    assert state["cuda"] == []
    checkpoint.set_rng_state(state)
