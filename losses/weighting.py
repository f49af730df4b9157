"""How much the loss of each output counts, found from what the losses are and were.

Kendall's uncertainty, which learns its weights, is in `weighted`. None of these costs a backward
pass more. A caveat for all of them: with one recipe well tuned, the plain sum has matched far more
complex ways (Kurin et al. 2022, "In defense of the unitary scalarization").
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

SOFTNESS = 1e-3  # losses below it count no more than this small
TEMPERATURE = 2.0  # of `dwa`, as in the paper
SMOOTHNESS = 0.1  # mu of `smooth_maximum`


class History(nn.Module):
    """Losses of the outputs, each (K,) and 0 where there was none: the latest of each; means over
    the first epoch, over the last one and the one before that; sums and counts of the present."""

    latest: Tensor
    first: Tensor
    before: Tensor
    last: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, num: int) -> None:
        super().__init__()
        for name in ("latest", "first", "before", "last", "sums", "counts"):
            self.register_buffer(name, torch.zeros(num))

    def add(self, losses: Tensor) -> None:
        """Take in the losses of a batch, 0 for outputs that it has no label of."""
        self.latest.copy_(torch.where(losses > 0, losses, self.latest))
        self.sums += losses
        self.counts += losses > 0

    def end_epoch(self) -> None:
        """An epoch is over: its means take the place of the last one's."""
        means = torch.where(self.counts > 0, self.sums / self.counts.clamp(min=1), self.last)
        self.before.copy_(self.last)
        self.last.copy_(means)
        self.first.copy_(torch.where(self.first > 0, self.first, means))
        self.sums.zero_()
        self.counts.zero_()


def log_sum(losses: Tensor, history: History) -> Tensor:
    """1 / L: the gradient of sum(log L), that of the geometric mean of the losses (Chennupati et
    al. 2019, MultiNet++, "geometric loss strategy").

    Nothing depends on a loss's unit. The paper's caveat: a loss near 0 drowns the others, so it is
    softened below 0.001 here; and no output can be made to count more.
    """
    return 1 / (losses + SOFTNESS)


def balance(losses: Tensor, history: History) -> Tensor:
    """K softmax((1 / L) / T) (Kirchdorfer et al. 2024, "UW-SO"): the weights that uncertainty would
    learn, 1 / L, known at once, and calmed by a softmax.

    The paper tunes T for every data set and says that a good one matters; here T is the mean of
    1 / L over outputs, which makes weights free of the losses' units and needs no tuning. Its other
    caveat: the larger the network, the less any weights change.
    """
    inverse = torch.where(losses > 0, 1 / losses.clamp(min=SOFTNESS), 0)
    num = (losses > 0).sum()
    share = inverse * num / inverse.sum().clamp(min=torch.finfo(inverse.dtype).tiny)
    return num * torch.where(losses > 0, share, -100.0).softmax(0)


def dwa(losses: Tensor, history: History) -> Tensor:
    """K softmax(r / 2), r = L(t - 1) / L(t - 2) of means over epochs (Liu, Johns and Davison 2019,
    "dynamic weight average"): what falls slower counts more. 1 in the first two epochs.

    Only the pace of a loss has a say, not its size: the paper brings the losses to one scale by
    hand first. Weights stay near 1, as ratios do; it gains little in most comparisons.
    """
    known = history.before > 0
    rate = torch.where(known, history.last / torch.where(known, history.before, 1), 1)
    return len(losses) * torch.softmax(rate / TEMPERATURE, 0)


def smooth_maximum(losses: Tensor, history: History) -> Tensor:
    """K softmax(l / mu) / N of l = L / N: the gradient of mu log sum(exp(l / mu)), which is about
    the worst of the losses (Lin et al. 2024, smooth Tchebycheff scalarization, "STCH").

    N is a loss's mean over the first epoch, before whose end it is the loss itself, as in the
    paper's own program: there, as `log_sum`. mu is 0.1: of 0.01 to 1 the paper finds a small one
    reasonable and none the best for all. What has come down least gets nearly all the weight, so a
    task that cannot be learnt starves the others.
    """
    nadir = torch.where(history.first > 0, history.first, losses).clamp(min=SOFTNESS)
    known = torch.where(losses > 0, losses / nadir / SMOOTHNESS, -100.0)
    return (losses > 0).sum() * known.softmax(0) / nadir


# name -> function of losses (K,), 0 where none is known, and their history -> weights (K,)
WEIGHTINGS: dict[str, Callable[[Tensor, History], Tensor]] = {
    "log": log_sum,
    "balance": balance,
    "dwa": dwa,
    "max": smooth_maximum,
}
