"""A run leaves its record; stopped anywhere and resumed, it ends as if it had never stopped."""

import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import needs_gpu
from PIL import Image

import train
from datasets import TASKS, load_task, loader
from datasets.loader import WorkerDied
from utils import checkpoint, engine, validation
from utils.run import folder as run_folder
from utils.run.progress import OVERFIT_STEPS
from utils.settings import parse

REPOSITORY = Path(__file__).parents[1]
SMALL = (
    *("--width", "4", "--depth", "2", "--size", "32", "32", "--bs", "2"),
    *("--wandb", "disabled", "--device", "cpu"),
)
HARD = ("--accum", "2", "--dropout", "0.2", "--ema", "0.9", "--clip", "1", "--workers", "2")


def lines_of(out):
    """The lines of a run's record, less what a clock or the system's memory says."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    clock = re.compile("time|.*/(images_per_second|waiting|memory_gib)$")
    return [{k: v for k, v in line.items() if not clock.fullmatch(k)} for line in lines]


def differing(a, b, where=""):
    """Where two states differ in any bit."""
    if isinstance(a, dict):
        keys = sorted(a.keys() | b.keys(), key=str)
        both = [(a.get(key), b.get(key), f"{where}/{key}") for key in keys]
        return [d for x, y, at in both for d in differing(x, y, at)]
    if isinstance(a, list | tuple):
        pairs = zip(a, b, strict=True)
        return [d for i, (x, y) in enumerate(pairs) for d in differing(x, y, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): the n-th training step from now on ends with a SIGTERM to this process."""
    step = engine.train_step

    def set_up(num):
        done = []

        def counted(*args):
            terms = step(*args)
            done.append(1)
            if len(done) == num:
                os.kill(os.getpid(), signal.SIGTERM)
            return terms

        monkeypatch.setattr(engine, "train_step", counted)

    return set_up


def test_an_evaluation_says_once_what_speaks_against_it(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "6", "--eval-steps", "2", "--lr", "1e-9")
    ran = run_train(*words)
    assert ran.status == 0, ran.err
    said = [line for line in ran.out.splitlines() if line.startswith("worth a look: near: delta1")]
    assert len(said) == 1
    assert "worse than one constant answer's" in said[0]


def test_a_run_leaves_its_record(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "8", "--eval-steps", "4", "--seed", "3")
    ran = run_train(*words)
    assert ran.status == 0, ran.err
    assert ran.err == ""
    out = tmp_path / "runs" / "tiny"
    names = {path.name for path in out.iterdir()}
    assert {
        "config.json",
        "metrics.jsonl",
        "last.pt",
        "best.pt",
        "curves.png",
        "samples",
    } <= names
    assert any(name.startswith("confusion") for name in names)
    assert not [name for name in names if name.endswith((".part", ".tmp"))]

    config = json.loads((out / "config.json").read_text())
    assert config["tasks"][0] == json.loads(path.read_text())
    assert config["sizes"] == [[32, 32]]
    assert config["model"]["width"] == 4

    lines = lines_of(out)
    steps = [line["step"] for line in lines if "val/loss" in line]
    assert steps == [4, 8]
    last = lines[-1]
    assert {"val/parts/miou", "val/parts/baseline_miou", "val/edge/iou", "val/near/absrel"} <= set(
        last
    )
    logged = {key for line in lines for key in line if key.startswith("train/")}
    assert {"train/loss", "train/parts/ce", "train/edge/bce", "train/near/l1", "train/lr"} <= logged

    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "000004_tiny.png",
        "000008_tiny.png",
    ]
    for picture in out.rglob("*.png"):
        with Image.open(picture) as image:
            image.verify()
    best, final = (checkpoint.load(out / name) for name in ("best.pt", "last.pt"))
    assert final["step"] == 8
    scores = {line["step"]: line["val/parts/miou"] for line in lines if "val/loss" in line}
    assert best["scores"]["parts/miou"] == max(scores.values()) == final["best"]
    assert scores[best["step"]] == max(scores.values())
    assert "parts/miou" in ran.out
    assert "best constant answer" in ran.out
    last = ran.out.splitlines()[-1]
    assert last.endswith(f"python infer.py --weights runs/tiny/best.pt --input {data}")


def test_runs_do_not_overwrite_each_other(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    for _ in range(2):
        assert run_train("--task", path, "--data", data, "--steps", "1").status == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_runs_that_start_at_once_have_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(run_folder.new_folder, [tmp_path / "runs" / "tiny"] * 24))
    assert len(set(made)) == 24
    assert sorted(made) == sorted((tmp_path / "runs").iterdir())


def test_a_mistake_leaves_no_folder(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "1")
    assert run_train(*words, "--init", "none.pt").status == 2
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "mine").mkdir()
    assert run_train(*words, "--init", "none.pt", "--out", tmp_path / "mine").status == 2
    assert (tmp_path / "mine").is_dir()


