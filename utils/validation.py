"""How good a network is on a data set; what a run keeps of its validation splits."""

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from datasets.dataset import DenseDataset, TaskData
from datasets.loader import eval_batches
from datasets.task import Batch, Task, UserError
from utils.distributed import Distributed
from utils.engine import TrainState
from utils.metrics import metrics_of
from utils.metrics.sums import Metrics
from utils.pictures.gallery import EvalSample, Gallery
from utils.pictures.visualize import sample_panel
from utils.predict import Predictor
from utils.run.page import Result
from utils.settings import Settings
from utils.skipped import Skipped
from utils.stop import StopSignals


class Evaluation(NamedTuple):
    """scores: `OUTPUT/METRIC` and mean loss terms. metrics: the counts behind them."""

    scores: dict[str, float]
    metrics: Mapping[str, Metrics]


@torch.inference_mode()
def evaluate(
    predictor: Predictor,
    batches: Iterable[Batch],
    criterion: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    metrics: Mapping[str, Metrics],
    distributed: Distributed,
    gallery: Gallery | None = None,
) -> Evaluation:
    """How good a network is on a data set, from one streamed count per output.

    Everything is counted at the labels' own size: of a task that resizes, predictions are brought
    back to it. Loss terms are means over the parts that the predictor answers for (tiles, or images
    that are resized), weighted by their pixels. Distributed each take a part of the batches
    and return the scores of the whole. gallery: is offered every sample, to be drawn.
    """
    compute = predictor.compute
    sums: dict[str, Tensor] = {}
    pixels = 0
    nothing = copy.deepcopy(metrics)
    for batch in batches:
        labels = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in batch.targets.items()}
        counts = [copy.deepcopy(nothing) for _ in batch.keys]
        pixels += len(batch.image) * math.prod(batch.image.shape[-2:])
        for index, size, predictions in predictor(batch.image, tuple(batch.targets)):
            targets = compute.targets({name: batch.targets[name][index] for name in predictions})
            numbers = range(len(batch.image))[index[0]]
            for i in range(len(numbers)):  # no loss depends on which images share a batch
                one = (
                    {n: each[i : i + 1] for n, each in e.items()} for e in (predictions, targets)
                )
                for name, term in criterion(*one)[1].items():
                    sums[name] = sums.get(name, 0) + term.double() * (size / len(numbers))
            for name, target in targets.items():
                said = predictor.model.heads[name].to_labels(predictions[name])
                counted = said if metrics[name].OF_LABELS else predictions[name]
                for i, number in enumerate(numbers):
                    counts[number][name].update(counted[i : i + 1], target[i : i + 1])
                if gallery:
                    labels[name][index] = said.to(labels[name])
        for i, (key, count) in enumerate(zip(batch.keys, counts, strict=True)):
            for name, metric in metrics.items():
                metric.add(count[name])
            if gallery:
                truth, label = ({n: t[i] for n, t in e.items()} for e in (batch.targets, labels))
                gallery.offer(EvalSample(key, batch.image[i], truth, label), count)
    names = distributed.union(sums)  # a rank without a sample has none of its own
    own = [*(float(sums.get(name, 0)) for name in names), pixels]
    totals = distributed.sum(torch.tensor(own, dtype=torch.float64))
    if not totals[-1]:
        raise UserError("nothing to evaluate: not one sample of the split can be used")
    scores = {name: float(total / totals[-1]) for name, total in zip(names, totals, strict=False)}
    for name, metric in metrics.items():
        metric.load_state(distributed.sum(metric.state()))
        scores |= {f"{name}/{key}": value for key, value in metric.compute().items()}
    return Evaluation(scores, metrics)


class Validation(NamedTuple):
    """score: mean over tasks of what picks the best. facts: what best.pt tells of itself. doubts:
    what speaks against the scores, see `Metrics.doubts`, by output and subject. results: of each
    task; the samples are this rank's own."""

    score: float
    scores: dict[str, float]
    facts: dict[str, Any]
    doubts: dict[str, str]
    results: list[Result]

    def pictures(self) -> dict[str, Image.Image]:
        """Some predictions of each task; a rank's own samples may all be bad."""
        return {
            task.name: sample_panel(gallery.spread[::2], task.outputs)
            for task, _, gallery in self.results
            if gallery.spread
        }


def validate(
    settings: Settings,
    data: list[TaskData],
    state: TrainState,
    skipped: Skipped,
    stop: StopSignals,
) -> Validation:
    """Every task's validation split: its scores, their counts, some predictions to be drawn.
    Stopped when a signal comes, unless other ranks would wait for this one."""
    scores: dict[str, float] = {}
    counts: dict[str, Tensor] = {}
    doubts: dict[str, str] = {}
    results, losses = [], []
    for own, (task, _, val) in zip(settings.tasks, data, strict=True):
        predictor = Predictor(
            state.averaged,
            state.compute,
            settings.tile,
            settings.tile // 8,
            size=own.size if task.resize else None,
        )
        metrics = metrics_of(task.outputs)
        part = state.distributed.part
        batches = eval_batches(val, own.eval_bs, settings.workers, part, skipped.add)
        if state.distributed.world_size == 1:
            batches = stop.until(batches)
        gallery = Gallery(task.best, len(range(part[0], len(val), part[1])))
        evaluation = evaluate(
            predictor,
            batches,
            state.criterion,
            metrics,
            state.distributed,
            gallery if state.distributed.is_main else None,
        )
        losses.append(evaluation.scores["loss"])
        scores |= evaluation.scores
        counts |= {name: metric.state().cpu() for name, metric in metrics.items()}
        for name, metric in metrics.items():
            doubts |= {
                f"{name} {what}": f"{name}: {doubt}" for what, doubt in metric.doubts().items()
            }
        results.append(Result(task, metrics, gallery))
    skipped.settle()
    scores["loss"] = sum(losses)
    score = sum(scores[each.task.best] for each in data) / len(data)
    return Validation(score, scores, {"scores": scores, "counts": counts}, doubts, results)


def judge(
    task: Task, predictor: Predictor, dataset: DenseDataset, skipped: Skipped, workers: int
) -> Result:
    """What a trained network says of a labelled split: its counts, and some samples."""
    batches = eval_batches(dataset, 4, workers, on_bad=skipped.add)
    metrics, gallery = metrics_of(task.outputs), Gallery(task.best, len(dataset))
    none = torch.zeros(())
    evaluate(predictor, batches, lambda *_: (none, {}), metrics, skipped.distributed, gallery)
    return Result(task, metrics, gallery)


def scores_of(results: Sequence[Result]) -> dict[str, Any]:
    """`OUTPUT/METRIC`; where there are classes `OUTPUT/per_class`, a row each, with how many of its
    pixels were predicted as each class (`confusion`). null stands for nan, as JSON has it."""
    scores: dict[str, Any] = {}
    for name, metric in (pair for each in results for pair in each.metrics.items()):
        scores |= {f"{name}/{key}": value for key, value in metric.compute().items()}
        if metric.confusion is not None:
            pairs = zip(metric.per_class(), metric.confusion.tolist(), strict=True)
            rows = [row._asdict() | {"confusion": counts} for row, counts in pairs]
            scores[f"{name}/per_class"] = rows
    return json.loads(json.dumps(scores), parse_constant=lambda _: None)
