"""A picture of a street while it is drawn: shapes in metres in, pixels and label ids out."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from datasets.cityscapes import ANNOTATED

# The table of what is annotated leaves out these two; their ids are published with it.
IDS = {"unlabelled": 0, "ego vehicle": 1} | {
    name: number for name, (number, _) in ANNOTATED.items()
}
SUPERSAMPLE = 2  # canvas pixels per pixel of the scene
MARGIN = 2  # texture pixels around what `Canvas.wall` maps, so that no edge samples outside

Random = np.random.Generator
Color = tuple[int, int, int]
Flat = tuple[float, float]
Metres = tuple[float, float, float]
Shape = Sequence[Flat]

CIRCLE = [
    (round(math.cos(k * math.pi / 8), 6), round(math.sin(k * math.pi / 8), 6)) for k in range(16)
]
SQUARE = [(-1, -1), (-1, 1), (1, 1), (1, -1)]
THRESHOLD = [0] * 128 + [255] * 128

GLASS, TYRE, CHROME, STEEL = (38, 48, 58), (24, 24, 26), (128, 130, 134), (92, 96, 98)
WHITE, RED, AMBER, GREEN = (245, 245, 238), (205, 30, 28), (255, 178, 60), (40, 220, 110)
HEAD, TAIL = (255, 250, 225), (255, 40, 34)  # lamps in these colours shine by themselves
PAINTS = (
    (205, 207, 210), (28, 30, 34), (110, 114, 120), (150, 24, 28), (28, 58, 128), (232, 232, 230),
    (44, 86, 62), (182, 148, 60), (70, 78, 96), (150, 170, 190), (196, 92, 34),
)  # fmt: skip
CLOTHES = (*PAINTS, (120, 60, 110), (180, 60, 90), (70, 120, 150), (215, 190, 150), (60, 60, 64))


class Camera(NamedTuple):
    """A pinhole over the street. focal, center, horizon in canvas pixels; height in metres;
    bend in 1/m: the street drifts `bend * z * z` metres to the right."""

    focal: float
    center: float
    horizon: float
    height: float
    bend: float

    def project(self, u: float, y: float, z: float) -> Flat:
        """The canvas pixel of a point u metres to the right in the street, y up and z ahead."""
        scale = self.focal / max(z, 0.3)
        x = self.center + (u + self.bend * z * z) * scale
        return x, self.horizon + (self.height - y) * scale


class Light(NamedTuple):
    """A weather. tint multiplies every colour; after `visibility` metres half is the skyline's."""

    zenith: Color
    skyline: Color
    tint: tuple[float, float, float]
    visibility: float
    shadow: int  # opacity of a shadow on the ground, 0 to 255
    lamps: bool


class Place(NamedTuple):
    """Where an object stands, and where it heads: (cos, sin) is (1, 0) away from the camera."""

    u: float
    z: float
    cos: float = 1.0
    sin: float = 0.0

    def point(self, ahead: float, right: float, up: float) -> Metres:
        """Street coordinates of a point of the object, in metres of its own frame."""
        u = self.u + ahead * self.sin + right * self.cos
        return u, up, self.z + ahead * self.cos - right * self.sin


