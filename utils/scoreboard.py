"""`python -m utils.scoreboard RUN...`: what finished runs scored, as a Markdown table.

Runs whose commands differ in --seed, --out and --name alone share a row: the mean, and the lowest
to the highest. Nothing is typed by hand, and the command in a row gives its figure.

`--alone RUN...`: runs of one output each (`train.py --outputs NAME`). Of the others it is then told
how much they gain or lose against these.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from datasets.task import UserError
from utils import checkpoint, terminal
from utils.command import run_command
from utils.metrics import METRICS

OWN = ("--seed", "--out", "--name", "--wandb")  # flags in which the runs of a row may differ
HEAD = ("command", "score", "mean", "range", "constant", "seeds", "images", "minutes", "machine")


class Run(NamedTuple):
    """What one run reached. scores: of its best checkpoint. images: that training saw, each as
    often as it was drawn. minutes: from the first step to the last, evaluations included. kinds: of
    its outputs, by name."""

    command: str
    seed: int
    scores: dict[str, float]
    images: int
    minutes: float
    machine: str
    kinds: dict[str, str]


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
    outputs = [output for task in config["tasks"] for output in task["outputs"]]
    kinds = {output["name"]: output["kind"] for output in outputs}
    minutes = last["time"] / 60
    return Run(command, settings["seed"], best["scores"], images, minutes, machine, kinds)


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
            if (constant := same[0].scores.get(terminal.baseline_of(name))) is not None:
                values = [run.scores[name] for run in same]
                low, high = min(values), max(values)
                score = [name, f"{mean(values):.3f}", f"{low:.3f} to {high:.3f}", f"{constant:.3f}"]
                table.append((*first, *score, *about))
                first, about = [""], [""] * len(about)
    return table


def delta_m(run: Run, alone: Sequence[Run]) -> dict[str, float]:
    """Percent that each output of a run gains (above 0) or loses against those runs that have it
    alone, by output name; their mean is delta_m (Maninis, Radosavovic and Kokkinos 2019, "Attentive
    single-tasking of multiple tasks"): 1/T sum (-1)^l (M - M_alone) / M_alone, l = 1 of a score
    that is better when lower. An output of which charts draw several scores has their mean; several
    runs of it alone, theirs. UserError: an output has no run alone.
    """
    gains = {}
    for output, kind in run.kinds.items():
        singles = [single.scores for single in alone if set(single.kinds) == {output}]
        if not singles:
            raise UserError(f"--alone: no run of {output} alone, as --outputs {output} makes it")
        parts = []
        for score in METRICS[kind].HEADLINE:
            single = mean(scores[f"{output}/{score}"] for scores in singles)
            gain = (run.scores[f"{output}/{score}"] - single) / single if single else nan
            parts.append(-gain if score in METRICS[kind].LOWER else gain)
        gains[output] = 100 * mean(parts)
    return gains


def gain_lines(runs: Sequence[Run], alone: Sequence[Run]) -> Iterator[str]:
    """A line for each command: its `delta_m`, the mean and range of its runs, and each output's."""
    for command in dict.fromkeys(run.command for run in runs):
        gains = [delta_m(run, alone) for run in runs if run.command == command]
        each = [mean(gain.values()) for gain in gains]
        outputs = (f"{name} {mean(gain[name] for gain in gains):+.1f} %" for name in gains[0])
        spread = f"{min(each):+.1f} to {max(each):+.1f}"
        yield f"delta_m {mean(each):+.1f} % ({spread}; {', '.join(outputs)}): `{command}`"


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
    text = "folders of runs of one output each, with which the others are compared"
    parser.add_argument("--alone", nargs="+", type=Path, metavar="RUN", default=[], help=text)
    args = parser.parse_args()
    runs, alone = ([read_run(folder) for folder in each] for each in (args.runs, args.alone))
    for row in [HEAD, ("---",) * len(HEAD), *rows([*runs, *alone])]:
        print("| " + " | ".join(row) + " |")
    for line in gain_lines(runs, alone) if alone else ():
        print(f"\n{line}")


if __name__ == "__main__":
    sys.exit(run_command(main))
