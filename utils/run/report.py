"""Keeps report.html of a run, which is written anew at every evaluation."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from utils import checkpoint
from utils.memory.plan import GIB, MemoryPlan
from utils.metrics import metrics_of
from utils.metrics.sums import Metrics
from utils.run.charts import read_charts
from utils.run.page import refuse_other_page, write_page
from utils.run.progress import peak_memory
from utils.validation import Validation

PLAN_SECONDS = 60  # of a run before its memory plan is made, which takes one or two of them


class RunReport:
    """The page of a run in its folder. config: what its config.json holds.

    best: what the best weights' evaluation counted, by output name; read from best.pt where a
    resumed run has not found better ones yet. planned: GiB of a training step, 0 before it is
    known; before: GiB that the process had taken when it began, on a CPU.
    """

    def __init__(self, folder: Path, config: dict[str, Any], device: torch.device) -> None:
        self.folder, self.config, self.device = folder, config, device
        refuse_other_page(folder / "report.html")
        self.best: Mapping[str, Metrics] = {}
        self.planned = 0.0
        self.before = peak_memory(device) / GIB if device.type == "cpu" else 0.0

    def begin(self, plan: Callable[[], MemoryPlan] | None, samples: Mapping[str, int]) -> None:
        """plan: makes that of a step, if it is to be compared. samples: of each split."""
        self.plan, self.samples, self.begun = plan, samples, time.monotonic()

    def write(self, step: int, progress: str, used: float, validation: Validation) -> None:
        """What is known after that step. progress: how far the run is; used: GiB at most so far."""
        if self.plan and not self.planned and time.monotonic() - self.begun >= PLAN_SECONDS:
            plan = self.plan()
            seen = plan.peak if self.device.type == "cuda" else plan.taken
            self.planned = seen(plan.mode) / GIB
        tasks = [result.task for result in validation.results]
        outputs = [output for task in tasks for output in task.outputs]
        self.best = self.best or read_best(self.folder, outputs)[0]
        picked = ", ".join(f"{task.best} {validation.scores[task.best]:.4f}" for task in tasks)
        title = f"{self.folder.resolve().name}: {picked} at step {step}"
        charts = read_charts(self.folder / "metrics.jsonl", outputs)
        facts = self._facts(progress, used)
        if validation.doubts:
            facts["worth a look"] = "; ".join(validation.doubts.values())
        write_page(self.folder / "report.html", title, facts, validation.results, charts, self.best)

    def _facts(self, progress: str, used: float) -> dict[str, str]:
        """Where the figures come from, and the memory of a step beside its plan."""
        origin, settings = self.config["origin"], self.config["settings"]
        beside = f", {used - self.before:.2f} of them since the run began" if self.before else ""
        return {
            "command": origin["command"],
            "code": "commit {commit}, torch {torch}, Python {python}".format(**origin),
            "data": "; ".join(" ".join(each) or "the demo" for each in settings["data"]),
            "samples": ", ".join(f"{num} of {split}" for split, num in self.samples.items()),
            "seed": settings["seed"],
            "machine": "{hardware}, {threads} threads".format(**origin),
            "ranks": self.config["ranks"],
            "steps": progress,
            "memory plan": f"{self.planned:.2f} GiB a step"
            if self.planned
            else "made after a minute",
            "memory used": f"{used:.2f} GiB at most{beside}",
        }


def read_best(folder: Path, outputs: Any) -> tuple[dict[str, Metrics], dict[str, Any]]:
    """What best.pt has counted, by output name; and all that it holds."""
    best = checkpoint.load(folder / checkpoint.BEST)
    metrics = metrics_of(outputs)
    for name, metric in metrics.items():
        metric.load_state(best["counts"][name])
    return metrics, best
