"""Checkpoint + images -> predictions as pictures, or scores, or an exported network."""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets import TASKS
from datasets.task import Output, Task, UserError
from utils.command import run_command
from utils.flags import infer_parser

if TYPE_CHECKING:  # torch takes seconds to import: `--help` answers without it
    from torch import Tensor

    from datasets.stores import Store
    from models.unet import UNet
    from utils.predict import Predictor
    from utils.skipped import Skipped

DATA = Path("data")
RUNS = Path("runs")
SHIPPED = Path(__file__).parent / "models"
NUM_DEMO = 12
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


class Found(NamedTuple):
    """An image of the input. name: below --out. where: what errors call it, with its shard."""

    name: str
    where: str
    read: Callable[[], bytes]


class Trained(NamedTuple):
    """A task and the size in pixels, (H, W), that the network was trained at."""

    task: Task
    size: tuple[int, int]


def main() -> int:
    """Predict; 0 when done, 2 with one line for a mistake, 130 when stopped by Ctrl-C."""
    return run_command(lambda: run(infer_parser(TASKS).parse_args()))


def run(args: Namespace) -> None:
    """Load the network once, then do the one thing that was asked for."""
    import torch

    from models.export import export
    from utils import checkpoint
    from utils.compute import make_compute
    from utils.distributed import Ranks
    from utils.predict import Predictor
    from utils.skipped import Skipped

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: a file, expected a folder")
    if args.tile and args.overlap >= args.tile:
        raise UserError(f"--overlap {args.overlap}: expected less than --tile {args.tile}")
    path = args.weights or find_weights(args.task)
    tasks, model = load_network(path, args.task)
    print(f"weights: {path}", file=sys.stderr)
    if args.export:
        if args.export.suffix == ".pt":
            checkpoint.slim(path, args.export)
        else:
            export(model, args.export)
        print(f"{args.export}: written", file=sys.stderr)
        return
    compute = make_compute(args.device, args.amp)
    model.to(compute.device)
    predictor = Predictor(model, compute, args.tile, args.overlap, args.tta)
    ranks = Ranks(torch.device("cpu"))
    skipped = Skipped(args.skip_bad, ranks, partial(print, file=sys.stderr))
    if args.evaluate:
        each = [scores(args, task, predictor, skipped) for task in tasks]
        known = {
            name: None if math.isnan(value) else value for found in each for name, value in found
        }
        print(json.dumps(known, indent=2))
    else:
        predict_all(args, tasks, predictor, skipped)


def find_weights(name: str | None) -> Path:
    """The newest best.pt of a task below runs/, else the demo weights that come with the code."""
    from utils import checkpoint

    if not name:
        raise UserError(f"--task: expected one of {', '.join(TASKS)}, or --weights CKPT")
    for path, trained in checkpoint.newest(RUNS, "best.pt"):
        if name in trained:
            return path
    shipped = SHIPPED / f"demo_{name}.pt"
    if shipped.is_file():
        return shipped
    raise UserError(f"--task {name}: no run of it below {RUNS}/, no demo weights; train it first")


def load_network(path: Path, name: str | None) -> tuple[list[Trained], UNet]:
    """The tasks of a checkpoint (or the one named) and its network, on the CPU."""
    from models.unet import ModelSpec, UNet
    from utils import checkpoint

    state = checkpoint.load(path, "config")
    try:
        config = state["config"]
        trained = [
            Trained(Task.from_json(task), tuple(size))
            for task, size in zip(config["tasks"], config["sizes"], strict=True)
        ]
        model = UNet(ModelSpec.from_json(config["model"]))
        model.load_state_dict(checkpoint.weights(state))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: holds no network that fits its weights: {reason}") from None
    tasks = [each for each in trained if name in (None, each.task.name)]
    if not tasks:
        names = ", ".join(each.task.name for each in trained)
        raise UserError(f"{path}: trained for {names}, not for {name}")
    return tasks, model.eval()


def scores(
    args: Namespace, trained: Trained, predictor: Predictor, skipped: Skipped
) -> Iterator[tuple[str, float]]:
    """`OUTPUT/METRIC` and its value on a labelled split of the input."""
    import torch

    from datasets.dataset import eval_batches, open_split
    from utils.engine import evaluate
    from utils.metrics import metrics_of

    task, size = trained
    dataset = open_split(task, inputs(args, task), args.evaluate, args.split_by)
    predictor = replace(predictor, size=size if task.resize else None)
    metrics = metrics_of(task.outputs)
    batches = eval_batches(dataset, 4, workers=2, on_bad=skipped.add)
    none = torch.zeros(())
    found = evaluate(predictor, batches, lambda *_: (none, {}), metrics, skipped.ranks)
    yield from found.scores.items()


