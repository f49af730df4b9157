"""What stands in a street: a Canvas and a place in metres in, pixels and labels drawn out."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from datasets.cityscapes import ANNOTATED

# The table of what is annotated leaves out these two; their ids are published with it.
IDS = {"unlabelled": 0, "ego vehicle": 1} | {
    name: number for name, (number, _) in ANNOTATED.items()
}
MARGIN = 2  # texture pixels around what `Canvas.wall` maps, so that no edge samples outside

Random = np.random.Generator
Color = tuple[int, int, int]
Flat = tuple[float, float]
Metres = tuple[float, float, float]
Shape = Sequence[Flat]
Width = Callable[[float], float]
Face = tuple[list[Metres], Color]  # a polygon in an object's frame (ahead, right, up), clockwise

ANGLES = [k * math.pi / 8 for k in range(16)]
CIRCLE = [(round(math.cos(a), 6), round(math.sin(a), 6)) for a in ANGLES]
SQUARE = [(-1, -1), (-1, 1), (1, 1), (1, -1)]
TRIANGLE = [(-1, -0.85), (0, 0.9), (1, -0.85)]
DIAMOND = [(-1, 0), (0, 1), (1, 0), (0, -1)]
THRESHOLD = [0] * 128 + [255] * 128

GLASS, TYRE, CHROME, STEEL = (38, 48, 58), (24, 24, 26), (128, 130, 134), (92, 96, 98)
WHITE, RED, AMBER, GREEN = (245, 245, 238), (205, 30, 28), (255, 178, 60), (40, 220, 110)
HEAD, TAIL = (255, 250, 225), (255, 40, 34)  # lamps in these colours shine by themselves
PAINTS = (
    (205, 207, 210), (28, 30, 34), (110, 114, 120), (150, 24, 28), (28, 58, 128), (232, 232, 230),
    (44, 86, 62), (182, 148, 60), (70, 78, 96), (150, 170, 190), (196, 92, 34),
)  # fmt: skip
CLOTHES = (*PAINTS, (120, 60, 110), (180, 60, 90), (70, 120, 150), (215, 190, 150), (60, 60, 64))
SKINS = ((236, 196, 164), (208, 160, 122), (150, 102, 72), (92, 62, 46))
HAIR = ((40, 30, 24), (120, 84, 44), (200, 196, 190), (24, 22, 22))
LEAVES = ((84, 112, 48), (66, 98, 52), (112, 118, 44), (44, 82, 56), (150, 110, 40))


def smooth_noise(rng: Random, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Random values of about 0 to 1, `rows x columns` of them, enlarged to size (width, height)."""
    small = Image.fromarray(rng.random((rows, columns), np.float32))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


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

    name: str
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


def heading(u: float, z: float, degrees: float) -> Place:
    """The Place at (u, z) that faces this many degrees to the right of the street's direction."""
    angle = math.radians(degrees)
    return Place(u, z, round(math.cos(angle), 6), round(math.sin(angle), 6))


def tone(color: Color, factor: float) -> Color:
    """The colour, lighter or darker."""
    return tuple(min(255, int(c * factor)) for c in color)


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
        return values[int(self.rng.integers(len(values)))]

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
        self.glaze.polygon(flat, fill=(0, 0, 8, self.light.shadow))

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


def hull(profile: Shape, color: Color, glass: Sequence[int], width: Width) -> list[Face]:
    """A side view (ahead, up) pulled across to plus and minus `width(up)`; `glass` segments."""
    right = [(a, width(h), h) for a, h in profile]
    left = [(a, -w, h) for a, w, h in right]
    faces = []
    for i in range(len(profile) - 1):
        (a, h), (b, k) = profile[i], profile[i + 1]
        skin = GLASS if i in glass else tone(color, 1.2 if abs(b - a) > 2 * abs(k - h) else 0.88)
        faces.append(([left[i], left[i + 1], right[i + 1], right[i]], skin))
    return [*faces, (right, tone(color, 0.95)), (left[::-1], tone(color, 0.8))]


def plate(ahead: float, right: Flat, up: Flat, color: Color, front: bool = False) -> Face:
    """A rectangle on the rear or the front of a vehicle."""
    corners = [(ahead, right[i], up[j]) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))]
    return (corners[::-1] if front else corners), color


