"""What stands on a sidewalk: a Canvas and a spot in metres in, pixels and labels drawn out."""

from functools import lru_cache

import numpy as np
from PIL import Image

from datasets.scenes.hulls import cuboid, plate, solid
from datasets.scenes.street_canvas import (
    AMBER,
    CHROME,
    CIRCLE,
    CLOTHES,
    GREEN,
    RED,
    SQUARE,
    STEEL,
    TAIL,
    TYRE,
    WHITE,
    Canvas,
    Flat,
    Place,
    smooth_noise,
    tone,
)

LEAVES = ((84, 112, 48), (66, 98, 52), (112, 118, 44), (44, 82, 56), (150, 110, 40))
TRIANGLE = [(-1, -0.85), (0, 0.9), (1, -0.85)]
DIAMOND = [(-1, 0), (0, 1), (1, 0), (0, -1)]
SIGNS = (
    (CIRCLE, RED, WHITE), (TRIANGLE, RED, WHITE), (DIAMOND, WHITE, (250, 200, 20)),
    (SQUARE, WHITE, (20, 70, 160)), (CIRCLE, WHITE, (24, 80, 170)),
)  # fmt: skip


def lamp_post(canvas: Canvas, u: float, z: float, over: float) -> None:
    """A street lamp whose arm reaches `over` metres towards the road."""
    dark, lamp = canvas.light.lamps, (u + over, 7.55, z)
    canvas.stroke([(u, 0, z), (u, 7.2, z), (u + over, 7.6, z)], 0.16, STEEL, "pole")
    canvas.board(lamp, bar(1, 0, 0.3), 0.35, (255, 214, 140) if dark else CHROME, "pole", dark)
    canvas.glow(lamp, 1.0, (150, 108, 52))
    if dark:
        pool = [(u + over + 3.2 * c, 0, z + 3.2 * s) for c, s in CIRCLE]
        canvas.face(pool, (255, 220, 150), opacity=36)


def traffic_light(canvas: Canvas, u: float, z: float, arm: float) -> None:
    """A signal on a mast; `arm` metres reach over the road and carry a second one."""
    phase, heads = int(canvas.rng.integers(3)), [(u, 2.7)]
    canvas.post(u, z, 3.2, 0.13, STEEL, "pole")
    if arm:
        canvas.stroke([(u, 3.2, z), (u, 5.6, z), (u + arm, 5.9, z)], 0.13, STEEL, "pole")
        heads.append((u + arm, 5.5))
    for x, y in heads:
        canvas.board((x, y, z), bar(0.42, 0, 1), 0.58, TYRE, "traffic light")
        for i, color in enumerate((TAIL, AMBER, GREEN)):
            at, on = (x, y + 0.36 - 0.36 * i, z), i == phase
            canvas.board(at, CIRCLE, 0.15, color if on else tone(color, 0.22), lit=on)
            canvas.glow(at, 0.4 * on, tone(color, 0.5))


def sign(canvas: Canvas, u: float, z: float) -> None:
    """A post with one or two traffic signs that face the camera."""
    height = canvas.some(2.3, 3.0)
    canvas.post(u, z, height, 0.09, CHROME, "pole")
    for level in range(canvas.pick((1, 1, 2))):
        at, (shape, border, field) = (u, height - 0.85 * level, z), canvas.pick(SIGNS)
        canvas.board(at, shape, 0.42, border, "traffic sign")
        canvas.board(at, shape, 0.31, field)
        canvas.board(at, bar(0.5, 0, 0.2), 0.3, tone(field, 0.3))


def guide_board(canvas: Canvas, u: float, z: float) -> None:
    """A large direction sign on two posts."""
    for side in (-1, 1):
        canvas.post(u + side, z, 3.6, 0.13, CHROME, "pole")
    canvas.board((u, 3.2, z), bar(1, 0, 0.55), 1.5, WHITE, "traffic sign")
    field = canvas.pick(((20, 70, 160), (24, 110, 70), (200, 170, 40)))
    canvas.board((u, 3.2, z), bar(1, 0, 0.55), 1.4, field)
    for row, half in ((0.28, 0.5), (0.0, 0.8), (-0.28, 0.3)):
        canvas.board((u, 3.2, z), bar(half, row), 1.4, WHITE)


def bar(half: float, middle: float = 0.0, high: float = 0.06) -> list[Flat]:
    """A rectangle for `Canvas.board`: half its width, where its middle is, half its height."""
    low, top = middle - high, middle + high
    return [(-half, low), (-half, top), (half, top), (half, low)]


def guard_rail(canvas: Canvas, u: float) -> None:
    """A steel band on short posts along the road."""
    for z in np.arange(40.0, 4.0, -3.0).tolist():
        canvas.post(u, z, 0.6, 0.1, STEEL, "guard rail")
        for low, high, factor in ((0.45, 0.8, 1.0), (0.58, 0.66, 0.7)):
            color = tone((172, 176, 180), factor)
            canvas.panel((u, u), (low, high), (z, z + 3), color, "guard rail")


def pole_group(canvas: Canvas, u: float, z: float) -> None:
    """Poles too close to tell apart."""
    for shift, high in ((-0.22, 3.2), (0.0, 6.4), (0.2, 4.0)):
        canvas.post(u + shift, z, high, 0.14, CHROME, "polegroup")


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


def tree(canvas: Canvas, u: float, z: float, size: float) -> None:
    """A tree about 8 m * size high; trunk and crown are vegetation."""
    variant = int(canvas.rng.integers(16))
    fir = variant % 4 == 3
    wide, high = (4.0, 7.5) if fir else (canvas.some(4.2, 6.2), canvas.some(4.5, 6.5))
    stem = (0.7 if fir else 2.6) * size
    canvas.shadow(Place(u, z), wide * 0.4 * size, wide * 0.35 * size)
    canvas.post(u, z, stem + high * 0.4 * size, 0.34 * size, (74, 60, 48), "vegetation")
    foot, extent = (u, stem - 0.4 * size, z), (wide * size, high * size)
    canvas.sprite(*foliage(variant), foot, extent, "vegetation")


def bush(canvas: Canvas, u: float, z: float, size: float) -> None:
    """A shrub `size` metres high."""
    crown = foliage(4 * int(canvas.rng.integers(4)))
    canvas.sprite(*crown, (u, -0.12 * size, z), (size * 1.2, size), "vegetation")


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