@pytest.fixture(scope="module")
def uninterrupted():
    """What a run of 8 steps left, by its flags: made once, compared with often."""
    return {}


@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (7,), (2, 3)])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    run_train, tiny_json, tmp_path, stop_after, uninterrupted, stops
):
    """7 images to train on, 4 a step: epochs end within steps, and evaluations after 4 and 8."""
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "8", "--eval-steps", "4", *HARD)
    if not uninterrupted:
        assert run_train(*words, "--out", "whole").status == 0
        for name in ("last.pt", "best.pt"):
            uninterrupted[name] = checkpoint.load(tmp_path / "whole" / name)
        uninterrupted["lines"] = lines_of(tmp_path / "whole")
        pictures = (tmp_path / "whole" / "samples").iterdir()
        uninterrupted["samples"] = {p.name: p.read_bytes() for p in pictures}

    out, resume = tmp_path / "parts", ("--out", "parts")
    for stop in stops:
        stop_after(stop)
        ran = run_train(*words, *resume)
        assert ran.status == 130
        assert "stopped after step" in ran.out
        words, resume = (), ("--resume", "parts/last.pt")
    stop_after(0)
    assert run_train(*resume).status == 0

    for name in ("last.pt", "best.pt"):
        found, expected = checkpoint.load(out / name), uninterrupted[name]
        assert found["step"] == expected["step"]
        keys = expected.keys() - {"config", "run_id"}  # the flags and the name of the run
        assert found.keys() - {"config", "run_id"} == keys
        assert differing({k: found[k] for k in keys}, {k: expected[k] for k in keys}) == []
    val = [[x for x in each if "val/loss" in x] for each in (lines_of(out), uninterrupted["lines"])]
    assert val[0] == val[1]
    assert {p.name: p.read_bytes() for p in (out / "samples").iterdir()} == uninterrupted["samples"]


def test_killed_at_any_moment_a_run_ends_as_if_nothing_had_been():
    """A few of the kills that `python tests/kills.py 200` tries."""
    command = [sys.executable, REPOSITORY / "tests" / "kills.py", "3"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout.startswith("3 of 3 equal to the bit"), ran.stdout + ran.stderr


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells what a process holds")
def test_a_long_run_does_not_grow():
    """A few of the epochs of `python tests/long_run.py 2000`."""
    command = [sys.executable, REPOSITORY / "tests" / "long_run.py", "40"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout.endswith("grown: nothing\n"), ran.stdout + ran.stderr


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_what_watches_a_run_or_reads_for_it_changes_no_bit(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "5", "--eval-steps", "2", "--seed", "5")
    words += ("--dropout", "0.2", "--ema", "0.9", "--accum", "2")
    left = []
    for more in ("", "--workers 1", "--workers 4", "--wandb offline", "--vram 4"):
        out = tmp_path / f"run {more}"
        ran = run_train(*words, "--out", out, *more.split())
        assert ran.status == 0, ran.err
        left.append((checkpoint.load(out / "last.pt")["learner"], lines_of(out)))
        assert differing(left[0], left[-1]) == [], more


def test_the_comparison_would_see_a_difference(uninterrupted):
    if not uninterrupted:
        pytest.skip("runs after the test above")
    state = uninterrupted["last.pt"]["learner"]
    first, second = list(state["model"])[:2]
    other = {**state["model"], first: state["model"][first] + 1e-7, "new": torch.zeros(1)}
    assert sorted(differing(state["model"], other)) == sorted([f"/{first}", "/new"])
    assert torch.equal(state["model"][second], other[second])
    assert {"model", "optimizer", "schedule", "ema", "rng", "criterion"} <= state.keys()


@pytest.mark.parametrize(
    "words",
    [
        ("--optimizer", "sgd", "--schedule", "plateau", "--shuffle", "shards"),
        ("--loss-weights", "uncertainty", "--ckpt", "--schedule", "rsqrt", "--norm", "group"),
        ("--optimizer", "muon", "--encoder-lr", "0.5", "--aux", "0.4", "--loss-weights", "max"),
    ],
    ids=["plateau", "uncertainty", "muon"],
)
def test_other_settings_resume_too(run_train, tiny_json, tmp_path, stop_after, words):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "5", "--eval-steps", "1", *words)
    assert run_train(*words, "--out", "whole").status == 0
    stop_after(3)
    assert run_train(*words, "--out", "parts").status == 130
    stop_after(0)
    path.unlink()  # the checkpoint has it
    assert run_train("--resume", "parts/last.pt").status == 0
    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts")]
    assert differing(states[0]["learner"], states[1]["learner"]) == []


@needs_gpu
@pytest.mark.parametrize("words", [(), ("--amp",), ("--amp", "--ckpt")], ids=" ".join)
def test_a_run_on_a_gpu_resumes_to_the_bit(run_train, tiny_json, tmp_path, stop_after, words):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "6", "--eval-steps", "3", *HARD, *words)
    words += ("--device", "cuda", "--deterministic")
    assert run_train(*words, "--out", "whole").status == 0
    stop_after(4)
    assert run_train(*words, "--out", "parts").status == 130
    stop_after(0)
    assert run_train("--resume", "parts/last.pt", "--device", "cuda").status == 0
    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts")]
    assert differing(states[0]["learner"], states[1]["learner"]) == []


