"""One training step of each task: its time, its memory, its share of what the hardware can do."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from bench_plugin import MANY, Timed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from datasets import TASKS
from models.recompute import MODES

pytest_plugins = ["bench_plugin"]


@pytest.mark.parametrize("ckpt", MODES)
@pytest.mark.parametrize("amp", [(), ("--amp",)], ids=["float32", "amp"])
@pytest.mark.parametrize("task", TASKS)
def test_step(bench, task, amp, ckpt):
    """Step of each task by default, by --amp and --ckpt"""
    case = bench.case(task, *amp, "--ckpt", ckpt)
    memory = case.memory()
    (seconds,) = bench.measure(case.step)
    bench.row(case, step_ms=1e3 * seconds, images_per_second=case.num / seconds, **memory)
    assert memory["tracked_bytes"] > 0


@pytest.mark.parametrize("ckpt", MODES[1:])
@pytest.mark.parametrize("task", TASKS)
def test_recomputation(bench, task, ckpt):
    """Recomputation against none, run in turn"""
    plain = bench.case(task, *bench.half())
    leaner = bench.case(task, *bench.half(), "--ckpt", ckpt)
    stored, kept = plain.activations(), leaner.activations()
    seconds, plain_seconds = bench.measure(leaner.step, plain.step, **MANY)
    bench.row(
        leaner,
        images_per_second=leaner.num / seconds,
        none_images_per_second=plain.num / plain_seconds,
        time_ratio=seconds / plain_seconds,
        activation_bytes=kept,
        none_activation_bytes=stored,
        activations_saved=1 - kept / stored,
    )
    assert kept < stored or not bench.full


def test_matrix_peak(bench):
    """Mask + depth step against the device's matrix products, run in turn

    Operations are those of convolutions, forward and backward, twice per multiplication. The peak
    is the best of square matrix products in the same precision. Beside the step as a whole stand
    its convolutions alone: what the library reaches in them is what bounds the step.
    """
    case = bench.case("maskdepth", *bench.half())
    with FlopCounterMode(display=False) as counter:
        case.step()
    flop = counter.get_total_flops()
    sides = (2048, 4096) if bench.full else (64,)
    products = [matrix_product(side, case.dtype) for side in sides]
    rates = []
    seconds, _ = bench.measure(
        case.step, lambda: rates.extend(product() for product in products), **MANY
    )
    share = median(convolution_seconds(case.step) for _ in range(3)) / seconds
    peak = max(rates)
    bench.row(
        case,
        images_per_second=case.num / seconds,
        gflop_per_image=flop / case.num / 1e9,
        gflop_per_second=flop / seconds / 1e9,
        peak_gflop_per_second=peak / 1e9,
        share_of_peak=flop / seconds / peak,
        convolutions_share_of_time=share,
        convolutions_share_of_peak=flop / (seconds * share) / peak,
    )
    assert share > 0


def matrix_product(side: int, dtype: torch.dtype):
    """A call that multiplies two square matrices some times and returns the best FLOP/s."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    a, b, out = (torch.rand(side, side, device=device).to(dtype) for _ in range(3))

    def rate() -> float:
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            if device.type != "cpu":
                torch.accelerator.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
        return best

    return rate


class Convolutions(TorchDispatchMode):
    """Times convolutions, forward and backward, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run the operation."""
        if "convolution" not in func.name():
            return func(*args, **(kwargs or {}))
        timed = Timed(lambda: func(*args, **(kwargs or {})))
        made = timed()
        self.seconds += sum(timed.seconds)
        return made


def convolution_seconds(step: Callable[[], Any]) -> float:
    """What the convolutions of a step take. A profiler would slow down all else: what it notes
    breaks up the memory that is kept."""
    with Convolutions() as convolutions:
        step()
    return convolutions.seconds
