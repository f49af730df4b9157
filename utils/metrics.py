"""Predictions and targets go in batch by batch, scores of the whole set come out.

Every metric is a function of sums over pixels, kept on the device in int64 or float64: any split
into batches gives the same scores, and so does the sum of the ranks' `state()` in `load_state`.
Nothing waits for the device before `compute`. A score that no pixel defines is nan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from datasets.task import IGNORE, Output
from utils import report

FLOOR = 1e-6  # predicted depths below this count as this in ratios and logarithms
BIN = 1.25 ** (1 / 8)  # ratio of neighbouring constants that stand for a baseline of depth
NUM_SUMS = 12  # of depth, before the two histograms
NUM_BINS = 720  # from 1.25^-45 (4e-5) to 1.25^45 (2e4)


class Metrics:
    """Sums over pixels. Subclasses fill them in `update` and turn them into scores in `compute`.

    LOWER: the scores that are better when lower. HEADLINE: those that charts draw.
    """

    LOWER: ClassVar[tuple[str, ...]] = ()
    HEADLINE: ClassVar[tuple[str, ...]]

    def __init__(self, sums: Tensor) -> None:
        self.sums = sums

    @classmethod
    def of(cls, output: Output) -> Self:
        """For the predictions and targets of this output."""
        raise NotImplementedError

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch: what the network's head gives, and the targets."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Scores of all that was counted."""
        raise NotImplementedError

    @property
    def confusion(self) -> Tensor | None:
        """int64 (C, C): rows are the truth, columns the prediction; None without classes."""
        return None

    def per_class(self) -> list[ClassScore]:
        """One row per class; none where there are no classes."""
        return []

    def table(self, name: str) -> str | None:
        """Scores of each class as lines of text below the output's name; None without classes."""
        return None

    def state(self) -> Tensor:
        """The sums, 1-D, to be added to other ranks'. On the CPU before the first update."""
        return self.sums.flatten()

    def load_state(self, state: Tensor) -> None:
        """Take over a `state`, or the sum of several."""
        self.sums = state.reshape(self.sums.shape)

    def _add(self, sums: Tensor) -> None:
        self.sums = self.sums.to(sums.device) + sums


class ClassScore(NamedTuple):
    """Scores of one class in [0, 1]; share: of the labelled pixels, by ground truth."""

    name: str
    iou: float
    f1: float
    precision: float
    recall: float
    share: float