def test_a_plateau_is_seen_across_a_stop(run_train, tiny_json, tmp_path, monkeypatch, stop_after):
    """The score never improves on the first: the rate falls after the third that does not."""
    path, data = tiny_json
    validate = train.validate
    monkeypatch.setattr(train, "validate", lambda *a: validate(*a)._replace(score=0.5))
    words = ("--schedule", "plateau", "--warmup", "0", "--lr", "0.01", "--steps", "5")
    words = ("--task", path, "--data", data, "--eval-steps", "1", *words)
    stop_after(3)
    assert run_train(*words).status == 130
    stop_after(0)
    assert run_train("--task", path, "--resume").status == 0
    rates = [
        line["train/lr"] for line in lines_of(tmp_path / "runs" / "tiny") if "train/lr" in line
    ]
    assert rates == pytest.approx([0.01] * 4 + [0.001])  # logged before the evaluation


def test_flags_given_with_resume_are_taken(run_train, tiny_json, tmp_path):
    """The learning rate always was; the optimiser's stored groups silently won over the others."""
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--warmup", "0", "--schedule", "constant")
    assert run_train(*words, "--steps", "2", "--out", "run").status == 0
    more = ("--lr", "0.02", "--weight-decay", "0.5", "--momentum", "0.5", "--ema", "0.9")
    ran = run_train("--resume", "run/last.pt", "--steps", "4", *more)
    assert ran.status == 0, ran.err
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    group = state["learner"]["optimizer"]["param_groups"][0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.02, 0.5, (0.5, 0.999))
    assert "ema" in state["learner"]
    stored = state["config"]["settings"]
    assert (stored["lr"], stored["weight_decay"], stored["ema"]) == (0.02, 0.5, 0.9)
    assert run_train("--resume", "run/last.pt", "--epochs", "2").status == 0
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 8  # not the --steps of before


def test_fewer_steps_where_all_would_take_too_long(run_train, tiny_json, tmp_path, stop_after):
    """Decided once: a run that is stopped later goes on to the same end, to the bit."""
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "30", "--eval-steps", "15")
    ran = run_train(*words, "--minutes", "1e-5", "--out", "short")
    assert ran.status == 0, ran.err
    assert "21 steps instead of 30, to end in 1e-05 minutes" in ran.out
    state = checkpoint.load(tmp_path / "short" / "last.pt")
    assert (state["step"], state["config"]["settings"]["steps"]) == (21, 21)
    assert state["learner"]["schedule"]["step"] == 21

    assert run_train(*words, "--out", "whole").status == 0
    stop_after(25)
    assert run_train(*words, "--minutes", "100", "--out", "parts").status == 130
    stop_after(0)
    assert run_train("--resume", "parts/last.pt").status == 0
    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts")]
    assert differing(states[0]["learner"], states[1]["learner"]) == []


def test_resume_finds_the_newest_run_of_the_task(run_train, tiny_json, tmp_path, stop_after):
    path, data = tiny_json
    other = tmp_path / "tiny24.json"
    other.write_text(json.dumps(json.loads(path.read_text()) | {"name": "tiny24"}))
    for task in (path, other):
        stop_after(1)
        assert run_train("--task", task, "--data", data, "--steps", "3").status == 130
        time.sleep(0.02)
    stop_after(0)
    ran = run_train("--task", path, "--resume")
    assert ran.status == 0, ran.err
    assert checkpoint.load(tmp_path / "runs" / "tiny" / "last.pt")["step"] == 3
    assert checkpoint.load(tmp_path / "runs" / "tiny24" / "last.pt")["step"] == 1
    assert run_train("--resume").status == 0  # the newest of all has ended: nothing to do


