"""A checkpoint becomes a folder to be shared as it is: small weights, card, table of classes."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.task import Classes, Depth, Label, Mask, Output, Task, UserError
from models import UNet
from utils import checkpoint, terminal
from utils.files import write_whole
from utils.metrics import metrics_of
from utils.metrics.classes import ClassScore
from utils.pictures.paint import class_colors

CARD, TABLE = "README.md", "classes.json"
TOLD = (  # settings that made the weights what they are, and say nothing of where files lie
    *("size", "bs", "accum", "epochs", "steps", "losses", "loss_weights", "class_weights", "aux"),
    *("optimizer", "lr", "encoder_lr", "momentum", "weight_decay", "schedule", "warmup", "clip"),
    *("ema", "amp", "seed", "split_by"),
)


def slim(path: Path | str) -> dict[str, Any]:
    """What prediction needs of a checkpoint, weights in half precision, and where they come from:
    of settings and data nothing that names a folder of this machine."""
    state = checkpoint.load(path, "config")
    names = ("step", "scores", "counts")
    with checkpoint.well_formed(path):
        weights = checkpoint.weights(state).items()
        halves = {k: v.half() if v.is_floating_point() else v for k, v in weights}
        config = {name: state["config"][name] for name in ("tasks", "sizes", "model")}
        settings = dict(state["config"].get("settings", {}))
        config["settings"] = {name: settings[name] for name in TOLD if name in settings}
        origin = dict(state["config"].get("origin", {}))
        origin.pop("command", "")  # it may name folders
        config["origin"], data = origin, settings.get("data", [])
        config["settings"]["data"] = [[Path(text).name for text in each] for each in data]
        return {n: state[n] for n in names if n in state} | {"config": config, "model": halves}


def write_package(folder: Path, weights: Path | str, network: UNet) -> None:
    """Write best.pt, README.md and classes.json into a new folder, which appears whole or not at
    all. UserError: there is something of that name, other than an empty folder."""
    state, folder = slim(weights), Path(os.path.abspath(folder))
    part = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    with checkpoint.well_formed(weights):
        tasks = [Task.from_json(task) for task in state["config"]["tasks"]]
        table = json.dumps(_table(tasks, network, state), indent=1, ensure_ascii=False)
        card = "\n".join(_card(folder.name, tasks, network, state))
    try:
        part.mkdir(parents=True)
        checkpoint.save(part / checkpoint.BEST, state)
        write_whole(part / TABLE, f"{table}\n".encode())
        write_whole(part / CARD, card.encode())
        os.rename(part, folder)  # takes the place of an empty folder alone
    except OSError as error:
        expected = "expected the name of a new or an empty folder"
        raise UserError(f"--export {folder}: {error.strerror}: {expected}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _table(tasks: list[Task], network: UNet, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a program needs to know of images and predictions."""
    mean, std = (values.flatten().tolist() for values in (network.mean, network.std))
    sizes = zip(tasks, state["config"]["sizes"], strict=True)
    return {
        "producer": "Manyhead",
        "input": "RGB from 0 to 1, then (image - mean) / std",
        "mean": mean,
        "std": std,
        "stride": network.stride,
        "tasks": {
            task.name: {
                "trained_at": list(size),
                "resize": task.resize,
                "pixels_per_mm": task.pixels_per_mm or None,
                "outputs": {output.name: _about(output) for output in task.outputs},
            }
            for task, size in sizes
        },
    }


def _about(output: Output) -> dict[str, Any]:
    """A kind, and what its numbers mean. id: in arrays; value: in the PNG files of infer.py."""
    about: dict[str, Any] = {"kind": output.kind}
    if isinstance(output, Depth):
        return about | {"unit": output.unit, "max_depth": output.max_depth}
    rows: list[dict[str, Any]] = [{"id": i, "name": each} for i, each in enumerate(output.labels)]
    if isinstance(output, Classes):
        for row, value, color in zip(rows, output.values, class_colors(output), strict=True):
            row |= {"value": value, "color": f"#{color}"}
    if isinstance(output, Mask):
        rows = [row | {"value": 255 * row["id"]} for row in rows]
    return about | ({"classes": rows} if rows else {})


