"""What all metrics are: sums over pixels, from which the scores of a whole set follow.

They are kept on the device in int64 or float64: any split into batches gives the same scores, and
so does the sum of the ranks' `state()` in `load_state`. Nothing waits for the device before
`compute`. A score that no pixel defines is nan.
"""

import math
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from datasets.task import Output


class ClassScore(NamedTuple):
    """Scores of one class in [0, 1]; share: of the labelled pixels, by ground truth."""

    name: str
    iou: float
    f1: float
    precision: float
    recall: float
    share: float


class Metrics:
    """Sums over pixels. Subclasses fill them in `update` and turn them into scores in `compute`.

    LOWER: the scores that are better when lower. HEADLINE: those that charts draw. UNIT: what is
    counted. OF_LABELS: whether `update` may be given labels too, as in `Batch`.
    """

    LOWER: ClassVar[tuple[str, ...]] = ()
    HEADLINE: ClassVar[tuple[str, ...]]
    UNIT: ClassVar[str] = "pixels"
    OF_LABELS: ClassVar[bool] = False
    sums: Tensor

    @classmethod
    def of(cls, output: Output) -> Self:
        """For the predictions and targets of this output."""
        return cls()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch: what the network's head gives, and the targets."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Scores of all that was counted."""
        raise NotImplementedError

    def doubts(self) -> dict[str, str]:
        """What speaks against these scores, in words that follow the output's name, by subject: a
        headline score that is worse than that of always giving one answer."""
        scores, found = self.compute(), {}
        for name in self.HEADLINE:
            score, constant = scores[name], scores.get(f"baseline_{name}", math.nan)
            if score > constant if name in self.LOWER else score < constant:
                found[name] = (
                    f"{name} {score:.3f} is worse than one constant answer's {constant:.3f}"
                )
        return found

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

    def add(self, other: Self) -> None:
        """Count what another has counted."""
        self._add(other.sums)

    def _add(self, sums: Tensor) -> None:
        self.sums = self.sums.to(sums.device) + sums


def histogram(bins: Tensor, num_bins: int, weights: Tensor) -> Tensor:
    """Sum of the weights in each bin; bin `num_bins` is dropped. Unlike `bincount`, never waits."""
    sums = torch.zeros(num_bins + 1, dtype=weights.dtype, device=bins.device)
    return sums.scatter_add_(0, bins.flatten(), weights.flatten())[:-1]


def ratio(part: float, total: float) -> float:
    """A share; of nothing it is nan."""
    return part / total if total else math.nan