def test_a_finished_run_has_nothing_left_to_do_but_may_go_on(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    assert run_train("--task", path, "--data", data, "--steps", "2").status == 0
    last = tmp_path / "runs" / "tiny" / "last.pt"
    state = checkpoint.load(last)
    for words in ((), ("--steps", "1")):
        assert run_train("--resume", last, *words).status == 0
        assert differing(checkpoint.load(last)["learner"], state["learner"]) == []
    assert run_train("--resume", last, "--steps", "4").status == 0
    assert checkpoint.load(last)["step"] == 4


def test_more_ranks_share_the_batch_of_before(run_train, tiny_json, tmp_path, monkeypatch):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "1", "--bs", "4", "--out", "run")
    assert run_train(*words).status == 0
    last = tmp_path / "run" / "last.pt"

    def batch(ranks, *words):
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        return parse(["--resume", str(last), *words]).tasks[0].bs

    assert [batch(ranks) for ranks in (1, 2, 4)] == [4, 2, 1]
    assert (batch(2, "--bs", "4"), batch(2, "--accum", "2")) == (4, 4)
    with pytest.raises(ValueError, match="batches of 4 do not divide by 3 ranks: say --bs"):
        batch(3)
    state = checkpoint.load(last)
    state["config"]["ranks"] = 2  # each of which took 4
    checkpoint.save(last, state)
    assert [batch(ranks) for ranks in (1, 2)] == [8, 4]


def test_pictures_of_a_long_run_are_spread_over_it(run_train, tiny_json, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "PICTURES", 3)
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "10", "--eval-steps", "1")
    assert run_train(*words, "--workers", "0").status == 0
    names = sorted(p.name for p in (tmp_path / "runs" / "tiny" / "samples").iterdir())
    assert names == [f"{step:06d}_tiny.png" for step in (4, 8, 10)]


@pytest.mark.parametrize("named", [("runs/tiny",), ()])
def test_a_damaged_checkpoint_costs_no_more_than_since_the_last(
    run_train, tiny_json, tmp_path, named
):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "6", "--eval-steps", "2")
    assert run_train(*words).status == 0
    folder = tmp_path / "runs" / "tiny"
    last, previous = folder / "last.pt", folder / "previous.pt"
    whole = checkpoint.load(last)
    last.write_bytes(last.read_bytes()[:5000])
    assert run_train("--resume", last).status == 2  # whoever names a file means no other
    ran = run_train("--resume", *named)
    assert ran.status == 0, ran.err
    assert ran.err.count("\n") == 1
    assert ran.err.startswith(f"passed over: {Path('runs/tiny/last.pt')}: ")
    assert "6 steps" in ran.out
    assert differing(checkpoint.load(last)["learner"], whole["learner"]) == []
    assert checkpoint.load(previous)["step"] == 4


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_names_the_folder_and_the_last_good_checkpoint(
    run_train, tiny_json, tmp_path, monkeypatch
):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--eval-steps", "2", "--out", "run", "--steps")
    assert run_train(*words, "2").status == 0
    monkeypatch.setattr(run_folder.RunLogger, "log", full)
    ran = run_train("--resume", "run/last.pt", "--steps", "4")
    expected = f"last good checkpoint is {Path('run/last.pt')}"
    assert (ran.status, ran.err) == (2, f"error: run: No space left on device; the {expected}\n")
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 2


