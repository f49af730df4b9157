"""Scores of a whole set from batches of predictions and targets, for each kind of output."""

from collections.abc import Sequence

from datasets.task import Output
from utils.metrics.classes import ClassMetrics, LabelMetrics, MaskMetrics
from utils.metrics.depth import DepthMetrics
from utils.metrics.normals import NormalsMetrics
from utils.metrics.sums import Metrics

METRICS: dict[str, type[Metrics]] = {
    "classes": ClassMetrics,
    "mask": MaskMetrics,
    "depth": DepthMetrics,
    "normals": NormalsMetrics,
    "label": LabelMetrics,
}


def metrics_of(outputs: Sequence[Output]) -> dict[str, Metrics]:
    """Fresh metrics by output name."""
    return {output.name: METRICS[output.kind].of(output) for output in outputs}


def picking_scores(output: Output) -> list[str]:
    """The scores of an output that can pick the best checkpoint: higher is better."""
    (metrics,) = metrics_of([output]).values()
    return [
        score
        for score in metrics.compute()
        if score not in metrics.LOWER and not score.startswith(("baseline_", "best_"))
    ]
