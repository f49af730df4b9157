"""Checkpoint and images in; pictures, scores or an exported network out. `load` is for Python."""

import gc
import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import TASKS
from utils.flags import answer_help, infer_parser
from utils.stop import end_on_signals

if __name__ == "__main__":
    end_on_signals()
    answer_help(sys.argv[1:], infer_parser)  # what follows imports torch, which takes seconds

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.dataset import open_split
from datasets.demo import demo_shards
from datasets.images import allow_pixels
from datasets.index.sources import find_images, first_images, result_paths
from datasets.loader import eval_batches
from datasets.photo import read_image
from datasets.stores import parse_path
from datasets.task import Output, Task, UserError, read_task
from models import ModelSpec, UNet
from models.export import export
from utils import checkpoint, results
from utils.command import printable, run_command
from utils.compute import make_compute
from utils.distributed import Distributed
from utils.engine import evaluate
from utils.metrics import metrics_of
from utils.predict import Predictor
from utils.predict_files import Tally, predict_files
from utils.skipped import Skipped
from utils.summary import write_summary

DATA = Path("data")
RUNS = Path("runs")
SHIPPED = Path(__file__).parent / "models"
NUM_DEMO = 12


class TrainedTask(NamedTuple):
    """A task of a checkpoint and its network, asked at the scale that the task was trained at."""

    task: Task
    predictor: Predictor

    def __call__(self, image: Tensor) -> dict[str, np.ndarray]:
        """Image uint8 (3, H, W) -> by output name (H, W): see `Predictor.labels`."""
        names = tuple(output.name for output in self.task.outputs)
        labels = self.predictor.labels(image[None], names)
        return {name: label[0].numpy() for name, label in labels.items()}


class ImagePredictor(NamedTuple):
    """A network and its tasks, as `load` gives them; calling it predicts one image."""

    network: UNet
    tasks: list[TrainedTask]

    @property
    def outputs(self) -> dict[str, Output]:
        """What is predicted, by name: an output tells its `classes`, or its `unit`."""
        return {output.name: output for trained in self.tasks for output in trained.task.outputs}

    def __call__(
        self, image: np.ndarray | Image.Image | str | Path, page: int | None = None
    ) -> dict[str, np.ndarray]:
        """An image (see `read_image`) -> by output name (H, W): class ids, or 0 and 1, as uint8, or
        depth in the output's unit as float32. page: of a file of several."""
        pixels = read_image(image, page)
        return {name: labels for trained in self.tasks for name, labels in trained(pixels).items()}


def load(
    weights: str | Path,
    *,
    task: str | None = None,
    device: str = "auto",
    amp: bool = False,
    tile: int = 1024,
    overlap: int = 128,
    tta: bool = False,
    scale: float = 1.0,
) -> ImagePredictor:
    """A checkpoint, best.pt or last.pt -> a predictor. UserError (a ValueError): it holds none.

    task: one of several that the network was trained for (all). device: as the flag. amp: half
    precision. tile, overlap: pixels, see `Predictor`. tta: average with the mirrored image.
    scale: the network sees the image so many times as large. UserError: not of a task that resizes.

        from infer import load

        predictor = load("runs/damage/best.pt")
        labels = predictor("scan.jpg")  # or uint8 (H, W, 3), or a Pillow image
        damage = labels["damage"]  # uint8 (H, W): the class of each pixel
        classes = predictor.outputs["damage"].classes
        shares = {name: (damage == i).mean() for i, name in enumerate(classes)}
        print(shares)
    """
    compute = make_compute(device, amp, keep_memory=__name__ == "__main__")
    trained, network = load_network(Path(weights), task)
    if scale != 1 and (fixed := [each.name for each, _ in trained if each.resize]):
        raise UserError(f"--scale {scale:g}: images of {fixed[0]} are resized to one size")
    predictor = partial(Predictor, network.to(compute.device), compute, tile, overlap, tta)
    tasks = [
        TrainedTask(each, predictor(size if each.resize else None, scale)) for each, size in trained
    ]
    return ImagePredictor(network, tasks)


def load_network(path: Path, name: str | None) -> tuple[list[tuple[Task, tuple[int, int]]], UNet]:
    """The tasks of a checkpoint (or the one named) with the size (H, W) that each was trained at,
    and its network, on the CPU."""
    state = checkpoint.load(path, "config")
    with checkpoint.well_formed(path, "holds no network that fits its weights"):
        config = state["config"]
        tasks = [Task.from_json(task) for task in config["tasks"]]
        outputs = [output for task in tasks for output in task.outputs]
        spec = ModelSpec.from_json(config["model"], outputs)
        spec.check_size(path)
        model = UNet(spec)
        model.load_state_dict(checkpoint.weights(state))
        trained = [(task, (h, w)) for task, (h, w) in zip(tasks, config["sizes"], strict=True)]
    chosen = [each for each in trained if name in (None, each[0].name)]
    if not chosen:
        raise UserError(f"{path}: trained for {', '.join(t.name for t in tasks)}, not for {name}")
    return chosen, model.eval()


