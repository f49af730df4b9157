"""A seed and a size in, a rendered room with one or two figures out: image, mask and depth.

Demo data for the `maskdepth` task. The room is a box before a pinhole camera, and all in it an
analytic solid that rays hit, so mask and depth are exact. The same seed and size: the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from datasets.scenes.figures import FIGURES, bearing
from datasets.scenes.furniture import ALONG_WALLS, LOOSE, picture, window
from datasets.scenes.paints import (
    boards,
    bricks,
    dim,
    dots,
    hue,
    mix,
    plain,
    stripes,
    tiles,
    timber,
)
from datasets.scenes.solids import Paint, Placed, Thing, place
from datasets.scenes.view import Camera, Light, Room, ZBuffer, expose, illuminate


class RoomScene(NamedTuple):
    """image: uint8 (H, W, 3), RGB. mask: uint8 (H, W), 255 on the figures, 0 elsewhere.

    depth_m: float32 (H, W), above 0: metres along the optical axis, not along the ray.
    """

    image: ndarray
    mask: ndarray
    depth_m: ndarray


def render_room(seed: int, height: int, width: int, figures: bool = True) -> RoomScene:
    """Render the room of this seed; `figures=False`: without its figures and their shadows."""
    rng = np.random.default_rng(seed)
    room = make_room(rng)
    camera = make_camera(rng, height, width)
    actors = place_figures(rng, room, camera)
    hung = hang(rng, room)
    furniture = furnish(rng, room, actors)
    light = make_light(rng, room, hung[0])
    standing = furniture + actors if figures else furniture

    buffer = ZBuffer(camera, room)
    for thing in hung + furniture:
        for solid in thing.solids:
            buffer.draw(solid)
    for actor in actors if figures else []:
        for solid in actor.solids:
            buffer.draw(solid, figure=True)
    color = illuminate(buffer, room, light, standing)
    image = expose(np.random.default_rng([seed, 1]), color, buffer.solid)
    return RoomScene(image, buffer.figure.astype(np.uint8) * 255, buffer.depth_m)


def relative_depth(depth_m: ndarray) -> ndarray:
    """Depth (H, W) in metres -> the course's grey depth picture, uint8 (H, W): dark is near.

    Each picture spans its own range, linearly: the nearest pixel is 0, the farthest 255. So do the
    depthMap files of the course's zips. A constant depth becomes 0.
    """
    near, far = depth_m.min(), depth_m.max()
    span = max(far - near, np.finfo(np.float32).tiny)
    return np.floor((depth_m - near) / span * 255 + 0.5).astype(np.uint8)


def make_room(rng: Generator) -> Room:
    """2.6 to 5.6 m wide, back wall 3.2 to 7.5 m from the camera, which stands over (0, 0)."""
    left, right, back = rng.uniform(1.3, 2.8), rng.uniform(1.3, 2.8), rng.uniform(3.2, 7.5)
    top = rng.uniform(2.4, 3.1)
    first, second = (hue(rng, (0.1, 0.6), (0.65, 0.95)) for _ in range(2))
    red, dark_red = hue(rng, (0.5, 0.7), (0.5, 0.7), 0.04), hue(rng, (0.4, 0.7), (0.4, 0.6), 0.02)
    walls = (
        plain(first, 0.12, 40.0),
        stripes(first, second, rng.uniform(0.12, 0.4)),
        dots(first, second, rng.uniform(0.15, 0.3)),
        stripes(first, dim(first, 0.75), rng.uniform(0.1, 0.5)),
        bricks(red, dark_red, 0.24),
    )
    side, other = (walls[number] for number in rng.integers(len(walls), size=2))
    stone, carpet = hue(rng, (0.05, 0.4), (0.5, 0.95)), hue(rng, (0.3, 0.8), (0.3, 0.8))
    floors = (
        boards(timber(rng), rng.uniform(0.09, 0.14)),
        boards(timber(rng), rng.uniform(0.14, 0.2)),
        tiles(stone, dim(stone, rng.uniform(0.2, 0.9)), rng.uniform(0.25, 0.5)),
        plain(carpet, 0.5, 220.0),
    )
    floor = floors[rng.integers(len(floors))]
    if rng.random() < 0.5:
        floor = with_rug(rng, floor, back)
    return Room(
        low=(-left, 0.0, -0.6),
        high=(right, top, back),
        floor=floor,
        ceiling=plain((0.8, 0.79, 0.76), 0.06, 40.0),
        side=side,
        back=side if rng.random() < 0.6 else other,
    )


def with_rug(rng: Generator, floor: Paint, back: float) -> Paint:
    """The floor with a flat rug ahead of the camera, rectangular or oval, with a border."""
    x, z = rng.uniform(-0.6, 0.6), rng.uniform(1.6, max(1.7, back - 1.2))
    half_x, half_z = rng.uniform(0.6, 1.3), rng.uniform(0.5, 1.0)
    color, second, border = (hue(rng) for _ in range(3))
    designs = (plain(color, 0.5, 200.0), stripes(color, second, 0.2), dots(color, second, 0.2))
    inner, oval = designs[rng.integers(len(designs))], rng.random() < 0.4

    def paint(p, q, pixel):
        a, b = np.abs(p - x) / half_x, np.abs(q - z) / half_z
        edge = np.sqrt(a * a + b * b) if oval else np.maximum(a, b)
        cloth = mix(inner(p, q, pixel), border, np.clip((edge - 0.85) * 40, 0, 1))
        return mix(floor(p, q, pixel), cloth, np.clip((1 - edge) * 40, 0, 1))

    return paint


def make_camera(rng: Generator, height: int, width: int) -> Camera:
    """0.8 to 1.3 m above the floor, looking up to 25 degrees aside and 7 to 16 degrees down.

    Sines and cosines come from the tangent of half the angle: no last bit depends on the machine.
    """
    a, b = rng.uniform(-0.22, 0.22), rng.uniform(0.06, 0.14)
    sin_yaw, cos_yaw = 2 * a / (1 + a * a), (1 - a * a) / (1 + a * a)
    sin_pitch, cos_pitch = 2 * b / (1 + b * b), (1 - b * b) / (1 + b * b)
    return Camera(
        position=(0.0, rng.uniform(0.8, 1.3), 0.0),
        right=(cos_yaw, 0.0, -sin_yaw),
        up=(sin_yaw * sin_pitch, cos_pitch, cos_yaw * sin_pitch),
        forward=(sin_yaw * cos_pitch, -sin_pitch, cos_yaw * cos_pitch),
        focal=rng.uniform(0.75, 1.05) * max(height, width),
        height=height,
        width=width,
    )


def place_figures(rng: Generator, room: Room, camera: Camera) -> list[Placed]:
    """One figure, or two in a third of the rooms, each with its feet inside the image."""
    placed = []
    for _ in range(1 + (rng.random() < 0.35)):
        kind = FIGURES[rng.integers(len(FIGURES))]
        thing = kind.make(rng)
        for _ in range(30):
            row, column = rng.uniform(0.78, 0.95), rng.uniform(0.24, 0.76)
            ray = camera.ray(row * camera.height, column * camera.width)
            depth_m = camera.position[1] / max(-ray[1], 0.05)
            wanted_m = rng.uniform(*kind.share) * camera.height * depth_m / camera.focal
            height_m = min(max(wanted_m, kind.height_m[0]), kind.height_m[1])
            front = bearing(rng, kind.spread)
            found = place(thing, depth_m * ray[0], depth_m * ray[2], front, height_m)
            if _inside(found, room) and not any(_circles_meet(found, other) for other in placed):
                placed.append(found)
                break
    return placed


def hang(rng: Generator, room: Room) -> list[Placed]:
    """A window on some wall, which comes first, and up to three pictures or windows."""
    hung = []
    for number in range(4):
        thing = window(rng) if number == 0 or rng.random() < 0.15 else picture(rng)
        for _ in range(10):
            found = at_wall(rng, room, thing, 0.0)
            if not any(_rectangles_meet(found, other) for other in hung):
                hung.append(found)
                break
    return hung


def furnish(rng: Generator, room: Room, actors: list[Placed]) -> list[Placed]:
    """Up to five things along the walls, up to eight in all; none hides much of a figure."""
    placed = []
    for number in range(30):
        by_wall = number < 18
        if len(placed) >= (5 if by_wall else 8):
            continue
        kinds = ALONG_WALLS if by_wall else LOOSE
        thing = kinds[rng.integers(len(kinds))](rng)
        if by_wall:
            found = at_wall(rng, room, thing, thing.half_z + 0.01)
            meets = any(_rectangles_meet(found, other) for other in placed)
        else:
            x, z = rng.uniform(room.low[0], room.high[0]), rng.uniform(1.2, room.high[2])
            found = place(thing, x, z, bearing(rng, 0.9))
            meets = any(_circles_meet(found, other) for other in placed)
            meets = meets or not _inside(found, room)
        before_camera = found.z < found.radius + 0.7
        if not (meets or before_camera or any(_hides(found, actor) for actor in actors)):
            placed.append(found)
    return placed


def at_wall(rng: Generator, room: Room, thing: Thing, out: float) -> Placed:
    """The thing `out` metres off the left, the right or (as often as both) the back wall."""
    wall = rng.integers(4)
    if wall < 2:
        x = rng.uniform(room.low[0] + thing.half_x, room.high[0] - thing.half_x)
        return place(thing, x, room.high[2] - out, (0.0, -1.0))
    first = 1.0 + thing.half_x
    z = rng.uniform(first, max(first + 0.1, room.high[2] - thing.half_x))
    if wall == 2:
        return place(thing, room.low[0] + out, z, (1.0, 0.0))
    return place(thing, room.high[0] - out, z, (-1.0, 0.0))


def _inside(thing: Placed, room: Room) -> bool:
    """Whether the circle of the thing is on the room's floor, ahead of the camera."""
    edge = thing.radius + 0.02
    across = room.low[0] + edge < thing.x < room.high[0] - edge
    return across and 0.3 < thing.z < room.high[2] - edge


