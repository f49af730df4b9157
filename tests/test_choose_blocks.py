"""`--ckpt SIZE` recomputes no more than a step of that size needs."""

from dataclasses import replace

import pytest
import torch
from learners import make_case, settings_of

from datasets.task import UserError
from models.recompute import recompute
from train import build_state
from utils import checkpoint
from utils.flags import CKPT_MODES
from utils.memory.choose_blocks import choose, fit_blocks
from utils.memory.plan import make_plan
from utils.memory.trace import Mode
from utils.settings import Settings, parse

pytestmark = pytest.mark.usefixtures("small_is_worth_it")
CPU = torch.device("cpu")
FLAGS = ("--size", "64", "64", "--bs", "4", "--width", "4", "--depth", "2", "--device", "cpu")


def fitted(size: str, *flags: str) -> tuple[Settings, str]:
    settings = settings_of("damage", *FLAGS, "--ckpt", size, *flags)
    return fit_blocks(settings, CPU, build_state, recompute)


def words(size: float) -> str:
    return f"{size / 2**20:.6f}MiB"


@pytest.fixture(scope="module")
def plan():
    """What each mode takes."""
    return make_plan(settings_of("damage", *FLAGS), CPU, build_state, recompute)


def test_a_real_step_is_within_the_budget_with_no_more_than_it_needs(plan):
    none, full = (plan.peak(Mode(False, word)) for word in ("none", "full"))
    recomputed = []
    for share in (0.05, 0.5, 0.95):
        budget = int(full + share * (none - full))
        mode = choose(plan, budget)
        each = mode.ckpt.split(",")
        assert make_case("damage", *FLAGS, "--ckpt", mode.ckpt).footprint().peak <= budget
        recomputed.append(sum(map(CKPT_MODES.index, each)))
        for i, word in enumerate(each):  # and nothing of it is for nothing
            if word != "none":
                less = CKPT_MODES[CKPT_MODES.index(word) - 1]
                assert plan.peak(replace_word(mode, i, less)) > budget
    assert recomputed == sorted(recomputed, reverse=True)
    assert recomputed[0] > recomputed[-1] > 0


def replace_word(mode: Mode, i: int, word: str) -> Mode:
    each = mode.ckpt.split(",")
    each[i] = word
    return Mode(mode.amp, ",".join(each if len({*each}) > 1 else each[:1]))


@pytest.mark.parametrize("word", CKPT_MODES)
def test_what_a_mode_takes_needs_no_more_than_that_mode(plan, word):
    budget = plan.peak(Mode(False, word))
    chosen = choose(plan, budget).ckpt.split(",")
    assert plan.peak(Mode(False, ",".join(chosen))) <= budget
    assert all(CKPT_MODES.index(each) <= CKPT_MODES.index(word) for each in chosen)


def test_a_budget_too_small_names_what_takes_least(plan):
    least = min(plan.peak(Mode(False, word)) for word in CKPT_MODES)
    with pytest.raises(UserError, match=r"^--ckpt \S+MiB: --ckpt full takes least, 0\.\d+ GiB"):
        fitted(words(0.3 * least))
    with pytest.raises(UserError, match="--ckpt 1GiB: expected --bs N beside a size"):
        fitted("1GiB", "--bs", "auto")


def test_more_than_enough_recomputes_nothing():
    settings, line = fitted("2GiB")
    assert settings.ckpt == "none"
    assert line.startswith("--ckpt 2GiB: 0.0")


@pytest.mark.parametrize(
    "size", ["6", "6GB", "-1GiB", "0GiB", "1e3MiB", "GiB", "nanGiB", "full,all"]
)
def test_sizes_are_checked(size):
    with pytest.raises(UserError, match=r"--ckpt: .*, expected none, selective, full, or a size"):
        parse(["--task", "damage", f"--ckpt={size}"])


def test_without_a_value_all_is_recomputed():
    assert settings_of("damage", "--ckpt").ckpt == "full"


def test_a_run_keeps_what_was_chosen(run_train, tiny_json, tmp_path):
    path, folder = tiny_json
    plain = parse(["--task", str(path), "--device", "cpu"])
    plan = make_plan(replace(plain, ckpt="none"), CPU, build_state, recompute)
    budget = words((plan.peak(Mode(False, "none")) + plan.peak(Mode(False, "full"))) / 2)
    flags = ("--task", path, "--data", folder, "--workers", 0, "--out", "one")
    ran = run_train(*flags, "--ckpt", budget, "--steps", 2)
    assert ran.status == 0, ran.err
    assert f"--ckpt {budget}: 0.0" in ran.out
    chosen = checkpoint.load(tmp_path / "one/last.pt")["config"]["settings"]["ckpt"]
    assert {*chosen.split(",")} <= {*CKPT_MODES}
    assert parse(["--resume", str(tmp_path / "one/last.pt")]).ckpt == chosen
