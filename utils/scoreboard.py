"""`python -m utils.scoreboard RUN...`: what finished runs scored, as a Markdown table.

Runs whose commands differ in --seed, --out and --name alone share a row: the mean, and the lowest
to the highest. Nothing is typed by hand, and the command in a row gives its figure.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from datasets.task import UserError
from utils import checkpoint, report
from utils.command import run_command

OWN = ("--seed", "--out", "--name", "--wandb")  # flags in which the runs of a row may differ
HEAD = ("command", "score", "mean", "range", "constant", "seeds", "images", "minutes", "machine")


class Run(NamedTuple):
    """What one run reached. scores: of its best checkpoint. images: that training saw, each as
    often as it was drawn. minutes: from the first step to the last, evaluations included."""

    command: str
    seed: int
    scores: dict[str, float]
    images: int
    minutes: float
    machine: str


def read_run(folder: Path) -> Run:
    """A run's folder -> what it reached; UserError: it is none, or of an earlier version."""
    best = checkpoint.load(folder / "best.pt")
    config, settings = best["config"], best["config"]["settings"]
    if "origin" not in config:
        raise UserError(f"{folder}: does not say by which command and code it was made")
    origin = config["origin"]
    record = (folder / "metrics.jsonl").read_text().splitlines()
    last = json.loads(record[-1])
    images = last["step"] * sum(settings["bs"]) * settings["accum"] * config["ranks"]
    machine = f"{origin['hardware']}, {origin['threads']} threads, {origin['commit']}"
    command = _without(origin["command"])
    return Run(command, settings["seed"], best["scores"], images, last["time"] / 60, machine)


def rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Rows of text: a run's command, then one for every score that has a constant beside it."""
    table = []
    for command in dict.fromkeys(run.command for run in runs):
        same = [run for run in runs if run.command == command]
        seeds = ", ".join(str(run.seed) for run in same)
        images, minutes = mean(run.images for run in same), mean(run.minutes for run in same)
        about = [seeds, f"{images:,.0f}", f"{minutes:.1f}"]
        about.append("; ".join(dict.fromkeys(run.machine for run in same)))
        first = [f"`{command}`"]
        for name in same[0].scores:
            if (constant := same[0].scores.get(report.baseline_of(name))) is not None:
                values = [run.scores[name] for run in same]
                low, high = min(values), max(values)
                score = [name, f"{mean(values):.3f}", f"{low:.3f} to {high:.3f}", f"{constant:.3f}"]
                table.append((*first, *score, *about))
                first, about = [""], [""] * len(about)
    return table


def _without(command: str) -> str:
    """A command without the flags in which the runs of a row may differ."""
    words, kept = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word in OWN:
            words = words[1:]
        elif word.split("=")[0] not in OWN:
            kept.append(word)
    return shlex.join(kept)


def main() -> None:
    """Print the table of the runs that are named."""
    parser = argparse.ArgumentParser(prog="python -m utils.scoreboard", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    runs = [read_run(folder) for folder in parser.parse_args().runs]
    for line in [HEAD, ("---",) * len(HEAD), *rows(runs)]:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    sys.exit(run_command(main))
