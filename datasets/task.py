"""The nouns of the project: what one sample holds, what a network predicts, what a task teaches."""

from __future__ import annotations

import json
import math
import string
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the nouns cost no import of torch: `train.py --help` reads them
    from torch import Tensor

IGNORE = 255  # in `classes` and `mask` targets: this pixel moves nothing
NO_DEPTH = -1.0  # in `depth` targets: no ground truth here
MOST = 65535  # that a label file, or a file of depth, can say

KINDS = ("classes", "mask", "depth")
SPLITS = ("train", "val", "test")


class UserError(ValueError):
    """A mistake in what came from outside: flags, files, data. One line says what was expected.

    The commands print it and end with status 2. Any other exception is a bug with its traceback.
    """


class Sample(NamedTuple):
    """One labelled image. All tensors have the same H and W.

    image: uint8 (3, H, W), RGB.
    targets: by output name. `classes`: uint8 (H, W), class id or IGNORE; `mask`: uint8 (H, W), 0,
        1 or IGNORE; `depth`: float32 (H, W) in the output's unit, negative where there is no
        ground truth.
    key: the store member the image came from.
    """

    image: Tensor
    targets: dict[str, Tensor]
    key: str


class Batch(NamedTuple):
    """Samples of one size: image uint8 (N, 3, H, W), targets by output name (N, H, W), N keys.

    bad: members that cannot be used, as `SHARD: MEMBER`, and why. Their samples are left out and
    nothing takes their place: N is smaller by so many, and may be 0. A batch of no images costs 0,
    has gradients of 0 and leaves batch norm's statistics alone.
    """

    image: Tensor
    targets: dict[str, Tensor]
    keys: list[str]
    bad: dict[str, str] = {}  # never changed: each batch has its own


@dataclass(frozen=True)
class Output:
    """One thing the network predicts for every pixel: `kind` fixes head, losses, metrics, picture.

    files: template of the target's store member, such as `annotation/{key}.png`.
    decoder: outputs of one task that name the same decoder share it; empty means a decoder of its
    own.
    loss: default terms, such as `ce+dice` or `l1+2*grad`. weight: share of this output in the
    total.

    `classes`: `classes` and `colors` ("RRGGBB", one each); `values`: the file's value of each class
        (default 0, 1, 2, ...); `ignored`: file values that become IGNORE; `ignored_colors`: the
        same for labels stored as colours. Any other value in a file is an error.
    `mask`: `threshold`: a pixel is foreground where the file's value is at least this; `ignored`:
        file values from 2 to 253, in lossless files.
    `depth`: depth = file value * `scale` (0: the file's full range is 1); `max_depth`: the largest
        depth the head can say, in `unit` ("m", or "" for relative depth in [0, 1]); `missing`: the
        file value that means "no ground truth" (-1: there is none).
    """

    name: str
    kind: str
    files: str
    decoder: str = ""
    loss: str = ""
    weight: float = 1.0
    classes: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    ignored: tuple[int, ...] = (IGNORE,)
    ignored_colors: tuple[str, ...] = ()
    threshold: int = 128
    scale: float = 0.0
    max_depth: float = 1.0
    unit: str = ""
    missing: int = -1

    def __post_init__(self) -> None:
        if not _is_plain(self.name):
            raise UserError(f"output name {self.name!r}: expected letters, digits, '-' and '_'")
        if self.kind not in KINDS:
            raise UserError(
                f"output {self.name}: kind is {self.kind!r}, not one of {', '.join(KINDS)}"
            )
        if self.kind == "classes" and not 2 <= len(self.classes) <= IGNORE:
            raise UserError(
                f"output {self.name}: {len(self.classes)} classes, expected 2 to {IGNORE}"
            )
        for what in ("colors", "values"):
            listed = getattr(self, what)
            if listed and len(listed) != len(self.classes):
                raise UserError(
                    f"output {self.name}: {len(listed)} {what} for {len(self.classes)} classes"
                )
        if not all(0 <= value <= MOST for value in self.values):
            raise UserError(f"output {self.name}: values {self.values}, expected 0 to {MOST}")
        if not 0 <= self.weight < math.inf:
            raise UserError(f"output {self.name}: weight is {self.weight}, expected 0 or more")
        if len(set(self.values)) != len(self.values):
            raise UserError(f"output {self.name}: a file value stands for two classes")
        for color in self.colors + self.ignored_colors:
            if len(color) != 6 or set(color) - set(string.hexdigits):
                raise UserError(f"output {self.name}: colour {color!r}, expected six hex digits")
        if self.kind == "depth" and (self.max_depth <= 0 or self.scale < 0):
            raise UserError(f"output {self.name}: max_depth must be positive, scale not negative")
        default = {"classes": "ce", "mask": "bce", "depth": "l1"}[self.kind]
        object.__setattr__(self, "loss", self.loss or default)
        object.__setattr__(self, "decoder", self.decoder or self.name)
        if self.kind == "classes" and not self.values:
            object.__setattr__(self, "values", tuple(range(len(self.classes))))

    @property
    def channels(self) -> int:
        """Channels of the head: one per class, one for a mask or a depth."""
        return len(self.classes) if self.kind == "classes" else 1


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
    flip: whether a mirrored image is as likely as the image. rotate: largest rotation in degrees.
    zoom: smallest and largest random scale of a crop.
    defaults: settings of train.py by flag name, such as {"size": [256, 256], "bs": 8}.
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
    rotate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    defaults: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _is_plain(self.name):
            raise UserError(f"task name {self.name!r}: expected letters, digits, '-' and '_'")
        if "{key}" not in self.image:
            raise UserError(f"task {self.name}: image template {self.image!r} has no {{key}}")
        if not self.outputs:
            raise UserError(f"task {self.name}: no outputs")
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
        if not 0 < self.val_share < 1:
            raise UserError(f"task {self.name}: val_share is {self.val_share}, expected 0 to 1")

    def to_json(self) -> dict[str, Any]:
        """Plain values that `Task.from_json` turns into an equal Task."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Task:
        """The Task that a JSON object describes; UserError names the key that does not fit."""
        outputs = [_build(Output, item) for item in _expect(value, "outputs", (list, tuple))]
        return replace(_build(Task, {**value, "outputs": outputs}), outputs=tuple(outputs))

    def empty_batch(self, images: int, size: tuple[int, int]) -> Batch:
        """A batch of that many images as the loader makes them, all 0."""
        import torch

        targets = {
            output.name: torch.zeros(
                images, *size, dtype=torch.float32 if output.kind == "depth" else torch.uint8
            )
            for output in self.outputs
        }
        image = torch.zeros(images, 3, *size, dtype=torch.uint8)
        return Batch(image, targets, [self.name] * images)


def read_task(path: Path) -> Task:
    """Read a task file; UserError names the file and what is wrong in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise UserError("expected a JSON object")
        return Task.from_json(value)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a task: {error}") from None


