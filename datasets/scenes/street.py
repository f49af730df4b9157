"""A seed and a size in, one rendered street scene with exact Cityscapes label ids out."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from datasets.scenes import street_objects as objects
from datasets.scenes.street_objects import IDS, MARGIN, Camera, Canvas, Color, Light, Random, tone

SUPERSAMPLE = 2  # canvas pixels per pixel of the scene
REACH = 40.0  # metres of ground to either side of the camera
CELL = 0.05  # metres of one entry of the ground's cross-section
FAR = 150.0  # metres of street; behind them a row of blocks
TUNNEL = 60.0  # metres to the mouth of a tunnel
LANE = 3.2
STOREY = 3.2

Item = tuple[float, Callable[[], None]]  # how far out and away it stands, and what draws it


class StreetScene(NamedTuple):
    """image uint8 (H, W, 3) RGB; labels uint8 (H, W), ids as in *_gtFine_labelIds.png; a city."""

    image: np.ndarray
    labels: np.ndarray
    city: str


class City(NamedTuple):
    """A made-up city: facades, fewest and most floors, roof (None: flat), windows, lights."""

    name: str
    walls: tuple[Color, ...]
    floors: tuple[int, int]
    roof: Color | None
    windows: str
    lights: tuple[str, ...]


LIGHTS = {
    light.name: light
    for light in (
        Light("day", (76, 132, 206), (190, 212, 232), (1.06, 1.03, 0.97), 520, 105, False),
        Light("overcast", (146, 154, 164), (206, 210, 214), (0.86, 0.88, 0.9), 300, 60, False),
        Light("mist", (182, 188, 194), (212, 215, 217), (0.84, 0.86, 0.88), 90, 40, False),
        Light("dusk", (62, 74, 128), (248, 176, 122), (0.84, 0.7, 0.64), 300, 85, True),
        Light("night", (12, 17, 40), (56, 54, 80), (0.5, 0.48, 0.6), 260, 90, True),
    )
}
CITIES = (
    City("brickhollow", ((142, 74, 56), (122, 62, 50), (160, 96, 72), (172, 150, 128)),
         (3, 5), None, "sash", ("day", "day", "overcast")),
    City("lindmark", ((222, 204, 164), (206, 178, 150), (196, 206, 190), (214, 160, 120)),
         (2, 4), (146, 72, 52), "sash", ("day", "day", "dusk")),
    City("glassmere", ((120, 136, 150), (96, 108, 122), (152, 160, 166), (84, 100, 112)),
         (7, 14), None, "glass", ("day", "dusk", "overcast")),
    City("graufeld", ((158, 156, 150), (136, 136, 134), (176, 172, 162), (146, 140, 130)),
         (4, 8), None, "band", ("overcast", "mist")),
    City("solmara", ((232, 196, 140), (224, 170, 124), (238, 222, 190), (206, 140, 104)),
         (2, 4), (178, 96, 62), "shutters", ("day", "day", "dusk")),
    City("nachtwik", ((124, 48, 40), (70, 88, 104), (190, 176, 132), (206, 206, 200)),
         (2, 3), (62, 62, 70), "sash", ("night", "night", "mist")),
)  # fmt: skip
# What a window takes up of its cell: left, right, top, bottom.
WINDOWS = {
    "sash": (0.28, 0.72, 0.18, 0.82),
    "shutters": (0.33, 0.67, 0.16, 0.84),
    "band": (0.0, 1.0, 0.3, 0.78),
    "glass": (0.03, 0.97, 0.04, 0.9),
}
# How often each kind comes along, of 40 vehicles; "" leaves a parking space empty.
MOVING = (
    ("car",) * 25 + ("truck", "bus", "motorcycle", "bicycle") * 3 + ("bus", "caravan", "trailer")
)
PARKED = ("car",) * 29 + ("truck",) * 2 + ("",) * 8 + ("caravan",)
CROSSING = ("car", "car", "car", "bus", "truck", "bicycle")
HALF_LENGTHS = {"truck": 5.5, "bus": 6.0, "caravan": 7.0, "trailer": 6.0, "bicycle": 1.0}


class Strip(NamedTuple):
    """A band of ground along one side, between two distances from the camera's path."""

    start: float
    stop: float
    label: str
    color: Color


class Side(NamedTuple):
    """One side of the street: sign (-1 left), ground, and where things stand, in metres from the
    camera's path (0: none do); `line` is where the facades are."""

    sign: int
    strips: tuple[Strip, ...]
    road: float
    parked: float
    track: float
    grass: float
    walk: float
    line: float

    def place(self, name: str) -> float:
        """The street coordinate u of one of the distances."""
        return self.sign * getattr(self, name)