def _card(name: str, tasks: list[Task], network: UNet, state: Mapping[str, Any]) -> Iterator[str]:
    """The lines of README.md, as Markdown. What the checkpoint does not say is left out."""
    outputs = [output for task in tasks for output in task.outputs]
    yield from ("---", f"pipeline_tag: {outputs[0].pipeline}", "tags:", "- manyhead", "---", "")
    yield from (f"# {name}", "", *(f"{task.name}: {task.about}." for task in tasks if task.about))
    numbers = sum(weight.numel() for weight in network.parameters())
    size = sum(weight.nbytes for weight in state["model"].values())
    spec = ", ".join(f"{key} {value}" for key, value in state["config"]["model"].items())
    yield f"Outputs: {len(outputs)}. {numbers:,} numbers, {size / 1e6:.1f} MB: {spec}."
    yield from ("", "## How to use it", "", "```")
    yield from (f"python infer.py --weights {name} --input scans/ --out predictions", "```", "")
    yield from ("```python", "from infer import load", f'predictor = load("{name}")')
    yield from ('labels = predictor("scan.jpg")  # arrays by output name', "```", "")
    yield from ("## What it predicts", "")
    scores = _classes(outputs, state)
    for output in outputs:
        unit = f", in {output.unit}" if isinstance(output, Depth) and output.unit else ""
        yield from (f"**{output.name}**: {output.says}{unit}.", "")
        yield from _rows(output, scores.get(output.name, {}))
    if found := state.get("scores"):
        yield from ("## Scores", "", f"Of the validation part, after {state['step']} steps.", "")
        yield from ("| metric | score | best constant answer |", "| --- | --- | --- |")
        for metric, value in found.items():
            if metric.partition("/")[0] in {o.name for o in outputs} and "baseline" not in metric:
                constant = found.get(terminal.baseline_of(metric))
                beside = "" if constant is None else f"{constant:.4f}"
                yield f"| {metric} | {value:.4f} | {beside} |"
        yield ""
    settings = {key: value for key, value in state["config"]["settings"].items() if value}
    if data := [" ".join(each) or "drawn demo pictures" for each in settings.pop("data", [])]:
        yield from ("## Data", "", f"Trained on {'; '.join(map(_cell, data))}.", "")
    if settings := settings | state["config"]["origin"]:
        yield from ("## Settings", "", "| what | value |", "| --- | --- |")
        yield from (f"| {key} | {_cell(value)} |" for key, value in settings.items())
        yield ""
    yield from ("## Limits", "", *_limits(tasks, state, scores), "")
    yield from ("## Licence", "", "The code that reads these weights, Manyhead, is MIT. What the")
    yield "weights may be used for depends on the terms of the data, which this card does not know."
    yield ""


def _classes(
    outputs: Sequence[Output], state: Mapping[str, Any]
) -> dict[str, dict[str, ClassScore]]:
    """By output and class what the validation part said of it, where the checkpoint has it."""
    found = {}
    for name, metric in metrics_of(outputs).items() if "counts" in state else ():
        metric.load_state(state["counts"][name])
        if metric.confusion is not None:
            found[name] = {score.name: score for score in metric.per_class()}
    return found


def _rows(output: Output, scores: Mapping[str, ClassScore]) -> Iterator[str]:
    """The table of classes."""
    if not isinstance(output, Classes | Mask | Label):
        return
    rows = _about(output)["classes"]
    more = [key for key in ("value", "color") if key in rows[0]] + ["IoU"] * bool(scores)
    yield f"| {' | '.join(['id', 'class', *more])} |"
    yield "| --- " * (2 + len(more)) + "|"
    for row in rows:
        if row["name"] in scores:
            row["IoU"] = f"{scores[row['name']].iou:.3f}"
        cells = [row[key] for key in ("id", "name")] + [row.get(key, "") for key in more]
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""


def _limits(
    tasks: list[Task], state: Mapping[str, Any], scores: Mapping[str, Mapping[str, ClassScore]]
) -> Iterator[str]:
    """What to expect of other pictures."""
    for task, (height, width) in zip(tasks, state["config"]["sizes"], strict=True):
        if task.resize:
            yield f"- {task.name}: images are resized to {height}x{width} for the network."
        else:
            scale = f", {task.pixels_per_mm:g} pixels per mm" if task.pixels_per_mm else ""
            yield f"- {task.name}: learnt from crops of {height}x{width}{scale}; what is much"
            yield "  larger or smaller in a picture than in the data is not found (`--scale`)."
        if any(isinstance(output, Classes) for output in task.outputs):
            yield f"- {task.name}: each pixel gets one of the classes, also what is none of them."
    for name, rows in scores.items():
        if missed := [row.name for row in rows.values() if not row.iou >= 0.01]:
            yield f"- {name}: not found in the validation part: {_cell(', '.join(missed))}."
    if state.get("scores"):
        yield "- The validation part also picked the step: expect less of other pictures."
    yield "- Weights are in half precision."


def _cell(value: object) -> str:
    """A value in a table of Markdown."""
    return " ".join(str(value).replace("|", r"\|").split())