def _is_plain(name: str) -> bool:
    """Whether a name can be part of a file name and of `OUTPUT/METRIC`."""
    return name.replace("_", "").replace("-", "").isalnum()


def _expect(value: dict[str, Any], name: str, kind: type | tuple) -> Any:
    if not isinstance(value.get(name), kind):
        raise UserError(f"{name}: expected a list, got {value.get(name)!r}")
    return value[name]


def _build(noun: type, value: Any) -> Any:
    """A dataclass from a JSON object: lists become tuples, keys that do not fit are named."""
    if not isinstance(value, dict):
        raise UserError(f"expected an object for {noun.__name__.lower()}, got {value!r}")
    known = {f.name: f.type for f in fields(noun)}
    for name, item in value.items():
        if name not in known:
            raise UserError(f"unknown key {name!r}, expected one of {', '.join(known)}")
        if not _fits(item, known[name]):
            raise UserError(f"{name}: expected {known[name]}, got {item!r}")
    missing = [
        n for n in ("name", "kind", "files", "image", "best") if n in known and n not in value
    ]
    if missing:
        raise UserError(f"key {missing[0]!r} is missing")
    return noun(**{n: tuple(item) if isinstance(item, list) else item for n, item in value.items()})


def _fits(item: Any, annotation: str) -> bool:
    """Whether a JSON value fits one of the annotations that the nouns above use."""
    base, _, inner = annotation.partition("[")
    if base == "tuple":
        element = inner.split(",")[0]
        plain = {"str": str, "int": int, "float": (int, float)}.get(element, object)
        return isinstance(item, (list, tuple)) and all(isinstance(part, plain) for part in item)
    if base == "dict":
        return isinstance(item, dict)
    if base == "bool":
        return isinstance(item, bool)
    kind = {"str": str, "int": int, "float": (int, float)}[base]
    return isinstance(item, kind) and not isinstance(item, bool)
