"""Scores of depth: errors, ratios, and what the best constant would score."""

import math

import torch
from torch import Tensor

from utils.metrics.sums import Metrics, histogram, ratio

FLOOR = 1e-6  # predicted depths below this count as this in ratios and logarithms
BIN = 1.25 ** (1 / 8)  # ratio of neighbouring constants that stand for a baseline of depth
NUM_SUMS = 12  # before the two histograms
NUM_BINS = 720  # from 1.25^-45 (4e-5) to 1.25^45 (2e4)


class DepthMetrics(Metrics):
    """Scores of depth, pooled over all pixels with ground truth (Eigen et al. 2014).

    Differences count where target >= 0; ratios and logarithms where target > 0, so that a relative
    depth of 0 is scored by mae and rmse only.
    """

    LOWER = ("mae", "rmse", "absrel", "logstd")
    HEADLINE = ("delta1", "absrel", "rmse")

    def __init__(self) -> None:
        self.sums = torch.zeros(NUM_SUMS + 2 * NUM_BINS, dtype=torch.float64)

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction (N, 1, H, W), target (N, H, W): depth in one unit, none where target < 0."""
        prediction, target = prediction.squeeze(1).double(), target.double()
        valid, positive = target >= 0, target > 0
        truth = torch.where(valid, target, 0)
        error = torch.where(valid, prediction - target, 0)
        t = torch.where(positive, target, 1)
        p = torch.where(positive, prediction, 1).clamp(min=FLOOR)
        log_ratio = (p / t).log()  # 0 where there is no ratio
        values = [
            valid,
            error.abs(),
            error.square(),
            truth,
            truth.square(),
            positive,
            (p - t).abs() / t,
            log_ratio,
            log_ratio.square(),
            *((torch.maximum(p / t, t / p) < 1.25**power) & positive for power in (1, 2, 3)),
        ]
        sums = torch.stack([value.sum(dtype=torch.float64) for value in values])
        bins = (t.log() / math.log(BIN)).floor().clamp(-NUM_BINS // 2, NUM_BINS // 2 - 1)
        bins = torch.where(positive, bins + NUM_BINS // 2, NUM_BINS).long()
        counts = histogram(bins, NUM_BINS, torch.ones_like(t))
        inverses = histogram(bins, NUM_BINS, 1 / t)
        self._add(torch.cat([sums, counts, inverses]))

    def compute(self) -> dict[str, float]:
        """Scores of the whole set, d the prediction and t the truth.

        mae: mean |d - t|; rmse: root of mean (d - t)^2; both in the unit of the depth.
        absrel: mean |d - t| / t. logstd: standard deviation of log d - log t.
        delta1, 2, 3: share of pixels with max(d / t, t / d) < 1.25, 1.25^2, 1.25^3.
        baseline_rmse: of always saying the mean of this truth, which is its standard deviation.
        baseline_absrel, baseline_delta1: the best that saying one constant, a power of BIN, scores
            on this truth; each has its own constant.
        """
        n, error, square, truth, truth_square, *ratios = self.sums[:NUM_SUMS].tolist()
        m, absrel, log, log_square, within1, within2, within3 = ratios
        mean_log, mean_truth = ratio(log, m), ratio(truth, n)
        absrel_constant, delta1_constant = self._best_constant()
        return {
            "mae": ratio(error, n),
            "rmse": math.sqrt(ratio(square, n)),
            "absrel": ratio(absrel, m),
            "logstd": math.sqrt(max(ratio(log_square, m) - mean_log**2, 0)),
            "delta1": ratio(within1, m),
            "delta2": ratio(within2, m),
            "delta3": ratio(within3, m),
            "baseline_rmse": math.sqrt(max(ratio(truth_square, n) - mean_truth**2, 0)),
            "baseline_absrel": absrel_constant,
            "baseline_delta1": delta1_constant,
        }

    def _best_constant(self) -> tuple[float, float]:
        """Lowest absrel and highest delta1 of a constant c at the edges between bins.

        |c - t| / t is c / t - 1 in the bins below c and 1 - c / t in those above, so counts and
        sums of 1 / t per bin are all it takes; 8 bins on either side of c are within 1.25 of it.
        """
        counts, inverses = self.sums[NUM_SUMS:].view(2, NUM_BINS).cpu()
        total = counts.sum()
        constants = BIN ** torch.arange(1 - NUM_BINS // 2, NUM_BINS // 2, dtype=torch.float64)
        below, above = counts.cumsum(0)[:-1], total - counts.cumsum(0)[:-1]
        signed = 2 * inverses.cumsum(0)[:-1] - inverses.sum()  # sum of 1 / t below c - that above
        absrel = (constants * signed - below + above).min() / total  # nan without a pixel
        delta1 = counts.unfold(0, 16, 1).sum(1).max() / total
        return absrel.item(), delta1.item()
