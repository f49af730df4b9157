"""A task's name and flags of train.py -> the state that it trains, and a batch to step on."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from datasets.task import Batch, Task
from models.recompute import recompute
from train import build_state
from utils.compute import make_compute
from utils.distributed import Distributed
from utils.engine import TrainState, train_step
from utils.memory.footprint import Footprint
from utils.memory.plan import make_plan
from utils.memory.trace import trace
from utils.settings import Settings, parse

LASTING = ("weights", "averaged weights", "optimiser", "gradients", "batch")  # no activations


class Case(NamedTuple):
    """A task with flags as train.py would train it, and one batch of it."""

    settings: Settings
    task: Task
    state: TrainState
    batch: Batch

    @property
    def num(self) -> int:
        """Images in the batch."""
        return self.batch.batch_size

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return tuple(self.batch.image.shape[-2:])

    @property
    def dtype(self) -> torch.dtype:
        """What convolutions run in."""
        return self.state.compute.dtype or torch.float32

    def step(self) -> None:
        """One real training step."""
        self.state.compute.keep_freed(first_step=self.state.schedule.step == 0)
        train_step(self.state, [self.batch])

    def footprint(self) -> Footprint:
        """What a real step holds. The first step, in which the optimiser gets its state, is done
        before."""
        if not self.state.optimizer.state:
            self.step()
        return trace(self.state, [self.batch])

    def activations(self) -> int:
        """Bytes at the peak that are neither weights, gradients, optimiser state nor the batch."""
        footprint = self.footprint()
        parts = footprint.parts
        return footprint.peak - sum(parts.get(label, 0) for label in LASTING)

    def memory(self) -> dict[str, Any]:
        """Peak bytes of a step, and per image: planned, tracked, on CUDA of the allocator."""
        device = self.state.compute.device
        plan = make_plan(self.settings, device, build_state, recompute)
        facts = {
            "plan_bytes": int(plan.peak(plan.mode)),
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
            "ckpt": self.settings.ckpt,
            "batch": f"{self.num}x{height}x{width}",
        }


def make_case(task_name: str, *flags: str) -> Case:
    """Build what train.py would; a device without half precision skips what asks for it."""
    settings = settings_of(task_name, *flags)
    (own,) = settings.tasks
    compute = make_compute(settings.device, settings.amp)
    compute.keep_freed(first_step=True)
    if settings.amp and compute.dtype is None:
        pytest.skip(f"this {compute.device.type} would emulate half precision")
    torch.manual_seed(0)
    state = build_state(settings, {}, 10_000, compute, Distributed(compute.device))
    return Case(settings, own.task, state, random_batch(own.task, own.bs, own.size))


def settings_of(task_name: str, *flags: str) -> Settings:
    """As train.py has them. Class weights would have to be counted on data first."""
    return parse(["--task", task_name, "--no-class-weights", *flags])


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
