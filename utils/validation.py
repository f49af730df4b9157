"""An evaluation of a run's validation splits, and what is kept of it."""

from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from datasets.dataset import TaskData
from datasets.loader import eval_batches
from utils import engine
from utils.engine import TrainState
from utils.metrics import metrics_of
from utils.predict import Predictor
from utils.settings import Settings
from utils.skipped import Skipped
from utils.stop import StopSignals
from utils.visualize import sample_panel

NUM_PICTURES = 4


class Validation(NamedTuple):
    """score: mean over tasks of what picks the best. facts: what best.pt tells of itself.
    doubts: what speaks against the scores, see `Metrics.doubts`, by output and subject."""

    score: float
    scores: dict[str, float]
    facts: dict[str, Any]
    pictures: dict[str, Image.Image]
    doubts: dict[str, str]


def validate(
    settings: Settings,
    data: list[TaskData],
    state: TrainState,
    skipped: Skipped,
    stop: StopSignals,
) -> Validation:
    """Every task's validation split: its scores, their counts, some predictions as pictures.
    Stopped when a signal comes, unless other ranks would wait for this one."""
    scores: dict[str, float] = {}
    counts: dict[str, Tensor] = {}
    doubts: dict[str, str] = {}
    pictures, losses = {}, []
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
        evaluation = engine.evaluate(
            predictor, batches, state.criterion, metrics, state.distributed, NUM_PICTURES
        )
        losses.append(evaluation.scores["loss"])
        scores |= evaluation.scores
        counts |= {name: metric.state().cpu() for name, metric in metrics.items()}
        for name, metric in metrics.items():
            doubts |= {
                f"{name} {what}": f"{name}: {doubt}" for what, doubt in metric.doubts().items()
            }
        if evaluation.samples:  # a rank's own samples may all be bad
            pictures[task.name] = sample_panel(evaluation.samples, task.outputs)
    skipped.settle()
    scores["loss"] = sum(losses)
    score = sum(scores[each.task.best] for each in data) / len(data)
    return Validation(score, scores, {"scores": scores, "counts": counts}, pictures, doubts)
