"""The nouns of the project: what one sample holds, what a network predicts, what a task teaches."""

from __future__ import annotations

import functools
import json
import math
import string
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

if TYPE_CHECKING:  # the nouns cost no import of torch: `train.py --help` reads them
    from torch import Tensor

IGNORE = 255  # in `classes` and `mask` targets: this pixel moves nothing
NO_DEPTH = -1.0  # in `depth` targets: no ground truth here
MAX_UINT16 = 65535  # the most that a file of labels or of depth can say

MAX_TASK_BYTES = 1_000_000
MAX_OUTPUTS = 64  # of a task; each has a head, and most a decoder
MAX_NUMBER = 10**15  # that a whole number in a task file may be

SPLITS = ("train", "val", "test")
CHANNELS = "RGBA"  # of a colour picture, in this order

Noun = TypeVar("Noun")


class UserError(ValueError):
    """A mistake in what came from outside: flags, files, data. One line says what was expected.

    The commands print it and end with status 2. Any other exception is a bug with its traceback.
    """


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
class Output:
    """One thing the network predicts. Its kind is a subclass with its own keys, see `KINDS`.

    files: template of the target's store member, such as `annotation/{key}.png`.
    decoder: outputs of one task that name the same decoder share it; empty means a decoder of its
    own.
    loss: terms, such as `ce+dice` or `l1+2*grad`; empty means the kind's default. weight: share of
    this output in the total.
    channel: R, G, B or A: files are colour pictures of 8 bits, of which this channel alone is read,
    as a grey picture is; several outputs may name the same `files`. Of kinds with one number per
    pixel.

    A kind says of itself: dtype of its targets; fill: what a target holds where nothing is known;
    balanced: whether its losses take class weights; per_image: whether it says one thing of a whole
    image, for which no decoder is needed.
    """

    kind: ClassVar[str]
    dtype: ClassVar[str]
    fill: ClassVar[float]
    default_loss: ClassVar[str]
    balanced: ClassVar[bool] = False
    per_image: ClassVar[bool] = False

    name: str
    files: str = ""
    decoder: str = ""
    loss: str = ""
    weight: float = 1.0
    channel: str = ""

    def __post_init__(self) -> None:
        if not _is_plain(self.name):
            raise UserError(f"output name {self.name!r}: expected letters, digits, '-' and '_'")
        if not 0 <= self.weight < math.inf:
            raise UserError(f"output {self.name}: weight is {self.weight}, expected 0 or more")
        if self.channel not in ("", *CHANNELS):
            known = f"{', '.join(CHANNELS[:-1])} or {CHANNELS[-1]}"
            raise UserError(f"output {self.name}: channel is {self.channel!r}, expected {known}")
        self._default("loss", self.default_loss)
        self._default("decoder", self.name)

    def _default(self, key: str, value: Any) -> None:
        """Fill in a key that was left empty."""
        object.__setattr__(self, key, getattr(self, key) or value)

    @property
    def channels(self) -> int:
        """Channels of the head."""
        return 1

    @property
    def labels(self) -> tuple[str, ...]:
        """What the ids in a target mean, in their order; () where it holds no ids."""
        return ()

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a target of an image of that height and width."""
        return size

    @property
    def source(self) -> str:
        """Where targets are read from: the template, or the field, of a kind `per_image`."""
        return self.files

    def to_json(self) -> dict[str, Any]:
        """Plain values that `Output.from_json` turns into an equal output."""
        return {"name": self.name, "kind": self.kind} | asdict(self)

    @staticmethod
    def from_json(value: Any) -> Output:
        """The output that a JSON object describes; UserError names the key that does not fit."""
        if not isinstance(value, dict):
            raise UserError(f"expected an object for output, got {_short(value)}")
        keys = {key: item for key, item in value.items() if key != "kind"}
        if "kind" not in value:
            raise UserError("key 'kind' is missing")
        name, noun = value.get("name"), KINDS.get(str(value["kind"]))
        if noun is None:
            known = ", ".join(KINDS)
            raise UserError(f"output {name}: kind is {value['kind']!r}, not one of {known}")
        for key in keys:
            others = [kind for kind, other in KINDS.items() if key in _hints(other)]
            if others and key not in _hints(noun):
                known = " and ".join(others)
                raise UserError(f"output {name}: {key} is a key of {known}, not of {value['kind']}")
        return _build(noun, keys)


@dataclass(frozen=True)
class Classes(Output):
    """One class per pixel.

    classes and colors ("RRGGBB"): one each. values: the file's value of each class (default 0, 1,
    2, ...). ignored: file values that become IGNORE; ignored_colors: the same for labels stored as
    colours. Any other value in a file is an error.
    """

    kind, dtype, fill, default_loss, balanced = "classes", "uint8", IGNORE, "ce", True

    classes: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    ignored: tuple[int, ...] = (IGNORE,)
    ignored_colors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        num = len(self.classes)
        if not 2 <= num <= IGNORE:
            raise UserError(f"output {self.name}: {num} classes, expected 2 to {IGNORE}")
        for what in ("colors", "values"):
            listed = getattr(self, what)
            if listed and len(listed) != num:
                raise UserError(f"output {self.name}: {len(listed)} {what} for {num} classes")
        limit = 255 if self.channel else MAX_UINT16
        if not all(0 <= value <= limit for value in self.values):
            raise UserError(f"output {self.name}: values {self.values}, expected 0 to {limit}")
        if len(set(self.values)) != len(self.values):
            raise UserError(f"output {self.name}: a file value stands for two classes")
        _check_colors(self.name, self.colors + self.ignored_colors)
        self._default("values", tuple(range(num)))

    @property
    def channels(self) -> int:
        """One per class."""
        return len(self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes


@dataclass(frozen=True)
class Mask(Output):
    """Foreground or background at each pixel.

    threshold: a pixel is foreground where the file's value is at least this. ignored: file values
    from 2 to 253 that become IGNORE, in lossless files. colors ("RRGGBB"), in place of these two: a
    pixel is foreground where the file's colour is one of them. ignored_colors: those that become
    IGNORE then.
    """

    kind, dtype, fill, default_loss = "mask", "uint8", IGNORE, "bce"

    threshold: int = 128
    ignored: tuple[int, ...] = (IGNORE,)
    colors: tuple[str, ...] = ()
    ignored_colors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_colors(self.name, self.colors + self.ignored_colors)
        for key in ("threshold", "ignored", "channel"):
            if self.colors and getattr(self, key) != getattr(Mask, key):
                raise UserError(f"output {self.name}: expected colors or {key}, not both")
        if self.ignored_colors and not self.colors:
            raise UserError(f"output {self.name}: ignored_colors, but colors is missing")
        for color in {*map(str.upper, self.colors)} & {*map(str.upper, self.ignored_colors)}:
            raise UserError(f"output {self.name}: colour {color} is in colors and ignored_colors")

    @property
    def labels(self) -> tuple[str, ...]:
        """0 and 1."""
        return ("background", "foreground")


@dataclass(frozen=True)
class Depth(Output):
    """The distance of what each pixel shows.

    depth = file value * scale (0: the file's full range is 1). max_depth: the largest depth the
    head can say, in `unit` ("m", or "" for relative depth in [0, 1]). missing: the file value that
    means "no ground truth" (-1: there is none).
    """

    kind, dtype, fill, default_loss = "depth", "float32", NO_DEPTH, "l1"

    scale: float = 0.0
    max_depth: float = 1.0
    unit: str = ""
    missing: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_depth <= 0 or self.scale < 0:
            raise UserError(f"output {self.name}: max_depth must be positive, scale not negative")


@dataclass(frozen=True)
class Normals(Output):
    """The direction that each pixel's surface faces, a unit vector: x to the right, y up, z towards
    the camera (as OpenGL has it, and the normals published for NYUv2).

    Files are RGB, each channel coded as n * 0.5 + 0.5. invalid: the colour that means "no ground
    truth"; a colour that is no unit vector means the same.
    """

    kind, dtype, fill, default_loss = "normals", "float32", 0.0, "cosine"

    invalid: str = "000000"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel:
            raise UserError(f"output {self.name}: normals fill three channels, not {self.channel}")
        _check_colors(self.name, (self.invalid,))

    @property
    def channels(self) -> int:
        """x, y and z."""
        return 3

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(3, H, W)"""
        return (3, *size)


@dataclass(frozen=True)
class Label(Output):
    """One class for each image, without a decoder.

    field: where it is read from: a column of the task's `metadata`, or a field of `image`, its
    template. classes: values of that field; left out, those that occur in training. An image whose
    field is empty, missing or none of them is ignored.
    """

    kind, dtype, fill, default_loss = "label", "uint8", IGNORE, "ce"
    balanced = per_image = True

    field: str = ""
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes and not 2 <= len(self.classes) <= IGNORE:
            num = len(self.classes)
            raise UserError(f"output {self.name}: {num} classes, expected 2 to {IGNORE}")
        if self.files or self.channel:
            raise UserError(
                f"output {self.name}: a label has no files or channels, it is read from a field"
            )

    @property
    def channels(self) -> int:
        """One per class; two until they are known."""
        return max(2, len(self.classes))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    @property
    def source(self) -> str:
        """The field."""
        return self.field

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(), a number."""
        return ()


KINDS: dict[str, type[Output]] = {
    "classes": Classes,
    "mask": Mask,
    "depth": Depth,
    "normals": Normals,
    "label": Label,
}


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
        if len(self.outputs) > MAX_OUTPUTS:
            raise UserError(
                f"task {self.name}: {len(self.outputs)} outputs, expected at most {MAX_OUTPUTS}"
            )
        for output in self.outputs:
            if not output.source:
                key = "field" if output.per_image else "files"
                raise UserError(f"output {output.name}: key {key!r} is missing")
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
        listed = value.get("outputs")
        if not isinstance(listed, list | tuple):
            raise UserError(f"outputs: expected a list, got {_short(listed)}")
        return _build(Task, value | {"outputs": [Output.from_json(item) for item in listed]})

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
        if path.stat().st_size > MAX_TASK_BYTES:
            raise UserError(f"larger than {MAX_TASK_BYTES // 10**6} MB")
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(value, dict):
            raise UserError("expected a JSON object")
        if any("\ud800" <= c <= "\udfff" for c in json.dumps(value, ensure_ascii=False)):
            raise UserError("a text in it holds half a character (a lone surrogate)")
        return Task.from_json(value)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: not a task: brackets within brackets, too many") from None
    except ValueError as error:
        raise UserError(f"{path}: not a task: {error}") from None


def _is_plain(name: str) -> bool:
    """Whether a name can be part of a file name and of `OUTPUT/METRIC`."""
    return name.replace("_", "").replace("-", "").isalnum()


def _check_colors(name: str, colors: tuple[str, ...]) -> None:
    for color in colors:
        if len(color) != 6 or set(color) - set(string.hexdigits):
            raise UserError(f"output {name}: colour {color!r}, expected six hex digits")


@functools.cache
def _hints(noun: type) -> dict[str, Any]:
    """The type of each key of a dataclass."""
    hints = get_type_hints(noun)
    return {f.name: hints[f.name] for f in fields(noun)}


def _build(noun: type[Noun], value: dict[str, Any]) -> Noun:
    """A dataclass from a JSON object: lists become tuples, keys that do not fit are named."""
    known = _hints(noun)
    for name, item in value.items():
        if name not in known:
            raise UserError(f"unknown key {name!r}, expected one of {', '.join(known)}")
        if not _fits(item, known[name]):
            expected = getattr(known[name], "__name__", "") if not get_args(known[name]) else ""
            raise UserError(f"{name}: expected {expected or known[name]}, got {_short(item)}")
    for f in fields(noun):
        if f.default is f.default_factory is MISSING and f.name not in value:
            raise UserError(f"key {f.name!r} is missing")
    return noun(**{n: tuple(item) if isinstance(item, list) else item for n, item in value.items()})


def _short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _fits(item: Any, hint: Any) -> bool:
    """Whether a JSON value is of that type: lists pass for tuples, whole numbers for others."""
    base = get_origin(hint) or hint
    if base is tuple:
        return isinstance(item, list | tuple) and all(_fits(x, get_args(hint)[0]) for x in item)
    if isinstance(item, bool):
        return base is bool
    if isinstance(item, int) and abs(item) > MAX_NUMBER:
        return False
    return isinstance(item, int | float if base is float else base)
