"""How many optimiser steps a run takes: in all, in an epoch, between evaluations."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from utils.settings import Settings

OVERFIT_STEPS = 300  # enough to learn a batch by heart
EVAL_STEPS = 20  # an evaluation of a small set takes as long as some steps


class Steps(NamedTuple):
    """Optimiser steps: of the whole run, of one epoch, from one evaluation to the next."""

    total: int
    epoch: int
    eval: int


def count_steps(settings: Settings, samples: Sequence[int], world_size: int) -> Steps:
    """An epoch is one pass over the longest training split; when overfitting they do not count.

    samples: to train on, of each task. world_size: how many processes take a batch each.
    """
    each = zip(samples, settings.tasks, strict=True)
    epoch = math.ceil(max(num / (task.bs * settings.accum * world_size) for num, task in each))
    total = settings.steps or (OVERFIT_STEPS if settings.overfit else settings.epochs * epoch)
    return Steps(total, epoch, min(settings.eval_steps or max(epoch, EVAL_STEPS), total))