def main() -> int:
    """Predict; 0 when done, 1 when some images cannot be read, 2 with one line for a mistake, 130
    when stopped by Ctrl-C."""
    return run_command(lambda: run(infer_parser(TASKS).parse_args()))


def run(args: Namespace) -> int:
    """Load the network once, then do the one thing that was asked for; the status."""
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: a file, expected a folder")
    if args.tile and args.overlap >= args.tile:
        raise UserError(f"--overlap {args.overlap}: expected less than --tile {args.tile}")
    allow_pixels(args.max_pixels)
    if args.input == ["-"] and not (args.export or args.evaluate):
        args.input = [line for line in sys.stdin.read().splitlines() if line.strip()]
        if not args.input:
            raise UserError("--input -: no name on standard input, expected one a line")
    from_file = args.task and args.task.endswith(".json")
    name = read_task(Path(args.task)).name if from_file else args.task
    path = args.weights or checkpoint.find_weights(name, RUNS, SHIPPED)
    device = "cpu" if args.export else args.device
    asked = {key: getattr(args, key) for key in ("amp", "tile", "overlap", "tta", "scale")}
    predictor = load(path, task=name, device=device, **asked)
    say(f"weights: {path}")
    if args.export:
        if args.export.suffix == ".pt":
            checkpoint.slim(path, args.export)
        else:
            export(predictor.network, args.export)
        print(f"{args.export}: written", file=sys.stderr)
    elif args.evaluate:
        skipped = Skipped(args.skip_bad or 0, Distributed(torch.device("cpu")), say)
        scores = {n: v for each in predictor.tasks for n, v in score(args, each, skipped).items()}
        defined = json.loads(json.dumps(scores), parse_constant=lambda _: None)  # null for nan
        print(json.dumps(defined, indent=2))
    else:
        return predict_all(args, predictor, path)
    return 0


def score(args: Namespace, trained: TrainedTask, skipped: Skipped) -> dict[str, Any]:
    """`OUTPUT/METRIC` of a labelled split of the input; `OUTPUT/per_class`: a row each class."""
    task, predictor = trained
    paths = [parse_path(text) for text in args.input] if args.input else demo(task)
    dataset = open_split(task, paths, args.evaluate, args.split_by, skipped.limit)
    batches = eval_batches(dataset, 4, workers=2, on_bad=skipped.add)
    metrics, none = metrics_of(task.outputs), torch.zeros(())
    evaluation = evaluate(predictor, batches, lambda *_: (none, {}), metrics, skipped.distributed)
    rows = {name: [row._asdict() for row in metric.per_class()] for name, metric in metrics.items()}
    return evaluation.scores | {f"{name}/per_class": table for name, table in rows.items() if table}


def demo(task: Task) -> list[Path]:
    """The demo's shards, drawn first where they are missing."""
    return demo_shards(task, DATA / "demo")


def say(line: str) -> None:
    """Tell whoever watches."""
    print(printable(line), file=sys.stderr)


def predict_all(args: Namespace, predictor: ImagePredictor, path: Path) -> int:
    """Every image through every task; results go to --out under the image's name. The status."""
    tally, drawn = Tally(args.skip_bad, say), []
    form = results.Form(
        *(args.alpha, tuple(args.shapes), args.tolerance, args.mm_per_pixel, args.sheet),
        model=f"Manyhead, {path.parent.name}/{path.name}",
    )
    for trained in predictor.tasks:
        task = trained.task
        if args.input:
            sources = find_images(args.input, task, say)
        else:
            sources = first_images(demo(task), task, NUM_DEMO)
        named = list(zip(sources, result_paths(sources, args.out), strict=True))
        predict_files(named, task, trained.predictor, tally, form)
        drawn += [(each.name, stem, output) for each, stem in named for output in task.outputs]
    for name, rows in tally.texts.items():
        results.write_table(args.out / f"{name}.csv", name, rows)
    status = tally.status
    if args.sheet:
        write_summary(args.out, drawn, args.mm_per_pixel)
    for line in tally.lines(args.out):
        say(line)
    return status


if __name__ == "__main__":
    status = main()
    gc.freeze()  # a last look for garbage in all of torch takes half a second
    sys.exit(status)
