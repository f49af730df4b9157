"""What the benchmarks share: calls timed in turn, rows of facts, and the tables of them.

A pytest plugin, which bench_*.py name in `pytest_plugins`. With --benchmark-only sizes are those of
training and a table follows; in an ordinary test run everything is tiny and nothing is said.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from learners import Case, make_case, settings_of

from datasets import TASKS
from datasets.demo import draw_members
from datasets.stores import write_zip
from datasets.task import Task
from models.recompute import recompute
from train import build_state
from utils.compute import amp_dtype, make_compute
from utils.memory.plan import MemoryPlan, make_plan
from utils.terminal import table

TINY = ("--size", "32", "32", "--bs", "2", "--width", "4", "--depth", "2", "--centre", "8")
ROUNDS, WARM = 5, 2  # of each call with --benchmark-only; otherwise 1 and 0
MANY = {"rounds": 11, "warm": 6}  # for a ratio of steps; memory grows in the first few
TABLES = pytest.StashKey[dict[str, list[dict[str, Any]]]]()


class Timed:
    """A call, and the seconds that each run of it took, until the device was done."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.seconds = call, []

    def __call__(self) -> Any:
        """Run it once."""
        start = time.perf_counter()
        made = self.call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.seconds.append(time.perf_counter() - start)
        return made


class Bench:
    """One test's way to measure. full: with --benchmark-only."""

    def __init__(self, request: pytest.FixtureRequest, benchmark: Any) -> None:
        self.full = is_full(request.config)
        self.request, self.benchmark = request, benchmark
        self.benchmark.disabled |= not self.full
        self.tiny = () if self.full else TINY

    def case(self, task_name: str, *flags: str) -> Case:
        """The task in its own size, or a tiny one."""
        return make_case(task_name, *self.tiny, *flags)

    def settings(self, task_name: str, *flags: str) -> tuple[Task, tuple[int, int], int]:
        """The task, its training size and batch, without a network."""
        (own,) = settings_of(task_name, *self.tiny, *flags).tasks
        return own.task, own.size, own.bs

    def plan(self, task_name: str, *flags: str) -> MemoryPlan:
        """The memory plan that train.py makes with these flags."""
        settings = settings_of(task_name, *self.tiny, *flags)
        device = make_compute(settings.device, False).device
        return make_plan(settings, device, build_state, recompute)

    def half(self, device: str = "auto") -> tuple[str, ...]:
        """--amp where the device computes in half precision."""
        return ("--amp",) if amp_dtype(make_compute(device, False).device) else ()

    def measure(
        self,
        *calls: Callable[[], Any],
        before: Callable[[], Any] = lambda: None,
        after: Callable[[], Any] = lambda: None,
        rounds: int = ROUNDS,
        warm: int = WARM,
    ) -> list[float]:
        """Median seconds of each call, run in turn, A B A B: what slows the machine down slows all
        of them. The first is the benchmark's own; `before` and `after` enclose it, not timed."""
        timed = [Timed(call) for call in calls]
        first, *others = timed

        def setup() -> None:
            for other in others:
                other()
            before()

        for _ in range(warm if self.full else 0):
            setup()
            first()
            after()
        for each in timed:
            each.seconds.clear()
        rounds = rounds if self.full else 1
        self.benchmark.pedantic(first, setup=setup, teardown=after, rounds=rounds)
        return [median(each.seconds) for each in timed]

    def row(self, case: Case | None, **facts: Any) -> None:
        """Keep the facts as a row of the table of this test function, and in the saved run, with
        the case's memory and where it ran."""
        memory = {}
        if case is not None:
            facts = case.facts() | facts
            memory = case.memory() if self.full and "plan_bytes" not in facts else {}
        device = make_compute("auto", False).device
        self.benchmark.extra_info |= {
            **facts,
            **memory,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        }
        title = self.request.function.__doc__.splitlines()[0]
        self.request.config.stash.setdefault(TABLES, {}).setdefault(title, []).append(facts)


def is_full(config: pytest.Config) -> bool:
    """Whether this run is for its numbers."""
    return config.getoption("benchmark_only")


@pytest.fixture
def bench(request: pytest.FixtureRequest, benchmark: Any) -> Bench:
    """A Bench."""
    return Bench(request, benchmark)


@pytest.fixture(scope="session")
def demo_zip(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """demo_zip("maskdepth") -> a zip of the task's demo scenes, in the layout of the real one."""
    folder = tmp_path_factory.mktemp("shards")

    @cache
    def make(name: str) -> Path:
        path = folder / f"{name}.zip"
        num = 64 if is_full(request.config) else 8
        scenes = (draw_members(TASKS[name], i)[0] for i in range(num))
        write_zip(path, (member for scene in scenes for member in scene.items()))
        return path

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables."""
    config = terminalreporter.config
    if not is_full(config):
        return
    for title, rows in config.stash.get(TABLES, {}).items():
        names = [name for name in rows[0] if "per_image_bytes" not in name]
        head = [name.replace("_bytes", " MiB").replace("_", " ") for name in names]
        terminalreporter.section(title)
        terminalreporter.line(
            table([tuple(head), *(tuple(_cell(n, row.get(n)) for n in names) for row in rows)])
        )


def _cell(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / 2**20:.1f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
