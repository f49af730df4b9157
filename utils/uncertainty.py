"""Which unlabelled pictures a network is least sure of: these are worth a label (`--ask`).

The score is the entropy of what is predicted for a pixel, divided by its largest, and averaged: 0
is certain, 1 is a guess among all classes. Settles 2009, "Active Learning Literature Survey".
"""

import csv
import heapq
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from datasets.index.sources import ImageSource
from datasets.photo import Photo, decode_photo
from datasets.task import Classes, Mask, Output, Task, UserError
from utils.files import write_whole
from utils.maps.predict_files import Tally, at_scale_of
from utils.maps.results import HEAD, is_own, refuse_others, save_pdf
from utils.maps.sheet import contents
from utils.predict import Predictor

CELL = 16  # pixels of a side over which scores are averaged at once
MOST_OF_ONE = 3  # crops of one picture
LARGE = 4  # crops of which a picture has as many pixels, or more, is asked about in crops
CROP = (512, 512)  # where a task has no size
COLUMNS = ("rank", "image", "left", "top", "width", "height", "score", "outputs")
COLOR, DEEPEST = (255, 40, 0), 120  # of 255, where nothing is sure
SIDE = 600  # pixels of a crop in the contact sheet, at most


class Question(NamedTuple):
    """A crop of a picture. box: left, top, width, height in pixels. heat: scores of its cells."""

    score: float
    source: ImageSource
    box: tuple[int, int, int, int]
    heat: np.ndarray


def asked_outputs(tasks: Sequence[Task]) -> dict[str, tuple[Output, ...]]:
    """By task the outputs that have classes for each pixel; UserError: none has."""
    found = {t.name: tuple(o for o in t.dense if isinstance(o, Classes | Mask)) for t in tasks}
    if not any(found.values()):
        names = ", ".join(output.name for task in tasks for output in task.outputs)
        raise UserError(f"--ask: expected an output of classes or a mask, there is {names}")
    return {name: outputs for name, outputs in found.items() if outputs}


def ask(
    sources: Sequence[ImageSource],
    task: Task,
    predictor: Predictor,
    outputs: tuple[Output, ...],
    num: int,
    tally: Tally,
) -> list[Question]:
    """The `num` crops of all the images with the highest scores, the first first, at most
    MOST_OF_ONE of each image; a small image is one crop. Damaged ones are counted and left out."""
    size = tuple(task.defaults.get("size", CROP))
    best = list[Question]()
    for source in tqdm(sources, desc=task.name, unit="image", disable=None, dynamic_ncols=True):
        try:
            with source.open() as file:
                if is_own(file.read(HEAD)):
                    tally.own.add(source.where)
                    continue
                photo = decode_photo(file, source.where, source.page)._replace(name=source.name)
            scores = score_cells(photo, at_scale_of(photo, predictor, task), outputs)
        except (UserError, OSError) as error:
            tally.skipped.add(source.where, str(error).removeprefix(f"{source.where}: "))
            continue
        shape = tuple(photo.pixels.shape[1:])
        crops = [Question(s, source, box, heat) for s, box, heat in crops_of(scores, shape, size)]
        best = heapq.nlargest(num, best + crops, key=lambda question: question.score)
        tally.done.add(source.where)
    return best


def score_cells(photo: Photo, predictor: Predictor, outputs: tuple[Output, ...]) -> Tensor:
    """The mean score of each cell, of CELL pixels a side or what is left at the borders, over its
    pixels and the outputs: float32 (rows, columns), on the host."""
    height, width = photo.pixels.shape[1:]
    sums = torch.zeros(-(-height // CELL), -(-width // CELL))
    names = tuple(output.name for output in outputs)
    for part in predictor(photo.pixels[None], names):
        rows, columns = (torch.arange(s.start, s.stop) // CELL for s in part.area[-2:])
        for name in names:
            entropy = entropy_of(predictor.model.heads[name].shares(part.predictions[name]))
            band = torch.zeros(len(sums), len(columns)).index_add_(0, rows, entropy[0].cpu())
            sums.index_add_(1, columns, band)
    return sums / (len(names) * _pixels((height, width)))


def entropy_of(probabilities: Tensor) -> Tensor:
    """(N, classes, ...) that sum to 1 -> (N, ...), from 0 to 1."""
    return torch.special.entr(probabilities).sum(1) / math.log(probabilities.shape[1])


def crops_of(
    scores: Tensor, shape: tuple[int, ...], size: tuple[int, ...]
) -> list[tuple[float, tuple[int, int, int, int], np.ndarray]]:
    """Score, box and heat of the best crops of `size` (height, width), which do not overlap, in an
    image of `shape`; a small image is one."""
    height, width = shape
    if height * width < LARGE * size[0] * size[1]:
        size = shape
    rows, columns = (
        min(-(-side // CELL), cells) for side, cells in zip(size, scores.shape, strict=True)
    )
    weights = _pixels((height, width))
    summed, pixels = (
        F.avg_pool2d(each[None, None].double(), (rows, columns), 1)[0, 0]
        for each in (scores * weights, weights)
    )
    means, crops = summed / pixels, []
    for _ in range(MOST_OF_ONE):
        score, at = float(means.max()), int(means.argmax())
        if score < 0:
            break
        row, column = divmod(at, means.shape[1])
        top, left = row * CELL, column * CELL
        box = (left, top, min(columns * CELL, width - left), min(rows * CELL, height - top))
        heat = scores[row : row + rows, column : column + columns].numpy()
        crops.append((score, box, heat))
        above, before = max(0, row - rows + 1), max(0, column - columns + 1)
        means[above : row + rows, before : column + columns] = -1  # what would overlap
    return crops


def _pixels(shape: tuple[int, int]) -> Tensor:
    """How many pixels each cell of an image has."""
    rows, columns = (
        torch.tensor([min(CELL, side - at) for at in range(0, side, CELL)], dtype=torch.float32)
        for side in shape
    )
    return rows[:, None] * columns


def refuse_other_lists(out: Path) -> None:
    """UserError: one of the files that `write_questions` makes is there, and another's."""
    refuse_others(out / "ask.pdf")
    refuse_others(out / "ask.csv", ",".join(COLUMNS).encode())


def write_questions(out: Path, questions: Sequence[tuple[Question, str]]) -> None:
    """ask.csv, a row a crop, and ask.pdf, pages of them with the score as heat: of questions, each
    with the names of the outputs that it is about."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for rank, (question, outputs) in enumerate(questions, 1):
        name, score = question.source.name, f"{question.score:.4f}"
        table.writerow((rank, name, *question.box, score, outputs))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "ask.csv", text.getvalue().encode())
    names = [f"{i}: {q.source.name}, {q.score:.2f}" for i, (q, _) in enumerate(questions, 1)]
    if questions:
        save_pdf(out / "ask.pdf", contents(names, [_picture(q) for q, _ in questions]))


def _picture(question: Question) -> Image.Image:
    """A crop, redder where the network is less sure."""
    left, top, width, height = question.box
    with question.source.open() as file:
        photo = decode_photo(file, question.source.where, question.source.page)
    pixels = photo.pixels[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()
    crop = Image.fromarray(np.ascontiguousarray(pixels))
    crop.thumbnail((SIDE, SIDE))
    heat = Image.fromarray(np.uint8(np.clip(question.heat, 0, 1) * DEEPEST)).resize(
        crop.size, Image.Resampling.BILINEAR
    )
    return Image.composite(Image.new("RGB", crop.size, COLOR), crop, heat)
