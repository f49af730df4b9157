"""Draws learning curves and confusion matrices of a run. The first one imports matplotlib."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.task import Output
from utils.files import write_whole
from utils.metrics import metrics_of
from utils.run.record import read_metrics
from utils.terminal import baseline_of

Chart = dict[str, tuple[list[Any], list[float]]]  # by name: (steps, values)
RATE = "train/lr"
MANY = 60  # points from which a loss is smoothed, and no point is marked


def draw_curves(metrics_file: Path, out: Path, outputs: Sequence[Output]) -> None:
    """Chart a metrics.jsonl: loss, each headline score of `val/`, learning rate, over the steps.

    Scores are those that the metrics of these outputs name, such as `val/OUTPUT/miou`; a score's
    `val/OUTPUT/baseline_miou` is a dashed line beside it. A missing or empty file gives a chart
    that says so.
    """
    from matplotlib.figure import Figure

    charts = read_charts(metrics_file, outputs)
    columns = min(3, max(len(charts), 1))
    rows = max(1, math.ceil(len(charts) / columns))
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    if not charts:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", va="center")
    for number, chart in enumerate(charts, 1):
        _draw_chart(figure.add_subplot(rows, columns, number), chart, _headlines(outputs))
    _save_figure(figure, out)


def read_charts(metrics_file: Path, outputs: Sequence[Output]) -> list[Chart]:
    """What `draw_curves` draws, a chart each."""
    series: Chart = {}
    for line in read_metrics(metrics_file):
        for key, value in line.items():
            if value is not None and key not in ("step", "time"):
                steps, values = series.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(value)
    headlines = _headlines(outputs)
    scores = [key for key in series if key in headlines]
    charts = [["train/loss", "val/loss"], *([key, f"val/{baseline_of(key[4:])}"] for key in scores)]
    shown = ({key: series[key] for key in keys if key in series} for keys in [*charts, [RATE]])
    return [chart for chart in shown if chart]


def _headlines(outputs: Sequence[Output]) -> dict[str, int]:
    """Scores to draw, `val/OUTPUT/SCORE`: 1 if higher is better, -1 if lower is."""
    return {
        f"val/{name}/{score}": -1 if score in metrics.LOWER else 1
        for name, metrics in metrics_of(outputs).items()
        for score in metrics.HEADLINE
    }


def _draw_chart(axes: Any, series: Chart, signs: Mapping[str, int]) -> None:
    """One chart: losses (long ones smoothed), a score (best marked, baseline dashed), or a rate.
    signs: as of `_headlines`."""
    title = ", ".join(series)
    for number, (key, (steps, values)) in enumerate(series.items()):
        last, color = key.rpartition("/")[2], f"C{number}"
        if last == "loss" and len(values) >= MANY:
            axes.plot(steps, values, color=color, lw=1, alpha=0.3)
            axes.plot(steps, _smooth(values), color=color, lw=1.6, label=key)
        elif last.startswith("baseline_"):
            axes.plot(steps, values, "--", color="#707070", lw=1.2, label="baseline")
        else:
            marker = "o" if len(values) < MANY and last != "lr" else None
            axes.plot(steps, values, color=color, marker=marker, ms=3, label=key)
        if key in signs:
            best = int(np.argmax(signs[key] * np.array(values)))
            axes.plot(steps[best], values[best], "o", color="#C0392B", ms=6)
            title = f"{key}: best {values[best]:.4g} at {steps[best]}"
    values = [value for _, listed in series.values() for value in listed]
    if last == "loss" and 0 < 10 * min(values) <= max(values):
        axes.set_yscale("log")
    if last == "lr":
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))
    if len(series) > 1:
        axes.legend(fontsize=9, frameon=False)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3, which="both")


def draw_confusion(matrix: Any, classes: Sequence[str], out: Path, unit: str = "pixels") -> None:
    """Chart a confusion matrix, int (C, C), rows = truth: where each class's pixels (or what
    `unit` says) went, in %.

    A class without any has an empty row. Shares below 0.5 % are left blank.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(matrix, np.float64)
    totals = counts.sum(1)  # (C,)
    shares = 100 * counts / np.maximum(totals, 1)[:, None]
    num = len(classes)
    side = 0.42 * num  # inches
    figure = Figure(figsize=(side + 3, side + 1.9), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
        share = shares[row, column]
        color = "white" if share > 55 else "#202020"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=9, color=color)
    weights = 100 * totals / max(totals.sum(), 1)
    rows = [f"{name}  ({_percent(weight)})" for name, weight in zip(classes, weights, strict=True)]
    axes.set_xticks(range(num), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num), rows)
    axes.set_xticks(np.arange(num + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num + 1) - 0.5, minor=True)
    axes.tick_params(which="both", labelsize=9, length=0)
    axes.grid(which="minor", color="#E4E4E4", lw=0.6)
    axes.set_title(f"where the {unit} of each class went, %", fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel(f"truth  (share of all {unit})")
    _save_figure(figure, out)


def _percent(share: float) -> str:
    if share == 0:
        return "none"
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %"


def _save_figure(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(figure.savefig, format="png", dpi=110))


def _smooth(values: list[float]) -> np.ndarray:
    """Running mean over about a twentieth of the points; narrower towards both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    half = np.minimum(np.minimum(at, at[::-1]), len(values) // 40)
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)