def flanks(points: Shape, color: Color, width: Width) -> list[Face]:
    """The same shape (ahead, up), clockwise, on the right and on the left of a vehicle."""
    right = [(a, width(h) + 0.01, h) for a, h in points]
    return [(right, color), ([(a, -w, h) for a, w, h in right[::-1]], color)]


def band(ahead: Flat, up: Flat, color: Color, half: float) -> list[Face]:
    """A rectangle on both flanks of a vehicle `half` metres to each side."""
    (a, b), (low, high) = ahead, up
    return flanks([(a, low), (a, high), (b, high), (b, low)], color, lambda _: half)


def wheels(places: Sequence[float], radius: float, half: float) -> list[Face]:
    """Tyres and hubs on both flanks."""
    faces = []
    for at in places:
        for size, color in ((radius, TYRE), (0.55 * radius, CHROME)):
            faces += flanks(
                [(at - size * c, radius + size * s) for c, s in CIRCLE], color, lambda _: half
            )
    return faces


def treads(rear: float, front: float, up: float, half: float) -> list[Face]:
    """Tyres, and the dark of the underbody, as they show below the two ends of a vehicle."""
    spans = (((-half, half), 0.45 * up), ((-half, 0.26 - half), 0.0), ((half - 0.26, half), 0.0))
    return [
        plate(at, span, (low, up + 0.02), TYRE, at == front)
        for at in (rear, front)
        for span, low in spans
    ]


def lamps(
    canvas: Canvas, place: Place, rear: float, front: float, half: float, up: float
) -> list[Face]:
    """Tail lamps, head lamps and licence plates; after dark they bloom."""
    dark, faces = canvas.light.lamps, []
    for side in (-1, 1):
        span = tuple(sorted((side * half * 0.97, side * half * 0.68)))
        faces.append(plate(rear - 0.02, span, (up - 0.08, up + 0.12), TAIL if dark else RED))
        faces.append(
            plate(front + 0.02, span, (up - 0.12, up + 0.06), HEAD if dark else WHITE, True)
        )
        away = place.cos > 0
        lamp = place.point(rear if away else front, side * half * 0.8, up)
        canvas.glow(lamp, 0.32, (110, 12, 8) if away else (150, 142, 112))
    faces.append(plate(rear - 0.02, (-0.26, 0.26), (up - 0.28, up - 0.16), WHITE))
    faces.append(plate(front + 0.02, (-0.26, 0.26), (up - 0.32, up - 0.2), WHITE, True))
    return faces


def solid(canvas: Canvas, place: Place, body: list[Face], details: list[Face], label: str) -> None:
    """Draw the faces that look at the camera: the body from far to near, then what is on it."""
    body = sorted(body, key=lambda face: -sum(place.point(*p)[2] for p in face[0]) / len(face[0]))
    for points, color in body + details:
        world = [place.point(*point) for point in points]
        flat = [canvas.camera.project(*point) for point in world]
        pairs = zip(flat, flat[1:] + flat[:1], strict=True)
        if sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs) > 0:  # clockwise: seen from outside
            canvas.polygon(flat, canvas.shade(color, world[0][2], color in (HEAD, TAIL)), label)


# Side views (ahead, up) in metres, from the bottom of the rear over the roof to the bottom of the
# front; the segments that are the rear window and the windscreen; the half width.
CARS = (
    ([(-2.2, 0.28), (-2.28, 0.66), (-2.15, 1.0), (-1.6, 1.05), (-0.95, 1.42), (0.15, 1.45),
      (1.0, 1.0), (2.05, 0.84), (2.25, 0.6), (2.2, 0.28)], 3, 5, 0.89),  # saloon
    ([(-1.9, 0.28), (-2.0, 0.62), (-1.92, 0.98), (-1.5, 1.47), (0.1, 1.5), (0.95, 1.02),
      (1.75, 0.87), (1.95, 0.6), (1.92, 0.28)], 2, 4, 0.86),  # hatchback
    ([(-2.3, 0.3), (-2.38, 0.65), (-2.3, 1.0), (-2.0, 1.45), (0.1, 1.5), (1.0, 1.02),
      (2.0, 0.87), (2.25, 0.62), (2.2, 0.3)], 2, 4, 0.9),  # estate
    ([(-2.2, 0.4), (-2.28, 0.8), (-2.2, 1.12), (-1.95, 1.7), (0.1, 1.75), (0.9, 1.18),
      (1.9, 1.06), (2.2, 0.8), (2.15, 0.4)], 2, 4, 0.96),  # off-road
    ([(-2.45, 0.36), (-2.5, 0.8), (-2.48, 1.15), (-2.38, 1.95), (1.0, 2.0), (1.75, 1.2),
      (2.3, 1.02), (2.45, 0.75), (2.4, 0.36)], 2, 4, 0.98),  # van
)  # fmt: skip


