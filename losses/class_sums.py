"""The losses of class labels, all from one pass over the pixels.

Logits of classes and uint8 labels go in, the terms named in `FUSED` come out.

Why not torch's own functions, one after the other: each would make float32 copies of the logits (N,
C, H, W) and keep them for its gradient. At the end of a network in half precision they are four
times as large as everything else, and set the memory of the step. So the pixels are taken in slices
that fit a cache, a slice's log p is made once for all terms, and only sums over pixels are kept: of
weights and weighted cross entropies, of what Dice compares by class. All losses follow from these
few numbers by plain arithmetic, whose gradient autograd knows. The backward pass makes the
slices again, which costs less than reading kept ones from memory.

Labels are class ids below the number of channels: the loader sees to it, nothing here waits for the
device to check. A pixel of IGNORE moves nothing; without a labelled pixel every loss is exactly 0
and so is its gradient.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from datasets.task import IGNORE
from losses.segmentation import focused, focused_tversky, hardest, soft_dice, tversky_index

SLICE = 1 << 15  # pixels scored at a time: their float32 logits fit a cache
SMOOTHING = 0.1  # share of a label that is spread over all classes
CPU_CLASSES = 16  # a CPU's softmax over fewer is up to eight times as slow
nll_backward = torch.ops.aten.nll_loss_backward
log_softmax_backward = torch.ops.aten._log_softmax_backward_data


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy of the labelled pixels, sum(w * ce) / sum(w) as torch's weighted mean.

    logits (N, C, ...); target uint8 (N, ...); class_weights (C,), or None for equal weights.
    """
    return class_terms(logits, target, ("ce",), class_weights)["ce"]


