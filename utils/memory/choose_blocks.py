"""`--ckpt SIZE`: which blocks to recompute so that a step takes no more memory than that."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from datasets.task import UserError
from utils.flags import CKPT_MODES, num_bytes
from utils.memory.plan import GIB, Build, MemoryPlan, Recompute, make_plan
from utils.memory.trace import Mode
from utils.settings import Settings

Move = tuple[int, int]  # index in CKPT_MODES, block


def fit_blocks(
    settings: Settings, device: torch.device, build: Build, recompute: Recompute
) -> tuple[Settings, str]:
    """The settings with a mode for each block in place of a size, and a line about them; UserError
    if even the least takes more."""
    if settings.fit_batch:
        raise UserError(f"--ckpt {settings.ckpt}: expected --bs N beside a size, not --bs auto")
    plan = make_plan(replace(settings, ckpt="none"), device, build, recompute)
    mode = choose(plan, num_bytes(settings.ckpt))
    needs = f"{plan.peak(mode) / GIB:.3f} GiB for a batch of {'+'.join(map(str, plan.images))}"
    if plan.peak(mode) > num_bytes(settings.ckpt):
        raise UserError(
            f"--ckpt {settings.ckpt}: {mode.flags or '--ckpt none'} takes least, {needs} "
            f"({plan.what}); a smaller --bs, --size or --width would take less"
        )
    line = f"--ckpt {settings.ckpt}: {needs}, with --ckpt {mode.ckpt}"
    return replace(settings, ckpt=mode.ckpt), line


def choose(plan: MemoryPlan, budget: int) -> Mode:
    """The mode of least work that fits into so many bytes, or the one that takes least.

    Cheap layers are run again before convolutions are ("selective" before "full"), and the blocks
    that hold most before the others: a byte saved costs as many operations as they have channels.
    The fewest of these moves that fit are taken, and of those, what can be done without is undone:
    not every block holds something at the worst moment.
    """
    amp = plan.mode.amp
    held = [plan.footprint(Mode(amp, word)).parts for word in CKPT_MODES]

    def saved(level: int, block: int) -> int:
        less, more = (held[k].get(plan.blocks[block], 0) for k in (level - 1, level))
        return less - more

    def mode(moves: Sequence[Move]) -> Mode:
        levels = [0] * len(plan.blocks)
        for level, block in moves:
            levels[block] = max(levels[block], level)
        words = [CKPT_MODES[level] for level in levels]
        return Mode(amp, ",".join(words if len({*words}) > 1 else words[:1]))

    def fits(moves: Sequence[Move]) -> bool:
        return plan.peak(mode(moves)) <= budget

    moves: list[Move] = []
    for level in range(1, len(CKPT_MODES)):
        blocks = sorted(range(len(plan.blocks)), key=partial(saved, level), reverse=True)
        moves += [(level, block) for block in blocks]
    chosen = moves[: bisect_left(range(len(moves)), True, key=lambda num: fits(moves[:num]))]
    if not fits(chosen):
        return min((Mode(amp, word) for word in CKPT_MODES), key=plan.peak)
    for move in reversed(chosen):
        fewer = [each for each in chosen if each != move]
        if fits(fewer):
            chosen = fewer
    return mode(chosen)
