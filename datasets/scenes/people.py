"""People, on foot and on cycles: a Canvas and a place in metres in, pixels and labels drawn out."""

from datasets.scenes.street_canvas import (
    CHROME,
    CIRCLE,
    CLOTHES,
    PAINTS,
    RED,
    SQUARE,
    STEEL,
    TYRE,
    WHITE,
    Canvas,
    Color,
    Metres,
    Place,
    tone,
)

SKINS = ((236, 196, 164), (208, 160, 122), (150, 102, 72), (92, 62, 46))
HAIR = ((40, 30, 24), (120, 84, 44), (200, 196, 190), (24, 22, 22))


def person(canvas: Canvas, place: Place, size: float) -> None:
    """A walking figure 1.75 m * size high."""
    top, legs = canvas.pick(CLOTHES), tone(canvas.pick(CLOTHES), 0.6)
    swing, hem = canvas.some(0.05, 0.38), canvas.pick((0.62, 0.88, 0.88))

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


def head(canvas: Canvas, at: Metres, radius: float, cover: Color, label: str) -> None:
    """A head under hair or a helmet."""
    (u, y, z), skin = at, canvas.pick(SKINS)
    canvas.board((u, y - radius, z), SQUARE, radius * 0.5, tone(skin, 0.9), label)
    canvas.board(at, CIRCLE, radius, skin, label)
    canvas.board((u, y + radius * 0.25, z), CIRCLE[:9], radius * 1.08, cover, label)


def bicycle(canvas: Canvas, place: Place, ridden: bool) -> None:
    """A bicycle: the discs of its wheels count as bicycle, as annotators draw them."""
    color, at = canvas.pick(PAINTS), place.point
    canvas.shadow(place, 0.85, 0.12)
    for hub in (-0.52, 0.52):
        wheel(canvas, place, hub, 0.34, 110, "bicycle")
    rear, pedal = at(-0.52, 0, 0.34), at(-0.02, 0, 0.3)
    stem, saddle = at(0.4, 0, 0.8), at(-0.18, 0, 0.8)
    for thick, paint, rod in (
        (0.055, color, [rear, pedal, stem, saddle, rear]),
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


def wheel(
    canvas: Canvas, place: Place, hub: float, radius: float, opacity: int, label: str
) -> None:
    """A tyre and the disc in it, in the object's upright plane."""
    around = [place.point(hub + radius * c, 0, radius + radius * s) for c, s in CIRCLE]
    canvas.face(around, STEEL, label, opacity)
    canvas.stroke([*around, around[0]], 0.06, TYRE, label)
