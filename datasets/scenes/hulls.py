"""Side views in metres in, faces of vehicles and boxes out, and those the camera sees drawn."""

from collections.abc import Callable, Sequence

from datasets.scenes.street_canvas import (
    CHROME,
    CIRCLE,
    GLASS,
    HEAD,
    TAIL,
    TYRE,
    Canvas,
    Color,
    Flat,
    Metres,
    Place,
    Shape,
    tone,
)

Width = Callable[[float], float]
Face = tuple[list[Metres], Color]  # a polygon in an object's frame (ahead, right, up), clockwise


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


def cuboid(ahead: Flat, up: Flat, half: float, color: Color) -> list[Face]:
    """The faces of a box."""
    (a, b), (low, high) = ahead, up
    return hull([(a, low), (a, high), (b, high), (b, low)], color, (), lambda _: half)


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
            rim = [(at - size * c, radius + size * s) for c, s in CIRCLE]
            faces += flanks(rim, color, lambda _: half)
    return faces


def treads(rear: float, front: float, up: float, half: float) -> list[Face]:
    """Tyres, and the dark of the underbody, as they show below the two ends of a vehicle."""
    spans = (((-half, half), 0.45 * up), ((-half, 0.26 - half), 0.0), ((half - 0.26, half), 0.0))
    return [
        plate(at, span, (low, up + 0.02), TYRE, at == front)
        for at in (rear, front)
        for span, low in spans
    ]


def solid(canvas: Canvas, place: Place, body: list[Face], details: list[Face], label: str) -> None:
    """Draw the faces that look at the camera: the body from far to near, then what is on it."""
    body = sorted(body, key=lambda face: -sum(place.point(*p)[2] for p in face[0]) / len(face[0]))
    for points, color in body + details:
        world = [place.point(*point) for point in points]
        flat = [canvas.camera.project(*point) for point in world]
        pairs = zip(flat, flat[1:] + flat[:1], strict=True)
        if sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs) > 0:  # clockwise: seen from outside
            canvas.polygon(flat, canvas.shade(color, world[0][2], color in (HEAD, TAIL)), label)
