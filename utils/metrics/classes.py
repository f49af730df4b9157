"""Scores of labels: of classes, and of a mask's foreground, from confusion matrices."""

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.task import IGNORE, Output
from utils.metrics.sums import ClassScore, Metrics, histogram, ratio
from utils.terminal import table

NUM_PROBABILITIES = 100  # bins of a mask's foreground probability


class ClassMetrics(Metrics):
    """Scores of class labels, from the confusion matrix of all pixels that are not ignored."""

    HEADLINE: ClassVar[tuple[str, ...]] = ("miou",)
    OF_LABELS = True

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.sums = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        self.classes = classes

    @classmethod
    def of(cls, output: Output) -> Self:
        """One row and column for each class; two until those of a label are known."""
        return cls(output.labels or ("", ""))

    @property
    def confusion(self) -> Tensor:
        """int64 (C, C): rows are the truth, columns the prediction."""
        return self.sums

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction: logits (N, C, ...) or ids (N, ...); target: uint8 (N, ...)."""
        # `max` finds the same first index as `argmax`, in a third of the time on a CPU
        ids = prediction.max(dim=1).indices if prediction.ndim > target.ndim else prediction
        self._add(_confusion(ids, target, len(self.classes)))

    def per_class(self) -> list[ClassScore]:
        """One row per class. nan where a class occurs in neither truth nor prediction."""
        confusion = self.confusion.double().cpu()
        hit, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        occurs = torch.where(truth + predicted > 0, 1.0, torch.nan)
        columns = (
            occurs * hit / (truth + predicted - hit),
            occurs * 2 * hit / (truth + predicted),
            occurs * hit / predicted.clamp(min=1),
            occurs * hit / truth.clamp(min=1),
            truth / truth.sum(),
        )
        rows = torch.stack(columns, dim=1).tolist()
        return [ClassScore(name, *row) for name, row in zip(self.classes, rows, strict=True)]

    def doubts(self) -> dict[str, str]:
        """Also: nearly everything is called one class, where the truth has others."""
        return super().doubts() | _one_class(self.sums, self.classes, self.UNIT)

    def table(self, name: str) -> str:
        """IoU, F1, precision, recall and share of the pixels, in per cent."""
        rows: list[tuple[str, ...]] = [(name, "IoU", "F1", "precision", "recall", "share")]
        for class_name, *values in self.per_class():
            rows.append((class_name, *("-" if math.isnan(v) else f"{100 * v:.2f}" for v in values)))
        return table(rows)

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


class LabelMetrics(ClassMetrics):
    """Scores of one class per image, from the confusion matrix of all that are labelled."""

    UNIT = "images"
    HEADLINE = ("accuracy", "macro_f1")

    def compute(self) -> dict[str, float]:
        """Scores of the whole set, in [0, 1].

        accuracy: share of images whose class is right. macro_f1: mean F1 over the classes that
            occur in truth or prediction. balanced_accuracy: mean recall over those in truth.
        baseline_accuracy, baseline_macro_f1: of always saying the most frequent class.
        """
        scores = super().compute()
        most = scores["baseline_accuracy"]
        return {
            "accuracy": scores["pixel_accuracy"],
            "macro_f1": scores["f1"],
            "balanced_accuracy": scores["mean_accuracy"],
            "baseline_accuracy": most,
            "baseline_macro_f1": 2 * scores["baseline_miou"] / (1 + most),  # 2 IoU / (1 + IoU)
        }


class MaskMetrics(Metrics):
    """Scores of a mask's foreground: 0 is background, 1 foreground, other pixels are ignored."""

    HEADLINE = ("iou",)

    def __init__(self) -> None:
        """Sums: the confusion matrix; then how often each probability is, of truth 0 and 1."""
        self.sums = torch.zeros(4 + 2 * NUM_PROBABILITIES, dtype=torch.int64)

    @property
    def _confusion(self) -> Tensor:
        """int64 (2, 2): rows are the truth, columns the prediction at a probability of 0.5."""
        return self.sums[:4].view(2, 2)

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """prediction: logits (N, 1, H, W), foreground where > 0; target: uint8 (N, H, W)."""
        logits = prediction.squeeze(1)
        bins = (
            (logits.float().sigmoid() * NUM_PROBABILITIES).long().clamp(max=NUM_PROBABILITIES - 1)
        )
        bins = torch.where(
            target != IGNORE, target.long() * NUM_PROBABILITIES + bins, 2 * NUM_PROBABILITIES
        )
        counts = histogram(bins, 2 * NUM_PROBABILITIES, torch.ones_like(bins))
        self._add(torch.cat([_confusion(logits > 0, target, 2).flatten(), counts]))

    def load_state(self, state: Tensor) -> None:
        """Also of a version that counted no probabilities: there is no best threshold then."""
        super().load_state(F.pad(state, (0, len(self.sums) - len(state))))

    def doubts(self) -> dict[str, str]:
        """Also: nearly everything is called background, where the truth has more (or all is
        foreground)."""
        return super().doubts() | _one_class(
            self._confusion, ("background", "foreground"), self.UNIT
        )

    def compute(self) -> dict[str, float]:
        """Scores of the whole set, in [0, 1].

        iou, f1 (Dice), precision, recall: of the foreground; nan if it occurs in neither truth nor
            prediction. accuracy: of both.
        best_f1, best_threshold: the highest F1 of calling foreground what is at least so probable,
            one threshold in hundredths for the whole set ("ODS" in papers on cracks and edges).
        baseline_iou: of calling every pixel foreground (the other constant scores 0).
        baseline_accuracy: of always saying the more frequent of the two.
        """
        (rejected, false), (missed, hit) = self._confusion.tolist()
        total = rejected + false + missed + hit
        occurs = 1.0 if hit + missed + false else math.nan
        return {
            "iou": occurs * hit / max(hit + missed + false, 1),
            "f1": occurs * 2 * hit / max(2 * hit + missed + false, 1),
            "precision": occurs * hit / max(hit + false, 1),
            "recall": occurs * hit / max(hit + missed, 1),
            "accuracy": ratio(hit + rejected, total),
            **self._best_threshold(),
            "baseline_iou": ratio(hit + missed, total),
            "baseline_accuracy": ratio(max(hit + missed, rejected + false), total),
        }

    def _best_threshold(self) -> dict[str, float]:
        """Of thresholds k / NUM_PROBABILITIES, k > 0, the first with the highest F1."""
        counts = self.sums[4:].view(2, NUM_PROBABILITIES).cpu().double()
        false, hit = counts.flip(1).cumsum(1).flip(1)[:, 1:]  # at or above each threshold
        f1, best = (2 * hit / (hit + false + counts[1].sum())).max(0)
        threshold = (best.double() + 1) / NUM_PROBABILITIES if f1.isfinite() else f1
        return {"best_f1": f1.item(), "best_threshold": threshold.item()}


def _one_class(confusion: Tensor, classes: Sequence[str], unit: str) -> dict[str, str]:
    """A doubt where one class takes 99 % of the predictions, and the others less than half of what
    the truth gives them."""
    total = max(int(confusion.sum()), 1)
    truth, predicted = (confusion.sum(dim).cpu().double() / total for dim in (1, 0))
    most = int(predicted.argmax())
    if predicted[most] <= 0.99 or 1 - predicted[most] >= (1 - truth[most]) / 2:
        return {}
    what = f"{predicted[most]:.1%} of the {unit} are predicted as {classes[most]}"
    cure = "the other classes need more steps, --class-weights, or a loss with dice"
    return {"classes": f"{what}, in truth {truth[most]:.1%}: {cure}"}


def _confusion(ids: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """int64 (C, C) counts of (truth, prediction); ids and target (N, H, W)."""
    num_bins = num_classes**2
    bins = torch.where(target != IGNORE, target.long() * num_classes + ids, num_bins)
    return histogram(bins, num_bins, torch.ones_like(bins)).view(num_classes, num_classes)
