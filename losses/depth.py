"""The losses of depth, one scalar each, in float32.

prediction (N, 1, H, W) and target (N, H, W) are depth in the same unit: metres, or relative in
[0, 1]. A negative target means no ground truth: the pixel moves nothing; with none left every loss
is exactly 0 and so is its gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_FLOOR = 1e-3  # depths below this count as this inside a logarithm
SILOG_LAMBDA = 0.85  # 0: plain log error; 1: global scale is free (Eigen et al. use 0.5)
SILOG_SOFTNESS = 1e-3  # keeps the gradient of the root finite at a perfect prediction
GRAD_SCALES = 4


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean |d - t|, in the unit of the depth."""
    error, valid = _error(prediction, target)
    return _masked_mean(error.abs(), valid)


def silog(prediction: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant log error, sqrt(mean(e^2) - 0.85 mean(e)^2), e = log d - log t; no unit.

    Eigen et al. 2014, there with a lambda of 0.5. Lambda and the root, by which it reads as
    a relative error, are those of Lee et al. 2019 (BTS), without their factor of 10. The root is
    softened below 0.001. Only where target > 0. Both depths are clamped at LOG_FLOOR; a prediction
    below it gets no gradient.
    """
    valid = target > 0
    ratio = (
        prediction.squeeze(1).float().clamp(min=LOG_FLOOR).log() - target.clamp(min=LOG_FLOOR).log()
    )
    variance = (
        _masked_mean(ratio.square(), valid) - SILOG_LAMBDA * _masked_mean(ratio, valid).square()
    )
    # sqrt(variance + s^2) - s, written so that 0 gives exactly 0
    return variance / ((variance + SILOG_SOFTNESS**2).sqrt() + SILOG_SOFTNESS)


def grad(prediction: Tensor, target: Tensor) -> Tensor:
    """Multi-scale gradient matching, |dx e| + |dy e| of e = d - t, in the unit of the depth.

    Li and Snavely 2018 (MegaDepth) on log depth; here on plain differences, as Ranftl et al. 2020
    (MiDaS) take them. Scale k of 4 keeps every 2^k-th pixel. Each scale adds its mean over
    horizontal pairs and its mean over vertical pairs, of which both pixels have ground truth.
    """
    error, valid = _error(prediction, target)
    total = error.new_zeros(())
    for scale in range(GRAD_SCALES):
        step = 2**scale
        e, v = error[:, ::step, ::step], valid[:, ::step, ::step]
        across = _masked_mean((e[:, :, 1:] - e[:, :, :-1]).abs(), v[:, :, 1:] & v[:, :, :-1])
        down = _masked_mean((e[:, 1:] - e[:, :-1]).abs(), v[:, 1:] & v[:, :-1])
        total = total + across + down
    return total


def bce(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of relative depth, mean of -t log d - (1 - t) log(1 - d).

    For depth in [0, 1] only: values outside are clamped to it, so metres make no sense here. The
    minimum is at d = t, but it is the entropy of t, not 0.
    """
    truth = target.float().clamp(0, 1)
    depth = prediction.squeeze(1).float().clamp(0, 1)
    known = depth.nan_to_num(0)  # torch ends with an error instead of a loss that is not a number
    entropy = F.binary_cross_entropy(known, truth, reduction="none") + (depth - known)
    return _masked_mean(entropy, target >= 0)


def _error(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """d - t, float32 (N, H, W), 0 where invalid; and where it is valid, bool (N, H, W)."""
    valid = target >= 0
    return torch.where(valid, prediction.squeeze(1).float() - target, 0), valid


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the values where valid, 0 if nowhere."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