def test_pictures_that_have_no_room_end_nothing(run_train, tiny_json, tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", full)
    path, data = tiny_json
    ran = run_train("--task", path, "--data", data, "--steps", "2", "--out", "run")
    line = "warning: run: No space left on device: went on without a picture"
    assert (ran.status, ran.err.splitlines()) == (0, [line] * 2)  # samples; charts at the end
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 2
    assert not list((tmp_path / "run").rglob("*.p[na]*"))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no way to mount a small disk")
def test_wherever_the_disk_is_full_a_run_ends_well_and_goes_on():
    """A few of the disks that `python tests/full_disks.py` tries."""
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    command = [*own, sys.executable, REPOSITORY / "tests" / "full_disks.py", "130"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert re.search(r"^(\d+) of \1 disks held", ran.stdout, re.MULTILINE), ran.stdout + ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=str)
def test_a_signal_to_the_whole_group_is_a_stop_like_any_other(tiny_json, tmp_path, number):
    """As `timeout`, a closed terminal and batch systems send it: the workers get it too."""
    path, data = tiny_json
    words = [*SMALL, "--workers", "2", "--steps", "100000", "--eval-steps", "50", "--out", "group"]
    command = [sys.executable, REPOSITORY / "train.py", "--task", path, "--data", data, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as process:
        metrics = tmp_path / "group" / "metrics.jsonl"
        for _ in range(600):
            if metrics.exists() and metrics.stat().st_size or process.poll() is not None:
                break
            time.sleep(0.1)
        os.killpg(process.pid, number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # else a failure would wait for ever
    assert process.returncode == (75 if number == signal.SIGUSR1 else 130), err
    assert "stopped after step" in out
    assert err == ""
    assert checkpoint.load(tmp_path / "group" / "last.pt")["step"] > 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux tells what a process has loaded")
def test_a_signal_before_the_first_step_is_one_line(tiny_json, tmp_path):
    """While torch is imported, which takes seconds."""
    command = [sys.executable, REPOSITORY / "train.py", "--task", tiny_json[0]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "stopped\n")
    assert not (tmp_path / "runs").exists()


def test_the_slurm_job_of_the_readme_requeues_itself_until_it_is_done(tiny_json, tmp_path):
    """With stand-ins: `srun` runs one process, `sbatch` warns it."""
    text = (REPOSITORY / "utils" / "README.md").read_text()
    job = tmp_path / "job.sh"
    job.write_text(re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.DOTALL)[1])
    assert "#SBATCH --signal=USR1@" in job.read_text()
    train_py = shlex.join([sys.executable, str(REPOSITORY / "train.py")])
    flags = shlex.join(map(str, ["--task", tiny_json[0], "--data", tiny_json[1], *SMALL]))
    for name, line in {
        "srun": 'echo $$ > pid; exec "$@"',
        "scontrol": 'echo "$@" >> requeued',
        "python": f'shift; exec {train_py} "$@" {flags} --eval-steps 5 $MORE',
    }.items():
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f"#!/bin/sh\n{line}\n")
        stand_in.chmod(0o755)

    def sbatch(more, warns):
        env = os.environ | {"SLURM_JOB_ID": "7", "MORE": more}
        env["PATH"] = f"{tmp_path / 'bin'}:{env['PATH']}"
        with subprocess.Popen(["bash", job], cwd=tmp_path, env=env) as process:
            metrics = tmp_path / "runs" / "damage" / "metrics.jsonl"
            while warns and process.poll() is None:
                time.sleep(0.1)
                if metrics.exists() and metrics.stat().st_size:
                    os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR1)
                    break
        return process.returncode

    assert sbatch("--steps 100000", warns=True) == 75
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    last = tmp_path / "runs" / "damage" / "last.pt"
    step, told = checkpoint.load(last)["step"], (last.parent / "metrics.jsonl").read_bytes()
    assert sbatch(f"--steps {step + 2}", warns=False) == 0
    assert checkpoint.load(last)["step"] == step + 2
    assert (last.parent / "metrics.jsonl").read_bytes().startswith(told)  # it has gone on
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.parametrize("words", [(), ("--dropout", "0.02")], ids=["plain", "dropout"])
def test_one_batch_can_be_learnt_by_heart(run_train, tiny_json, tmp_path, words):
    path, data = tiny_json
    ran = run_train(
        *("--task", path, "--data", data, "--overfit", "1", "--width", "8", "--seed", "1"),
        *("--eval-steps", "300", *words),
    )
    assert ran.status == 0, ran.err
    scores = checkpoint.load(tmp_path / "runs" / "tiny" / "best.pt")["scores"]
    assert scores["parts/miou"] > 0.99
    assert scores["edge/iou"] > 0.99
    assert scores["near/delta1"] > 0.99
    assert checkpoint.load(tmp_path / "runs" / "tiny" / "last.pt")["step"] == OVERFIT_STEPS


def test_three_tasks_in_one_run(run_train, run_infer, make_data, tmp_path):
    names = ("damage", "cityscapes", "maskdepth")
    paths = [make_data(TASKS[name], f"{name}.zip", num=6) for name in names]
    ran = run_train("--task", *names, "--data", *paths, "--steps", "3", "--centre", "0")
    assert ran.status == 0, ran.err
    out = tmp_path / "runs" / "damage+cityscapes+maskdepth"
    last = lines_of(out)[-1]
    expected = {"val/damage/miou", "val/cityscapes/miou", "val/mask/iou", "val/depth/absrel"}
    assert expected <= set(last)
    best = checkpoint.load(out / "best.pt")
    assert [task["name"] for task in best["config"]["tasks"]] == list(names)
    confusions = sorted(p.name for p in out.glob("confusion*.png"))
    assert confusions == ["confusion_cityscapes.png", "confusion_damage.png"]
    assert len(list((out / "samples").iterdir())) == 3
    ran = run_infer("--task", "maskdepth", "--evaluate", "--input", paths[2])
    assert ran.status == 0, ran.err
    assert set(json.loads(ran.out)) >= {"mask/iou", "depth/absrel"}
    assert not any(name.startswith("damage") for name in json.loads(ran.out))


@pytest.mark.parametrize("name", TASKS)
def test_every_built_in_task_trains(run_train, make_data, tmp_path, name):
    data = make_data(TASKS[name], "data.zip", num=6)
    ran = run_train("--task", name, "--data", data, "--steps", "2")
    assert ran.status == 0, ran.err
    losses = [
        line["train/loss"] for line in lines_of(tmp_path / "runs" / name) if "val/loss" not in line
    ]
    assert all(0 < loss < 100 for loss in losses)


