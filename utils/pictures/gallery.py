"""Samples of an evaluation that are worth drawing: spread over all, the best and the worst."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.metrics.sums import ClassScore, Metrics
from utils.pictures.paint import shrunk

SPREAD, ENDS = 8, 3  # samples: spread over all; best, and as many worst
SIDE = 512  # pixels: larger samples are kept smaller


class EvalSample(NamedTuple):
    """One evaluated sample on the host, to be drawn: image uint8 (3, H, W); target and prediction
    by output name, (H, W): class id, 0 or 1, or depth. score: of this sample alone, nan where
    nothing is labelled; classes: by output name, of each class that occurs."""

    key: str
    image: Tensor
    targets: dict[str, Tensor]
    predictions: dict[str, Tensor]
    score: float = math.nan
    classes: Mapping[str, Sequence[ClassScore]] = {}


class Gallery:
    """Keeps samples of an evaluation while they come.

    by: the score, `OUTPUT/METRIC` and higher is better, that makes a sample one of the best or the
    worst. total: samples that will come. spread: so many of them, at even distances.
    """

    def __init__(self, by: str, total: int, spread: int = SPREAD, ends: int = ENDS) -> None:
        self.by, self.ends = by, ends
        self.places = {int((i + 0.5) * total / spread) for i in range(spread)}
        self.seen = 0
        self.spread: list[EvalSample] = []
        self.ranked: list[EvalSample] = []  # from the worst to the best; the middle is dropped

    def offer(self, sample: EvalSample, counts: Mapping[str, Metrics]) -> None:
        """The next sample, with what was counted in it. Its tensors are copied if it is kept."""
        output, _, metric = self.by.partition("/")
        score = counts[output].compute()[metric] if output in counts else math.nan
        ends, place = self.ends, self.seen
        self.seen += 1
        full = len(self.ranked) == 2 * ends
        between = full and self.ranked[ends - 1].score <= score <= self.ranked[-ends].score
        ranks = ends > 0 and not (math.isnan(score) or between)
        if not (ranks or place in self.places):
            return
        rows = {name: metric.per_class() for name, metric in counts.items()}
        occur = {n: [row for row in each if not math.isnan(row.iou)] for n, each in rows.items()}
        kept = _smaller(sample)._replace(score=score, classes=occur)
        if place in self.places:
            self.spread.append(kept)
        if ranks:
            self.ranked = sorted([*self.ranked, kept], key=lambda each: each.score)
            if full:
                del self.ranked[ends]

    def groups(self) -> dict[str, list[EvalSample]]:
        """The samples by why they are shown; none is both best and worst."""
        half = len(self.ranked) // 2
        worst, best = self.ranked[:half], self.ranked[half:][::-1]
        return {"worst": worst, "best": best, "spread over all": self.spread}


def _smaller(sample: EvalSample) -> EvalSample:
    """A copy with a longer side of SIDE pixels at most."""
    pixels = np.asarray(sample.image).transpose(1, 2, 0)  # (H, W, 3)
    step = -(-max(pixels.shape[:2]) // SIDE)
    image = torch.from_numpy(np.array(shrunk(pixels, SIDE))).permute(2, 0, 1)
    targets, predictions = (
        {n: (t[..., ::step, ::step] if t.ndim > 1 else t).clone() for n, t in each.items()}
        for each in (sample.targets, sample.predictions)
    )
    return sample._replace(image=image, targets=targets, predictions=predictions)
