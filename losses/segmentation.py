"""Logits of classes or of a mask and uint8 labels go in, one scalar per loss comes out, in float32.

Labels are class ids; IGNORE means that a pixel moves nothing. With no labelled pixel every
loss is exactly 0 and so is its gradient. Other labels are below the number of classes: the loader
sees to it, nothing here waits for the device to check. One channel is a mask: class 1 against 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from datasets.task import IGNORE

SLICE = 1 << 15  # pixels scored at a time: their float32 logits fit a cache
nll_backward = torch.ops.aten.nll_loss_backward
log_softmax_backward = torch.ops.aten._log_softmax_backward_data


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
    truth, labelled = target == 1, target != IGNORE
    overlap = torch.where(truth, probs, 0).sum()
    area = torch.where(labelled, probs.square(), 0).sum()
    return 1 - _dice(overlap, area, truth.sum())


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
    focal_gamma = gamma if "focal" in names else None
    sums = ClassSums.apply(pixels, target.flatten(), table, "dice" in names, focal_gamma)
    weight, ce, focal, overlap, area, truth = sums
    weight = weight.clamp(min=torch.finfo(torch.float32).tiny)
    present = truth > 0
    lost = torch.where(present, 1 - _dice(overlap, area, truth), 0)
    values = {
        "ce": ce / weight,
        "focal": focal / weight,
        "dice": lost.sum() / present.sum().clamp(min=1),
    }
    return {name: values[name] for name in names}


class ClassSums(torch.autograd.Function):
    """Sums over pixels from which the losses of classes follow, taken in slices.

    logits (P, C); target uint8 (P,); table: the weight of each label, (256,). dice: whether its
    sums are wanted. gamma: of the focal loss, None if it is not wanted. Unwanted sums are 0.

    Returns, in float32: scalars of the weights, weighted cross entropies and weighted focal losses;
    (C,) of p at the true class, of p^2, and of labelled pixels, by class.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, table: Tensor, dice: bool, gamma: float | None
    ) -> tuple[Tensor, ...]:
        """Float32 logits exist for a slice at a time."""
        ctx.save_for_backward(logits, target, table)
        ctx.dice, ctx.gamma = dice, gamma
        scalars = table.new_zeros(3)
        classes = table.new_zeros(3, len(table), dtype=torch.float64)  # by label; exact counts
        for x, label in zip(logits.split(SLICE), target.split(SLICE), strict=True):
            log_p, label, weight, nll = _scored(x, label, table)
            scalars[0] += weight.sum()
            scalars[1] += weight @ nll
            if gamma is not None:
                scalars[2] += weight @ _focus(nll, gamma)
            if dice:
                labelled = (label != IGNORE).float()
                classes[0].index_add_(0, label, torch.exp(-nll).double())
                classes[1, : x.shape[1]] += labelled @ log_p.exp_().square_()
                classes[2].index_add_(0, label, labelled.double())
        classes = classes[:, : logits.shape[1]].float()
        return *scalars, *classes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """By log p first: of the true class, the slopes by nll = -log p, and 2 p^2 times those by
        p^2. Then by the logits, as torch has it."""
        logits, target, table = ctx.saved_tensors
        _, of_ce, of_focal, of_overlap, of_area, _ = gradients
        of_overlap = F.pad(of_overlap, (0, len(table) - len(of_overlap)))  # by label
        found = torch.empty_like(logits)
        for x, label, out in zip(*(t.split(SLICE) for t in (logits, target, found)), strict=True):
            log_p, label, weight, nll = _scored(x, label, table)
            slope = of_ce * weight
            if ctx.gamma is not None:
                slope += of_focal * weight * _focus_slope(nll, ctx.gamma)
            if ctx.dice:
                slope -= of_overlap.index_select(0, label) * torch.exp(-nll)
            none = slope.new_zeros(())
            change = nll_backward(slope, log_p, label, None, 0, IGNORE, none)
            if ctx.dice:
                labelled = (label != IGNORE).float()
                change += log_p.exp().square_().mul_(2 * of_area).mul_(labelled[:, None])
            out.copy_(log_softmax_backward(change, log_p, 1, log_p.dtype))
        return found, None, None, None, None


def _scored(logits: Tensor, target: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Logits (P, C), target uint8 (P,) -> float32 log p (P, C); labels, int64, what they weigh, and
    -log p of the true class, 0 where ignored, each (P,)."""
    log_p, label = F.log_softmax(logits.float(), dim=1), target.long()
    # not `F.cross_entropy` of (N, C, H, W), which has no deterministic kernel on CUDA
    nll = F.nll_loss(log_p, label, ignore_index=IGNORE, reduction="none")
    return log_p, label, table.index_select(0, label), nll


def _focus(nll: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma times -log p."""
    return (-torch.expm1(-nll)) ** gamma * nll


def _focus_slope(nll: Tensor, gamma: float) -> Tensor:
    """The derivative of `_focus` by its argument."""
    rest = (-torch.expm1(-nll)).clamp(min=torch.finfo(torch.float32).tiny)  # 1 - p
    return rest**gamma + gamma * rest ** (gamma - 1) * torch.exp(-nll) * nll


def _dice(overlap: Tensor, area: Tensor, truth: Tensor) -> Tensor:
    return (2 * overlap + 1) / (area + truth + 1)


def _mask_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log p of the true side, float32 (N, H, W); 0 where ignored."""
    truth = (target == 1).float()
    nll = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), truth, reduction="none")
    return torch.where(target != IGNORE, nll, 0)


def _labelled_mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean over labelled pixels of values (N, H, W) that are 0 where ignored."""
    return values.sum() / (target != IGNORE).sum().clamp(min=1)
