"""What a network can predict: each kind of output, its keys in a task file, its targets.

This module imports no torch: `train.py --help` reads it.
"""

import math
import string
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from datasets.json_values import UserError, build, hints, short

IGNORE = 255  # in `classes` and `mask` targets: this pixel moves nothing
NO_DEPTH = -1.0  # in `depth` targets: no ground truth here
MAX_UINT16 = 65535  # the most that a file of labels or of depth can say
# Files of COCO or GeoJSON: shapes of a class by its name paint its value, later ones over earlier
# ones. What none covers has the value 0: the first class, or ignored where `values` begin at 1 and
# `ignored` lists 0; in a mask the background. The class "ignored" is.
SHAPES = (".json", ".geojson")
CHANNELS = "RGBA"  # of a colour picture, in this order


@dataclass(frozen=True)
class Output:
    """One thing the network predicts. Its kind is a subclass with its own keys, see `KINDS`.

    files: template of the target's store member, such as `annotation/{key}.png`; of classes and
    masks also `shapes/{key}.geojson` or `annotations.json`, see `SHAPES`.
    decoder: outputs of one task that name the same decoder share it; empty means a decoder of its
    own.
    loss: terms, such as `ce+dice` or `l1+2*grad`; empty means the kind's default. weight: share of
    this output in the total.
    channel: R, G, B or A: files are colour pictures of 8 bits, of which this channel alone is read,
    as a grey picture is; several outputs may name the same `files`. Of kinds with one number per
    pixel.

    A kind says of itself: dtype of its targets; fill: what a target holds where nothing is known;
    balanced: whether its losses take class weights; per_image: whether it says one thing of a whole
    image, for which no decoder is needed; channels: of its head; labels: what the ids in a target
    mean, in their order; score: the one that picks the best checkpoint, unless a task says another;
    says: what it is, on a card; pipeline: what model hubs call that.
    """

    kind: ClassVar[str]
    dtype: ClassVar[str]
    fill: ClassVar[float]
    default_loss: ClassVar[str]
    balanced: ClassVar[bool] = False
    per_image: ClassVar[bool] = False
    may_be_shapes: ClassVar[bool] = False
    channels: ClassVar[int] = 1
    labels: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[str]
    says: ClassVar[str]
    pipeline: ClassVar[str] = "image-segmentation"

    name: str
    files: str = ""
    decoder: str = ""
    loss: str = ""
    weight: float = 1.0
    channel: str = ""

    def __post_init__(self) -> None:
        if not is_plain(self.name):
            raise UserError(f"output name {self.name!r}: expected letters, digits, '-' and '_'")
        if not 0 <= self.weight < math.inf:
            raise UserError(f"output {self.name}: weight is {self.weight}, expected 0 or more")
        if self.channel not in ("", *CHANNELS):
            known = f"{', '.join(CHANNELS[:-1])} or {CHANNELS[-1]}"
            raise UserError(f"output {self.name}: channel is {self.channel!r}, expected {known}")
        if self.is_shapes and (not self.may_be_shapes or self.channel):
            raise UserError(f"output {self.name}: {self.files}: expected pictures, not shapes")
        self._default("loss", self.default_loss)
        self._default("decoder", self.name)

    def _default(self, key: str, value: Any) -> None:
        """Fill in a key that was left empty."""
        object.__setattr__(self, key, getattr(self, key) or value)

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a target of an image of that height and width."""
        return size

    @property
    def is_shapes(self) -> bool:
        """Whether its files are polygons and run lengths; one file may then be of many images."""
        return self.files.lower().endswith(SHAPES)

    @property
    def source(self) -> str:
        """Where targets are read from: the template, or the field, of a kind `per_image`."""
        return self.files

    def to_json(self) -> dict[str, Any]:
        """Plain values that `Output.from_json` turns into an equal output."""
        return {"name": self.name, "kind": self.kind} | asdict(self)

    @staticmethod
    def from_json(value: Any) -> "Output":
        """The output that a JSON object describes; UserError names the key that does not fit."""
        if not isinstance(value, dict):
            raise UserError(f"expected an object for output, got {short(value)}")
        keys = {key: item for key, item in value.items() if key != "kind"}
        if "kind" not in value:
            raise UserError("key 'kind' is missing")
        name, noun = value.get("name"), KINDS.get(str(value["kind"]))
        if noun is None:
            known = ", ".join(KINDS)
            raise UserError(f"output {name}: kind is {value['kind']!r}, not one of {known}")
        for key in keys:
            others = [kind for kind, other in KINDS.items() if key in hints(other)]
            if others and key not in hints(noun):
                known = " and ".join(others)
                raise UserError(f"output {name}: {key} is a key of {known}, not of {value['kind']}")
        return build(noun, keys)


@dataclass(frozen=True)
class Classes(Output):
    """One class per pixel.

    classes and colors ("RRGGBB"): one each. values: the file's value of each class (default 0, 1,
    2, ...). ignored: file values that become IGNORE; ignored_colors: the same for labels stored as
    colours. Any other value in a file is an error.
    """

    kind, dtype, fill, default_loss, balanced = "classes", "uint8", IGNORE, "ce", True
    score = "miou"
    says = "a class for each pixel"
    may_be_shapes = True

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
        if len(set(self.classes)) < num:
            raise UserError(f"output {self.name}: two classes have one name: {self.classes}")
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
    score = "iou"
    says = "foreground or background for each pixel"
    may_be_shapes = True
    labels = ("background", "foreground")

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


@dataclass(frozen=True)
class Depth(Output):
    """The distance of what each pixel shows.

    depth = file value * scale (0: the file's full range is 1). max_depth: the largest depth the
    head can say, in `unit` ("m", or "" for relative depth in [0, 1]). missing: the file value that
    means "no ground truth" (-1: there is none).
    """

    kind, dtype, fill, default_loss = "depth", "float32", NO_DEPTH, "l1"
    score = "delta1"
    says, pipeline = "a distance for each pixel", "depth-estimation"

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
    score = "within11"
    says = "the direction that each pixel's surface faces"
    channels = 3

    invalid: str = "000000"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel:
            raise UserError(f"output {self.name}: normals fill three channels, not {self.channel}")
        _check_colors(self.name, (self.invalid,))

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
    score = "accuracy"
    says, pipeline = "a class for each image", "image-classification"
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


def is_plain(name: str) -> bool:
    """Whether a name can be part of a file name and of `OUTPUT/METRIC`."""
    return name.replace("_", "").replace("-", "").isalnum()


def _check_colors(name: str, colors: tuple[str, ...]) -> None:
    for color in colors:
        if len(color) != 6 or set(color) - set(string.hexdigits):
            raise UserError(f"output {name}: colour {color!r}, expected six hex digits")
