"""Flags become one frozen value; what was given by hand wins, and nothing is dropped in silence."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets import TASKS
from datasets.task import UserError
from utils import checkpoint
from utils.flags import CKPT_MODES
from utils.run.progress import count_steps
from utils.settings import DEMO_MINUTES, Settings, check_norm, parse

OUT = ("--out", "/nonexistent/run")
FLAGS = [
    "--task maskdepth",
    "--task damage cityscapes maskdepth --data a b c --bs 3",
    "--task damage --split-by material=Paper --losses damage=ce --loss-weights damage=2",
    "--task maskdepth --loss-weights uncertainty --vram 4 --encoder resnet18 --pretrained",
    "--task damage --optimizer sgd --ema 0.9 --steps 7 --convs 1 2 3 --no-class-weights",
]


@pytest.fixture
def stopped(tmp_path):
    """stopped("--task", ...) -> words that resume a run of these flags."""

    def make(*words):
        settings = parse([*words, *OUT])
        tasks = [own.task.to_json() for own in settings.tasks]
        config = {"tasks": tasks, "settings": settings.to_json()}
        checkpoint.save(tmp_path / "last.pt", {"learner": {}, "config": config})
        return ["--resume", str(tmp_path / "last.pt")]

    return make


def test_a_checkpoint_without_its_batch_is_refused(stopped, tmp_path):
    words = stopped("--task", "damage")
    state = checkpoint.load(tmp_path / "last.pt")
    del state["config"]["settings"]["bs"]
    checkpoint.save(tmp_path / "last.pt", state)
    with pytest.raises(UserError, match=r"last.pt: not what a run writes: KeyError: 'bs'"):
        parse(words)


def test_flags_beat_the_defaults_of_the_task():
    settings = parse(["--task", "maskdepth", *OUT])
    network = settings.network
    assert (network.width, network.centre, network.convs) == (32, 256, (2, 1, 3))
    assert settings.optim.lr == 5e-3
    words = "--task maskdepth --width 8 --convs 1 --size 32 48"
    settings = parse([*words.split(), *OUT])
    (own,) = settings.tasks
    assert (settings.network.width, settings.network.convs) == (8, (1, 1, 1))
    assert (settings.optim.lr, own.size, own.bs) == (5e-3, (32, 48), 16)


def test_a_centre_is_that_of_our_own_encoder():
    for words, centre in (("--encoder resnet18", 0), ("--encoder resnet18 --centre 8", 8)):
        settings = parse(["--task", "maskdepth", *words.split(), *OUT])
        assert settings.network.centre == centre


def test_nothing_keeps_from_learning_by_heart_unless_it_is_asked_for(stopped):
    words = ("--task", "damage", "--overfit", "1")
    settings = parse([*words, *OUT])
    assert (settings.optim.schedule, settings.optim.weight_decay) == ("constant", 0.0)
    assert not settings.tasks[0].class_weights
    settings = parse([*words, "--schedule", "poly", "--class-weights", *OUT])
    assert (settings.optim.schedule, settings.optim.weight_decay) == ("poly", 0.0)
    assert settings.tasks[0].class_weights
    assert parse(stopped(*words, "--lr", "0.1")).optim == parse([*words, "--lr", "0.1", *OUT]).optim


def test_outputs_that_are_named_are_learnt_alone(stopped):
    whole = parse(["--task", "maskdepth", *OUT])
    (own,) = parse(["--task", "maskdepth", "--outputs", "depth", *OUT]).tasks
    assert [output.name for output in own.task.outputs] == ["depth"]
    assert (whole.tasks[0].task.best, own.task.best) == ("mask/iou", "depth/delta1")
    words = ["--task", "damage", "maskdepth", "--data", "a", "b", "--outputs", "mask", "damage"]
    assert [output.name for output in parse([*words, *OUT]).outputs] == ["damage", "mask"]
    words = stopped("--task", "maskdepth", "--outputs", "depth")
    (again,) = parse(words).tasks
    assert again.task == own.task
    with pytest.raises(UserError, match="outputs changed since .*: omit it, or begin anew"):
        parse([*words, "--task", "maskdepth"])


def test_losses_that_a_task_has_of_outputs_that_are_left_out_go_with_them(tmp_path):
    task = dataclasses.replace(TASKS["maskdepth"], name="mine")
    defaults = task.defaults | {"losses": ["mask=bce", "depth=l1"], "loss_weights": ["mask=2"]}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(dataclasses.replace(task, defaults=defaults).to_json()))
    settings = parse(["--task", str(path), "--outputs", "depth", *OUT])
    assert (settings.losses, settings.loss_weights) == ({"depth": "l1"}, {})
    assert parse(["--task", str(path), *OUT]).loss_weights == {"mask": 2.0}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--task damage --outputs mask", "--outputs: no output 'mask', expected some of damage"),
        ("--task damage maskdepth --data a b --outputs mask", "task damage: expected one or more"),
    ],
)
def test_outputs_that_no_task_has_are_named(words, named):
    with pytest.raises(UserError, match=named):
        parse([*words.split(), *OUT])


def test_each_task_has_its_own_size_batch_and_weights():
    settings = parse(["--task", "damage", "maskdepth", "--data", "a", "b", *OUT])
    first, second = settings.tasks
    assert (first.size, first.bs, first.class_weights, first.data) == ((224, 224), 6, True, ("a",))
    assert (second.size, second.bs, second.class_weights, second.data) == (
        (224, 224),
        16,
        False,
        ("b",),
    )
    settings = parse(["--task", "damage", "maskdepth", "--bs", "3", "--size", "8", "9", *OUT])
    assert [(own.bs, own.size) for own in settings.tasks] == [(3, (8, 9))] * 2


def test_settings_are_a_value():
    settings = parse(["--task", "damage", *OUT])
    for noun in (settings, settings.tasks[0], settings.network, settings.optim):
        name = dataclasses.fields(noun)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(noun, name, None)
    assert settings == parse(["--task", "damage", *OUT])


@pytest.mark.parametrize("words", FLAGS)
def test_a_resumed_run_has_the_settings_of_the_stopped_one(stopped, tmp_path, words):
    expected = parse([*words.split(), *OUT])
    resume = stopped(*words.split())
    found = parse(resume)
    assert (found.resume, found.out) == (tmp_path / "last.pt", tmp_path)
    assert dataclasses.replace(found, resume=None, out=expected.out) == expected
    json.dumps(found.to_json())


def test_relative_data_of_a_stopped_run_is_found_from_another_folder(
    stopped, tmp_path, monkeypatch
):
    begun, other = tmp_path / "begun", tmp_path / "other"
    for folder in (begun / "d", other):
        folder.mkdir(parents=True)
    monkeypatch.chdir(begun)
    resume = stopped("--task", "damage", "--data", "d")
    assert parse(resume).tasks[0].data == ("d",)
    monkeypatch.chdir(other)
    assert parse(resume).tasks[0].data == (str(begun / "d"),)
    (begun / "d").rmdir()
    with pytest.raises(ValueError, match=f"--data d: not found here, nor in {begun}, where"):
        parse(resume)
    assert parse([*resume, "--data", "e"]).tasks[0].data == ("e",)


def test_flags_beside_resume_are_taken(stopped):
    resume = stopped("--task", "damage", "maskdepth", "--steps", "9", "--bs", "4", "--lr", "0.5")
    settings = parse([*resume, "--bs", "2", "--weight-decay", "0.25", "--no-class-weights"])
    assert [own.bs for own in settings.tasks] == [2, 2]
    assert [own.class_weights for own in settings.tasks] == [False, False]
    assert (settings.optim.lr, settings.optim.weight_decay) == (0.5, 0.25)
    assert (settings.steps, parse([*resume, "--epochs", "3"]).steps) == (9, None)
    assert parse([*resume, "--bs", "auto"]).fit_batch


@pytest.mark.parametrize("flag", ["init", "pretrained", "out", "outputs", "label"])
def test_flags_beside_resume_that_would_do_nothing_are_refused(stopped, flag):
    resume = stopped("--task", "damage")
    with pytest.raises(ValueError, match=f"--{flag}.*a resumed run|--{flag}.*a run is resumed"):
        parse([*resume, f"--{flag}", resume[1]])


def test_an_epoch_is_one_pass_over_the_longest_split():
    def steps(*words, samples=(100, 30), world_size=1):
        return count_steps(
            parse(["--task", "damage", "maskdepth", *words, *OUT]), samples, world_size
        )

    assert steps("--bs", "10", "--epochs", "3") == (30, 10, 30)  # evaluated as the first task says
    assert steps("--bs", "10", "--epochs", "3", "--eval-steps", "7").eval == 7
    assert steps("--bs", "10", "--accum", "3", "--epochs", "1").epoch == 4
    assert steps("--bs", "10", "--epochs", "1", world_size=2).epoch == 5
    assert steps("--steps", "7").total == 7
    assert steps("--overfit", "1").total == 300


def test_a_demo_fits_itself_to_the_machine(stopped):
    """Unless somebody says how long it is, or brings data of their own."""

    def minutes(*words):
        return parse(["--task", "damage", *words, *OUT]).minutes

    assert minutes() == DEMO_MINUTES
    assert minutes("--minutes", "2") == 2
    for words in (("--data", "a"), ("--epochs", "3"), ("--steps", "3"), ("--overfit", "1")):
        assert minutes(*words) is None
    assert minutes("--data", "a", "--minutes", "2") == 2
    assert minutes("--steps", "9", "--minutes", "2") == 2
    resume = stopped("--task", "damage")
    assert parse(resume).minutes == DEMO_MINUTES  # stopped before its pace was known
    assert parse([*resume, "--epochs", "3"]).minutes is None


def test_batch_norm_wants_more_than_one_value():
    settings = parse(["--task", "damage", "--size", "16", "16", "--bs", "1", *OUT])
    check_norm(settings, stride=8, world_size=1)
    check_norm(settings, stride=16, world_size=2)
    with pytest.raises(ValueError, match="--size 16 16 --bs 1: batch norm sees one value"):
        check_norm(settings, stride=16, world_size=1)
    group = dataclasses.replace(settings.network, norm="group")
    check_norm(dataclasses.replace(settings, network=group), stride=16, world_size=1)


def test_settings_cost_no_import_of_torch():
    """What answers --help; the words of the door."""
    code = "import sys, utils.settings; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
    assert isinstance(parse(["--task", "damage", *OUT]), Settings)
    assert CKPT_MODES[0] == "none"
    assert torch.__version__
