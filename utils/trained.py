"""A checkpoint becomes a predictor, which Python code asks about images, one at a time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from datasets.photo import Photo, read_photo
from datasets.stores import shown
from datasets.task import Classes, Mask, Output, Task, UserError
from models import ModelSpec, UNet
from models.fold import fold_norms
from utils import checkpoint
from utils.compute import make_compute
from utils.maps.predict_files import at_scale_of
from utils.maps.regions import TOLERANCE, Region, each_region
from utils.maps.results import mm_of
from utils.predict import AUTO, CONFIDENCE, Predictor

SIGHT = 8  # strides that neighbouring tiles share: of 1,800 pixels' labels 0.05 % change by tiles


class TrainedTask(NamedTuple):
    """A task of a checkpoint and its network, asked at the scale that the task was trained at."""

    task: Task
    predictor: Predictor

    def __call__(self, photo: Photo, confidence: bool = False) -> dict[str, np.ndarray]:
        """By output name (H, W): see `Predictor.labels`."""
        names = tuple(output.name for output in self.task.outputs)
        predictor = at_scale_of(photo, self.predictor, self.task)
        labels = predictor.labels(photo.pixels[None], names, confidence=confidence)
        return {name: label[0].numpy() for name, label in labels.items()}


class ImagePredictor(NamedTuple):
    """A network and its tasks, as `load` gives them; calling it predicts one image.

    What the tasks ask is a copy of the network, see `fold_norms`.
    """

    network: UNet
    tasks: list[TrainedTask]

    @property
    def outputs(self) -> dict[str, Output]:
        """What is predicted, by name: an output tells its `classes`, or its `unit`."""
        return {output.name: output for trained in self.tasks for output in trained.task.outputs}

    def __call__(
        self, image: np.ndarray | Image.Image | str | Path, page: int | None = None
    ) -> dict[str, np.ndarray]:
        """An image (see `read_photo`) -> by output name (H, W): class ids, or 0 and 1, as uint8, or
        depth in the output's unit as float32. page: of a file of several."""
        photo = read_photo(image, page)
        return {name: labels for trained in self.tasks for name, labels in trained(photo).items()}

    def regions(
        self,
        image: np.ndarray | Image.Image | str | Path,
        page: int | None = None,
        tolerance: float = TOLERANCE,
        mm: float | None = None,
    ) -> dict[str, list[Region]]:
        """As a call, but of each output of classes or a mask its regions (`each_region`), with
        their area_mm2 where the millimetres of a pixel are told, or else by the image's dpi."""
        photo, found = read_photo(image, page), {}
        size = mm_of(photo.dpi, mm)
        for trained in self.tasks:
            labels = trained(photo, confidence=True)
            for output in trained.task.dense:
                if isinstance(output, Classes | Mask):
                    found[output.name] = [
                        each._replace(area_mm2=each.area * size[0] * size[1] if size else None)
                        for each in each_region(
                            *(labels[output.name], output, tolerance),
                            labels[output.name + CONFIDENCE],
                        )
                    ]
        return found


def load(
    weights: str | Path,
    *,
    task: str | None = None,
    device: str = "auto",
    amp: bool = False,
    tile: int = 1024,
    overlap: int | None = None,
    tta: bool | Sequence[str] = False,
    scale: float | Literal["auto"] = 1.0,
) -> ImagePredictor:
    """A checkpoint (best.pt or last.pt, a folder with a best.pt, or the address of one of these, of
    which fsspec reads `https://`, `hf://` and others) -> a predictor. UserError (a ValueError): it
    holds none.

    task: one of several that the network was trained for (all). device: as the flag. amp: half
    precision. tile, overlap: pixels, see `Predictor`; None: SIGHT strides. tta: average over
    "flips", "scales" or both; True is flips. scale: the network sees the image so many times as
    large, "auto": as its dpi and the task's `pixels_per_mm` say. UserError: not of a task that
    resizes.

        from infer import load

        predictor = load("runs/damage/best.pt")
        labels = predictor("scan.jpg")  # or uint8 (H, W, 3), or a Pillow image
        damage = labels["damage"]  # uint8 (H, W): the class of each pixel
        classes = predictor.outputs["damage"].classes
        shares = {name: (damage == i).mean() for i, name in enumerate(classes)}
        print(shares)
    """
    compute = make_compute(device, amp, keep_memory=False)
    trained, network = load_network(weights, task)
    if scale == "auto":
        scale = AUTO
        if unknown := [each.name for each, _ in trained if not each.pixels_per_mm]:
            raise UserError(f"--scale auto: task {unknown[0]} has no pixels_per_mm; give a number")
    if scale != 1 and (fixed := [each.name for each, _ in trained if each.resize]):
        told = f"{scale:g}" if scale else "auto"
        raise UserError(f"--scale {told}: images of {fixed[0]} are resized to one size")
    if overlap is None:
        overlap = min(SIGHT * network.stride, tile // 2)
    if tile and overlap >= tile:
        raise UserError(f"--overlap {overlap}: expected less than --tile {tile}")
    ways = ("flips",) if tta is True else tuple(tta or ())
    predictor = partial(
        Predictor, fold_norms(network).to(compute.device), compute, tile, overlap, ways
    )
    tasks = [
        TrainedTask(each, predictor(size if each.resize else None, scale)) for each, size in trained
    ]
    return ImagePredictor(network, tasks)


def load_network(
    path: Path | str, name: str | None
) -> tuple[list[tuple[Task, tuple[int, int]]], UNet]:
    """The tasks of a checkpoint (or the one named) with the size (H, W) that each was trained at,
    and its network, on the CPU."""
    path = checkpoint.located(path)
    state = checkpoint.load(path, "config")
    with checkpoint.well_formed(path, "holds no network that fits its weights"):
        config, weights = state["config"], checkpoint.weights(state)
        tasks = [Task.from_json(task) for task in config["tasks"]]
        outputs = [output for task in tasks for output in task.outputs]
        spec = ModelSpec.from_json(config["model"], outputs)
        spec.check_size(sum(weight.nbytes for weight in weights.values()))
        model = UNet(spec)
        model.load_state_dict(weights)
        trained = [(task, (h, w)) for task, (h, w) in zip(tasks, config["sizes"], strict=True)]
    chosen = [each for each in trained if name in (None, each[0].name)]
    if not chosen:
        trained_for = ", ".join(task.name for task in tasks)
        raise UserError(f"{shown(path)}: trained for {trained_for}, not for {name}")
    return chosen, model.eval()