def car(canvas: Canvas, place: Place) -> None:
    """A passenger car of one of five shapes."""
    profile, back, screen, half = canvas.pick(CARS)
    color, belt, top = canvas.pick(PAINTS), profile[back][1], profile[screen][1]
    rear, front, low = profile[1][0], profile[-2][0], profile[0][1]

    def width(up: float) -> float:
        return half - 0.42 * max(0.0, up - belt)

    corners = (profile[i][0] for i in (back, back + 1, screen, screen + 1))
    insets = ((0.28, belt + 0.03), (0.08, top - 0.09), (0.0, top - 0.09), (-0.2, belt + 0.03))
    pane = [(ahead + shift, up) for ahead, (shift, up) in zip(corners, insets, strict=True)]
    pillar = [(-0.32, belt), (-0.32, top - 0.05), (-0.2, top - 0.05), (-0.2, belt)]
    details = [
        plate(rear - 0.01, (-half, half), (low, low + 0.18), tone(color, 0.5)),
        plate(front + 0.01, (-half * 0.62, half * 0.62), (0.34, 0.62), TYRE, True),
        *flanks(pane, GLASS, width),
        *flanks(pillar, tone(color, 0.8), width),
        *band((-1.2, 1.2), (low, low + 0.07), tone(color, 0.5), half),
        *wheels((rear * 0.63, front * 0.63), 0.31 if belt < 1.1 else 0.37, half),
        *lamps(canvas, place, rear, front, half, belt - 0.22),
    ]
    canvas.shadow(place, front + 0.1, half)
    body = hull(profile, color, (back, screen), width)
    solid(canvas, place, body + treads(rear * 0.78, front * 0.78, low, half), details, "car")


COACHES = {"bus": (3.1, 1.27, 0.34), "train": (3.5, 1.32, 0.3), "caravan": (2.55, 1.1, 0.4)}


def coach(canvas: Canvas, place: Place, label: str, length: float, color: Color) -> None:
    """A long box with rows of windows: bus, train or caravan, by its label."""
    (high, half, floor), stripe = COACHES[label], canvas.pick(CLOTHES)
    end, sill, panes = length / 2, floor + 0.95, max(1, round(length / 1.6))
    profile = [(-end, floor), (-end, high - 0.25), (0.25 - end, high), (end - 0.3, high),
               (end, high - 0.5), (end, floor)]  # fmt: skip
    details = band((0.15 - end, end - 0.15), (floor + 0.05, floor + 0.45), stripe, half)
    for i in range(panes):
        a, step = 0.3 - end + i * (length - 0.6) / panes, (length - 0.6) / panes
        door = label != "caravan" and i % 3 == 1
        glass = (214, 190, 130) if canvas.light.lamps and not door else GLASS
        up = (floor + 0.12 if door else sill, high - 0.6)
        details += band((a, a + step - 0.14), up, glass, half)
    details += [
        plate(-end - 0.01, (0.15 - half, half - 0.15), (sill, high - 0.55), GLASS),
        plate(end + 0.01, (0.1 - half, half - 0.1), (sill - 0.15, high - 0.6), GLASS, True),
        plate(-end - 0.01, (-half, half), (floor, floor + 0.4), stripe),
        plate(end + 0.01, (-half, half), (floor, floor + 0.35), stripe, True),
        plate(end + 0.02, (-half * 0.6, half * 0.6), (high - 0.5, high - 0.28), AMBER, True),
        *lamps(canvas, place, -end, end, half, floor + 0.5),
    ]
    axles = {"bus": (-end * 0.55, end * 0.62), "caravan": (0.0,)}.get(label, ())
    details += wheels(axles, 0.34 if label == "caravan" else 0.47, half)
    canvas.shadow(place, end, half)
    body = hull(profile, color, (), lambda _: half)
    solid(canvas, place, body + treads(-end * 0.85, end * 0.85, floor, half), details, label)