class ClassMetrics(Metrics):
    """Scores of class labels, from the confusion matrix of all pixels that are not ignored."""

    HEADLINE = ("miou",)

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__(torch.zeros(len(classes), len(classes), dtype=torch.int64))
        self.classes = classes

    @classmethod
    def of(cls, output: Output) -> Self:
        """One row and column for each class."""
        return cls(output.labels)

    @property
    def confusion(self) -> Tensor:
        """int64 (C, C): rows are the truth, columns the prediction."""
        return self.sums

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction: logits (N, C, H, W) or ids (N, H, W); target: uint8 (N, H, W)."""
        # `max` finds the same first index as `argmax`, in a third of the time on a CPU
        ids = prediction.max(dim=1).indices if prediction.ndim == 4 else prediction
        self._add(_confusion(ids, target, len(self.classes)))

    def per_class(self) -> list[ClassScore]:
        """One row per class. nan where a class occurs in neither truth nor prediction."""
        confusion = self.confusion.double().cpu()
        hit, truth, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        occurs = torch.where(truth + found > 0, 1.0, torch.nan)
        columns = (
            occurs * hit / (truth + found - hit),
            occurs * 2 * hit / (truth + found),
            occurs * hit / found.clamp(min=1),
            occurs * hit / truth.clamp(min=1),
            truth / truth.sum(),
        )
        rows = torch.stack(columns, dim=1).tolist()
        return [ClassScore(name, *row) for name, row in zip(self.classes, rows, strict=True)]

    def table(self, name: str) -> str:
        """IoU, F1, precision, recall and share of the pixels, in per cent."""
        return report.class_table(name, self.per_class())

    def compute(self) -> dict[str, float]:
        """Scores of the whole set, in [0, 1].

        miou, f1: mean IoU and F1 (Dice) over the classes that occur in truth or prediction, as in
            torchmetrics and cityscapesscripts. mean_accuracy: mean recall over the classes that
            occur in truth. pixel_accuracy. fwiou: IoU weighted by share of truth. All of them
            but f1 in Long et al. 2015.
        baseline_accuracy, baseline_miou: what always saying the most frequent class of this truth
            scores; every other class that occurs in truth then has IoU 0.
        """
        iou, f1, _, recall, share = torch.tensor(
            [score[1:] for score in self.per_class()], dtype=torch.float64
        ).T
        in_truth = share > 0
        confusion = self.confusion.double().cpu()
        scores = {
            "miou": iou.nanmean(),
            "f1": f1.nanmean(),
            "pixel_accuracy": confusion.trace() / confusion.sum(),
            "mean_accuracy": recall[in_truth].mean(),
            "fwiou": (iou * share)[in_truth].sum() / share.sum(),
            "baseline_miou": share.max() / in_truth.sum(),
            "baseline_accuracy": share.max(),
        }
        return {name: score.item() for name, score in scores.items()}


class MaskMetrics(Metrics):
    """Scores of a mask's foreground: 0 is background, 1 foreground, other pixels are ignored."""

    HEADLINE = ("iou",)

    def __init__(self) -> None:
        super().__init__(torch.zeros(2, 2, dtype=torch.int64))

    @classmethod
    def of(cls, output: Output) -> Self:
        """Masks are all alike."""
        return cls()

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction: logits (N, 1, H, W), foreground where > 0; target: uint8 (N, H, W)."""
        self._add(_confusion(prediction.squeeze(1) > 0, target, 2))

    def compute(self) -> dict[str, float]:
        """Scores of the whole set, in [0, 1].

        iou, f1 (Dice), precision, recall: of the foreground; nan if it occurs in neither truth nor
            prediction. accuracy: of both.
        baseline_iou: of calling every pixel foreground (the other constant scores 0).
        baseline_accuracy: of always saying the more frequent of the two.
        """
        (rejected, false), (missed, hit) = self.sums.tolist()
        total = rejected + false + missed + hit
        occurs = 1.0 if hit + missed + false else math.nan
        return {
            "iou": occurs * hit / max(hit + missed + false, 1),
            "f1": occurs * 2 * hit / max(2 * hit + missed + false, 1),
            "precision": occurs * hit / max(hit + false, 1),
            "recall": occurs * hit / max(hit + missed, 1),
            "accuracy": _ratio(hit + rejected, total),
            "baseline_iou": _ratio(hit + missed, total),
            "baseline_accuracy": _ratio(max(hit + missed, rejected + false), total),
        }


class DepthMetrics(Metrics):
    """Scores of depth, pooled over all pixels with ground truth (Eigen et al. 2014).

    Differences count where target >= 0; ratios and logarithms where target > 0, so that a relative
    depth of 0 is scored by mae and rmse only.
    """

    LOWER = ("mae", "rmse", "absrel", "logstd")
    HEADLINE = ("delta1", "absrel", "rmse")

    def __init__(self) -> None:
        super().__init__(torch.zeros(NUM_SUMS + 2 * NUM_BINS, dtype=torch.float64))

    @classmethod
    def of(cls, output: Output) -> Self:
        """Of depth in any unit."""
        return cls()

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
        counts = _histogram(bins, NUM_BINS, torch.ones_like(t))
        inverses = _histogram(bins, NUM_BINS, 1 / t)
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
        mean_log, mean_truth = _ratio(log, m), _ratio(truth, n)
        absrel_constant, delta1_constant = self._best_constant()
        return {
            "mae": _ratio(error, n),
            "rmse": math.sqrt(_ratio(square, n)),
            "absrel": _ratio(absrel, m),
            "logstd": math.sqrt(max(_ratio(log_square, m) - mean_log**2, 0)),
            "delta1": _ratio(within1, m),
            "delta2": _ratio(within2, m),
            "delta3": _ratio(within3, m),
            "baseline_rmse": math.sqrt(max(_ratio(truth_square, n) - mean_truth**2, 0)),
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


METRICS: dict[str, type[Metrics]] = {
    "classes": ClassMetrics,
    "mask": MaskMetrics,
    "depth": DepthMetrics,
}


def metrics_of(outputs: Sequence[Output]) -> dict[str, Metrics]:
    """Fresh metrics by output name."""
    return {output.name: METRICS[output.kind].of(output) for output in outputs}


def picking_scores(output: Output) -> list[str]:
    """The scores of an output that can pick the best checkpoint: higher is better."""
    metrics = METRICS[output.kind].of(output)
    return [
        score
        for score in metrics.compute()
        if score not in metrics.LOWER and not score.startswith("baseline")
    ]


def _confusion(ids: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """int64 (C, C) counts of (truth, prediction); ids and target (N, H, W)."""
    num_bins = num_classes**2
    bins = torch.where(target != IGNORE, target.long() * num_classes + ids, num_bins)
    return _histogram(bins, num_bins, torch.ones_like(bins)).view(num_classes, num_classes)


def _histogram(bins: Tensor, num_bins: int, weights: Tensor) -> Tensor:
    """Sum of the weights in each bin; bin `num_bins` is dropped. Unlike `bincount`, never waits."""
    sums = torch.zeros(num_bins + 1, dtype=weights.dtype, device=bins.device)
    return sums.scatter_add_(0, bins.flatten(), weights.flatten())[:-1]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