class Street(NamedTuple):
    """What is decided before the first pixel: lanes to the left of the camera's own; the depths
    between which another street crosses (0, 0: none does); the side whose buildings cast shade;
    the depth where the street ends, FAR or TUNNEL."""

    city: City
    sides: tuple[Side, Side]
    lanes: int
    crossing: tuple[float, float]
    shaded: Side
    end: float
    asphalt: Color

    def crossed(self, z: float, margin: float) -> bool:
        """Whether the other street runs within `margin` metres of this depth."""
        start, stop = self.crossing
        return stop > 0 and start - margin < z < stop + margin


def render_street(seed: int, height: int, width: int) -> StreetScene:
    """Render one scene; the same seed and size give the same bytes."""
    rng = np.random.default_rng(seed)
    city = pick(rng, CITIES)
    light, street = LIGHTS[pick(rng, city.lights)], plan_street(rng, city)
    canvas = paint_backdrop(rng, street, light, (width * SUPERSAMPLE, height * SUPERSAMPLE))
    paint_markings(canvas, street)
    items = landmarks(canvas, street) + traffic(canvas, street) + crossing_traffic(canvas, street)
    for side in street.sides:
        items += lots(canvas, street, side) + furniture(canvas, street, side) + crowd(canvas, side)
    for _, draw in sorted(items, key=lambda item: -item[0]):
        draw()
    if rng.random() < 0.3:
        bonnet(canvas)
    labels = np.asarray(canvas.labels)[::SUPERSAMPLE, ::SUPERSAMPLE].copy()
    return StreetScene(develop(canvas, height, width), labels, city.name)


def pick(rng: Random, values: Any) -> Any:
    """One of a sequence's values."""
    return values[int(rng.integers(len(values)))]


def plan_street(rng: Random, city: City) -> Street:
    """Decide the cross-section, the lanes and the crossing."""
    gray, lanes = int(rng.integers(84, 122)), int(rng.integers(1, 3))
    tram = pick(rng, (0, 0, -1, 1))
    asphalt = (gray, gray, gray + int(rng.integers(0, 8)))
    sides = (
        plan_side(rng, -1, LANE * (0.5 + lanes), tram == -1, asphalt),
        plan_side(rng, 1, LANE * pick(rng, (0.55, 0.55, 1.55)), tram == 1, asphalt),
    )
    start = float(rng.uniform(14, 42)) * (rng.random() < 0.45)
    crossing = (start, start + 9.0) if start else (0.0, 0.0)
    end = TUNNEL if rng.random() < 0.06 else FAR
    return Street(city, sides, lanes, crossing, pick(rng, sides), end, asphalt)


def order(u: float, z: float) -> float:
    """The larger, the earlier an object is drawn.

    In a straight street, what stands farther out never hides what stands farther in: the distance
    from the middle counts more than the depth, so that long objects need no cutting.
    """
    return z + 3 * abs(u)


def plan_side(rng: Random, sign: int, road: float, tram: bool, asphalt: Color) -> Side:
    """Lay strips from the edge of the road out to the facades."""
    strips, stands = [], {"parked": 0.0, "track": 0.0, "grass": 0.0}
    green = (int(rng.integers(88, 128)), int(rng.integers(112, 142)), 62)
    stone = tone((170, 162, 156), float(rng.uniform(0.8, 1.12)))

    def lay(width: float, label: str, color: Color, stand: str = "") -> None:
        start = strips[-1].stop if strips else road
        strips.append(Strip(start, start + width, label, color))
        if stand:
            stands[stand] = start + width / 2

    if rng.random() < 0.6:
        bay = rng.random() < 0.4
        lay(2.2, "parking" if bay else "road", (128, 112, 108) if bay else asphalt, "parked")
    if tram:
        bed = pick(rng, ((124, 112, 102), (100, 122, 76), (138, 136, 132)))
        lay(3.4, "rail track", bed, "track")
    lay(0.22, "sidewalk", tone(stone, 1.2))
    if rng.random() < 0.4:
        lay(1.7, "terrain", green, "grass")
    lay(float(rng.uniform(2.0, 4.2)), "sidewalk", stone, "walk")
    if rng.random() < 0.12:
        lay(3.0, "ground", (168, 142, 120))
    if rng.random() < 0.3:
        lay(float(rng.uniform(1.5, 4.0)), "terrain", green)
    line = strips[-1].stop
    lay(REACH, "terrain", green)
    return Side(sign, tuple(strips), road, **stands, line=line)


