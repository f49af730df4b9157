"""Reads a run's record, its metrics.jsonl, back."""

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from statistics import mean


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a metrics.jsonl, none if it is missing; skips a line that a crash cut short, or
    that holds anything but numbers."""
    lines = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for each in text.split("\n"):
        with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError):
            line = json.loads(each)
            if line.get("step") is not None and all(
                x is None or -1e300 < x < 1e300 for x in line.values()
            ):
                lines.append(line)
    return lines


def flat_terms(path: Path, outputs: Collection[str]) -> dict[str, str]:
    """The loss terms of these outputs that a metrics.jsonl shows not to fall: over the last fifth
    of at least 20 values the mean is no lower than over the first. A line for each, by its name."""
    values: dict[str, list[float]] = {}
    for line in read_metrics(path):
        for key, value in line.items():
            part, *names = key.split("/")
            if part == "train" and len(names) == 2 and names[0] in outputs and value is not None:
                values.setdefault("/".join(names), []).append(value)
    found = {}
    for name, each in values.items():
        fifth = len(each) // 5
        if fifth >= 4 and mean(each[-fifth:]) >= mean(each[:fifth]):
            then, now = mean(each[:fifth]), mean(each[-fifth:])
            found[name] = (
                f"{name}: this loss term does not fall, from {then:.3g} at first to {now:.3g} now: "
                "a smaller --lr, more steps, or a look at its labels"
            )
    return found