def cuboid(ahead: Flat, up: Flat, half: float, color: Color) -> list[Face]:
    """The faces of a box."""
    (a, b), (low, high) = ahead, up
    return hull([(a, low), (a, high), (b, high), (b, low)], color, (), lambda _: half)


def truck(canvas: Canvas, place: Place) -> None:
    """A lorry: cab and cargo box, the farther one drawn first."""
    cab, cargo, stripe = canvas.pick(PAINTS), canvas.pick(PAINTS), canvas.pick(CLOTHES)
    rear, front, half = -canvas.some(4.5, 7.0), 2.1, 1.24
    canvas.shadow(place, (front - rear) / 2, half)
    u, _, z = place.point(-(rear + front) / 2, 0, 0)
    place = place._replace(u=u, z=z)  # from its middle to behind the cab

    def draw_cargo() -> None:
        solid(canvas, place, [], treads(rear + 0.6, 2.0, 0.8, half), "truck")
        marks = [plate(rear - 0.02, (-0.03, 0.03), (1.0, 3.3), tone(cargo, 0.6))]
        marks += band((rear + 0.4, -0.3), (1.7, 2.4), stripe, half)
        solid(canvas, place, cuboid((rear, 0.1), (0.8, 3.4), half, cargo), marks, "truck")

    def draw_cab() -> None:
        profile = [(0.3, 0.45), (0.3, 2.75), (1.7, 2.75), (2.0, 1.55), (2.1, 0.45)]
        window = [(0.9, 1.6), (0.9, 2.35), (1.75, 2.35), (1.95, 1.6)]
        body = hull(profile, cab, (2,), lambda _: half - 0.02) + treads(
            0.5, front - 0.5, 0.45, half
        )
        grille = plate(front + 0.01, (-0.8, 0.8), (0.8, 1.35), TYRE, True)
        solid(canvas, place, body, [grille, *flanks(window, GLASS, lambda _: half)], "truck")

    for draw in (draw_cab, draw_cargo) if place.cos > 0 else (draw_cargo, draw_cab):
        draw()
    rows = wheels((rear + 1.0, rear + 2.1, 1.2), 0.48, half - 0.05)
    solid(canvas, place, [], rows + lamps(canvas, place, rear, front, half, 0.78), "truck")


def trailer(canvas: Canvas, place: Place) -> None:
    """A low cart with a tarpaulin."""
    canvas.shadow(place, 1.4, 0.8)
    details = treads(-1.2, 1.2, 0.4, 0.8) + wheels((0.0,), 0.3, 0.84)
    body = cuboid((-1.4, 1.3), (0.35, 1.5), 0.8, canvas.pick(CLOTHES))
    solid(canvas, place, body, details, "trailer")
    canvas.stroke([place.point(1.3, 0, 0.45), place.point(2.1, 0, 0.45)], 0.08, TYRE, "trailer")


def head(canvas: Canvas, at: Metres, radius: float, cover: Color, label: str) -> None:
    """A head under hair or a helmet."""
    (u, y, z), skin = at, canvas.pick(SKINS)
    canvas.board((u, y - radius, z), SQUARE, radius * 0.5, tone(skin, 0.9), label)
    canvas.board(at, CIRCLE, radius, skin, label)
    canvas.board((u, y + radius * 0.25, z), CIRCLE[:9], radius * 1.08, cover, label)


