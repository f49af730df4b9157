"""Logits of classes or of a mask and uint8 labels go in, one scalar per loss comes out, in float32.

Labels are class ids; IGNORE_INDEX means that a pixel moves nothing. With no labelled pixel every
loss is exactly 0 and so is its gradient. Other labels are below the number of classes: the loader
sees to it, nothing here waits for the device to check. One channel is a mask: class 1 against 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = 255
SLICE = (
    1 << 15
)  # pixels scored at a time: their float32 logits fit a cache, and never exist at once


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy of the labelled pixels, sum(w * ce) / sum(w) as torch's weighted mean.

    logits (N, C, H, W); target uint8 (N, H, W); class_weights (C,), or None for equal weights.
    """
    return class_terms(logits, target, ("ce",), class_weights)["ce"]


def focal(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Cross entropy times (1 - p)^gamma, p the probability of the true class (Lin et al. 2017).

    Well classified pixels count less; gamma 0 is `cross_entropy`. class_weights (C,) takes the
    place of the paper's alpha. The mean is that of `cross_entropy`; the paper's is over boxes.
    """
    if logits.shape[1] > 1:
        return class_terms(logits, target, ("focal",), class_weights, gamma)["focal"]
    nll = _mask_cross_entropy(logits, target)
    return _labelled_mean(_focus(nll, gamma), target)


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of a mask, mean over the labelled pixels.

    logits (N, 1, H, W); target uint8 (N, H, W), 0 or 1.
    """
    return _labelled_mean(_mask_cross_entropy(logits, target), target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, 2 sum(p g) / (sum(p^2) + sum(g^2)) (Milletari et al. 2016, V-Net).

    logits (N, C, H, W); target uint8 (N, H, W). Sums run over the whole batch; their Dice is
    averaged over the classes that occur in the batch's target, since no prediction can match the
    others. A mask has one class, its foreground, which always counts: 1 is added to numerator and
    denominator, so that a batch without foreground asks for an empty prediction.
    """
    if logits.shape[1] > 1:
        return class_terms(logits, target, ("dice",))["dice"]
    probs = logits.squeeze(1).float().sigmoid()
    truth, labelled = target == 1, target != IGNORE_INDEX
    overlap = torch.where(truth, probs, 0).sum()
    area = torch.where(labelled, probs.square(), 0).sum()
    return 1 - _dice(overlap, area, truth.sum())


class Sums(NamedTuple):
    """What the losses of classes need to know of some pixels: scalars, and (C,) for the last three.

    weight, ce, focal: of the pixels' weights, weighted cross entropies, weighted focal losses.
    overlap: of p at the true class. area: of p^2. truth: of labelled pixels, per class.
    """

    weight: Tensor
    ce: Tensor
    focal: Tensor
    overlap: Tensor
    area: Tensor
    truth: Tensor


def class_terms(
    logits: Tensor,
    target: Tensor,
    names: Sequence[str],
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
) -> dict[str, Tensor]:
    """`ce`, `dice` and `focal` of classes, those that are named, from one pass over the pixels.

    Slice by slice, and again in the backward pass: float32 copies of the logits (N, C, H, W), four
    times as large as everything else at the end of a network, never exist as a whole.
    """
    num_classes = logits.shape[1]
    weights = logits.new_ones(num_classes, dtype=torch.float32)
    if class_weights is not None:
        weights = class_weights.float()
    table = F.pad(weights, (0, 256 - num_classes))  # ignored pixels weigh 0
    pixels = logits.movedim(1, -1).flatten(0, -2)  # (N * H * W, C), a view where channels are last
    slices = zip(pixels.split(SLICE), target.flatten().split(SLICE), strict=True)
    found = [
        checkpoint(_sums, x, label, table, gamma, use_reentrant=False, preserve_rng_state=False)
        for x, label in slices
    ]
    sums = Sums(*(torch.stack(parts).sum(0) for parts in zip(*found, strict=True)))
    weight = sums.weight.clamp(min=torch.finfo(torch.float32).tiny)
    present = sums.truth > 0
    lost = torch.where(present, 1 - _dice(sums.overlap, sums.area, sums.truth), 0)
    values = {
        "ce": sums.ce / weight,
        "focal": sums.focal / weight,
        "dice": lost.sum() / present.sum().clamp(min=1),
    }
    return {name: values[name] for name in names}


def _sums(logits: Tensor, target: Tensor, table: Tensor, gamma: float) -> Sums:
    """Logits (P, C), target uint8 (P,), the weight of each label (256,) -> their Sums."""
    num_classes = logits.shape[1]
    labelled = (target != IGNORE_INDEX).float()  # (P,)
    label = target.long()
    weight = table[label]
    inside = label.clamp(max=num_classes - 1)
    log_probs = F.log_softmax(logits.float(), dim=1)  # (P, C)
    # `gather` instead of `F.cross_entropy`, which has no deterministic kernel on CUDA
    nll = -log_probs.gather(1, inside[:, None]).squeeze(1)  # (P,)
    none = labelled.new_zeros(num_classes, dtype=torch.float64)  # one addition after the other
    return Sums(
        weight=weight.sum(),
        ce=weight @ nll,
        focal=weight @ _focus(nll, gamma),
        overlap=none.index_add(0, inside, (torch.exp(-nll) * labelled).double()).float(),
        area=labelled @ log_probs.exp().square(),
        truth=none.index_add(0, inside, labelled.double()).float(),
    )


def _focus(nll: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma times -log p."""
    return (-torch.expm1(-nll)) ** gamma * nll


def _dice(overlap: Tensor, area: Tensor, truth: Tensor) -> Tensor:
    return (2 * overlap + 1) / (area + truth + 1)


def _mask_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the true side, float32 (N, H, W); 0 where ignored."""
    truth = (target == 1).float()
    nll = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), truth, reduction="none")
    return torch.where(target != IGNORE_INDEX, nll, 0)


def _labelled_mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean over labelled pixels of values (N, H, W) that are 0 where ignored."""
    return values.sum() / (target != IGNORE_INDEX).sum().clamp(min=1)