class Canvas:
    """An RGB image and its labels; a labelled draw paints the same pixels of both.

    It carries what every draw needs: the camera, the light, and the scene's random numbers.
    """

    def __init__(
        self, image: Image.Image, labels: Image.Image, camera: Camera, light: Light, rng: Random
    ) -> None:
        self.image, self.labels, self.rng = image, labels, rng
        self.camera, self.light = camera, light
        self.paint, self.glaze = ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")
        self.mark = ImageDraw.Draw(labels)
        self.glows = []  # (x, y, radius, colour) of lamps that bloom

    def pick(self, values: Sequence[Any]) -> Any:
        """One of the values."""
        return pick(self.rng, values)

    def some(self, low: float, high: float) -> float:
        """A number between the two."""
        return float(self.rng.uniform(low, high))

    def shade(self, color: Color, z: float, lit: bool = False) -> Color:
        """The colour under this light, seen through z metres of haze; `lit` shines by itself."""
        haze = z / (z + self.light.visibility)
        tint = (1.0, 1.0, 1.0) if lit else self.light.tint
        mixed = zip(color, tint, self.light.skyline, strict=True)
        return tuple(int(min(255, c * t) * (1 - haze) + k * haze) for c, t, k in mixed)

    def grade(self, picture: Image.Image, z: float) -> Image.Image:
        """A picture under this light, seen through z metres of haze."""
        ramps = zip(self.shade((0, 0, 0), z), self.shade((255, 255, 255), z), strict=True)
        return picture.point(
            [low + (top - low) * v // 255 for low, top in ramps for v in range(256)]
        )

    def polygon(self, points: Shape, color: Color, label: str = "", opacity: int = 255) -> None:
        """Fill canvas pixels; without a label, the label image keeps what is below."""
        if opacity < 255:
            self.glaze.polygon(points, fill=(*color, opacity))
        else:
            self.paint.polygon(points, fill=color)
        if label:
            self.mark.polygon(points, fill=IDS[label])

    def face(
        self, points: Sequence[Metres], color: Color, label: str = "", opacity: int = 255
    ) -> None:
        """Fill a polygon given in street metres, shaded at its first point."""
        flat = [self.camera.project(*point) for point in points]
        self.polygon(flat, self.shade(color, points[0][2]), label, opacity)

    def panel(
        self, u: Flat, y: Flat, z: Flat, color: Color, label: str = "", opacity: int = 255
    ) -> None:
        """Fill an upright rectangle between two points (u, z), from y[0] to y[1] metres up."""
        points = [(u[0], y[0], z[0]), (u[0], y[1], z[0]), (u[1], y[1], z[1]), (u[1], y[0], z[1])]
        self.face(points, color, label, opacity)

    def ground(self, u: Flat, z: Flat, color: Color, opacity: int = 255) -> None:
        """Paint a rectangle of the ground; labels stay."""
        corners = [(u[0], 0, z[0]), (u[0], 0, z[1]), (u[1], 0, z[1]), (u[1], 0, z[0])]
        self.face(corners, color, "", opacity)

    def shadow(self, place: Place, ahead: float, right: float) -> None:
        """Darken the ground under an object of these half extents, stretched to one side."""
        corners = ((-ahead, -right), (ahead, -right), (ahead, right * 1.6), (-ahead, right * 1.6))
        flat = [self.camera.project(*place.point(a, r, 0)) for a, r in corners]
        self.polygon(flat, (0, 0, 8), opacity=self.light.shadow)

    def stroke(self, points: Sequence[Metres], thick: float, color: Color, label: str) -> None:
        """A bent rod through these points, `thick` metres, with round ends where they show."""
        z = points[0][2]
        width = max(1, round(thick * self.camera.focal / max(z, 0.3)))
        flat = [self.camera.project(*point) for point in points]
        for draw, fill in ((self.paint, self.shade(color, z)), (self.mark, IDS[label])):
            draw.line(flat, fill=fill, width=width)
            for x, y in flat if width > 3 else ():
                draw.ellipse(
                    (x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill
                )

    def post(self, u: float, z: float, high: float, thick: float, color: Color, label: str) -> None:
        """A rod that stands upright on the ground."""
        self.stroke([(u, 0, z), (u, high, z)], thick, color, label)

    def board(
        self,
        at: Metres,
        shape: Shape,
        size: float,
        color: Color,
        label: str = "",
        lit: bool = False,
    ) -> None:
        """A flat shape (points in -1..1, y up) of this half size, facing the camera."""
        x, row = self.camera.project(*at)
        scale = size * self.camera.focal / max(at[2], 0.3)
        points = [(x + a * scale, row - b * scale) for a, b in shape]
        self.polygon(points, self.shade(color, at[2], lit), label)

    def glow(self, at: Metres, radius: float, color: Color) -> None:
        """Remember a lamp that blooms after dark."""
        if self.light.lamps and at[2] > 1:
            scale = self.camera.focal / at[2]
            lamp = (*self.camera.project(*at), radius * scale, self.shade(color, at[2], lit=True))
            self.glows.append(lamp)

    def wall(self, texture: Image.Image, near: Flat, far: Flat, top: float, label: str) -> None:
        """Map a texture on the wall, `top` metres high, from (u, z) near, its left edge, to far."""
        camera, size = self.camera, self.image.size
        ends = [camera.project(u, y, z) for u, z in (near, far) for y in (0.0, top)]
        corners = [ends[0], ends[1], ends[3], ends[2]]
        left, above = (max(0, math.floor(min(p[i] for p in corners))) for i in (0, 1))
        right, below = (min(size[i], math.ceil(max(p[i] for p in corners)) + 1) for i in (0, 1))
        x1, z1 = near[0] + camera.bend * near[1] ** 2, near[1]
        dx, dz = far[0] + camera.bend * far[1] ** 2 - x1, far[1] - z1
        facing = x1 * dz - z1 * dx  # 0: the wall is seen from its edge
        if left >= right or above >= below or abs(facing) < 0.05:
            return
        # Column x sees the wall at the share (f*x1 - z1*x) / (dz*x - f*dx) of its length, at depth
        # f*facing / (dz*x - f*dx); both texture coordinates are fractions with that denominator.
        columns, rows = texture.width - 2 * MARGIN, texture.height - 2 * MARGIN
        x0, y0 = left - camera.center, above - camera.horizon
        base = dz * x0 - camera.focal * dx
        slope, lift, fine = dz / base, top - camera.height, rows / top
        across = (MARGIN * slope - columns * z1 / base, 0.0,
                  MARGIN + columns * (camera.focal * x1 - z1 * x0) / base)  # fmt: skip
        down = (MARGIN * slope + fine * lift * slope, fine * facing / base,
                MARGIN + fine * (lift + facing * y0 / base))  # fmt: skip
        size, mapping = (right - left, below - above), (*across, *down, slope, 0.0)
        kind, smooth = Image.Transform.PERSPECTIVE, Image.Resampling.BILINEAR
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - above) for x, y in corners], fill=255)
        self.image.paste(texture.transform(size, kind, mapping, smooth), (left, above), mask)
        self.labels.paste(IDS[label], (left, above, right, below), mask)

    def sprite(
        self, picture: Image.Image, mask: Image.Image, at: Metres, size: Flat, label: str
    ) -> None:
        """Paste a masked picture: `at` is its foot, size (wide, high) in metres."""
        x, row = self.camera.project(*at)
        width, height = (max(2.0, metres * self.camera.focal / at[2]) for metres in size)
        left, top = x - width / 2, row - height
        x0, y0 = max(0, math.ceil(left)), max(0, math.ceil(top))
        x1, y1 = min(self.image.width, int(left + width)), min(self.image.height, int(row))
        if x0 >= x1 or y0 >= y1:
            return
        across, down = picture.width / width, picture.height / height
        seen = ((x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down)
        shape, smooth = (x1 - x0, y1 - y0), Image.Resampling.BILINEAR
        cut = mask.resize(shape, smooth, seen).point(THRESHOLD)
        self.image.paste(self.grade(picture, at[2]).resize(shape, smooth, seen), (x0, y0), cut)
        self.labels.paste(IDS[label], (x0, y0, x1, y1), cut)


def heading(u: float, z: float, degrees: float) -> Place:
    """The Place at (u, z) that faces this many degrees to the right of the street's direction."""
    angle = math.radians(degrees)
    return Place(u, z, round(math.cos(angle), 6), round(math.sin(angle), 6))


def tone(color: Color, factor: float) -> Color:
    """The colour, lighter or darker."""
    return tuple(min(255, int(c * factor)) for c in color)


def pick(rng: Random, values: Sequence[Any]) -> Any:
    """One of the values."""
    return values[int(rng.integers(len(values)))]


def smooth_noise(rng: Random, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Random values of about 0 to 1, `rows x columns` of them, enlarged to size (width, height)."""
    small = Image.fromarray(rng.random((rows, columns), np.float32))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))