def dice(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """1 - soft Dice, 2 sum(p g) / (sum(p^2) + sum(g^2)) (Milletari et al. 2016, V-Net).

    Sums run over the whole batch; their Dice is averaged over the classes that occur in the batch's
    target, since no prediction can match the others. Class weights change nothing: each class
    counts alike, however rare it is.
    """
    return class_terms(logits, target, ("dice",))["dice"]


def focal(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Cross entropy times (1 - p)^gamma, p the probability of the true class (Lin et al. 2017).

    Well classified pixels count less; gamma 0 is `cross_entropy`. class_weights (C,) takes the
    place of the paper's alpha. The mean is that of `cross_entropy`; the paper's is over boxes.
    """
    return class_terms(logits, target, ("focal",), class_weights, gamma)["focal"]


def smooth(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy with a tenth of every label spread over all classes (Szegedy et al. 2016,
    label smoothing), as torch weighs it. It is least where the true class has that much less."""
    return class_terms(logits, target, ("smooth",), class_weights)["smooth"]


def tversky(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """1 - `tversky_index`, by class as `dice`."""
    return class_terms(logits, target, ("tversky",))["tversky"]


def focal_tversky(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """`tversky` of each class to the power of 3/4, see `focused_tversky`."""
    return class_terms(logits, target, ("focal_tversky",))["focal_tversky"]


def ohem(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """`cross_entropy` of the `hardest` pixels alone, found in a pass of their own."""
    none = torch.zeros(256, device=logits.device)
    pixels, labels = logits.detach().movedim(1, -1).flatten(0, -2), target.flatten()
    slices = zip(pixels.split(SLICE), labels.split(SLICE), strict=True)
    nll = torch.cat([_scored(x, label, none)[3] for x, label in slices])
    kept = torch.where(hardest(nll, labels), labels, IGNORE)
    return cross_entropy(logits, kept.view_as(target), class_weights)


# what `class_terms` gives at once
FUSED: dict[str, Callable[..., Tensor]] = {
    "ce": cross_entropy,
    "smooth": smooth,
    "dice": dice,
    "focal": focal,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
}


def class_terms(
    logits: Tensor,
    target: Tensor,
    names: Sequence[str],
    class_weights: Tensor | None = None,
    gamma: float = 2.0,
) -> dict[str, Tensor]:
    """Those of `FUSED` that are named, from one pass over the pixels."""
    num_classes = logits.shape[1]
    weights = logits.new_ones(num_classes, dtype=torch.float32)
    if class_weights is not None:
        weights = class_weights.float()
    table = F.pad(weights, (0, 256 - num_classes))  # ignored pixels weigh 0
    pixels = logits.movedim(1, -1).flatten(0, -2)  # (N * H * W, C), a view where channels are last
    focal_gamma = gamma if "focal" in names else None
    regions = any(name in names for name in ("dice", "tversky", "focal_tversky"))
    sums = ClassSums.apply(pixels, target.flatten(), table, regions, "smooth" in names, focal_gamma)
    weight, ce, focal, even, overlap, mass, area, truth = sums
    weight = weight.clamp(min=torch.finfo(torch.float32).tiny)
    occurs = truth > 0
    share = occurs / occurs.sum().clamp(min=1)
    missed = 1 - tversky_index(overlap, mass, truth)
    values = {
        "ce": ce / weight,
        "smooth": torch.lerp(ce, even, SMOOTHING) / weight,
        "focal": focal / weight,
        "dice": (1 - soft_dice(overlap, area, truth)) @ share,
        "tversky": missed @ share,
        "focal_tversky": focused_tversky(missed) @ share,
    }
    return {name: values[name] for name in names}


class ClassSums(torch.autograd.Function):
    """Sums over pixels from which the losses of classes follow, taken in slices.

    logits (P, C); target uint8 (P,); table: the weight of each label, (256,). regions, even:
    whether sums by class, and of even labels, are wanted. gamma: of the focal loss, None if it is
    not wanted. Unwanted sums are 0.

    Returns, in float32: scalars of the weights, weighted cross entropies, weighted focal losses and
    cross entropies to even labels, each class by its weight; (C,) of p at the true class, of p, of
    p^2, and of labelled pixels, by class.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        table: Tensor,
        regions: bool,
        even: bool,
        gamma: float | None,
    ) -> tuple[Tensor, ...]:
        """Float32 logits exist for a slice at a time."""
        ctx.save_for_backward(logits, target, table)
        ctx.regions, ctx.even, ctx.gamma = regions, even, gamma
        num_classes = logits.shape[1]
        scalars = table.new_zeros(4)
        classes = table.new_zeros(4, len(table), dtype=torch.float64)  # by label; exact counts
        for x, label in zip(logits.split(SLICE), target.split(SLICE), strict=True):
            log_p, label, weight, nll = _scored(x, label, table)
            scalars[0] += weight.sum()
            scalars[1] += weight @ nll
            if gamma is not None:
                scalars[2] += weight @ focused(nll, gamma)
            labelled = (label != IGNORE).float()
            if even:
                of_classes = (labelled @ log_p)[:num_classes]
                scalars[3] -= of_classes @ table[:num_classes] / num_classes
            if regions:
                classes[0].index_add_(0, label, torch.exp(-nll).double())
                classes[1, : log_p.shape[1]] += labelled @ log_p.exp_()
                classes[2, : log_p.shape[1]] += labelled @ log_p.square_()
                classes[3].index_add_(0, label, labelled.double())
        classes = classes[:, :num_classes].float()
        return *scalars, *classes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """By log p first: of the true class, the slopes by nll = -log p; of all, p and 2 p^2 times
        those by p and p^2. Then by the logits, as torch has it."""
        logits, target, table = ctx.saved_tensors
        _, of_ce, of_focal, of_even, *of_classes, _ = gradients
        by_label = (F.pad(each, (0, len(table) - len(each))) for each in of_classes)
        of_overlap, of_mass, of_area = by_label
        of_logits = torch.empty_like(logits)
        slices = (tensor.split(SLICE) for tensor in (logits, target, of_logits))
        for x, label, out in zip(*slices, strict=True):
            log_p, label, weight, nll = _scored(x, label, table)
            slope = of_ce * weight
            if ctx.gamma is not None:
                slope += of_focal * weight * _focus_slope(nll, ctx.gamma)
            if ctx.regions:
                slope -= of_overlap.index_select(0, label) * torch.exp(-nll)
            none = slope.new_zeros(())
            change = nll_backward(slope, log_p, label, None, 0, IGNORE, none)
            labelled, num = (label != IGNORE).float()[:, None], log_p.shape[1]
            if ctx.even:
                change -= labelled * (of_even / out.shape[1] * table[:num])
            if ctx.regions:
                p = log_p.exp()
                change += (p * (2 * of_area[:num])).add_(of_mass[:num]).mul_(p).mul_(labelled)
            of_scores = log_softmax_backward(change, log_p, 1, log_p.dtype)
            out.copy_(of_scores[:, : out.shape[1]])
        return of_logits, None, None, None, None, None


def _scored(logits: Tensor, target: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Logits (P, C), target uint8 (P,) -> float32 log p (P, C or more, -inf where no class is);
    labels, int64, what they weigh, and -log p of the true class, 0 where ignored, each (P,)."""
    scores, label = logits.float(), target.long()
    if scores.device.type == "cpu" and scores.shape[1] < CPU_CLASSES:
        scores = F.pad(scores, (0, CPU_CLASSES - scores.shape[1]), value=-math.inf)
    log_p = F.log_softmax(scores, dim=1)
    # not `F.cross_entropy` of (N, C, H, W), which has no deterministic kernel on CUDA
    nll = F.nll_loss(log_p, label, ignore_index=IGNORE, reduction="none")
    return log_p, label, table.index_select(0, label), nll


def _focus_slope(nll: Tensor, gamma: float) -> Tensor:
    """The derivative of `focused` by its argument."""
    rest = (-torch.expm1(-nll)).clamp(min=torch.finfo(torch.float32).tiny)  # 1 - p
    return rest**gamma + gamma * rest ** (gamma - 1) * torch.exp(-nll) * nll