@pytest.mark.parametrize("words", [(), ("--centre", "16")], ids=str)
def test_a_timm_encoder_trains_with_the_defaults_of_a_task(run_train, make_data, words):
    """Sizes that its stride of 32 does not divide, nor that of one more pooling."""
    pytest.importorskip("timm")
    data = make_data(TASKS["damage"], "data.zip", num=6)
    flags = ("--encoder", "resnet18", "--size", "72", "40", "--steps", "1", *words)
    ran = run_train("--task", "damage", "--data", data, *flags)
    assert ran.status == 0, ran.err


def test_a_loss_that_is_not_a_number_is_not_saved(run_train, tiny_json, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "SAVE_SECONDS", 0)
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "20", "--eval-steps", "20")
    ran = run_train(*words, "--lr", "1e30")
    assert ran.status == 2
    assert "step 10: the loss, or its gradient, of 9 steps is infinite or not a number" in ran.err
    assert not list(tmp_path.glob("runs/*/*.pt"))
    assert run_train(*words).status == 0
    assert len(list(tmp_path.glob("runs/*/last.pt"))) == 1


LEFT_OUT = "the loss, or its gradient, is infinite or not a number: left out, with "


def test_steps_that_are_not_finite_are_left_out_and_five_in_a_row_end_it(
    run_train, tiny_json, tmp_path, monkeypatch
):
    path, data = tiny_json
    backward, seen = engine._backward, []

    def spoilt(state, batch, accum):
        terms = backward(state, batch, accum)
        seen.append(sorted(set(batch.keys)))
        if len(seen) == 4 or len(seen) > 11:
            next(state.model.parameters()).grad.fill_(float("nan"))
        return terms

    monkeypatch.setattr(engine, "_backward", spoilt)
    words = ("--task", path, "--data", data, "--steps", "30", "--eval-steps", "5", "--out", "run")
    ran = run_train(*words)
    assert ran.status == 2
    assert "error: step 20: the loss, or its gradient, of 9 steps is infinite" in ran.err
    assert ran.err.endswith(f"the last good checkpoint is {Path('run/last.pt')}\n")
    told = [line for line in ran.out.splitlines() if line.startswith("step 4: ")]
    assert told == [f"step 4: {LEFT_OUT}{', '.join(seen[3])}"]
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert (state["step"], checkpoint.not_finite(state)) == (10, None)
    lines = lines_of(tmp_path / "run")
    left_out = {line["step"]: line["not_finite"] for line in lines if "not_finite" in line}
    assert left_out == {step: seen[step - 1] for step in (4, *range(12, 21))}
    assert all(line["train/loss"] > 0 for line in lines if "train/loss" in line)


@pytest.mark.parametrize("part", ["weight", "buffer", "moment", "average", "validation"])
def test_what_diverges_leaves_the_last_good_checkpoint(
    run_train, tiny_json, tmp_path, monkeypatch, part
):
    """Every logged loss is finite; the third step leaves what is not."""
    path, data = tiny_json
    step, validate, done = engine.train_step, train.validate, []

    def spoilt(state, *rest):
        terms = step(state, *rest)
        done.append(1)
        if len(done) == 3 and part != "validation":
            moments = next(iter(state.optimizer.state.values()))
            found = {
                "weight": next(state.model.parameters()),
                "buffer": next(b for b in state.model.buffers() if b.ndim == 1),
                "moment": moments["exp_avg_sq"],
                "average": next(state.averaged.parameters()),
            }[part]
            found.data[(0,) * found.ndim] = float("inf")
        return terms

    def judged(*args):
        found = validate(*args)
        if len(done) == 3 and part == "validation":
            found.scores["loss"] = float("nan")
        return found

    monkeypatch.setattr(engine, "train_step", spoilt)
    monkeypatch.setattr(train, "validate", judged)
    words = ("--task", path, "--data", data, "--steps", "6", "--ema", "0.9", "--optimizer", "adamw")
    ran = run_train(*words, "--eval-steps", "1")
    assert ran.status == 2
    lines = [line for line in ran.err.splitlines() if line.startswith("error: step 3: ")]
    assert len(lines) == 1
    assert "infinite or not a number" in lines[0]
    assert lines[0].endswith(f"the last good checkpoint is {Path('runs/tiny/last.pt')}")
    for name in ("last.pt", "best.pt"):
        state = checkpoint.load(tmp_path / "runs" / "tiny" / name)
        assert state["step"] <= 2
        assert checkpoint.not_finite(state) is None


def kill_worker(number):
    """One process that loads data is dead then, and its death still to be seen."""
    worker = multiprocessing.active_children()[0]
    os.kill(worker.pid, number)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=str)
