"""Logits of classes or of a mask and uint8 labels go in, one scalar per loss comes out, in float32.

Labels are class ids; IGNORE_INDEX means that a pixel moves nothing. With no labelled pixel every
loss is exactly 0 and so is its gradient. Other labels are below the number of classes: the loader
sees to it, nothing here waits for the device to check. One channel is a mask: class 1 against 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy of the labelled pixels, sum(w * ce) / sum(w) as torch's weighted mean.

    logits (N, C, H, W); target uint8 (N, H, W); class_weights (C,), or None for equal weights.
    """
    return _weighted_mean(_pixel_cross_entropy(logits, target), target, class_weights)


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of a mask, mean over the labelled pixels.

    logits (N, 1, H, W); target uint8 (N, H, W), 0 or 1.
    """
    return _weighted_mean(_pixel_cross_entropy(logits, target), target)


def focal(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Cross entropy times (1 - p)^gamma, p the probability of the true class (Lin et al. 2017).

    Well classified pixels count less; gamma 0 is `cross_entropy`. class_weights (C,) takes the
    place of the paper's alpha. The mean is that of `cross_entropy`; the paper's is over boxes.
    """
    nll = _pixel_cross_entropy(logits, target)  # (N, H, W)
    return _weighted_mean((-torch.expm1(-nll)) ** gamma * nll, target, class_weights)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, 2 sum(p g) / (sum(p^2) + sum(g^2)) (Milletari et al. 2016, V-Net).

    logits (N, C, H, W); target uint8 (N, H, W). Sums run over the whole batch; their Dice is
    averaged over the classes that occur in the batch's target, since no prediction can match the
    others. A mask has one class, its foreground, which always counts: 1 is added to numerator and
    denominator, so that a batch without foreground asks for an empty prediction.
    """
    num_classes = logits.shape[1]
    if num_classes == 1:
        probs = logits.float().sigmoid()
        ids = torch.ones(1, dtype=torch.uint8, device=target.device)
    else:
        probs = F.softmax(logits, dim=1, dtype=torch.float32)
        ids = torch.arange(num_classes, dtype=torch.uint8, device=target.device)
    target = target.unsqueeze(1)  # (N, 1, H, W)
    member = target == ids.view(-1, 1, 1)  # (N, C, H, W), one byte per value

    # For backward `where` keeps its condition only, `square` the probs that softmax keeps anyway.
    overlap = _class_sum(torch.where(member, probs, 0))
    area = _class_sum(torch.where(target != IGNORE_INDEX, probs.square(), 0))
    true_area = _class_sum(member)
    score = (2 * overlap + 1) / (area + true_area + 1)  # (C,)
    present = (true_area > 0) | (num_classes == 1)
    return torch.where(present, 1 - score, 0).sum() / present.sum().clamp(min=1)


def _pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the true class, float32 (N, H, W); 0 where ignored.

    `gather` instead of `F.cross_entropy`, which has no deterministic kernel on CUDA.
    """
    labelled = target != IGNORE_INDEX
    if logits.shape[1] == 1:
        truth = (target == 1).float()
        nll = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), truth, reduction="none")
    else:
        log_probs = F.log_softmax(logits, dim=1, dtype=torch.float32)
        label = torch.where(labelled, target, 0).long().unsqueeze(1)  # (N, 1, H, W)
        nll = -log_probs.gather(1, label).squeeze(1)
    return torch.where(labelled, nll, 0)


def _weighted_mean(values: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """sum(w * values) / sum(w) over labelled pixels; values (N, H, W) are 0 where ignored."""
    if class_weights is None:
        return values.sum() / (target != IGNORE_INDEX).sum().clamp(min=1)
    table = F.pad(class_weights.float(), (0, 256 - len(class_weights)))  # ignored pixels weigh 0
    weights = table[target.long()]  # (N, H, W)
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def _class_sum(values: Tensor) -> Tensor:
    """(N, C, H, W) -> float32 (C,). Image by image: three times faster for bool than in one go."""
    return values.flatten(2).sum(2, dtype=torch.float32).sum(0)
