"""Targets of one output go in, one by one; what they hold, as the rows of a table, comes out.

One class for each kind: `STATISTICS`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.task import IGNORE, Output

Row = tuple[str, list[str]]  # a name, and a number as text for each split


class LabelCounts:
    """Pixels of each label, and of none."""

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)

    def count(self, target: np.ndarray) -> None:
        """Add one target, uint8, as in `Sample`."""
        self.counts += np.bincount(target.ravel(), minlength=256)

    def add(self, other: LabelCounts) -> None:
        """Add what another process counted."""
        self.counts += other.counts

    @staticmethod
    def title(output: Output) -> str:
        """What the rows tell."""
        return "share of pixels"

    @staticmethod
    def rows(output: Output, splits: Sequence[LabelCounts]) -> list[Row]:
        """Shares of labelled pixels, then the unlabelled share of all."""
        labelled = [max(1, int(each.counts[:IGNORE].sum())) for each in splits]
        rows = [
            (name, [_share(each.counts[i], n) for each, n in zip(splits, labelled, strict=True)])
            for i, name in enumerate(output.labels)
        ]
        ignored = [
            each.counts[IGNORE] / each.counts.sum() if each.counts.any() else np.nan
            for each in splits
        ]
        return [*rows, ("(unlabelled)", [percent(share) for share in ignored])]


class Numbers:
    """Pixels with and without a number; of those with one the sum, the smallest and the largest."""

    def __init__(self) -> None:
        self.known, self.unknown, self.total = 0, 0, 0.0
        self.low, self.high = np.inf, -np.inf

    def numbers(self, target: np.ndarray) -> np.ndarray:
        """The known ones of a target."""
        return target[target >= 0]

    def count(self, target: np.ndarray) -> None:
        """Add one target as in `Sample`."""
        known, pixels = self.numbers(target), target.shape[-2] * target.shape[-1]
        self.known += known.size
        self.unknown += pixels - known.size
        if known.size:
            self.total += float(known.sum(dtype=np.float64))
            self.low = min(self.low, float(known.min()))
            self.high = max(self.high, float(known.max()))

    def add(self, other: Numbers) -> None:
        """Add what another process counted."""
        self.known += other.known
        self.unknown += other.unknown
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @staticmethod
    def title(output: Output) -> str:
        """What the rows tell."""
        return getattr(output, "unit", "") or f"relative {output.kind}"

    @staticmethod
    def rows(output: Output, splits: Sequence[Numbers]) -> list[Row]:
        """Smallest, mean and largest number, then the share of pixels without one."""
        known = [max(1, each.known) for each in splits]
        pixels = [each.known + each.unknown for each in splits]
        invalid = [v.unknown / n if n else np.nan for v, n in zip(splits, pixels, strict=True)]
        return [
            ("smallest", [_number(each.low) for each in splits]),
            ("mean", [_number(v.total / n) for v, n in zip(splits, known, strict=True)]),
            ("largest", [_number(each.high) for each in splits]),
            ("(invalid)", [percent(share) for share in invalid]),
        ]


STATISTICS = {"classes": LabelCounts, "mask": LabelCounts, "depth": Numbers}
Statistics = LabelCounts | Numbers


def percent(share: float) -> str:
    """A share as text; of nothing it is a dash."""
    return "-" if np.isnan(share) else f"{100 * share:.3g} %"


def _share(count: int, total: int) -> str:
    return "absent" if not count else percent(count / total)


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"
