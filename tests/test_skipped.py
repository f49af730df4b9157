"""A damaged member costs its own sample, is listed once, and changes nothing for the others."""

import json
import os
import signal
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, SMALL, TINY, encode, members_of, put
from learners import make_case
from test_infer import keep
from test_train import differing

import train
from datasets.class_weights import class_histogram
from datasets.dataset import BadMember, open_split, open_task
from datasets.loader import eval_batches, train_loader
from datasets.stores import write_hdf5, write_zip
from utils import checkpoint, engine
from utils.distributed import Distributed
from utils.engine import train_step
from utils.run.logger import RunLogger
from utils.skipped import Skipped

TRAINED, VALIDATED = "k01", "k00"  # on which side the tiny task's hash puts them


def relabelled(value=0, size=(40, 48)):
    return lambda _: encode(np.full(size, value, np.uint8), "x.png")


def as_it_is(data):
    return data


DAMAGES = {  # what of a sample, what is done to its bytes before they are packed, what is said
    "flipped byte": ("img", as_it_is, "CRC-32"),
    "truncated PNG": ("img", lambda data: data[: len(data) // 2], "cannot be decoded"),
    "wrong label": ("parts", relabelled(77), "label value 77 is not one of 0..2, 255"),
    "other size": ("edge", relabelled(255, (40, 47)), "is 47x40, its image 48x40"),
}


def damaged(path, damage, *keys, num=10):
    """A shard of the tiny task whose samples of these keys are damaged; the members, as errors call
    them."""
    what, change, _ = DAMAGES[damage]
    members, names = members_of(TINY, num), [f"{what}/{key}.png" for key in keys]
    raw = {name: members[name] for name in names}
    members |= {name: change(data) for name, data in raw.items()}
    (write_hdf5 if path.suffix == ".h5" else write_zip)(path, members.items())
    if damage == "flipped byte":
        shard = bytearray(path.read_bytes())
        for data in raw.values():
            shard[shard.index(data) + len(data) // 2] ^= 16
        path.write_bytes(shard)
    return [f"{path}: {name}" for name in names]


def listed(out):
    """Member and reason of every line of a run's list."""
    lines = (out / "skipped.txt").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


@pytest.fixture
def tiny_words(tmp_path):
    """The tiny task as words of train.py."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_json()))
    return "--task", tmp_path / "tiny.json"


def test_the_keys_are_on_the_sides_they_should_be(make_data):
    data = open_task(TINY, [make_data(TINY)], (32, 32))
    assert TRAINED in "".join(map(data.train.table.key, range(len(data.train))))
    assert VALIDATED in "".join(map(data.val.table.key, range(len(data.val))))


@pytest.mark.parametrize("suffix", [".zip", ".h5"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_and_lists_what_it_skipped(
    run_train, tiny_words, tmp_path, monkeypatch, damage, suffix
):
    bad = damaged(tmp_path / f"data{suffix}", damage, TRAINED, VALIDATED)
    words = (*tiny_words, "--data", tmp_path / f"data{suffix}", "--steps", "5", "--bs", "3")
    sent = []
    monkeypatch.setattr(RunLogger, "skipped", lambda self, step, rows: sent.append(dict(rows)))
    ran = run_train(*words, "--skip-bad", "2")
    assert ran.status == 0, ran.err
    out = tmp_path / "runs" / "tiny"
    assert sent[-1] == dict(listed(out))
    assert [member for member, _ in listed(out)] == bad  # training meets one, validation the other
    assert all(DAMAGES[damage][2] in reason for _, reason in listed(out))
    assert [line for line in ran.out.splitlines() if line.startswith("skipped")] == [
        f"skipped {member}: {reason}" for member, reason in listed(out)
    ]
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert [line["train/skipped"] for line in lines if "train/skipped" in line] == [1]
    ran = run_train(*words)
    assert (ran.status, ran.out.count("skipped")) == (2, 0)
    assert ran.err.startswith(f"error: {bad[0]}: ")
    assert DAMAGES[damage][2] in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_too_many_ends_the_run_and_a_larger_limit_goes_on(
    run_train, tiny_words, tmp_path, workers
):
    data = tmp_path / "data.zip"
    bad = damaged(data, "wrong label", "k01", "k02", "k03")
    words = (*tiny_words, "--data", data, "--workers", workers)
    words = (*words, "--steps", "9", "--eval-steps", "1", "--bs", "1")
    assert run_train(*words, "--skip-bad", "3", "--out", "whole").status == 0
    ran = run_train(*words, "--skip-bad", "2", "--out", "parts")
    assert ran.status == 2
    (line,) = ran.err.splitlines()
    first = [member for member, _ in listed(tmp_path / "parts")]
    (last,) = set(bad) - set(first)
    assert len(first) == 2
    assert line.startswith(f"error: {last}: label value 77")
    assert line.endswith("; 2 skipped before it, --skip-bad 2 is the limit")
    stopped = checkpoint.load(tmp_path / "parts" / "last.pt")["step"]
    assert 0 < stopped < 9

    resume = ("--resume", "parts/last.pt", "--bs", "1")
    ran = run_train(*resume, "--skip-bad", "1")
    assert ran.err == "error: parts/skipped.txt: lists 2 members, --skip-bad 1 is the limit\n"
    ran = run_train(*resume, "--skip-bad", "3")
    assert ran.status == 0, ran.err
    assert ran.out.count("\nskipped") == 1  # the others are known
    assert listed(tmp_path / "parts") == listed(tmp_path / "whole")
    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts")]
    assert differing(states[0]["learner"], states[1]["learner"]) == []


@pytest.mark.parametrize(
    "loading", [("--bs", "1"), ("--bs", "3", "--workers", "2", "--accum", "2")], ids=" ".join
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    run_train, tiny_words, tmp_path, monkeypatch, loading
):
    """With a bad member on either side of the stop; a batch of one is then a batch of none."""
    data = tmp_path / "data.h5"
    damaged(data, "flipped byte", "k01", "k02", VALIDATED)
    words = (*tiny_words, "--data", data, "--steps", "8", "--eval-steps", "4", *loading)
    words = (*words, "--skip-bad", "3", "--ema", "0.9", "--dropout", "0.2")
    assert run_train(*words, "--out", "whole").status == 0
    step, done = engine.train_step, []

    def stopped(*args):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", stopped)
        assert run_train(*words, "--out", "parts").status == 130
    assert run_train("--resume", "parts/last.pt", *loading).status == 0
    for name in ("last.pt", "best.pt"):
        states = [checkpoint.load(tmp_path / out / name) for out in ("whole", "parts")]
        for state in states:
            del state["config"], state["run_id"]
        assert differing(*states) == []
    assert listed(tmp_path / "whole") == listed(tmp_path / "parts")
    assert len(listed(tmp_path / "whole")) == 3


def test_a_run_that_starts_anew_forgets_the_list(run_train, tiny_words, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "skipped.txt").write_text("old.zip: a.png\tcut\n")
    words = (*tiny_words, "--data", put(tmp_path / "data", members_of(TINY)), "--steps", "1")
    assert run_train(*words, "--out", "out").status == 0
    assert not (tmp_path / "out" / "skipped.txt").exists()


def test_a_validation_split_of_which_nothing_is_left(run_train, tiny_words, tmp_path):
    members = members_of(TINY)
    folder = put(tmp_path / "data", members)
    val = open_task(TINY, [folder], (32, 32)).val
    keys = [val.table.key(i) for i in range(len(val))]
    put(folder, dict.fromkeys(keys, b""))
    words = (*tiny_words, "--data", folder, "--steps", "1", "--skip-bad", "9")
    ran = run_train(*words)
    assert ran.status == 2
    assert ran.err == "error: nothing to evaluate: not one sample of the split can be used\n"
    assert len(listed(tmp_path / "runs" / "tiny")) == len(keys) == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("bs", [1, 3])
def test_the_others_come_as_they_would(make_data, tmp_path, workers, bs):
    whole = open_task(TINY, [make_data(TINY, "whole.zip")], (32, 32)).train
    bad = damaged(tmp_path / "data.zip", "truncated PNG", "k01", "k05")
    holed = open_task(TINY, [tmp_path / "data.zip"], (32, 32)).train
    met = []
    num = 3 * len(whole) // bs
    first = list(islice(train_loader(whole, bs, 0), num))
    second = list(
        islice(train_loader(holed, bs, workers, on_bad=lambda *one: met.append(one)), num)
    )
    for a, b in zip(first, second, strict=True):
        kept = [i for i, key in enumerate(a.keys) if key not in ("img/k01.png", "img/k05.png")]
        assert b.keys == [a.keys[i] for i in kept]
        assert len(a.keys) == len(b.keys) + len(b.bad)
        assert torch.equal(b.image, a.image[kept])
        for name, target in a.targets.items():
            assert b.targets[name].dtype == target.dtype
            assert torch.equal(b.targets[name], target[kept])
    assert {member for member, _ in met} == set(bad)
    assert len(met) == sum(len(b.bad) for b in second) >= 4  # each epoch meets them again
    with pytest.raises(BadMember, match="cannot be decoded"):
        list(islice(train_loader(holed, bs, workers), num))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_what_is_bad(tmp_path, workers):
    bad = damaged(tmp_path / "data.h5", "other size", "k01", "k02", "k03", "k05")
    split = open_task(TINY, [tmp_path / "data.h5"], (32, 32)).train
    met = []
    batches = list(eval_batches(split, 2, workers, on_bad=lambda *one: met.append(one)))
    assert [member for member, _ in met] == bad
    keys = [key for batch in batches for key in batch.keys]
    every = [split.table.key(i) for i in range(len(split))]
    assert keys == [key for key in every if key[4:7] not in ("k01", "k02", "k03", "k05")]
    assert all(batch.keys for batch in batches)
    with pytest.raises(BadMember, match=r"edge/k01\.png: is 47x40"):
        list(eval_batches(split, 2, workers))


def test_the_histogram_counts_the_others(tmp_path):
    damaged(tmp_path / "data.zip", "wrong label", "k02")
    holed = open_task(TINY, [tmp_path / "data.zip"], (32, 32)).train
    met = []
    found = class_histogram(holed, tmp_path / "cache", lambda *one: met.append(one))
    others = [i for i in range(len(holed)) if holed.table.key(i) != "img/k02.png"]
    counts = sum(
        np.bincount(holed.load(i).targets["parts"].ravel(), minlength=256)[:3] for i in others
    )
    assert found == {"parts": counts.tolist()}
    assert [member for member, _ in met] == [f"{tmp_path}/data.zip: parts/k02.png"]
    with pytest.raises(BadMember, match="label value 77"):
        class_histogram(holed, tmp_path / "other cache")


def test_images_without_a_label_are_skipped_alike(run_train, tiny_words, tmp_path):
    members = members_of(TINY)
    for name in (f"parts/{TRAINED}.png", f"edge/{VALIDATED}.png"):
        del members[name]
    write_zip(tmp_path / "data.zip", members.items())
    words = (*tiny_words, "--data", tmp_path / "data.zip", "--steps", "9", "--class-weights")
    ran = run_train(*words)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert f"img/{TRAINED}.png: no target for parts, expected parts/{TRAINED}.png" in ran.err
    assert run_train(*words, "--skip-bad", "2").status == 0
    missing = {
        f"{tmp_path}/data.zip: img/{TRAINED}.png",
        f"{tmp_path}/data.zip: img/{VALIDATED}.png",
    }
    assert {member for member, _ in listed(tmp_path / "runs" / "tiny")} == missing
    split, met = open_split(TINY, [tmp_path / "data.zip"], "train", unlabelled=2), {}
    keys = [key for each in eval_batches(split, 2, 0, on_bad=met.setdefault) for key in each.keys]
    assert len(keys) == len(split) - 2
    assert met.keys() == missing


def test_a_label_that_is_a_broken_link(run_train, tiny_words, tmp_path):
    """No bytes to read, and no time of change for the counted classes to depend on."""
    folder = put(tmp_path / "data", members_of(TINY))
    (folder / "parts" / "k01.png").unlink()
    (folder / "parts" / "k01.png").symlink_to(folder / "gone.png")
    words = (*tiny_words, "--data", folder, "--steps", "4", "--class-weights")
    ran = run_train(*words)
    assert ran.err == f"error: {folder}: parts/k01.png: cannot be read: No such file or directory\n"
    assert run_train(*words, "--skip-bad", "1").status == 0


def test_workers_that_may_open_too_few_files_are_not_started(make_data):
    code = """if __name__ == "__main__":
    import resource, sys, torch
    from conftest import TINY
    from datasets.dataset import open_split
    from datasets.loader import eval_batches
    from datasets.task import UserError
    split = open_split(TINY, [sys.argv[1]], "train")
    for limit in range(12, 84, 6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 9999))
        try:
            print(sum(len(batch.keys) for batch in eval_batches(split, 2, 2)))
        except UserError as error:
            assert "Too many open files" in str(error), error
            print("refused")
"""
    ran = subprocess.run([sys.executable, "-c", code, make_data(TINY)], capture_output=True,
                         text=True, timeout=120, env=os.environ | {"PYTHONPATH": "tests:."},
                         cwd=Path(__file__).parents[1])  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    said = ran.stdout.split()
    assert (said[0], said[-1]) == ("refused", "7")


@pytest.mark.parametrize("task", ["damage", "cityscapes", "maskdepth"])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--ckpt",),
        ("--ckpt", "selective"),
        ("--norm", "group"),
        ("--loss-weights", "uncertainty"),
    ],
    ids=" ".join,
)
def test_a_batch_of_no_images_moves_nothing(task, words):
    small = ("--width", "4", "--depth", "2", "--optimizer", "sgd", "--weight-decay", "0")
    case = make_case(task, *small, "--size", "32", "32", "--bs", "2", "--device", "cpu", *words)
    before = {name: value.clone() for name, value in case.state.model.state_dict().items()}
    terms = train_step(case.state, [case.task.empty_batch(0, (32, 32))])
    assert all(term == 0 for term in terms.values())
    for name, parameter in case.state.model.named_parameters():
        assert (parameter.grad == 0).all(), name  # not None: several ranks wait for each other's
    for name, value in case.state.model.state_dict().items():
        assert torch.equal(value, before[name]) or name.endswith("num_batches_tracked")


def test_each_member_counts_once_and_the_list_survives(tmp_path):
    told, distributed = [], Distributed(torch.device("cpu"))
    skipped = Skipped(2, distributed, told.append, tmp_path / "run")
    assert skipped.count == {}
    assert not (tmp_path / "run").exists()
    for _ in range(3):
        skipped.add("a b.zip: x: y.png", "cut\n  short")
    skipped.add("a b.zip: x: z.png", "its CRC-32: wrong")
    assert told == [
        "skipped a b.zip: x: y.png: cut short",
        "skipped a b.zip: x: z.png: its CRC-32: wrong",
    ]
    assert listed(tmp_path / "run") == list(skipped.listed.items())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["skipped.txt"]
    again = Skipped(3, distributed, told.append, tmp_path / "run", resumed=True)
    again.add("a b.zip: x: y.png", "another reason")
    assert again.listed == skipped.listed
    assert again.count == {"skipped": 2}
    again.add("c.zip: x.png", "cut")
    assert len(told) == len(listed(tmp_path / "run")) == 3
    with pytest.raises(
        ValueError, match=r"^c.zip: y.png: cut; 3 skipped before it, --skip-bad 3 is"
    ):
        again.add("c.zip: y.png", "cut")
    assert len(listed(tmp_path / "run")) == 3


def test_members_of_any_name_are_listed_once(tmp_path):
    distributed = Distributed(torch.device("cpu"))
    names = ["a.zip: \u2028.png", "a.zip: \x85\x0c.png", "a.zip: \x1c"]
    skipped = Skipped(3, distributed, print, tmp_path)
    for name in names:
        skipped.add(name, "cut")
    again = Skipped(3, distributed, print, tmp_path, resumed=True)
    assert again.listed == dict.fromkeys(names, "cut")


@pytest.mark.parametrize("kind", ["zip", "h5"])
def test_no_damage_gives_a_wrong_sample(tmp_path, kind):
    """A byte flipped at 50 places, a shard cut at 50: it is refused, or each sample is right or
    counted."""
    path = tmp_path / f"data.{kind}"
    members = members_of(TINY, 4, (17, 16))
    (write_hdf5 if kind == "h5" else write_zip)(path, members.items())
    good, rng = path.read_bytes(), np.random.default_rng(0)
    task = TINY.to_json() | {"val_share": 0.01}
    task = type(TINY).from_json(task)
    samples = {s.keys[0]: s for s in eval_batches(open_task(task, [path], (8, 8)).train, 1, 0)}
    assert len(samples) >= 3
    counted, refused = 0, []
    for turn, at in enumerate(rng.integers(len(good), size=100)):
        raw = bytearray(good)
        if turn % 2:
            del raw[at:]
        else:
            raw[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        bad, seen = [], []
        try:
            split = open_task(task, [path], (8, 8)).train
        except ValueError as error:
            refused.append(str(error))
            continue
        for batch in eval_batches(split, 1, 0, on_bad=lambda *one, bad=bad: bad.append(one)):
            (key,) = batch.keys
            assert torch.equal(batch.image, samples[key].image)
            assert all(torch.equal(t, samples[key].targets[n]) for n, t in batch.targets.items())
            seen.append(key)
        assert all(member.startswith(f"{path}: ") for member, _ in bad)
        assert len(seen) + len(bad) == len(samples)
        counted += len(bad)
    assert counted > 10
    assert all(str(path) in error for error in refused)


@pytest.mark.parametrize("kind", ["data.zip", "data"])
def test_infer_skips_images_by_name_up_to_a_limit(run_infer, tmp_path, kind):
    keep(tmp_path / "tiny.pt", TINY)
    members = members_of(TINY)
    members |= {name: members[name][:99] for name in ("img/k01.png", "img/k03.png")}
    data = tmp_path / kind
    if kind == "data":
        put(data, members)
    else:
        write_zip(data, members.items())
    words = ("--weights", "tiny.pt", "--input", data)
    ran = run_infer(*words, "--skip-bad", "2")
    assert ran.status == 0, ran.err
    for name in ("img/k01.png", "img/k03.png"):
        assert f"skipped {data}: {name}: cannot be decoded" in ran.err
    assert "8 images predicted" in ran.err
    written = {path.name[:3] for path in (tmp_path / "predictions" / "img").iterdir()}
    assert written == {f"k{i:02d}" for i in (0, 2, 4, 5, 6, 7, 8, 9)}
    ran = run_infer(*words, "--evaluate", "train", "--skip-bad", "2")
    assert ran.status == 0, ran.err
    assert ran.err.count("skipped") == 2
    for more in (("--out", "other"), ("--evaluate", "train")):
        ran = run_infer(*words, *more, "--skip-bad", "1")
        assert ran.status == 2
        assert f"error: {data}: img/k03.png: cannot be decoded" in ran.err
        assert ran.err.endswith("; 1 skipped before it, --skip-bad 1 is the limit\n")
    ran = run_infer(*words, "--evaluate", "train")
    assert ran.status == 2
    assert ran.err.splitlines()[-1].startswith(f"error: {data}: img/k01.png: cannot be decoded")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def rank_of_two(rank, ports, folder, words):
    """What one of two processes does: it meets members of its own, takes a step without an image,
    and is one half of a run that goes on, and of one that does not."""
    torch.set_num_threads(1)
    os.chdir(folder)

    def launch(port):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))

    def run(*more):
        sys.argv = ["train.py", *SMALL, *QUIET, *words, *more]
        return train.main()

    result = {}
    launch(ports[0])
    distributed, told = Distributed(torch.device("cpu")), []
    skipped = Skipped(3, distributed, told.append, folder / "exchange")
    for name in ("ab", "bc")[rank]:
        skipped.add(f"s.zip: {name}.png", f"seen by {rank}" if name == "b" else "cut")
    result["before"] = dict(skipped.listed)
    skipped.settle()
    result["after"], result["told"] = dict(skipped.listed), list(told)
    skipped.settle()
    if rank:
        skipped.add("s.zip: d.png", "cut")
    try:
        skipped.settle()
    except ValueError as error:
        result["error"] = str(error)
    distributed.close()
    launch(ports[1])
    result["status"] = run("--skip-bad", "3", "--out", "run")
    launch(ports[2])
    result["excess"] = run("--skip-bad", "1", "--out", "excess")
    torch.save(result, folder / f"rank{rank}.pt")


def test_two_ranks_count_together(tiny_words, tmp_path):
    """Batches of one: a bad sample leaves its rank without an image where the other has one."""
    bad = damaged(tmp_path / "data.zip", "wrong label", "k01", "k02", VALIDATED)
    words = [str(w) for w in (*tiny_words, "--data", tmp_path / "data.zip")]
    words += ["--steps", "7", "--bs", "1", "--eval-steps", "7"]
    ports = [free_port() for _ in range(3)]
    torch.multiprocessing.spawn(rank_of_two, (ports, tmp_path, words), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{i}.pt") for i in (0, 1))
    assert first["before"] == second["before"] == {}
    assert first["after"] == second["after"]
    assert set(first["after"]) == {f"s.zip: {name}.png" for name in "abc"}
    assert listed(tmp_path / "exchange") == list(first["after"].items())
    assert (len(first["told"]), second["told"]) == (3, [])
    assert first["error"] == second["error"]
    assert first["error"].startswith("s.zip: d.png: cut; 3 skipped before it")

    assert first["status"] == second["status"] == 0
    assert sorted(member for member, _ in listed(tmp_path / "run")) == sorted(bad)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["train/skipped"] for line in lines if "train/skipped" in line] == [2]
    assert first["excess"] == second["excess"] == 2
    assert len(listed(tmp_path / "excess")) == 1
