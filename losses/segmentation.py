"""The losses of masks, one scalar each, in float32.

logits (N, 1, H, W); target uint8 (N, H, W): 1 is foreground, 0 background. A pixel of IGNORE moves
nothing. With no labelled pixel every loss is exactly 0 and so is its gradient. The losses of
classes are in `class_sums`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.task import IGNORE


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


def focused(nll: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma times -log p, from -log p."""
    return (-torch.expm1(-nll)) ** gamma * nll


def soft_dice(overlap: Tensor, area: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice from sums of p g, of p^2 and of g."""
    return (2 * overlap + 1) / (area + truth + 1)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the true side, float32 (N, H, W); 0 where ignored."""
    truth = (target == 1).float()
    nll = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), truth, reduction="none")
    return torch.where(target != IGNORE, nll, 0)


def _labelled_mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean over labelled pixels of values (N, H, W) that are 0 where ignored."""
    return values.sum() / (target != IGNORE).sum().clamp(min=1)
