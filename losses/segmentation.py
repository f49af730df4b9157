"""The losses of masks, one scalar each, in float32.

logits (N, 1, H, W); target uint8 (N, H, W): 1 is foreground, 0 background. A pixel of IGNORE moves
nothing. With no labelled pixel every loss is exactly 0 and so is its gradient. The losses of
classes are in `class_sums`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.task import IGNORE

HARD_P, HARD_SHARE = 0.7, 16  # see `hardest`


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, mean over the labelled pixels."""
    return _labelled_mean(_cross_entropy(logits, target), target)


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """`bce` times (1 - p)^gamma, p the probability of the true side (Lin et al. 2017): well
    classified pixels count less. The mean is that of `bce`; the paper's is over boxes."""
    return _labelled_mean(focused(_cross_entropy(logits, target), gamma), target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice of the foreground, 2 sum(p g) / (sum(p^2) + sum(g^2)) over the whole batch
    (Milletari et al. 2016, V-Net).

    1 is added to numerator and denominator, so that a batch without foreground asks for an empty
    prediction.
    """
    probs = logits.squeeze(1).float().sigmoid()
    truth, labelled = target == 1, target != IGNORE
    overlap = torch.where(truth, probs, 0).sum()
    area = torch.where(labelled, probs.square(), 0).sum()
    return 1 - soft_dice(overlap, area, truth.sum())


def tversky(logits: Tensor, target: Tensor) -> Tensor:
    """1 - `tversky_index` of the foreground over the whole batch."""
    return 1 - _index_of_foreground(logits, target)


def focal_tversky(logits: Tensor, target: Tensor) -> Tensor:
    """`tversky` to the power of 3/4, see `focused_tversky`."""
    return focused_tversky(1 - _index_of_foreground(logits, target))


def ohem(logits: Tensor, target: Tensor) -> Tensor:
    """`bce` of the `hardest` pixels alone."""
    nll = _cross_entropy(logits, target)
    kept = hardest(nll.detach(), target)
    return torch.where(kept, nll, 0).sum() / kept.sum().clamp(min=1)


def hardest(nll: Tensor, target: Tensor) -> Tensor:
    """Which labelled pixels are hard, bool (N, ...): those whose true side or class has a
    probability of at most 0.7, and at least the sixteenth of them where it is lowest.

    Online hard example mining (Shrivastava et al. 2016), by the rule that networks of streets are
    trained with (Yu et al. 2018, BiSeNet). Class weights have no say in it.
    nll: -log p of the truth, 0 where ignored, (N, ...).
    """
    labelled = target != IGNORE
    known = F.pad(nll.flatten(), (0, 1))  # one more, for a batch without a pixel
    worst = known.topk(-(-len(known) // HARD_SHARE)).values
    last = ((labelled.sum() - 1) // HARD_SHARE).clamp(min=0)
    least = worst.index_select(0, last[None]).clamp(max=-math.log(HARD_P))
    return labelled & (nll >= least)


def focused(nll: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma times -log p, from -log p."""
    return (-torch.expm1(-nll)) ** gamma * nll


def soft_dice(overlap: Tensor, area: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice from sums of p g, of p^2 and of g."""
    return (2 * overlap + 1) / (area + truth + 1)


def tversky_index(overlap: Tensor, mass: Tensor, truth: Tensor) -> Tensor:
    """TP / (TP + 0.3 FP + 0.7 FN), 1 added to both, from sums of p g, of p and of g: what is missed
    costs more than what is made up (Salehi et al. 2017, their best pair)."""
    return (overlap + 1) / (0.3 * mass + 0.7 * truth + 1)


def focused_tversky(lost: Tensor) -> Tensor:
    """lost^(3/4), which counts what is nearly found more (Abraham and Khan 2019, gamma 4/3); its
    slope at 0, infinite, is softened below 0.001."""
    return (lost + 1e-3) ** 0.75 - 1e-3**0.75


def _index_of_foreground(logits: Tensor, target: Tensor) -> Tensor:
    probs = logits.squeeze(1).float().sigmoid()
    truth, labelled = target == 1, target != IGNORE
    overlap = torch.where(truth, probs, 0).sum()
    return tversky_index(overlap, torch.where(labelled, probs, 0).sum(), truth.sum())


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the true side, float32 (N, H, W); 0 where ignored."""
    truth = (target == 1).float()
    nll = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), truth, reduction="none")
    return torch.where(target != IGNORE, nll, 0)


def _labelled_mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean over labelled pixels of values (N, H, W) that are 0 where ignored."""
    return values.sum() / (target != IGNORE).sum().clamp(min=1)