def inputs(args: Namespace, task: Task) -> list[Path | str]:
    """What --input names, or the demo's shards."""
    from datasets.demo import demo_shards
    from datasets.stores import parse_path

    if args.input:
        return [parse_path(text) for text in args.input]

    return demo_shards(task.name, DATA / "demo")


def predict_all(
    args: Namespace, tasks: list[Trained], predictor: Predictor, skipped: Skipped
) -> None:
    """Every image through every task; what is predicted goes to --out under the image's name."""
    from datasets.decode import decode_image

    for trained in tasks:
        found = images(args, trained.task)
        stems = [Path(each.name).with_suffix("") for each in found]
        for stem, count in Counter(stems).items():
            if count > 1:
                raise UserError(f"--input: {count} images would be written as {args.out / stem}")
        num = 0
        for name, where, read in tqdm(found, trained.task.name, unit="image", disable=None):
            try:
                image = decode_image(read(), where)
            except (ValueError, OSError) as error:
                skipped.add(where, str(error).removeprefix(f"{where}: "))
                continue
            write(args.out / Path(name).with_suffix(""), image, predict(image, trained, predictor))
            num += 1
    print(f"{num} images predicted, see {args.out}", file=sys.stderr)


def images(args: Namespace, task: Task) -> list[Found]:
    """Every image of the input. A store laid out as the task says gives its images alone, without
    their labels; the demo's, those of validation."""
    from datasets.index import compile_template, find_groups, find_samples
    from datasets.stores import open_stores

    if not args.input:
        table = find_samples(open_stores(inputs(args, task)), task, "val")
        samples = range(min(len(table), NUM_DEMO))
        return [member(table.stores[shard], number) for shard, number in map(table.image, samples)]
    files = [Path(text) for text in args.input if text.lower().endswith(IMAGES)]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    found = [Found(path.name, str(path), path.read_bytes) for path in files]
    others = [path for path in inputs(args, task) if path not in files]
    template = compile_template(task.image)
    for store in open_stores(others) if others else []:
        own = written(store, args.out)
        members = [
            i
            for i, name in enumerate(store.names())
            if name.lower().endswith(IMAGES) and not name.startswith(own)
        ]
        if any(template.fullmatch(store.names()[i]) for i in members):
            members = find_groups([store], task)[1][:, 0].tolist()
        found += [member(store, i) for i in members]
    if not found:
        raise UserError(f"--input {' '.join(args.input)}: no image found")
    return found


def written(store: Store, out: Path) -> tuple[str, ...]:
    """What names of a store begin with that are predictions of an earlier run; nothing if --out is
    not a folder within it."""
    inside = os.path.relpath(out.resolve(), Path(store.path).resolve()).replace(os.sep, "/")
    return () if inside == "." or inside.startswith("..") else (f"{inside}/",)


def member(store: Store, i: int) -> Found:
    """Member i of a store."""
    name = store.names()[i]
    return Found(name, f"{store.path}: {name}", partial(store.read_at, i))


def predict(image: Tensor, trained: Trained, predictor: Predictor) -> list[tuple[Output, Tensor]]:
    """What the network sees in an image uint8 (3, H, W): per output (H, W)."""
    task, size = trained
    predictor = replace(predictor, size=size if task.resize else None)
    decided = predictor.labels(image, tuple(output.name for output in task.outputs))
    return [(output, decided[output.name]) for output in task.outputs]


def write(stem: Path, image: Tensor, predictions: list[tuple[Output, Tensor]]) -> None:
    """STEM_OUTPUT.png as data and STEM_OUTPUT_view.png to look at, as `PICTURES` has them."""
    from utils.visualize import picture_of

    stem.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).numpy()
    for output, found in predictions:
        picture = picture_of(output)
        save_picture(Path(f"{stem}_{output.name}.png"), picture.file(found.numpy()))
        save_picture(Path(f"{stem}_{output.name}_view.png"), picture.view(pixels, found.numpy()))


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Beside `path`, then renamed: what is cut off leaves no picture that looks whole."""
    from PIL import Image

    part = path.with_name(f"{path.name}.part")
    Image.fromarray(pixels).save(part, format="PNG")
    os.replace(part, path)


if __name__ == "__main__":
    status = main()
    gc.freeze()  # a last look for garbage in all of torch takes half a second
    sys.exit(status)
