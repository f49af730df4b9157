"""Losses whose value is an error of IoU: the Lovasz extension of the Jaccard index (Berman et al.
2018, "The Lovasz-Softmax loss").

Pixels are sorted by their error; each counts as much as the Jaccard loss grows when it is added to
those that are worse. So the loss is linear in the errors wherever their order stays, and an error
counts the more the rarer its class. A pixel of IGNORE moves nothing; without a labelled pixel a
loss is exactly 0 and so is its gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from datasets.task import IGNORE
from losses.class_sums import SLICE

STEPS = 1 << 14  # errors of classes are sorted by as many steps from 0 to 1: integers sort fast


def lovasz_softmax(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean over the classes that occur in the batch's target of the Lovasz extension of 1 - IoU, of
    errors |g - p|.

    logits (N, C, H, W); target uint8 (N, H, W). Class weights change nothing: each class counts
    alike. Errors closer than 1/16384 may be taken for equal. It sorts all pixels once per class: of
    all losses the slowest.
    """
    pixels = logits.movedim(1, -1).flatten(0, -2)
    return LovaszSoftmax.apply(pixels, target.flatten())


def lovasz_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """The same of a mask's foreground, of errors max(0, 1 - logit) where it is, else
    max(0, 1 + logit). logits (N, 1, H, W)."""
    logit, target = logits.flatten().float(), target.flatten()
    truth, labelled = target == 1, target != IGNORE
    error = torch.where(labelled, (1 - torch.where(truth, logit, -logit)).relu(), 0)
    key = torch.where(labelled, -error.detach(), torch.inf)
    return error @ jaccard_slopes(key, truth)


def jaccard_slopes(key: Tensor, truth: Tensor) -> Tensor:
    """By how much 1 - IoU grows with each pixel's error, (P,): pixels are added in the order of
    their keys (P,), to none at first. truth: bool (P,)."""
    order = key.argsort(stable=True)
    hits = truth[order].cumsum(0)
    count = truth.sum()
    others = torch.arange(1, len(key) + 1, device=key.device) - hits
    lost = 1 - (count - hits).double() / (count + others)  # float32 would lose the differences
    slopes = lost.diff(prepend=lost.new_zeros(1)).float()
    return torch.empty_like(slopes).scatter_(0, order, slopes)


class LovaszSoftmax(torch.autograd.Function):
    """Of logits (P, C) and target uint8 (P,). Float32 values exist for one class or one slice of
    pixels at a time; the slopes are kept in the precision of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        log_sum = torch.cat([x.float().logsumexp(1) for x in logits.split(SLICE)])
        labelled, slopes, losses = target != IGNORE, torch.empty_like(logits), []
        for number, score in enumerate(logits.unbind(1)):
            truth, p = target == number, (score.float() - log_sum).exp_()
            error = torch.where(labelled, torch.where(truth, 1 - p, p), 0)
            steps = ((1 - error) * STEPS).short()
            slope = jaccard_slopes(torch.where(labelled, steps, STEPS + 1), truth)
            losses.append(error @ slope)
            slopes[:, number] = torch.where(labelled, torch.where(truth, -slope, slope), 0)
        occurs = torch.zeros(256, device=logits.device).index_fill_(0, target.long(), 1)
        occurs = occurs[: logits.shape[1]]
        share = occurs / occurs.sum().clamp(min=1)
        ctx.save_for_backward(logits, slopes, share)
        return torch.stack(losses) @ share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Through the softmax, slice by slice."""
        logits, slopes, share = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        slices = (tensor.split(SLICE) for tensor in (logits, slopes, of_logits))
        for x, slope, out in zip(*slices, strict=True):
            p, of_p = x.float().softmax(1), slope.float() * (gradient * share)
            out.copy_(p * (of_p - (p * of_p).sum(1, keepdim=True)))
        return of_logits, None
