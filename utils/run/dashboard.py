"""What wandb shows of an evaluation: bars of classes, confusion, samples to filter by class."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from utils.metrics.sums import ClassScore
from utils.pictures.gallery import EvalSample
from utils.pictures.visualize import sample_panel
from utils.run.page import Result

CLASS = ("class", "IoU", "F1", "precision", "recall", "share")
SAMPLE = ("sample", "shown as", "score", "output", *CLASS, "picture")
COUNT = ("Actual", "Predicted", "nPredictions")

PICTURE_WIDTH = 768  # pixels; what wandb gets is a JPEG no wider than this, a few ms each


def dashboard(wandb: Any, results: Sequence[Result]) -> dict[str, Any]:
    """By key what `run.log` takes. wandb: the module."""
    shown: dict[str, Any] = {}
    for task, metrics, gallery in results:
        for name, metric in metrics.items():
            if metric.confusion is None:
                continue
            scores = metric.per_class()
            table = wandb.Table(columns=list(CLASS), data=[_cells(row) for row in scores])
            shown[f"classes/{name}"] = wandb.plot.bar(table, "class", "IoU", title=f"{name}: IoU")
            names, counts = [row.name for row in scores], metric.confusion.tolist()
            pairs = [[t, p, n] for t, row in zip(names, counts, strict=True)
                     for p, n in zip(names, row, strict=True)]  # fmt: skip
            shown[f"confusion/{name}"] = wandb.plot_table(
                "wandb/confusion_matrix/v1",
                wandb.Table(columns=list(COUNT), data=pairs),
                {each: each for each in COUNT},
                {"title": f"{name}: {metric.UNIT}"},
            )
        rows = []
        for why, samples in gallery.groups().items():
            for sample in samples:
                picture = small_jpeg(wandb, sample_panel([sample], task.outputs))
                score = None if math.isnan(sample.score) else sample.score
                rows += [[sample.key, why, score, *row, picture] for row in _classes(sample)]
        shown[f"samples/{task.name}"] = wandb.Table(columns=list(SAMPLE), data=rows)
    return shown


def small_jpeg(wandb: Any, picture: Image.Image) -> Any:
    """A picture as wandb takes it."""
    copy = picture.convert("RGB")
    copy.thumbnail((PICTURE_WIDTH, copy.height))
    return wandb.Image(copy, file_type="jpg")


def _classes(sample: EvalSample) -> Iterator[list[Any]]:
    """A row for each class that occurs in a sample; one where no output has classes."""
    rows = [[name, *_cells(row)] for name, some in sample.classes.items() for row in some]
    yield from rows or [[""] + [None] * len(CLASS)]


def _cells(row: ClassScore) -> list[Any]:
    """nan, which tables do not sort, is nothing."""
    return [None if isinstance(value, float) and math.isnan(value) else value for value in row]