def person(canvas: Canvas, place: Place, size: float) -> None:
    """A walking figure 1.75 m * size high."""
    top, legs, swing = (
        canvas.pick(CLOTHES),
        tone(canvas.pick(CLOTHES), 0.6),
        canvas.some(0.05, 0.38),
    )
    hem = canvas.pick((0.62, 0.88, 0.88))

    def limb(thick: float, color: Color, *joints: Metres) -> None:
        points = [place.point(a * size, r * size, h * size) for a, r, h in joints]
        canvas.stroke(points, thick * size, color, "person")

    canvas.shadow(place, 0.3 * size, 0.3 * size)
    for side, step in ((-0.09, swing), (0.09, -swing)):
        limb(0.16, legs, (0, side, 0.88), (step * 0.55 + 0.06, side, 0.48), (step, side, 0.07))
        limb(0.09, TYRE, (step, side, 0.05), (step + 0.14, side, 0.05))
    limb(0.11, tone(top, 0.8), (-0.22 * swing, 0.23, 1.38), (-swing * 0.8, 0.26, 0.88))
    torso = ((0, -0.2, 1.45), (0, 0.2, 1.45), (0.05, 0.18, hem), (0.05, -0.18, hem))
    canvas.face([place.point(a * size, r * size, h * size) for a, r, h in torso], top, "person")
    limb(0.3, top, (0, 0, 1.36), (0, 0, hem + 0.08))
    limb(0.11, tone(top, 0.9), (0, -0.23, 1.38), (swing * 0.8, -0.26, 0.88))
    if canvas.rng.random() < 0.3:  # a bag
        limb(0.26, canvas.pick(CLOTHES), (-0.1, 0.3, 0.8), (-0.1, 0.3, 0.62))
    head(canvas, place.point(0.03, 0, 1.62 * size), 0.12 * size, canvas.pick(HAIR), "person")


def rider(canvas: Canvas, place: Place, seat: float, lean: float) -> None:
    """A person on a saddle `seat` metres high whose hands reach `lean` metres ahead of it."""
    top, legs, at = canvas.pick(CLOTHES), tone(canvas.pick(CLOTHES), 0.55), place.point
    for side, low in ((-0.12, 0.5), (0.12, 0.24)):
        leg = [at(-0.15, side, seat + 0.05), at(0.25, side * 1.4, low + 0.42), at(0.1, side, low)]
        canvas.stroke(leg, 0.16, legs, "rider")
        canvas.stroke([leg[2], at(0.24, side, low)], 0.09, TYRE, "rider")
    canvas.stroke([at(-0.15, 0, seat + 0.1), at(lean * 0.35, 0, seat + 0.52)], 0.36, top, "rider")
    for side in (-1, 1):
        arm = [at(lean * 0.35, side * 0.2, seat + 0.56), at(lean, side * 0.27, seat + 0.14)]
        canvas.stroke(arm, 0.11, tone(top, 0.85), "rider")
    head(canvas, at(lean * 0.5, 0, seat + 0.86), 0.13, canvas.pick(CLOTHES), "rider")


def wheel(
    canvas: Canvas, place: Place, hub: float, radius: float, opacity: int, label: str
) -> None:
    """A tyre and the disc in it, in the object's upright plane."""
    around = [place.point(hub + radius * c, 0, radius + radius * s) for c, s in CIRCLE]
    canvas.face(around, STEEL, label, opacity)
    canvas.stroke([*around, around[0]], 0.06, TYRE, label)


def bicycle(canvas: Canvas, place: Place, ridden: bool) -> None:
    """A bicycle: the discs of its wheels count as bicycle, as annotators draw them."""
    color, at = canvas.pick(PAINTS), place.point
    canvas.shadow(place, 0.85, 0.12)
    for hub in (-0.52, 0.52):
        wheel(canvas, place, hub, 0.34, 110, "bicycle")
    hub, pedal, stem, saddle = (
        at(-0.52, 0, 0.34),
        at(-0.02, 0, 0.3),
        at(0.4, 0, 0.8),
        at(-0.18, 0, 0.8),
    )
    for thick, paint, rod in (
        (0.055, color, [hub, pedal, stem, saddle, hub]),
        (0.05, color, [pedal, at(-0.22, 0, 0.92)]),
        (0.05, color, [at(0.52, 0, 0.34), at(0.38, 0, 0.95)]),
        (0.05, TYRE, [at(0.36, -0.28, 1.0), at(0.36, 0.28, 1.0)]),
        (0.09, TYRE, [at(-0.34, 0, 0.95), at(-0.12, 0, 0.95)]),
    ):
        canvas.stroke(rod, thick, paint, "bicycle")
    if ridden:
        rider(canvas, place, 0.95, 0.42)


