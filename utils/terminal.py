"""The lines that a person reads in the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.settings import RUNS, Settings

if TYPE_CHECKING:
    from utils.engine import TrainState
    from utils.run.progress import Steps


def postfix(line: dict[str, float]) -> str:
    """The end of the progress bar."""
    return (
        f"loss {line['loss']:.3f}, {line['images_per_second']:.1f} images/s, "
        f"{line['memory_gib']:.1f} GiB"
    )


def evaluation(
    where: str, line: dict[str, float], scores: dict[str, float], best: list[str]
) -> str:
    """One line: losses, the metrics that pick the best beside their baselines, speed."""
    parts = [f"{where}: loss {line['loss']:.3f}, val {scores['loss']:.3f}"]
    for metric in best:
        baseline = scores.get(baseline_of(metric))
        beside = "" if baseline is None else f" (constant {baseline:.3f})"
        parts.append(f"{metric} {scores[metric]:.3f}{beside}")
    parts.append(f"{line['images_per_second']:.1f} images/s")
    parts.append(f"{line['waiting']:.0%} waiting for data")
    return ", ".join(parts)


def baseline_of(metric: str) -> str:
    """ "damage/miou" -> "damage/baseline_miou": the score of a constant answer."""
    return "/baseline_".join(metric.split("/", 1))


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as columns: the first set to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        lines.append("  ".join([name.ljust(first), *right]).rstrip())
    return "\n".join(lines)


def best(metric: str, scores: dict[str, float], step: int) -> str:
    """The score that a run is known by, and that of a constant answer."""
    baseline = scores.get(baseline_of(metric))
    beside = "" if baseline is None else f"; the best constant answer: {baseline:.4f}"
    return f"best {metric} {scores[metric]:.4f} at step {step}{beside}"


def announcement(
    settings: Settings,
    samples: Sequence[tuple[int, int]],
    state: TrainState,
    steps: Steps,
    path: Path,
) -> str:
    """What is about to be trained, on what, and where it goes. samples: of each task, to train on
    and to validate."""
    lines = []
    for each, (train, val) in zip(settings.tasks, samples, strict=True):
        counts = f"{train} images to train on, {val} to validate"
        size = "{}x{} pixels".format(*each.size)
        world_size = state.distributed.world_size
        ranks = f" on each of {world_size} ranks" if world_size > 1 else ""
        lines.append(f"{each.task.name}: {counts}, {size}, batch {each.bs}{ranks}")
    million = sum(p.numel() for p in state.model.parameters()) / 1e6
    device, dtype = state.compute.device, str(state.compute.dtype or "torch.float32")
    what = f"{settings.network.encoder}, {million:.2f} M parameters"
    lines.append(f"{what}, {device}, {dtype.removeprefix('torch.')}")
    if settings.amp and state.compute.dtype is None and settings.ckpt != "none":
        lines.append("--ckpt makes a step slower; without --amp it gains nothing but memory")
    lines.append(f"{steps.total} steps, {steps.epoch} an epoch, into {path}")
    return "\n".join(lines)


def next_command(settings: Settings, path: Path) -> str:
    """The command that predicts with the best weights of a run, from what it was trained on."""
    first = settings.tasks[0]
    if len(settings.tasks) == 1 and path.parent == RUNS and not first.data:
        return f"python infer.py --task {first.task.name}"
    words = ["--weights", str(path / "best.pt")]
    if first.data:
        words += ["--task", first.task.name] if len(settings.tasks) > 1 else []
        words += ["--input", *first.data]
    return f"python infer.py {shlex.join(words)}"