def test_a_worker_that_dies_in_a_step_costs_no_step(
    run_train, tiny_json, tmp_path, monkeypatch, number
):
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "9", "--eval-steps", "5", "--workers", "2")
    assert run_train(*words, "--out", "whole").status == 0
    step = engine._gradients

    def killing(state, *rest):
        if state.schedule.step == 3:
            kill_worker(number)
        return step(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_gradients", killing)
        ran = run_train(*words, "--out", "cut")
    assert ran.status == 2
    (line,) = [line for line in ran.err.splitlines() if "error: " in line]
    assert "--workers" in line
    assert "Traceback" not in ran.err
    assert checkpoint.load(tmp_path / "cut" / "last.pt")["step"] == 4
    assert run_train("--resume", "cut/last.pt").status == 0
    states = [checkpoint.load(tmp_path / out / "last.pt") for out in ("whole", "cut")]
    assert differing(states[0]["learner"], states[1]["learner"]) == []


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), EOFError()], ids=str)
def test_a_worker_breaks_its_batch_before_its_death_is_told(
    run_train, tiny_json, tmp_path, monkeypatch, error
):
    """What is read from one that is being killed fails with an error of its own."""
    path, data = tiny_json
    take, taken = loader._Deaths.next, []

    def breaking(deaths, batches):
        taken.append(1)
        if len(taken) == 4:
            kill_worker(signal.SIGKILL)
            raise type(error)(*error.args)  # the table's own would hold the loader to the end
        return take(deaths, batches)

    monkeypatch.setattr(loader._Deaths, "next", breaking)
    words = ("--task", path, "--data", data, "--steps", "9", "--workers", "2", "--out", "cut")
    ran = run_train(*words)
    assert ran.status == 2
    assert ran.err.startswith("error: a process that loads data ended before its time"), ran.err
    assert checkpoint.load(tmp_path / "cut" / "last.pt")["step"] == 3


@pytest.mark.parametrize("ends", ["signal", "death"])
def test_an_evaluation_that_is_ended_is_done_when_the_run_goes_on(
    run_train, tiny_json, tmp_path, monkeypatch, ends
):
    """After step 4, between the first batch and the second; that of the last step, too."""
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "8", "--eval-steps", "4")
    assert run_train(*words, "--out", "whole").status == 0

    def ending(batches):
        yield next(batches)
        if ends == "death":
            raise WorkerDied("a process ended")
        os.kill(os.getpid(), signal.SIGTERM)
        yield from batches

    eval_batches = validation.eval_batches
    for resume in ((*words, "--out", "cut"), ("--resume", "cut")):
        with monkeypatch.context() as patch:
            patch.setattr(validation, "eval_batches", lambda *a: ending(eval_batches(*a)))
            ran = run_train(*resume)
        assert ran.status == (2 if ends == "death" else 130)
        assert ("go on with" in ran.out) == (ends == "signal")
    assert run_train("--resume", "cut").status == 0
    found, expected = (checkpoint.load(tmp_path / out / "last.pt") for out in ("cut", "whole"))
    assert found["step"] == 8
    assert differing(found["learner"], expected["learner"]) == []
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")
    assert sorted((tmp_path / "cut" / "samples").iterdir())


def test_a_task_file_of_the_repository_trains(run_train, make_data, tmp_path):
    path = REPOSITORY / "datasets" / "nyuv2.json"
    data = make_data(load_task(str(path)), "data.h5", num=6)
    ran = run_train("--task", path, "--data", data, "--steps", "2")
    assert ran.status == 0, ran.err
    assert "val/metres/delta1" in lines_of(tmp_path / "runs" / "nyuv2")[-1]


def test_losses_and_their_weights(run_train, tiny_json, tmp_path):
    path, data = tiny_json
    base = ("--task", path, "--data", data, "--steps", "1", "--class-weights")
    losses = ("--losses", "parts=dice+0.5*focal", "near=silog+grad", "edge=bce+dice")
    weights = ("--loss-weights", "parts=2", "edge=0", "near=0.5")
    assert run_train(*base, *losses, *weights).status == 0
    (line, *_) = lines_of(tmp_path / "runs" / "tiny")
    terms = {key for key in line if key.startswith("train/") and key.count("/") == 2}
    assert terms == {
        *("train/parts/dice", "train/parts/focal", "train/near/silog", "train/near/grad"),
        *("train/edge/bce", "train/edge/dice"),
    }
    expected = 2 * (line["train/parts/dice"] + 0.5 * line["train/parts/focal"])
    expected += 0.5 * (line["train/near/silog"] + line["train/near/grad"])
    assert line["train/loss"] == pytest.approx(expected, rel=1e-5)

    assert run_train(*base, "--loss-weights", "uncertainty", "--out", "learned").status == 0
    state = checkpoint.load(tmp_path / "learned" / "last.pt")["learner"]
    assert state["criterion"]["log_variances"].abs().sum() > 0