def motorcycle(canvas: Canvas, place: Place, ridden: bool) -> None:
    """A motorcycle."""
    at = place.point
    canvas.shadow(place, 1.0, 0.3)
    for hub in (-0.68, 0.7):
        wheel(canvas, place, hub, 0.31, 255, "motorcycle")
        canvas.stroke([at(hub, 0, 0.06), at(hub, 0, 0.54)], 0.15, TYRE, "motorcycle")
    for thick, paint, rod in (
        (0.36, (52, 53, 56), [at(-0.3, 0, 0.45), at(0.3, 0, 0.45)]),
        (0.09, CHROME, [at(0.7, 0, 0.31), at(0.45, 0, 0.98)]),
        (0.24, TYRE, [at(-0.75, 0, 0.72), at(-0.1, 0, 0.7)]),
        (0.3, canvas.pick(PAINTS), [at(0.0, 0, 0.76), at(0.4, 0, 0.84)]),
        (0.06, TYRE, [at(0.42, -0.38, 1.05), at(0.42, 0.38, 1.05)]),
    ):
        canvas.stroke(rod, thick, paint, "motorcycle")
    canvas.board(at(-0.85, 0, 0.75), CIRCLE, 0.07, RED, "motorcycle", canvas.light.lamps)
    canvas.board(at(0.6, 0, 0.9), CIRCLE, 0.11, WHITE, "motorcycle", canvas.light.lamps)
    if ridden:
        rider(canvas, place, 0.78, 0.5)


SIGNS = (
    (CIRCLE, RED, WHITE), (TRIANGLE, RED, WHITE), (DIAMOND, WHITE, (250, 200, 20)),
    (SQUARE, WHITE, (20, 70, 160)), (CIRCLE, WHITE, (24, 80, 170)),
)  # fmt: skip


def strip(half: float, middle: float = 0.0, high: float = 0.06) -> list[Flat]:
    """A bar for `Canvas.board`."""
    return [
        (-half, middle - high),
        (-half, middle + high),
        (half, middle + high),
        (half, middle - high),
    ]


def sign(canvas: Canvas, u: float, z: float) -> None:
    """A post with one or two traffic signs that face the camera."""
    height = canvas.some(2.3, 3.0)
    canvas.stroke([(u, 0, z), (u, height, z)], 0.09, CHROME, "pole")
    for level in range(canvas.pick((1, 1, 2))):
        at, (shape, border, field) = (u, height - 0.85 * level, z), canvas.pick(SIGNS)
        canvas.board(at, shape, 0.42, border, "traffic sign")
        canvas.board(at, shape, 0.31, field)
        canvas.board(at, strip(0.5, 0, 0.2), 0.3, tone(field, 0.3))


def guide_board(canvas: Canvas, u: float, z: float) -> None:
    """A large direction sign on two posts."""
    for side in (-1, 1):
        canvas.stroke([(u + side, 0, z), (u + side, 3.6, z)], 0.13, CHROME, "pole")
    canvas.board((u, 3.2, z), strip(1, 0, 0.55), 1.5, WHITE, "traffic sign")
    field = canvas.pick(((20, 70, 160), (24, 110, 70), (200, 170, 40)))
    canvas.board((u, 3.2, z), strip(1, 0, 0.55), 1.4, field)
    for row, half in ((0.28, 0.5), (0.0, 0.8), (-0.28, 0.3)):
        canvas.board((u, 3.2, z), strip(half, row), 1.4, WHITE)


def traffic_light(canvas: Canvas, u: float, z: float, arm: float) -> None:
    """A signal on a mast; `arm` metres reach over the road and carry a second one."""
    phase, heads = int(canvas.rng.integers(3)), [(u, 2.7)]
    canvas.stroke([(u, 0, z), (u, 3.2, z)], 0.13, STEEL, "pole")
    if arm:
        canvas.stroke([(u, 3.2, z), (u, 5.6, z), (u + arm, 5.9, z)], 0.13, STEEL, "pole")
        heads.append((u + arm, 5.5))
    for x, y in heads:
        case = [(-0.42, -1), (-0.42, 1), (0.42, 1), (0.42, -1)]
        canvas.board((x, y, z), case, 0.58, TYRE, "traffic light")
        for i, color in enumerate((TAIL, AMBER, GREEN)):
            at, on = (x, y + 0.36 - 0.36 * i, z), i == phase
            canvas.board(at, CIRCLE, 0.15, color if on else tone(color, 0.22), lit=on)
            canvas.glow(at, 0.4 * on, tone(color, 0.5))


