"""A table of results says what the runs in it reached, and by which command."""

import sys

import pytest

from datasets.task import UserError
from utils import checkpoint, scoreboard
from utils.scoreboard import Run, delta_m, gain_lines, rows

SCORES = {"a/miou": 0.5, "a/baseline_miou": 0.25, "a/loss": 3.0}


def run_of(command="python train.py --task a", seed=0, **changes):
    run = Run(command, seed, SCORES, 160, 2.0, "AVX2, 2 threads, abc", {"a": "classes"})
    return run._replace(**changes)


def test_seeds_of_one_command_share_a_row():
    higher = SCORES | {"a/miou": 0.6}
    found = rows([run_of(), run_of("other"), run_of(seed=1, scores=higher, minutes=4.0)])
    assert found[0] == (
        *("`python train.py --task a`", "a/miou", "0.550", "0.500 to 0.600", "0.250"),
        *("0, 1", "160", "3.0", "AVX2, 2 threads, abc"),
    )
    assert [line[0] for line in found] == ["`python train.py --task a`", "`other`"]


def test_scores_without_a_constant_are_left_out_and_a_second_has_no_command():
    both = SCORES | {"b/rmse": 0.1, "b/baseline_rmse": 0.2}
    found = rows([run_of(scores=both)])
    assert [line[:3] for line in found[1:]] == [("", "b/rmse", "0.100")]
    assert found[1][5:] == ("",) * 4


def test_what_several_outputs_gain_against_each_alone():
    near = {"b/delta1": 0.5, "b/absrel": 0.2, "b/rmse": 2.0}
    alone = [
        *(run_of(scores={"a/miou": miou}, kinds={"a": "classes"}) for miou in (0.4, 0.6)),
        run_of(scores=near, kinds={"b": "depth"}),
    ]
    scores = {"a/miou": 0.55, "b/delta1": 0.6, "b/absrel": 0.24, "b/rmse": 1.0}
    both = run_of("both", scores=scores, kinds={"a": "classes", "b": "depth"})
    gains = delta_m(both, alone)
    assert gains == pytest.approx({"a": 10.0, "b": (20 - 20 + 50) / 3})
    worse = both._replace(seed=1, scores=scores | {"a/miou": 0.45})
    (line,) = gain_lines([both, worse], alone)
    assert line == "delta_m +8.3 % (+3.3 to +13.3; a +0.0 %, b +16.7 %): `both`"
    assert delta_m(alone[2], alone) == {"b": 0.0}
    with pytest.raises(UserError, match="no run of a alone, as --outputs a"):
        delta_m(both, alone[2:])


def test_the_table_of_two_runs(run_train, tiny_json, tmp_path, monkeypatch, capfd):
    path, data = tiny_json
    words = (
        "--task",
        path,
        "--data",
        data,
        "--steps",
        "3",
        "--eval-steps",
        "1",
        "--bs",
        "2",
        "--accum",
        "2",
    )
    folders = [tmp_path / "first run", tmp_path / "second"]
    for seed, folder in enumerate(folders):
        own = ("--out", folder, "--seed", seed)
        assert run_train(*words, *own).status == 0
    bests = [checkpoint.load(folder / "best.pt")["scores"] for folder in folders]
    monkeypatch.setattr(sys, "argv", ["scoreboard", *map(str, folders)])
    capfd.readouterr()
    scoreboard.main()
    head, line, first, *_ = capfd.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == list(scoreboard.HEAD)
    assert set(line) <= set("|- ")
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[0].startswith("`python train --width 4")
    assert not {"--out", "--seed"} & set(cells[0].split())
    name = cells[1]
    assert cells[2] == f"{(bests[0][name] + bests[1][name]) / 2:.3f}"
    assert cells[5:7] == ["0, 1", "12"]


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises((ValueError, OSError), match="best.pt"):
        scoreboard.read_run(tmp_path)
