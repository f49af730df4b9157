"""Prediction of a folder, from files to files: the loop of infer.py against a plain one."""

import shutil
import time
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image

import infer
from datasets import TASKS
from datasets.demo import draw_scene
from datasets.index.sources import find_images, result_paths
from utils.maps import results
from utils.maps.predict_files import Tally, predict_files
from utils.pictures.paint import class_colors, rgb
from utils.trained import load

pytest_plugins = ["bench_plugin"]


@torch.inference_mode()
def plain_loop(network, paths, out, output):
    """What one would write: a picture at a time is read, predicted and written, twice."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(output.classes)] = [rgb(color) for color in class_colors(output)]
    out.mkdir()
    for path in paths:
        pixels = np.array(Image.open(path).convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        ids = network(image)[output.name][0].argmax(0).to(torch.uint8).numpy()
        Image.fromarray(ids).save(out / f"{path.stem}.png")
        view = (0.5 * pixels + 0.5 * colors[ids]).astype(np.uint8)
        Image.fromarray(view).save(out / f"{path.stem}_view.png")


@pytest.mark.parametrize("task_name", ["damage"])
def test_folder(bench, tmp_path, task_name):
    """64 pictures of 512 x 512, read, predicted and written, ids and views, against a plain loop

    CPU: of the processor's time, which is all that counts where its cores have other work.
    """
    task = TASKS[task_name]
    num, side = (64, 512) if bench.full else (2, 64)
    (tmp_path / "in").mkdir()
    for i in range(num):
        image = Image.fromarray(draw_scene(task, i).image).resize((side, side))
        image.save(tmp_path / "in" / f"{i:02d}.jpg", quality=95)
    paths = sorted((tmp_path / "in").iterdir())
    predictor = load(infer.SHIPPED / f"demo_{task_name}.pt", device="cpu")
    ((_, tiled),) = predictor.tasks

    def ours():
        tally = Tally(None, print)
        sources = find_images([str(tmp_path / "in")], task)
        named = list(zip(sources, result_paths(sources, tmp_path / "ours"), strict=True))
        predict_files(named, task, tiled, tally, results.PLAIN)
        assert len(tally.done) == num

    def plain():
        plain_loop(predictor.network, paths, tmp_path / "plain", task.outputs[0])

    spent = {ours: [], plain: []}

    def timed(call):
        def run():
            start = time.process_time()
            call()
            spent[call].append(time.process_time() - start)
            for name in ("ours", "plain"):
                shutil.rmtree(tmp_path / name, ignore_errors=True)

        return run

    seconds = bench.measure(timed(ours), timed(plain), rounds=3, warm=1)
    cpu = [median(spent[call][bench.full :]) for call in (ours, plain)]
    bench.row(
        None,
        pictures=num,
        side=side,
        per_second=num / seconds[0],
        plain_per_second=num / seconds[1],
        times=seconds[1] / seconds[0],
        times_CPU=cpu[1] / cpu[0],
    )