def _circles_meet(a: Placed, b: Placed) -> bool:
    x, z, reach = a.x - b.x, a.z - b.z, a.radius + b.radius + 0.05
    return x * x + z * z < reach * reach


def _rectangles_meet(a: Placed, b: Placed) -> bool:
    """For things with their backs to a wall."""
    half_a, half_b = (
        (thing.half_x, thing.half_z) if thing.front[0] == 0 else (thing.half_z, thing.half_x)
        for thing in (a, b)
    )
    apart_x = abs(a.x - b.x) > half_a[0] + half_b[0] + 0.05
    return not (apart_x or abs(a.z - b.z) > half_a[1] + half_b[1] + 0.05)


def _hides(thing: Placed, actor: Placed) -> bool:
    """Whether the thing is in the actor's place, or between it and the camera over (0, 0)."""
    square = actor.x * actor.x + actor.z * actor.z
    along = min(max((thing.x * actor.x + thing.z * actor.z) / square, 0.0), 1.0)
    x, z = thing.x - along * actor.x, thing.z - along * actor.z
    reach = thing.radius + (0.4 + 0.6 * along) * actor.radius
    return x * x + z * z < reach * reach


def make_light(rng: Generator, room: Room, pane: Placed) -> Light:
    """From evening, when the lamp does most, to day, when the window does."""
    lamp_at = (
        rng.uniform(0.6 * room.low[0], 0.6 * room.high[0]),
        room.high[1] - 0.35,
        rng.uniform(0.4, 0.6 * room.high[2]),
    )
    warm = hue(rng, (0.05, 0.35), (1.0, 1.0), near=0.1)
    sky = hue(rng, (0.0, 0.3), (1.0, 1.0), near=float(rng.choice([0.08, 0.58])))
    level, share = rng.uniform(0.85, 1.25), rng.uniform(0.15, 1.0)
    return Light(
        ambient=tuple(level * (0.28 + 0.08 * c) for c in sky),
        lamp=dim(warm, level * (1.7 - 0.9 * share)),
        lamp_at=lamp_at,
        day=dim(sky, level * (0.2 + 1.1 * share)),
        day_at=(pane.x, 1.6, pane.z),
    )
