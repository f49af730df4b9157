"""What a task is: where its data lies, what it teaches, what a sample and a batch of it hold.

The kinds of output are in `outputs`; all of them can be imported from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets.json_values import UserError, build, short
from datasets.outputs import (
    CHANNELS,
    IGNORE,
    KINDS,
    MAX_UINT16,
    NO_DEPTH,
    Classes,
    Depth,
    Label,
    Mask,
    Normals,
    Output,
    is_plain,
)

if TYPE_CHECKING:  # the nouns cost no import of torch: `train.py --help` reads them
    from torch import Tensor

MAX_TASK_BYTES = 1_000_000
MAX_OUTPUTS = 64  # of a task; each has a head, and most a decoder

SPLITS = ("train", "val", "test")


class Sample(NamedTuple):
    """One labelled image. All tensors have the same H and W.

    image: uint8 (3, H, W), RGB.
    targets: by output name. `classes`: uint8 (H, W), class id or IGNORE; `mask`: uint8 (H, W), 0,
        1 or IGNORE; `depth`: float32 (H, W) in the output's unit, negative where there is no
        ground truth; `normals`: float32 (3, H, W), zeros where there is none; `label`: uint8 (),
        class id or IGNORE.
    key: the store member the image came from.
    """

    image: Tensor
    targets: dict[str, Tensor]
    key: str


class Batch(NamedTuple):
    """Samples of one size: image uint8 (N, 3, H, W), targets by output name (N, ...), N keys.

    bad: members that cannot be used, as `SHARD: MEMBER`, and why. Their samples are left out and
    nothing takes their place: N is smaller by so many, and may be 0. A batch of no images costs 0,
    has gradients of 0 and leaves batch norm's statistics alone.
    """

    image: Tensor
    targets: dict[str, Tensor]
    keys: list[str]
    bad: dict[str, str] = {}  # never changed: each batch has its own

    @property
    def batch_size(self) -> int:
        """N"""
        return len(self.keys)


@dataclass(frozen=True)
class Task:
    """A named data layout, what it teaches, and the settings that suit it.

    image: template of the image's member, such as
        `leftImg8bit/{split}/{city}/{key}_leftImg8bit.png`. A `{field}` stands for one or more
        characters other than `/`, `*` for any number of them; the fields that an image's name has
        filled in name its targets.
    outputs: what is predicted. best: the metric, higher is better, that picks the best checkpoint.
    splits: this project's split name -> the value of `{split}` in the member names.
    split: how samples are divided where the names have no `{split}`: "hash" (by a hash of
        `{group}`, or of `{key}`) or "tail" (the last part in name order: for sequences of
        neighbouring frames).
    val_share: share of samples (of groups) that go to validation where the names have no `{split}`.
    metadata: member name of a CSV whose `id` column is the sample's `{key}`; its other columns
        become fields for `--split-by`.
    resize: True: every image is resized to the training size; False: crops at native scale for
        training, whole images for validation.
    flip: whether a mirrored image is as likely as the image. upright: False of what is seen from
        any side, such as a texture: half turns are as likely, and quarter turns where crops are
        square. rotate: largest rotation in degrees besides.
    zoom: smallest and largest random scale of a crop.
    pixels_per_mm: of the images, where all have one scale, for `infer.py --scale auto`; 0: unknown.
    defaults: settings of training by flag name, such as {"size": [256, 256], "bs": 8}; never where
        files lie, nor the device.
    """

    name: str
    image: str
    outputs: tuple[Output, ...]
    best: str
    about: str = ""
    splits: dict[str, str] = field(default_factory=lambda: {name: name for name in SPLITS})
    split: str = "hash"
    val_share: float = 0.1
    metadata: str = ""
    resize: bool = False
    flip: bool = True
    upright: bool = True
    rotate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    pixels_per_mm: float = 0.0
    defaults: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_plain(self.name):
            raise UserError(f"task name {self.name!r}: expected letters, digits, '-' and '_'")
        if "{key}" not in self.image:
            raise UserError(f"task {self.name}: image template {self.image!r} has no {{key}}")
        if not self.outputs:
            raise UserError(f"task {self.name}: no outputs")
        if len(self.outputs) > MAX_OUTPUTS:
            raise UserError(
                f"task {self.name}: {len(self.outputs)} outputs, expected at most {MAX_OUTPUTS}"
            )
        for output in self.outputs:
            if not output.source:
                key = "field" if output.per_image else "files"
                raise UserError(f"output {output.name}: key {key!r} is missing")
            if not output.per_image and (output.source, output.channel) == (self.image, ""):
                raise UserError(
                    f"output {output.name}: files is {self.image!r}, which is the image: expected "
                    "other files, or its channel"
                )
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise UserError(f"task {self.name}: two outputs have the same name: {', '.join(names)}")
        if self.best.split("/")[0] not in names:
            raise UserError(f"task {self.name}: best is {self.best!r}, expected OUTPUT/METRIC")
        if not all(isinstance(value, str) for value in self.splits.values()):
            raise UserError(f"task {self.name}: splits is {self.splits}, expected text for each")
        if self.split not in ("hash", "tail"):
            raise UserError(f"task {self.name}: split is {self.split!r}, expected hash or tail")
        if len(self.zoom) != 2 or not 0 < self.zoom[0] <= self.zoom[1]:
            raise UserError(f"task {self.name}: zoom is {self.zoom}, expected (smallest, largest)")
        if not 0 <= self.pixels_per_mm < math.inf:
            raise UserError(f"task {self.name}: pixels_per_mm is {self.pixels_per_mm}")
        if not 0 < self.val_share < 1:
            raise UserError(f"task {self.name}: val_share is {self.val_share}, expected 0 to 1")

    def changed(self, then: Task) -> list[str]:
        """The keys that say something else than they did then, but for what moves no training. A
        label that `then` has beside these, or whose classes it has found, is no change."""
        own = {output.name: output for output in self.outputs}
        for label in then.outputs:
            mine = own.get(label.name, label)
            if isinstance(label, Label) and isinstance(mine, Label):
                own[label.name] = replace(mine, classes=mine.classes or label.classes)
        now = replace(self, about=then.about, defaults=then.defaults, outputs=tuple(own.values()))
        now = replace(now, pixels_per_mm=then.pixels_per_mm)
        return [f.name for f in fields(Task) if getattr(now, f.name) != getattr(then, f.name)]

    def only(self, names: Collection[str]) -> Task:
        """The task with those of its outputs alone that are named; UserError: none is. Where that
        of `best` is left out, the score of the first picks the best checkpoint."""
        kept = tuple(output for output in self.outputs if output.name in names)
        if not kept:
            known = ", ".join(output.name for output in self.outputs)
            raise UserError(f"task {self.name}: expected one or more of its outputs {known}")
        has_best = self.best.partition("/")[0] in names
        best = self.best if has_best else f"{kept[0].name}/{kept[0].score}"
        return replace(self, outputs=kept, best=best)

    @property
    def dense(self) -> tuple[Output, ...]:
        """The outputs whose targets are files, one for each image."""
        return tuple(output for output in self.outputs if not output.per_image)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `Task.from_json` turns into an equal Task."""
        return asdict(self) | {"outputs": tuple(output.to_json() for output in self.outputs)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Task:
        """The Task that a JSON object describes; UserError names the key that does not fit."""
        if "outputs" not in value:
            return build(Task, value)  # which says so, unless another key is meant to be that
        listed = value["outputs"]
        if not isinstance(listed, list | tuple):
            raise UserError(f"outputs: expected a list, got {short(listed)}")
        return build(Task, value | {"outputs": [Output.from_json(item) for item in listed]})

    def empty_batch(self, images: int, size: tuple[int, int]) -> Batch:
        """A batch of that many images as the loader makes them, all 0."""
        import torch

        targets = {
            output.name: torch.zeros(
                images, *output.target_shape(size), dtype=getattr(torch, output.dtype)
            )
            for output in self.outputs
        }
        image = torch.zeros(images, 3, *size, dtype=torch.uint8)
        return Batch(image, targets, [self.name] * images)


def read_task(path: Path) -> Task:
    """Read a task file; UserError names the file and what is wrong in it."""
    try:
        if not path.is_file() and path.exists():  # a pipe may never end
            raise UserError("expected a regular file")
        if path.stat().st_size > MAX_TASK_BYTES:
            raise UserError(f"larger than {MAX_TASK_BYTES // 10**6} MB")
        value = json.loads(path.read_bytes())  # UTF-8, 16 or 32, with or without a mark of it
        if not isinstance(value, dict):
            raise UserError("expected a JSON object")
        if any("\ud800" <= c <= "\udfff" for c in json.dumps(value, ensure_ascii=False)):
            raise UserError("a text in it holds half a character (a lone surrogate)")
        return Task.from_json(value)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: not a task: brackets within brackets, too many") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        near = short(error.doc[max(0, error.pos - 24) : error.pos + 8])
        raise UserError(
            f"{path}: not a task: {error.msg}: {where}, near {near}; a number has a point, a text "
            "straight double quotes, and no comma stands before a closing bracket"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not a task: {error}") from None
