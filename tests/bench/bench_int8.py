"""An exported network in 8 bits against float32, in onnxruntime: size, speed, what is lost.

Weights that come with the code, on the demo's validation images, which also calibrate. onnxruntime
picks kernels by what the processor says of itself, so figures are of the instructions named.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import infer
from datasets.dataset import open_split
from models.export import export
from models.int8 import quantise
from utils.distributed import Distributed
from utils.eight_bits import OnnxNetwork, images_of
from utils.skipped import Skipped
from utils.trained import load
from utils.validation import judge

pytest_plugins = ["bench_plugin"]


@pytest.mark.parametrize("name", ["damage", "cityscapes"])
def test_eight_bits(bench, demo_zip, tmp_path, name):
    """Float32 against 8 bits in onnxruntime, one thread, in turn

    ms: of a picture of 480 x 480 pixels.
    """
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    (trained,) = (predictor := load(infer.SHIPPED / f"demo_{name}.pt", device="cpu")).tasks
    dataset = open_split(trained.task, [demo_zip(name)], "val")
    files = [tmp_path / "wide.onnx", tmp_path / "narrow.onnx"]
    for file in files:
        export(predictor.network, file)
    quantise(files[1], images_of([(trained, dataset)]))
    networks = [OnnxNetwork(file, predictor.network) for file in files]
    side = 480 if bench.full else 64
    image = torch.from_numpy(np.random.default_rng(0).random((1, 3, side, side), np.float32))
    names = tuple(output.name for output in trained.task.outputs)
    wide, narrow = bench.measure(*(lambda n=n: n(image, names) for n in networks), rounds=15)
    output, _, metric = trained.task.best.partition("/")
    skipped = Skipped(0, Distributed(torch.device("cpu")), print)
    scores = [
        judge(trained.task, replace(trained.predictor, model=n), dataset, skipped, 0)
        .metrics[output]
        .compute()[metric]
        for n in networks
    ]
    vnni = torch.cpu._is_vnni_supported()
    bench.row(
        None,
        network=f"demo_{name}",
        MB=files[0].stat().st_size / 1e6,
        size=files[1].stat().st_size / files[0].stat().st_size,
        ms=1e3 * wide,
        ms_in_8_bits=1e3 * narrow,
        times=wide / narrow,
        score=scores[0],
        points_lost=100 * (scores[0] - scores[1]),
        instructions=torch.backends.cpu.get_cpu_capability() + " with VNNI" * vnni,
    )