def lamp_post(canvas: Canvas, u: float, z: float, over: float) -> None:
    """A street lamp whose arm reaches `over` metres towards the road."""
    dark, lamp = canvas.light.lamps, (u + over, 7.55, z)
    canvas.stroke([(u, 0, z), (u, 7.2, z), (u + over, 7.6, z)], 0.16, STEEL, "pole")
    canvas.board(lamp, strip(1, 0, 0.3), 0.35, (255, 214, 140) if dark else CHROME, "pole", dark)
    canvas.glow(lamp, 1.0, (150, 108, 52))
    if dark:
        pool = [(u + over + 3.2 * c, 0, z + 3.2 * s) for c, s in CIRCLE]
        canvas.face(pool, (255, 220, 150), opacity=36)


@lru_cache(maxsize=16)
def foliage(variant: int) -> tuple[Image.Image, Image.Image]:
    """A crown of leaves 128 x 128 and its mask: smooth noise inside a round or a pointed shape."""
    rng = np.random.default_rng(variant)
    y, x = (np.mgrid[0:128, 0:128] / 63.5 - 1).astype(np.float32)
    coarse, medium, leaves = (smooth_noise(rng, n, n, (128, 128)) for n in (7, 18, 60))
    outline = (y + 1) * 0.55 - abs(x) if variant % 4 == 3 else 1 - x * x - y * y
    mask = outline + 0.8 * (coarse - 0.5) + 0.7 * (medium - 0.5) > 0.28
    light = 0.4 + 0.5 * medium + 0.5 * leaves - 0.28 * y - 0.12 * x
    picture = np.clip(light[..., None] * np.array(LEAVES[variant % 5]), 0, 255).astype(np.uint8)
    return Image.fromarray(picture), Image.fromarray(mask.astype(np.uint8) * 255)


def tree(canvas: Canvas, u: float, z: float, size: float) -> None:
    """A tree about 8 m * size high; trunk and crown are vegetation."""
    variant = int(canvas.rng.integers(16))
    fir = variant % 4 == 3
    wide, high = (4.0, 7.5) if fir else (canvas.some(4.2, 6.2), canvas.some(4.5, 6.5))
    stem = (0.7 if fir else 2.6) * size
    canvas.shadow(Place(u, z), wide * 0.4 * size, wide * 0.35 * size)
    trunk = [(u, 0, z), (u, stem + high * 0.4 * size, z)]
    canvas.stroke(trunk, 0.34 * size, (74, 60, 48), "vegetation")
    foot, extent = (u, stem - 0.4 * size, z), (wide * size, high * size)
    canvas.sprite(*foliage(variant), foot, extent, "vegetation")


def bush(canvas: Canvas, u: float, z: float, size: float) -> None:
    """A shrub `size` metres high."""
    crown = foliage(4 * int(canvas.rng.integers(4)))
    canvas.sprite(*crown, (u, -0.12 * size, z), (size * 1.2, size), "vegetation")


def litter(canvas: Canvas, u: float, z: float) -> None:
    """A bin (static), or a bag that someone left (dynamic)."""
    color = canvas.pick(CLOTHES)
    if canvas.rng.random() < 0.5:
        high = canvas.some(0.9, 1.5)
        lid = plate(-0.36, (-0.4, 0.4), (high - 0.14, high), tone(color, 0.5))
        body = cuboid((-0.35, 0.35), (0, high), 0.42, color)
        solid(canvas, Place(u, z), body, [lid], "static")
    else:
        canvas.stroke([(u - 0.2, 0.2, z), (u + 0.2, 0.22, z)], 0.42, color, "dynamic")
        canvas.stroke([(u + 0.15, 0.5, z), (u + 0.2, 0.7, z)], 0.3, tone(color, 0.7), "dynamic")