def test_the_encoder_of_another_run(run_train, tiny_json, make_data, tmp_path):
    path, data = tiny_json
    assert run_train("--task", path, "--data", data, "--steps", "1", "--out", "first").status == 0
    first = tmp_path / "first" / "best.pt"
    second = make_data(TASKS["maskdepth"], "md.zip", num=6)
    words = ("--task", "maskdepth", "--data", second, "--steps", "1", "--convs", "2")
    ran = run_train(*words, "--init", first, "--lr", "0", "--out", "second")
    assert ran.status == 0, ran.err
    states = [
        checkpoint.load(first)["model"],
        checkpoint.load(tmp_path / "second" / "best.pt")["model"],
    ]
    names = [n for n in states[0] if n.startswith("encoder.") and n.endswith(".weight")]
    assert names
    convolutions = [name for name in names if states[0][name].ndim == 4]
    assert all(torch.equal(states[0][name], states[1][name]) for name in convolutions)

    ran = run_train(*words, "--init", first, "--width", "8", "--out", "third")
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith("error: ")
    assert str(first) in ran.err
    first.unlink()
    assert run_train("--resume", "second/last.pt", "--steps", "2").status == 0


def test_no_label_is_no_score(run_train, tiny_json, tmp_path):
    """Nothing to validate is labelled: scores are nan, null in the record; a best.pt is there."""
    path, data = tiny_json
    for label in (data / "parts").iterdir():
        if label.stem != "k01":  # on which it trains: without any label it would not begin
            Image.new("L", (48, 40), 255).save(label)
    ran = run_train("--task", path, "--data", data, "--steps", "2", "--eval-steps", "1")
    assert ran.status == 0, ran.err
    lines = [line for line in lines_of(tmp_path / "runs" / "tiny") if "val/loss" in line]
    assert [line["val/parts/miou"] for line in lines] == [None, None]
    assert checkpoint.load(Path("runs/tiny/best.pt"))["step"] == 2


def test_a_score_is_better_than_none_and_none_is_never_better(run_train, tiny_json, monkeypatch):
    path, data = tiny_json
    scores = iter([float("nan"), 0.2, float("nan"), 0.1, 0.3, float("nan")])
    validate = train.validate
    monkeypatch.setattr(train, "validate", lambda *a: validate(*a)._replace(score=next(scores)))
    words = ("--task", path, "--data", data, "--steps", "6", "--eval-steps", "1")
    assert run_train(*words).status == 0
    assert checkpoint.load(Path("runs/tiny/best.pt"))["step"] == 5
    assert checkpoint.load(Path("runs/tiny/last.pt"))["best"] == 0.3


def test_help_answers_at_once():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, REPOSITORY / "train.py", "--help"], capture_output=True, text=True
        )
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert done.stderr == ""
        if times[-1] < 1:
            break
    assert min(times) < 1, times
    for word in ("what:", "model:", "learning:", "--loss-weights", "damage", "maskdepth", "--size"):
        assert word in done.stdout


def test_infer_helps_too(run_infer):
    ran = run_infer("--help")
    assert ran.status == 0
    assert "--evaluate" in ran.out


def commands():
    """Every train.py command of the README that names a task that is there."""
    text = (REPOSITORY / "README.md").read_text() if (REPOSITORY / "README.md").exists() else ""
    found = re.findall(r"python train\.py ([^\n`&|]*--task [^\n`&|]*)", text)
    return [line for line in found if not re.search(r"TASK|leaves\.json|\.\.\.", line)]


RECIPES = [
    "--task damage --bs 6 --amp --ckpt",
    "--task damage --optimizer sgd --lr 0.0449 --momentum 0.83 --epochs 150 --bs 6 --amp --ckpt",
    "--task maskdepth --optimizer sgd --lr 0.01 --momentum 0.9 --weight-decay 1e-5 "
    "--schedule plateau --bs 16 --epochs 40 --losses mask=bce depth=bce --loss-weights depth=2",
    "--task cityscapes24 --accum 4 --clip 1 --schedule rsqrt --warmup 500 --eval-steps 200",
    "--task datasets/deepcrack.json --overfit 1 --dropout 0.2 --width 16",
    "--task damage cityscapes maskdepth --loss-weights uncertainty --steps 10",
    "--task damage --split-by material=Paper --ema 0.99 --class-weights --ckpt selective",
    "--task damage --no-class-weights --bs auto --vram 6 --plan",
    "--task damage --encoder resnet18 --pretrained --no-amp --compile --deterministic",
    *commands(),
]


@pytest.mark.parametrize("line", RECIPES)
def test_recipes_parse(line, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(line)
    settings = parse([*words, "--out", "/nonexistent/run"])
    given = words[words.index("--task") + 1 :]
    names = [Path(own.task.name).stem for own in settings.tasks]
    assert names == [Path(name).stem for name in given[: len(names)]]
    assert settings.out == Path("/nonexistent/run")
