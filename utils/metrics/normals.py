"""Scores of normals: angles, and what the best constant direction would score."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.metrics.sums import Metrics, histogram, ratio

WITHIN = (11.25, 22.5, 30.0)  # degrees
NUM_ANGLES = 1800  # bins of a tenth of a degree
NUM_CELLS = 128  # along each side of the square on which directions are counted


class NormalsMetrics(Metrics):
    """Angles between predicted and true directions, pooled over all pixels with ground truth.

    Sums: their number, the sum of the angles, how many are within each of WITHIN, the sum of the
    true vectors; then histograms of the angle and of the true direction.
    """

    LOWER = ("mean_angle", "median_angle")
    HEADLINE = ("mean_angle", "within11")

    def __init__(self) -> None:
        self.sums = torch.zeros(8 + NUM_ANGLES + NUM_CELLS**2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction (N, 3, H, W) of any length; target (N, 3, H, W), zeros where there is none."""
        target, valid = target.double(), target.any(1)
        angle = _degrees(prediction.double(), target)
        values = [valid, torch.where(valid, angle, 0), *((angle <= a) & valid for a in WITHIN)]
        sums = torch.stack([value.sum(dtype=torch.float64) for value in values])
        bins = (angle * (NUM_ANGLES / 180)).long().clamp(max=NUM_ANGLES - 1)
        ones = torch.ones_like(angle)
        angles = histogram(torch.where(valid, bins, NUM_ANGLES), NUM_ANGLES, ones)
        cells = torch.where(valid, _cell(target), NUM_CELLS**2)
        directions = histogram(cells, NUM_CELLS**2, ones)
        self._add(torch.cat([sums, target.sum((0, 2, 3)), angles, directions]))

    def compute(self) -> dict[str, float]:
        """Scores of the whole set.

        mean_angle, median_angle: in degrees, the latter to 0.05. within11, within22, within30:
        share of pixels within 11.25, 22.5 and 30 degrees (Fouhey et al. 2013).
        baseline_*: of always saying the mean direction of this truth, to a degree or so.
        """
        sums = self.sums.cpu()
        num, angle, *within = sums[:5].tolist()
        counts, cells = sums[8:].split([NUM_ANGLES, NUM_CELLS**2])
        middles = (torch.arange(NUM_ANGLES) + 0.5) * (180 / NUM_ANGLES)
        centres = _centres()  # (3, cells)
        constant = _degrees(sums[5:8, None].expand_as(centres)[None], centres[None])[0]
        shares = [ratio(cells[constant <= a].sum().item(), num) for a in WITHIN]
        names = [f"within{int(a)}" for a in WITHIN]
        return {
            "mean_angle": ratio(angle, num),
            "median_angle": _median(middles, counts),
            **{name: ratio(count, num) for name, count in zip(names, within, strict=True)},
            "baseline_mean_angle": ratio((cells * constant).sum().item(), num),
            "baseline_median_angle": _median(constant, cells),
            **{f"baseline_{name}": share for name, share in zip(names, shares, strict=True)},
        }


def _degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angles between vectors (N, 3, ...), (N, ...); exact also where they are small."""
    across = torch.linalg.cross(a, b, dim=1).square().sum(1).sqrt()
    return torch.rad2deg(torch.atan2(across, (a * b).sum(1)))


def _cell(normals: Tensor) -> Tensor:
    """The cell of each direction (N, 3, ...) in an octahedron unfolded to a square: int64 (N, ...).

    Cigolle et al. 2014, "A Survey of Efficient Representations for Independent Unit Vectors".
    """
    x, y, z = (normals / normals.abs().sum(1, keepdim=True).clamp(min=1e-6)).unbind(1)
    below = z < 0
    u = torch.where(below, (1 - y.abs()) * torch.where(x < 0, -1, 1), x)
    v = torch.where(below, (1 - x.abs()) * torch.where(y < 0, -1, 1), y)
    column, row = (((w + 1) / 2 * NUM_CELLS).long().clamp(0, NUM_CELLS - 1) for w in (u, v))
    return row * NUM_CELLS + column


def _centres() -> Tensor:
    """The direction in the middle of each cell, float64 (3, cells)."""
    side = (torch.arange(NUM_CELLS, dtype=torch.float64) + 0.5) * (2 / NUM_CELLS) - 1
    v, u = torch.meshgrid(side, side, indexing="ij")
    z = 1 - u.abs() - v.abs()
    x = torch.where(z < 0, (1 - v.abs()) * u.sign(), u)
    y = torch.where(z < 0, (1 - u.abs()) * v.sign(), v)
    return F.normalize(torch.stack([x, y, z]).flatten(1), dim=0)


def _median(values: Tensor, counts: Tensor) -> float:
    """The value, of those that were counted, that half of the counts do not exceed."""
    order = values.argsort()
    below = counts[order].cumsum(0)
    if not below[-1]:
        return math.nan
    return values[order][(below >= below[-1] / 2).nonzero()[0, 0]].item()
