"""Training from zips of JPEGs: images a second against the step alone, and what limits them."""

import os
import time
from statistics import median

import pytest
import torch

from datasets.dataset import open_task
from datasets.loader import train_loader
from utils.engine import train_step

pytest_plugins = ["bench_plugin"]
STEPS, ROUNDS = 4, 3  # timed together, and how often
PREFETCHED = 2  # batches per worker that DataLoader asks for ahead
NETS = {"default": (), "light": ("--width", "8", "--centre", "64", "--convs", "1")}


class Stream:
    """Steps on batches as they are loaded. waited: seconds spent waiting for them, each time."""

    def __init__(self, case, data, workers, steps):
        self.case, self.data, self.workers, self.steps = case, data, workers, steps
        self.batches, self.waited = None, []

    def restart(self):
        """A new loader, past the batches that it could load ahead."""
        self.batches = iter(train_loader(self.data, self.case.num, self.workers))
        self.run(self.workers * PREFETCHED + 1)

    def run(self, steps):
        """Train; returns the seconds that it waited for its data."""
        waited = 0.0
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - start
            train_step(self.case.state, [batch])
        return waited

    def __call__(self):
        """The steps that are timed."""
        self.waited.append(self.run(self.steps))

    def stop(self):
        """End the workers: nothing is loaded while something else is timed."""
        self.batches = None


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("net", NETS)
def test_end_to_end(bench, demo_zip, net, workers):
    """Mask + depth net trained from a zip of JPEGs, against its steps alone, run in turn

    possible share: without workers step and decoding take turns; with them neither waits, as long
    as there are cores: on a CPU a step takes all of torch's threads.
    """
    case = bench.case("maskdepth", *bench.half(), *NETS[net])
    data = open_task(case.task, [demo_zip("maskdepth")], case.size).train
    steps = STEPS if bench.full else 1
    stream = Stream(case, data, workers, steps)
    loading = loading_seconds(data, case.num, steps)  # of a batch, by one core

    def alone():
        for _ in range(steps):
            case.step()

    seconds, alone_seconds = bench.measure(
        stream, alone, before=stream.restart, after=stream.stop, rounds=ROUNDS, warm=1
    )
    step, images = alone_seconds / steps, case.num * steps
    on_cpu = case.state.compute.device.type == "cpu"
    busy = step * torch.get_num_threads() * on_cpu + loading  # seconds of one core
    possible = max(step, loading / workers, busy / os.cpu_count()) if workers else step + loading
    share = alone_seconds / seconds
    bench.row(
        case,
        net=net,
        workers=workers,
        images_per_second=images / seconds,
        alone_images_per_second=case.num / step,
        loading_ms_per_image=1e3 * loading / case.num,
        share_of_alone=share,
        possible_share=step / possible,
        waiting=median(stream.waited) / seconds,
        limit=limit(step, loading, workers, share),
    )


def loading_seconds(data, num, batches):
    """Seconds in which one core loads a batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loader = iter(train_loader(data, num, workers=0))
    next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    torch.set_num_threads(threads)
    return (time.perf_counter() - start) / batches


def limit(step, loading, workers, share):
    """What keeps training from being faster."""
    if share >= 0.95:
        return "step"
    if loading / max(1, workers) > step:
        return "decoding"
    return "decoding takes the step's cores" if workers else "step and decoding take turns"
