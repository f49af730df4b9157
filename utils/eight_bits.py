"""Makes an exported network compute in 8 bits, and says what that costs and brings."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as images

from datasets.dataset import DenseDataset
from models.int8 import quantise
from utils.predict import Predictor
from utils.skipped import Skipped
from utils.trained import TrainedTask
from utils.validation import judge

CALIBRATION, SIDE = 24, 1024  # images of each task from which ranges are known, pixels of a side


class OnnxNetwork:
    """An exported network where a `Predictor` expects a UNet. seconds: CPU time of one thread."""

    def __init__(self, path: Path, model: Any) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.heads, self.stride, self.spec, self.seconds = (
            model.heads,
            model.stride,
            model.spec,
            0.0,
        )

    def eval(self) -> None:
        """It is never trained."""

    def __call__(self, image: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        """As a UNet's, on the CPU."""
        given, start = {"image": image.contiguous().numpy()}, time.process_time()
        found = self.session.run(list(outputs), given)
        self.seconds += time.process_time() - start
        return dict(zip(outputs, map(torch.from_numpy, found), strict=True))


def to_int8(
    path: Path, tasks: Sequence[tuple[TrainedTask, DenseDataset]], skipped: Skipped
) -> list[str]:
    """The ONNX file in 8 bits, and lines with its size, speed and what it loses on the samples.

    UserError: onnxruntime is not there, or a sample cannot be read.
    """
    before = path.read_bytes()
    wide = path.with_name(f".{path.name}")
    quantise(path, images_of(tasks))
    wide.write_bytes(before)
    try:
        size = path.stat().st_size / len(before)
        lines = [f"{len(before) / 1e6:.1f} MB in float32, {size:.0%} of it in 8 bits"]
        for trained, dataset in tasks:
            scores, seconds = [], []
            for file in (wide, path):
                network = OnnxNetwork(file, trained.predictor.model)
                predictor: Predictor = replace(trained.predictor, model=network)
                result = judge(trained.task, predictor, dataset, skipped, workers=0)
                name, _, metric = trained.task.best.partition("/")
                scores.append(result.metrics[name].compute()[metric])
                seconds.append(network.seconds)
            lost = 100 * (scores[0] - scores[1])
            ratio = seconds[0] / max(seconds[1], 1e-9)
            lines.append(
                f"{trained.task.best}: {scores[0]:.4f} in float32, {scores[1]:.4f} in 8 bits "
                f"({lost:.2f} points lost), {ratio:.2f} times as fast on one thread"
            )
    finally:
        wide.unlink()
    return lines


def images_of(tasks: Sequence[tuple[TrainedTask, DenseDataset]]) -> Iterator[np.ndarray]:
    """Images spread over the samples of each task, as its network sees them."""
    for trained, dataset in tasks:
        for at in np.linspace(0, len(dataset) - 1, min(CALIBRATION, len(dataset))).astype(int):
            image = dataset[(0, int(at))].image[None, :, :SIDE, :SIDE]
            if trained.predictor.size:
                image = images.resize(image, list(trained.predictor.size), antialias=True)
            yield image.float().numpy() / 255
