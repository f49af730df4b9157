"""Bytes to batches alone: how many images a second the loader decodes and augments."""

import pytest

from datasets.dataset import open_task
from datasets.loader import train_loader

pytest_plugins = ["bench_plugin"]
BATCHES = 8  # timed together: with workers they come in bursts


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", ["damage", "cityscapes", "maskdepth"])
def test_loader(bench, demo_zip, task, workers):
    """Batches of the demo scenes from a zip, as train.py loads them, without a network"""
    task, size, num = bench.settings(task)
    each = BATCHES if bench.full else 1
    data = open_task(task, [demo_zip(task.name)], size)
    batches = iter(train_loader(data.train, num, workers))

    def load() -> None:
        for _ in range(each):
            next(batches)

    (seconds,) = bench.measure(load)
    images = num * each
    bench.row(
        None,
        task=task.name,
        workers=workers,
        batch=f"{num}x{size[0]}x{size[1]}",
        images_per_second=images / seconds,
        ms_per_image=1e3 * seconds / images,
    )
