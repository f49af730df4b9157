"""The plan of a street in, all that stands or moves in it out: how far off it is, what draws it."""

from collections.abc import Callable
from functools import partial

import numpy as np

from datasets.scenes.buildings import bridge, building, fence, garden, stone_wall, tunnel, vista
from datasets.scenes.people import bicycle, motorcycle, person
from datasets.scenes.street_canvas import Canvas, Place, heading
from datasets.scenes.street_furniture import (
    bush,
    guard_rail,
    guide_board,
    lamp_post,
    litter,
    pole_group,
    sign,
    traffic_light,
    tree,
)
from datasets.scenes.street_plan import FAR, LANE, REACH, TUNNEL, Side, Street
from datasets.scenes.vehicles import coach, vehicle

# How often each kind comes along, of 40 vehicles; "" leaves a parking space empty.
MOVING = (
    ("car",) * 25 + ("truck", "bus", "motorcycle", "bicycle") * 3 + ("bus", "caravan", "trailer")
)
PARKED = ("car",) * 29 + ("truck",) * 2 + ("",) * 8 + ("caravan",)
CROSSING = ("car", "car", "car", "bus", "truck", "bicycle")
HALF_LENGTHS = {"truck": 5.5, "bus": 6.0, "caravan": 7.0, "trailer": 6.0, "bicycle": 1.0}  # metres

Item = tuple[float, Callable[[], None]]  # how far out and away it stands, and what draws it


def arrange(canvas: Canvas, street: Street) -> list[Item]:
    """All that stands or moves in the street, in the order in which it is drawn."""
    items = landmarks(canvas, street) + traffic(canvas, street) + crossing_traffic(canvas, street)
    for side in street.sides:
        items += lots(canvas, street, side) + furniture(canvas, street, side) + crowd(canvas, side)
    return sorted(items, key=lambda item: -item[0])


def order(u: float, z: float) -> float:
    """The larger, the earlier an object is drawn.

    In a straight street, what stands farther out never hides what stands farther in: the distance
    from the middle counts more than the depth, so that long objects need no cutting.
    """
    return z + 3 * abs(u)


def landmarks(canvas: Canvas, street: Street) -> list[Item]:
    """The blocks where the street ends, or a tunnel's mouth, and now and then a bridge."""
    items = [(order(REACH, 2 * FAR), partial(vista, canvas, street))]
    line = max(side.line for side in street.sides)
    if street.end == TUNNEL:
        items.append((order(line, TUNNEL + 20), partial(tunnel, canvas, street)))
    elif canvas.rng.random() < 0.08:
        z = canvas.some(30, 60)
        color = canvas.pick(((150, 146, 140), (110, 120, 124), (136, 96, 76)))
        for span in ((-60, -line), (line, 60), (-line, line)):
            out = line if abs(sum(span)) else line - 3.0
            items.append((order(out, z), partial(bridge, canvas, span, z, color)))
    return items


def lots(canvas: Canvas, street: Street, side: Side) -> list[Item]:
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


def furniture(canvas: Canvas, street: Street, side: Side) -> list[Item]:
    """Lamps, signs, signals, trees, litter and cycles along one sidewalk."""
    items, rng, some = [], canvas.rng, canvas.some
    curb, outer = side.sign * (side.grass or side.walk - 1.0), side.sign * (side.line - 0.5)

    def add(draw: Callable[..., None], u: float, z: float, *rest: float) -> None:
        if not street.crossed(z, 0.5):
            items.append((order(u, z), partial(draw, canvas, u, z, *rest)))

    for z in np.arange(some(8, 24), min(110, street.end), 24).tolist():
        add(lamp_post, curb, z, -side.sign * 1.6)
    if side.grass or rng.random() < 0.35:
        for z in np.arange(some(9, 18), min(100, street.end), some(9, 16)).tolist():
            add(tree, curb, z, some(0.7, 1.05))
    for z in rng.uniform(7, 45, int(rng.integers(1, 4))).tolist():
        add(sign, curb, z)
    for z in rng.uniform(6, 40, int(rng.integers(0, 4))).tolist():
        add(bush, outer, z, some(0.8, 1.6))
    for draw, chance in ((litter, 0.35), (pole_group, 0.06), (guide_board, 0.08)):
        if rng.random() < chance:
            add(draw, outer, some(8, 28))
    if street.crossing[1] or rng.random() < 0.2:
        z = street.crossing[0] - 4.5 if street.crossing[1] else some(12, 30)
        arm = -side.sign * canvas.pick((0.0, 3.5))
        add(traffic_light, side.sign * (side.road + 0.8), z, arm)
    if rng.random() < 0.5:
        z, cycle = some(7, 18), canvas.pick((bicycle, bicycle, motorcycle))
        for i in range(int(rng.integers(1, 4))):
            place = heading(curb, z + 1.4 * i, some(40, 110))
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
            place = heading(u, z, degrees + canvas.some(-2.5, 2.5))
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
    places = [Place(u, z + 10.0 * i) for i in range(canvas.pick((2, 3)))]
    return [
        (order(u, place.z), partial(coach, canvas, place, "train", 9.8, color)) for place in places
    ]


def crossing_traffic(canvas: Canvas, street: Street) -> list[Item]:
    """Vehicles on the other street and people on the zebra."""
    items, (left, right) = [], street.sides
    if not street.crossing[1]:
        return items
    middle = sum(street.crossing) / 2
    for direction in (-1, 1):
        for u in np.arange(canvas.some(-20, 10), 18, canvas.some(14, 24)).tolist():
            place = heading(u, middle + 2 * direction, 90 * direction)
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
    return order(u, z), partial(person, canvas, heading(u, z, degrees), size)
