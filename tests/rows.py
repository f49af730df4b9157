"""What the benchmarks share: a task as train.py trains it, calls timed in turn, rows of facts.

A pytest plugin, which bench_*.py name in `pytest_plugins`. With --benchmark-only sizes are those of
training and a table follows; in an ordinary test run everything is tiny and nothing is said.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest
import torch

import train
from datasets.demo import SCENES
from datasets.pack import write_zip
from datasets.task import Batch, Task
from models.unet import ModelSpec
from utils.compute import amp_dtype, make_compute
from utils.distributed import Ranks
from utils.engine import Learner, train_step
from utils.footprint import Footprint, trace
from utils.memory import Plan
from utils.report import table

TINY = ("--size", "32", "32", "--bs", "2", "--width", "4", "--depth", "2", "--centre", "8")
ROUNDS, WARM = 5, 2  # of each call with --benchmark-only; otherwise 1 and 0
LASTING = ("weights", "averaged weights", "optimiser", "gradients", "batch")  # no activations
TABLES = pytest.StashKey[dict[str, list[dict[str, Any]]]]()


class Case(NamedTuple):
    """A task with flags as train.py would train it, and one batch of it."""

    args: Namespace
    task: Task
    spec: ModelSpec
    learner: Learner
    batch: Batch

    @property
    def num(self) -> int:
        """Images in the batch."""
        return len(self.batch.keys)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return tuple(self.batch.image.shape[-2:])

    @property
    def dtype(self) -> torch.dtype:
        """What convolutions run in."""
        return self.learner.compute.dtype or torch.float32

    def step(self) -> None:
        """One real training step."""
        train_step(self.learner, [self.batch])

    def footprint(self) -> Footprint:
        """What a real step holds. The first step, in which the optimiser gets its state, is done
        before."""
        if not self.learner.optimizer.state:
            self.step()
        return trace(self.learner, [self.batch])

    def activations(self) -> int:
        """Bytes at the peak that are neither weights, gradients, optimiser state nor the batch."""
        footprint = self.footprint()
        parts = footprint.parts
        return footprint.peak - sum(parts.get(label, 0) for label in LASTING)

    def memory(self) -> dict[str, Any]:
        """Peak bytes of a step, and per image: planned, tracked, on CUDA of the allocator."""
        device = self.learner.compute.device
        plan = train.make_plan(self.args, [self.task], device)
        facts = {
            "plan_bytes": int(plan.peak(plan.asked)),
            "tracked_bytes": self.footprint().peak,
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.step()
            torch.cuda.synchronize(device)
            facts["allocated_bytes"] = torch.cuda.max_memory_allocated(device)
            facts["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        per_image = {
            name.replace("_bytes", "_per_image_bytes"): size // self.num
            for name, size in facts.items()
        }
        return facts | per_image | {"tracked/plan": facts["tracked_bytes"] / facts["plan_bytes"]}

    def facts(self) -> dict[str, Any]:
        """What was run."""
        height, width = self.size
        return {
            "task": self.task.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "ckpt": self.args.ckpt,
            "batch": f"{self.num}x{height}x{width}",
        }


def make_case(task_name: str, *flags: str) -> Case:
    """Build what train.py would; a device without half precision skips what asks for it."""
    args, (task,) = parse(task_name, *flags)
    compute = make_compute(args.device, args.amp)
    if args.amp and compute.dtype is None:
        pytest.skip(f"this {compute.device.type} would emulate half precision")
    torch.manual_seed(0)
    spec = train.model_spec(args, [task])
    criterion = train.make_criterion(args, [task], {})
    learner = train.make_learner(args, spec, criterion, 10_000, compute, Ranks(compute.device))
    size = tuple(train.setting(args, task, "size"))
    batch = random_batch(task, train.setting(args, task, "bs"), size)
    return Case(args, task, spec, learner, batch)


def parse(task_name: str, *flags: str) -> tuple[Namespace, list[Task]]:
    """As train.py does. Class weights would have to be counted on data first."""
    return train.parse(["--task", task_name, "--no-class-weights", *flags])


def random_batch(task: Task, num: int, size: tuple[int, int]) -> Batch:
    """Noise, labelled everywhere, in the memory that the loader puts it into."""
    targets = {}
    for output in task.outputs:
        if output.kind == "depth":
            targets[output.name] = output.max_depth * torch.rand(num, *size)
        else:
            highest = max(2, output.channels)
            targets[output.name] = torch.randint(0, highest, (num, *size), dtype=torch.uint8)
    image = torch.randint(0, 256, (num, 3, *size), dtype=torch.uint8)
    if torch.cuda.is_available():
        image = image.pin_memory()
        targets = {name: target.pin_memory() for name, target in targets.items()}
    return Batch(image, targets, [str(i) for i in range(num)])


class Timed:
    """A call, and the seconds that each run of it took, until the device was done."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.seconds = call, []

    def __call__(self) -> None:
        """Run it once."""
        start = time.perf_counter()
        self.call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.seconds.append(time.perf_counter() - start)


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
        args, (task,) = parse(task_name, *self.tiny, *flags)
        return task, tuple(train.setting(args, task, "size")), train.setting(args, task, "bs")

    def plan(self, task_name: str, *flags: str) -> Plan:
        """The memory plan that train.py makes with these flags."""
        args, tasks = parse(task_name, *self.tiny, *flags)
        return train.make_plan(args, tasks, make_compute(args.device, False).device)

    def half(self) -> tuple[str, ...]:
        """--amp where the device computes in half precision."""
        return ("--amp",) if amp_dtype(make_compute("auto", False).device) else ()

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
        scenes = (SCENES[name].render(i)[0] for i in range(64 if is_full(request.config) else 8))
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
