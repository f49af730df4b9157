"""The losses of surface normals, one scalar each, in float32.

prediction and target (N, 3, H, W), unit vectors. A target of zeros means no ground truth: the pixel
moves nothing; with none left every loss is exactly 0 and so is its gradient.
"""

import torch
from torch import Tensor


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between them: 0 to 2, no unit. Small angles count as their
    square."""
    return _mean(1 - (prediction.float() * target).sum(1), target)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of |dx| + |dy| + |dz|."""
    return _mean((prediction.float() - target).abs().sum(1), target)


def _mean(values: Tensor, target: Tensor) -> Tensor:
    """Mean of values (N, H, W) where there is ground truth, 0 if nowhere."""
    valid = target.any(1)
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