def paint_backdrop(rng: Random, street: Street, light: Light, size: tuple[int, int]) -> Canvas:
    """Choose the camera; paint the sky above the horizon and the street's ground below it."""
    width, height = size
    camera = Camera(
        focal=float(rng.uniform(0.7, 0.95)) * (2 * width * height) ** 0.5,
        center=width * float(rng.uniform(0.38, 0.62)),
        horizon=height * float(rng.uniform(0.4, 0.5)),
        height=float(rng.uniform(1.25, 1.9)),
        bend=pick(rng, (0.0, 1.0, -1.0)) * float(rng.uniform(0.0005, 0.0028)),
    )
    top = SUPERSAMPLE * (int(camera.horizon / SUPERSAMPLE) + 1)
    ground, below = paint_ground(rng, street, camera, light, size, top)
    above = np.full((top, width), IDS["sky"], np.uint8)
    image = Image.fromarray(np.concatenate([paint_sky(rng, light, width, top), ground]))
    return Canvas(image, Image.fromarray(np.concatenate([above, below])), camera, light, rng)


def paint_sky(rng: Random, light: Light, width: int, height: int) -> np.ndarray:
    """A gradient with clouds, uint8 (height, width, 3)."""
    small = (max(2, width // 4), max(2, height // 4))
    down = np.linspace(0, 1, small[1], dtype=np.float32)[:, None, None]
    zenith, skyline = np.array([light.zenith, light.skyline], np.float32)
    cover = objects.smooth_noise(rng, 4, 5, small) + 0.6 * objects.smooth_noise(rng, 9, 14, small)
    cover = np.clip(cover - float(rng.uniform(0.7, 1.1)), 0, 0.47)[..., None]
    cloud = np.minimum(255, skyline * 1.08 + 12) * (1 - 0.25 * cover)
    sky = zenith * (1 - down) + skyline * down
    sky = sky + (cloud - sky) * (1.8 * cover)
    image = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def paint_ground(
    rng: Random, street: Street, camera: Camera, light: Light, size: tuple[int, int], top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Project the cross-section: colours uint8 (h, W, 3) and labels uint8 (h, W) from row `top` on.

    Computed for each pixel of the scene, not of the canvas: a quarter of the time.
    """
    colors, labels = cross_section(street, light)
    rows, columns = (
        np.arange(start, stop, SUPERSAMPLE, dtype=np.float32) + np.float32(SUPERSAMPLE / 2)
        for start, stop in ((top, size[1]), (0, size[0]))
    )
    depth = camera.focal * camera.height / (rows - np.float32(camera.horizon))
    aside = (columns - np.float32(camera.center)) * (depth / camera.focal)[:, None]
    aside -= (camera.bend * depth * depth)[:, None]
    entry = np.clip((aside + REACH) / CELL, 0, labels.shape[1] - 1).astype(np.int32)
    texel = ((depth * 12).astype(np.int32) & 127)[:, None] * 128 + (entry & 127)
    entry[(depth > street.crossing[0]) & (depth < street.crossing[1])] += labels.shape[1]
    grain = rng.integers(-16, 17, (128, 128)).astype(np.float32)
    grain += 22 * (objects.smooth_noise(rng, 10, 10, (128, 128)) - 0.5)
    fade = np.minimum(1, 12 / depth)[:, None] * np.float32(light.tint[1])
    image = colors.reshape(-1, 3)[entry] + (grain.reshape(-1)[texel] * fade)[..., None]
    image += (np.array(light.skyline, np.float32) - image) * (depth / (depth + light.visibility))[
        :, None, None
    ]
    small = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    ids = labels.reshape(-1)[entry].repeat(SUPERSAMPLE, axis=0).repeat(SUPERSAMPLE, axis=1)
    return np.asarray(small.resize(ids.shape[::-1], Image.Resampling.BILINEAR)), ids


def cross_section(street: Street, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Lit colours float32 (2, n, 3) and labels uint8 (2, n) of the ground, an entry every CELL
    metres from -REACH to REACH: first along the street, then where the other street crosses."""
    count = int(2 * REACH / CELL)
    colors = np.full((2, count, 3), street.asphalt, np.float32)
    labels = np.full((2, count), IDS["road"], np.uint8)

    def span(start: float, stop: float) -> slice:
        return slice(*(max(0, round((u + REACH) / CELL)) for u in sorted((start, stop))))

    for side in street.sides:
        for strip in side.strips:
            where = span(side.sign * strip.start, side.sign * strip.stop)
            colors[0, where], labels[0, where] = strip.color, IDS[strip.label]
        edge, track = side.place("road"), side.place("track")
        colors[0, span(edge - 0.06, edge + 0.06)] = (206, 206, 200)
        for rail in (-0.72, 0.72) if track else ():
            colors[0, span(track + rail - 0.05, track + rail + 0.05)] = (62, 60, 62)
    shade = street.shaded
    colors[0, span(shade.place("line") * 0.45, shade.sign * REACH)] *= 1 - light.shadow / 255
    return colors * np.array(light.tint, np.float32), labels


def paint_markings(canvas: Canvas, street: Street) -> None:
    """Patches, manholes, lane dashes and a zebra."""
    rng, some = canvas.rng, canvas.some
    left, right = (side.place("road") for side in street.sides)
    for _ in range(int(rng.integers(1, 5))):
        u, z = some(-6, 3), some(5, 40)
        canvas.ground((u, u + some(0.8, 2.5)), (z, z + some(1, 7)), (40, 40, 44), opacity=60)
    for _ in range(int(rng.integers(0, 3))):
        u, z = some(-3, 1), some(6, 25)
        canvas.face([(u + 0.35 * c, 0, z + 0.35 * s) for c, s in objects.CIRCLE], (70, 70, 72))
    bounds = [-LANE * (0.5 + lane) for lane in range(street.lanes)]
    for u in [*bounds, LANE * 0.55] if right > LANE else bounds:
        for z in np.arange(some(2, 6), 90, 7.5).tolist():
            if not street.crossed(z + 1.5, 6):
                canvas.ground((u - 0.07, u + 0.07), (z, z + 3.2), (222, 222, 216))
    if street.crossing[1]:
        z = street.crossing[0] - 4
        for u in np.arange(left + 0.3, right - 0.5, 1.1).tolist():
            canvas.ground((u, u + 0.55), (z, z + 3), (222, 222, 216))


def lots(canvas: Canvas, street: Street, side: Side) -> Iterable[Item]:
    """What lines one side, from near to far: mostly buildings, some gardens, walls and fences."""
    items, z = [], 3.0
    kinds = (building,) * 15 + (garden, garden, stone_wall, stone_wall, fence, fence)
    while z < street.end:
        end, (start, stop) = z + canvas.some(9, 20), street.crossing
        if z < stop and end > start - 1:  # the other street is in the way
            end = start - 1.5
            if end - z < 5:
                z = stop + 1.5
                continue
        draw = canvas.pick(kinds)
        items.append((order(side.line, end), partial(draw, canvas, street, side, z, end)))
        z = end + canvas.pick((0.0, 0.0, 2.5))
    return items


def building(canvas: Canvas, street: Street, side: Side, z: float, end: float) -> None:
    """A house between two depths: its end wall, its roof, its facade."""
    city, line = street.city, side.place("line")
    dim = 0.82 if side is street.shaded else 1.0
    wall = tone(canvas.pick(city.walls), canvas.some(0.88, 1.08) * dim)
    floors = int(canvas.rng.integers(city.floors[0], city.floors[1] + 1))
    top, back, ridge = STOREY * floors, line + side.sign * 9.0, line + side.sign * 4.5
    canvas.panel((line, back), (0, top), (z, z), tone(wall, 0.74), "building")
    if city.roof:
        gable = [(line, top, z), (ridge, top + 3, z), (back, top, z)]
        slope = [(line, top, z), (ridge, top + 3, z), (ridge, top + 3, end), (line, top, end)]
        canvas.face(gable, tone(wall, 0.74), "building")
        canvas.face(slope, tone(city.roof, canvas.some(0.8, 1.1)), "building")
        stack = ((z + end) / 2, (z + end) / 2 + 1.2)
        canvas.panel((ridge, ridge), (top + 2, top + 4), stack, tone(wall, 0.6), "building")
    picture = facade(canvas, city, wall, floors, end - z, max(z, 6.0))
    canvas.wall(picture, (line, z), (line, end), top, "building")


def facade(
    canvas: Canvas, city: City, wall: Color, floors: int, length: float, z: float
) -> Image.Image:
    """A facade as seen from z metres: rows of windows over a ground floor."""
    step, fine = canvas.some(2.4, 3.6), min(26.0, max(4.0, 0.9 * canvas.camera.focal / z))
    cell = (max(8, round(step * fine)), max(8, round(STOREY * fine)))
    columns, bottom = max(1, round(length / step)), MARGIN + (floors - 1) * cell[1]
    size = (columns * cell[0] + 2 * MARGIN, floors * cell[1] + 2 * MARGIN)
    picture = Image.new("RGB", size, canvas.shade(wall, z))
    cells = [window(canvas, city.windows, wall, cell, z, lit) for lit in (False, True)]
    lit_share = 0.4 * canvas.light.lamps
    for y in range(MARGIN, bottom, cell[1]):
        for column in range(columns):
            picture.paste(cells[canvas.rng.random() < lit_share], (MARGIN + column * cell[0], y))
    ground_floor(canvas, picture, bottom, cell, wall, z)
    cornice = canvas.shade(tone(wall, 0.72), z)
    ImageDraw.Draw(picture).rectangle((0, 0, size[0], MARGIN + cell[1] // 8), fill=cornice)
    return picture


def window(
    canvas: Canvas, style: str, wall: Color, size: tuple[int, int], z: float, lit: bool
) -> Image.Image:
    """One cell of a facade: wall, frame, pane, and what the style adds."""
    (width, height), (left, right, top, bottom) = size, WINDOWS[style]
    picture = Image.new("RGB", size, canvas.shade(wall, z))
    draw, edge = ImageDraw.Draw(picture), max(1, width // 22)
    pane = canvas.shade((255, 206, 120) if lit else (58, 74, 92), z, lit)
    sheen = pane if lit else canvas.shade((112, 136, 158), z)
    frame = canvas.shade(tone(wall, 0.6 if style == "glass" else 1.28), z)
    x0, x1 = round(left * width), round(right * width) - 1
    y0, y1 = round(top * height), round(bottom * height) - 1
    middle = (x0 + x1) // 2
    draw.rectangle((x0 - edge, y0 - edge, x1 + edge, y1 + edge), fill=frame)
    draw.rectangle((x0, y0, x1, y1), fill=pane)
    draw.polygon([(x0, y0), (x1, y0), (x0, (y0 + 2 * y1) // 3)], fill=sheen)
    draw.rectangle((middle, y0, middle + edge // 2, y1), fill=frame)
    if style == "sash":
        bar, sill = (2 * y0 + y1) // 3, canvas.shade(tone(wall, 0.7), z)
        draw.rectangle((x0, bar, x1, bar + edge // 2), fill=frame)
        draw.rectangle((x0 - 2 * edge, y1 + 1, x1 + 2 * edge, y1 + 2 * edge), fill=sill)
    elif style == "shutters":
        leaf, wing = ((60, 104, 92), (96, 70, 52), (66, 92, 128))[sum(wall) % 3], (x1 - x0) // 2
        for x in (x0 - edge - wing, x1 + edge):
            draw.rectangle((x, y0, x + wing, y1), fill=canvas.shade(leaf, z))
    return picture


def ground_floor(
    canvas: Canvas, picture: Image.Image, top: int, cell: tuple[int, int], wall: Color, z: float
) -> None:
    """Paint shops under one sign, or doors between plain windows, below row `top` of a facade."""
    draw, (width, bottom), (wide, high) = ImageDraw.Draw(picture), picture.size, cell
    shop, accent, dark = canvas.rng.random() < 0.5, canvas.pick(objects.CLOTHES), canvas.light.lamps
    draw.rectangle((0, top, width, bottom), fill=canvas.shade(tone(wall, 0.8), z))
    for x in range(MARGIN, width - wide // 2, wide):
        lit = dark and (shop or canvas.rng.random() < 0.3)
        pane = canvas.shade((255, 224, 160) if lit else (46, 58, 70), z, lit)
        if shop:
            draw.rectangle(
                (x + wide // 8, top + high * 2 // 5, x + wide * 7 // 8, bottom - high // 9),
                fill=pane,
            )
        elif canvas.rng.random() < 0.3:
            door = canvas.shade(tone(accent, 0.6), z)
            draw.rectangle((x + wide // 3, top + high // 4, x + wide * 2 // 3, bottom), fill=door)
        else:
            draw.rectangle(
                (x + wide // 4, top + high // 4, x + wide * 3 // 4, top + high * 2 // 3), fill=pane
            )
    if shop:
        draw.rectangle(
            (0, top + high // 9, width, top + high // 3), fill=canvas.shade(accent, z, dark)
        )


def grove(canvas: Canvas, side: Side, z: float, end: float, count: int) -> None:
    """Trees on a lot, from far to near."""
    for i in range(count):
        u = side.place("line") + side.sign * canvas.some(2.5, 7)
        objects.tree(canvas, u, end - (i + 0.5) * (end - z) / count, canvas.some(0.8, 1.35))


def garden(canvas: Canvas, street: Street, side: Side, z: float, end: float) -> None:
    """A lawn with trees behind a hedge."""
    grove(canvas, side, z, end, 3)
    hedge, line = canvas.grade(objects.foliage(0)[0].crop((20, 30, 120, 60)), z), side.place("line")
    canvas.wall(hedge, (line, z), (line, end), canvas.some(0.9, 1.9), "vegetation")


def stone_wall(canvas: Canvas, street: Street, side: Side, z: float, end: float) -> None:
    """Trees behind courses of stone under a coping."""
    grove(canvas, side, z, end, 2)
    high, color = (
        canvas.some(1.4, 2.8),
        canvas.pick(((150, 142, 130), (138, 88, 70), (176, 170, 160))),
    )
    size = (round((end - z) * 8) + 2 * MARGIN, round(high * 8) + 2 * MARGIN)
    picture = Image.new("RGB", size, canvas.shade(color, z))
    draw, joint = ImageDraw.Draw(picture), canvas.shade(tone(color, 0.78), z)
    for y in range(0, size[1], 4):
        draw.line((0, y, size[0], y), fill=joint)
        for x in range(y % 8, size[0], 8):
            draw.line((x, y, x, y + 3), fill=joint)
    draw.rectangle((0, 0, size[0], 3), fill=canvas.shade(tone(color, 1.2), z))
    line = side.place("line")
    canvas.wall(picture, (line, z), (line, end), high, "wall")


def fence(canvas: Canvas, street: Street, side: Side, z: float, end: float) -> None:
    """Trees behind a railing: its gaps count as fence, as annotators draw them."""
    grove(canvas, side, z, end, 2)
    u, high, color = (
        side.place("line"),
        canvas.some(1.1, 2.0),
        canvas.pick(((52, 70, 60), (120, 124, 126), (120, 88, 58))),
    )
    canvas.panel((u, u), (0, high), (z, end), color, "fence", opacity=110)
    for post in np.arange(end, z, -0.45 if z < 25 else -1.5).tolist():
        canvas.stroke([(u, 0, post), (u, high, post)], 0.06, color, "fence")
    for rail in (0.15 * high, 0.95 * high):
        canvas.panel((u, u), (rail - 0.05, rail + 0.05), (z, end), color, "fence")


def furniture(canvas: Canvas, street: Street, side: Side) -> list[Item]:
    """Lamps, signs, signals, trees, litter and cycles along one sidewalk."""
    items, rng, some = [], canvas.rng, canvas.some
    curb, outer = side.sign * (side.grass or side.walk - 1.0), side.sign * (side.line - 0.5)

    def add(draw: Callable[..., None], u: float, z: float, *rest: float) -> None:
        if not street.crossed(z, 0.5):
            items.append((order(u, z), partial(draw, canvas, u, z, *rest)))

    for z in np.arange(some(8, 24), min(110, street.end), 24).tolist():
        add(objects.lamp_post, curb, z, -side.sign * 1.6)
    if side.grass or rng.random() < 0.35:
        for z in np.arange(some(9, 18), min(100, street.end), some(9, 16)).tolist():
            add(objects.tree, curb, z, some(0.7, 1.05))
    for z in rng.uniform(7, 45, int(rng.integers(1, 4))).tolist():
        add(objects.sign, curb, z)
    for z in rng.uniform(6, 40, int(rng.integers(0, 4))).tolist():
        add(objects.bush, outer, z, some(0.8, 1.6))
    for draw, chance in ((objects.litter, 0.35), (pole_group, 0.06), (objects.guide_board, 0.08)):
        if rng.random() < chance:
            add(draw, outer, some(8, 28))
    if street.crossing[1] or rng.random() < 0.2:
        z = street.crossing[0] - 4.5 if street.crossing[1] else some(12, 30)
        arm = -side.sign * canvas.pick((0.0, 3.5))
        add(objects.traffic_light, side.sign * (side.road + 0.8), z, arm)
    if rng.random() < 0.5:
        z, cycle = some(7, 18), canvas.pick((objects.bicycle, objects.bicycle, objects.motorcycle))
        for i in range(int(rng.integers(1, 4))):
            place = objects.heading(curb, z + 1.4 * i, some(40, 110))
            items.append((order(curb, place.z), partial(cycle, canvas, place, False)))
    if rng.random() < 0.05:
        u = side.sign * (side.line - 0.1)
        items.append((order(u, 40), partial(guard_rail, canvas, u)))
    return items


def traffic(canvas: Canvas, street: Street) -> list[Item]:
    """Vehicles and cyclists in the lanes, parked cars and trams."""
    items, taken, right = [], [], street.sides[1]

    def add(u: float, z: float, degrees: float, kind: str) -> None:
        half = HALF_LENGTHS.get(kind, 2.4)
        if kind and not any(abs(u - a) < 2 and abs(z - b) < half + c for a, b, c in taken):
            taken.append((u, z, half))
            place = objects.heading(u, z, degrees + canvas.some(-2.5, 2.5))
            items.append((order(u, z), partial(vehicle, canvas, place, kind)))

    def fill(u: float, z: float, degrees: float, kinds: tuple[str, ...], gap: float) -> None:
        while z < min(110, street.end):
            kind = canvas.pick(kinds)
            spare = 7.0 if kind in ("bus", "truck", "caravan") else 0.0
            if not street.crossed(z + spare / 2, 7 + spare / 2):
                add(u + canvas.some(-0.25, 0.25), z + spare / 2, degrees, kind)
            z += spare + gap * canvas.some(0.7, 1.6)

    busy = canvas.some(9, 30)
    if canvas.rng.random() < 0.4:  # a cyclist or a motorcyclist close to the kerb
        kind = canvas.pick(("bicycle", "bicycle", "motorcycle"))
        add(right.road - 0.7, canvas.some(6, 14), 0, kind)
    fill(0.0, canvas.some(9, 26), 0, MOVING, busy)
    for lane in range(street.lanes):
        fill(-LANE * (1 + lane), canvas.some(8, 22), 180, MOVING, busy)
    if right.road > LANE:
        fill(LANE, canvas.some(8, 20), 0, MOVING, busy)
    for side in street.sides:
        if side.parked:
            fill(side.place("parked"), canvas.some(3, 9), 90 - 90 * side.sign, PARKED, 5.6)
        if side.track and canvas.rng.random() < 0.75:
            items += tram(canvas, side.place("track"), canvas.some(15, 45))
    return items


def tram(canvas: Canvas, u: float, z: float) -> list[Item]:
    """Two or three coupled wagons of one colour."""
    color = canvas.pick(((200, 44, 36), (228, 224, 210), (30, 96, 150), (230, 180, 40)))
    places = [objects.Place(u, z + 10.0 * i) for i in range(canvas.pick((2, 3)))]
    return [
        (order(u, place.z), partial(objects.coach, canvas, place, "train", 9.8, color))
        for place in places
    ]


def vehicle(canvas: Canvas, place: objects.Place, kind: str) -> None:
    """Draw one vehicle by its kind; what is towed follows a car."""
    if kind in ("caravan", "trailer"):
        u, _, z = place.point(4.2, 0, 0)
        tow = partial(objects.car, canvas, place._replace(u=u, z=z))
        load = partial(objects.trailer, canvas, place)
        if kind == "caravan":
            load = partial(objects.coach, canvas, place, kind, 4.4, (236, 234, 226))
        for draw in (tow, load) if place.cos > 0 else (load, tow):
            draw()
    elif kind == "bus":
        objects.coach(canvas, place, kind, 11.0, canvas.pick(objects.PAINTS))
    elif kind in ("bicycle", "motorcycle"):
        {"bicycle": objects.bicycle, "motorcycle": objects.motorcycle}[kind](canvas, place, True)
    else:
        {"car": objects.car, "truck": objects.truck}[kind](canvas, place)


def crossing_traffic(canvas: Canvas, street: Street) -> list[Item]:
    """Vehicles on the other street and people on the zebra."""
    items, (left, right) = [], street.sides
    if not street.crossing[1]:
        return items
    middle = sum(street.crossing) / 2
    for direction in (-1, 1):
        for u in np.arange(canvas.some(-20, 10), 18, canvas.some(14, 24)).tolist():
            place = objects.heading(u, middle + 2 * direction, 90 * direction)
            draw = partial(vehicle, canvas, place, canvas.pick(CROSSING))
            items.append((order(abs(u) + HALF_LENGTHS["bus"], place.z), draw))
    for _ in range(int(canvas.rng.integers(0, 5))):
        z, degrees = street.crossing[0] - canvas.some(1.2, 3.8), canvas.pick((90, -90))
        items.append(walker(canvas, canvas.some(-left.road, right.road), z, degrees))
    return items


def crowd(canvas: Canvas, side: Side) -> list[Item]:
    """People on a sidewalk, some in pairs."""
    items = []
    for z in canvas.rng.uniform(6, 45, int(canvas.rng.integers(1, 7))).tolist():
        u = side.place("walk") + canvas.some(-0.8, 0.8)
        for shift in canvas.pick(((0.0,), (0.0,), (0.0, 0.6))):
            degrees = canvas.pick((0, 180)) + canvas.some(-25, 25)
            items.append(walker(canvas, u + shift, z + shift / 2, degrees))
    return items


def walker(canvas: Canvas, u: float, z: float, degrees: float) -> Item:
    """A grown-up or, now and then, a child."""
    size = 0.68 if canvas.rng.random() < 0.12 else canvas.some(0.92, 1.08)
    return order(u, z), partial(objects.person, canvas, objects.heading(u, z, degrees), size)


def landmarks(canvas: Canvas, street: Street) -> list[Item]:
    """The blocks where the street ends, or a tunnel's mouth, and now and then a bridge."""
    items = [(order(REACH, 2 * FAR), partial(vista, canvas, street))]
    line = max(side.line for side in street.sides)
    if street.end == TUNNEL:
        items.append((order(line, TUNNEL + 20), partial(tunnel, canvas, street)))
    elif canvas.rng.random() < 0.08:
        z, color = (
            canvas.some(30, 60),
            canvas.pick(((150, 146, 140), (110, 120, 124), (136, 96, 76))),
        )
        for span in ((-60, -line), (line, 60), (-line, line)):
            out = line if abs(sum(span)) else line - 3.0
            items.append((order(out, z), partial(bridge, canvas, span, z, color)))
    return items


def vista(canvas: Canvas, street: Street) -> None:
    """A row of blocks and trees across the end of the street."""
    u, city = -110.0, street.city
    while u < 110:
        wide, z = canvas.some(14, 30), FAR + canvas.some(30, 55)
        floors = int(canvas.rng.integers(city.floors[0], city.floors[1] + 4))
        if canvas.rng.random() < 0.75:
            picture = facade(canvas, city, tone(canvas.pick(city.walls), 0.9), floors, wide, z)
            canvas.wall(picture, (u, z), (u + wide, z), STOREY * floors, "building")
        u += wide
    for at in range(-100, 100, 14):
        objects.tree(canvas, at + canvas.some(-4, 4), FAR + 20, canvas.some(0.9, 1.5))


def bridge(canvas: Canvas, span: tuple[float, float], z: float, color: Color) -> None:
    """A part of a deck over the street, on two piers."""
    for u in span:
        canvas.panel((u - 0.7, u + 0.7), (0, 5), (z, z), tone(color, 0.8), "bridge")
    for low, high, factor in ((5.0, 5.5, 0.45), (5.3, 6.9, 1.0), (6.9, 7.1, 1.2), (7.8, 7.9, 0.6)):
        canvas.panel(span, (low, high), (z, z), tone(color, factor), "bridge")
    for u in np.arange(*span, 2.0).tolist():
        canvas.stroke([(u, 7.0, z), (u, 7.9, z)], 0.08, tone(color, 0.6), "bridge")


def tunnel(canvas: Canvas, street: Street) -> None:
    """A portal in a hillside that swallows the street."""
    left, right = street.sides[0].place("road") - 0.5, street.sides[1].place("road") + 0.5
    z = TUNNEL
    middle, half = (left + right) / 2, (right - left) / 2
    skyline = ((-60, 0), (-30, 8), (-8, 13), (8, 14), (36, 9), (60, 0))
    canvas.face([(middle + u, y, z + 1) for u, y in skyline], (82, 104, 58), "vegetation")
    canvas.panel((left - 3, right + 3), (0, 8), (z, z), (150, 146, 138), "tunnel")
    arch = [(middle - half * c, 2.5 + 3.6 * s, z) for c, s in objects.CIRCLE[:9]]
    canvas.face([(left, 0, z), *arch, (right, 0, z)], (26, 26, 30), "tunnel")
    for u in (middle - half * 0.4, middle + half * 0.4):
        canvas.board((u, 5.2, z), objects.SQUARE, 0.25, objects.AMBER, lit=True)


def guard_rail(canvas: Canvas, u: float) -> None:
    """A steel band on short posts along the road."""
    for z in np.arange(40.0, 4.0, -3.0).tolist():
        canvas.stroke([(u, 0, z), (u, 0.6, z)], 0.1, objects.STEEL, "guard rail")
        for low, high, factor in ((0.45, 0.8, 1.0), (0.58, 0.66, 0.7)):
            color = tone((172, 176, 180), factor)
            canvas.panel((u, u), (low, high), (z, z + 3), color, "guard rail")


def pole_group(canvas: Canvas, u: float, z: float) -> None:
    """Poles too close to tell apart."""
    for shift, high in ((-0.22, 3.2), (0.0, 6.4), (0.2, 4.0)):
        rod = [(u + shift, 0, z), (u + shift, high, z)]
        canvas.stroke(rod, 0.14, objects.CHROME, "polegroup")


def bonnet(canvas: Canvas) -> None:
    """The front of the car that carries the camera."""
    width, height = canvas.image.size
    color, rise = canvas.pick(objects.PAINTS), canvas.some(0.86, 0.94)
    outline = [(x / 20, rise + 0.1 * (x / 10 - 1) ** 2) for x in range(-1, 22)]
    for drop, factor in ((0.0, 0.7), (0.012, 1.1), (0.035, 0.85)):
        points = [(x * width, (y + drop) * height) for x, y in outline]
        shape = [*points, (width * 1.05, height), (-0.05 * width, height)]
        canvas.polygon(shape, canvas.shade(tone(color, factor), 1), "ego vehicle")


def develop(canvas: Canvas, height: int, width: int) -> np.ndarray:
    """Shrink to the scene's size, let lamps bloom, soften, add sensor noise: uint8 (H, W, 3)."""
    image, rng = canvas.image.reduce(SUPERSAMPLE), canvas.rng
    if canvas.glows:
        scale = 2 * SUPERSAMPLE
        bloom = Image.new("RGB", (max(1, width // 2), max(1, height // 2)))
        draw = ImageDraw.Draw(bloom)
        for x, y, radius, color in canvas.glows:
            r = min(radius / scale, 0.04 * height)
            draw.ellipse((x / scale - r, y / scale - r, x / scale + r, y / scale + r), fill=color)
        for share in (100, 120):
            bloom = bloom.filter(ImageFilter.BoxBlur(max(1, width // share)))
        image = ImageChops.screen(image, bloom.resize(image.size, Image.Resampling.BILINEAR))
    image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0, 0.45))))
    strength = int(rng.integers(2, 7))
    noise = rng.integers(-strength, strength + 1, (height, width, 3), np.int16)
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
