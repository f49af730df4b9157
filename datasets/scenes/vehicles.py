"""What drives in a street: a Canvas, a place and a kind in, pixels and labels drawn out."""

from functools import partial

from datasets.scenes.hulls import Face, band, cuboid, flanks, hull, plate, solid, treads, wheels
from datasets.scenes.people import bicycle, motorcycle
from datasets.scenes.street_canvas import (
    AMBER,
    CLOTHES,
    GLASS,
    HEAD,
    PAINTS,
    RED,
    TAIL,
    TYRE,
    WHITE,
    Canvas,
    Color,
    Place,
    tone,
)

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
# Height, half width and height of the floor.
COACHES = {"bus": (3.1, 1.27, 0.34), "train": (3.5, 1.32, 0.3), "caravan": (2.55, 1.1, 0.4)}


def vehicle(canvas: Canvas, place: Place, kind: str) -> None:
    """Draw one vehicle by its kind; what is towed follows a car."""
    if kind in ("caravan", "trailer"):
        u, _, z = place.point(4.2, 0, 0)
        tow = partial(car, canvas, place._replace(u=u, z=z))
        load = partial(trailer, canvas, place)
        if kind == "caravan":
            load = partial(coach, canvas, place, kind, 4.4, (236, 234, 226))
        for draw in (tow, load) if place.cos > 0 else (load, tow):
            draw()
    elif kind == "bus":
        coach(canvas, place, kind, 11.0, canvas.pick(PAINTS))
    elif kind == "truck":
        truck(canvas, place)
    elif kind == "bicycle":
        bicycle(canvas, place, ridden=True)
    elif kind == "motorcycle":
        motorcycle(canvas, place, ridden=True)
    else:
        car(canvas, place)


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
        body = hull(profile, cab, (2,), lambda _: half - 0.02)
        body += treads(0.5, front - 0.5, 0.45, half)
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
