"""A random generator and a city in, the plan of a street out: its ground, lanes and crossing."""

from typing import NamedTuple

from datasets.scenes.street_canvas import Color, Light, Random, pick, tone

REACH = 40.0  # metres of ground to either side of the camera
FAR = 150.0  # metres of street; behind them a row of blocks
TUNNEL = 60.0  # metres to the mouth of a tunnel
LANE = 3.2  # metres


class City(NamedTuple):
    """A made-up city: facades, fewest and most floors, roof (None: flat), windows, lights."""

    name: str
    walls: tuple[Color, ...]
    floors: tuple[int, int]
    roof: Color | None
    windows: str
    lights: tuple[str, ...]


LIGHTS = {
    "day": Light((76, 132, 206), (190, 212, 232), (1.06, 1.03, 0.97), 520, 105, False),
    "overcast": Light((146, 154, 164), (206, 210, 214), (0.86, 0.88, 0.9), 300, 60, False),
    "mist": Light((182, 188, 194), (212, 215, 217), (0.84, 0.86, 0.88), 90, 40, False),
    "dusk": Light((62, 74, 128), (248, 176, 122), (0.84, 0.7, 0.64), 300, 85, True),
    "night": Light((12, 17, 40), (56, 54, 80), (0.5, 0.48, 0.6), 260, 90, True),
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
