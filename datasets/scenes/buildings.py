"""What lines or ends a street: a Canvas and depths in metres in, pixels and labels drawn out."""

import numpy as np
from PIL import Image, ImageDraw

from datasets.scenes.street_canvas import (
    AMBER,
    CIRCLE,
    CLOTHES,
    MARGIN,
    SQUARE,
    Canvas,
    Color,
    tone,
)
from datasets.scenes.street_furniture import foliage, tree
from datasets.scenes.street_plan import FAR, TUNNEL, City, Side, Street

STOREY = 3.2  # metres
# What a window takes up of its cell: left, right, top, bottom.
WINDOWS = {
    "sash": (0.28, 0.72, 0.18, 0.82),
    "shutters": (0.33, 0.67, 0.16, 0.84),
    "band": (0.0, 1.0, 0.3, 0.78),
    "glass": (0.03, 0.97, 0.04, 0.9),
}


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
    shop, accent, dark = canvas.rng.random() < 0.5, canvas.pick(CLOTHES), canvas.light.lamps
    draw.rectangle((0, top, width, bottom), fill=canvas.shade(tone(wall, 0.8), z))
    for x in range(MARGIN, width - wide // 2, wide):
        lit = dark and (shop or canvas.rng.random() < 0.3)
        pane = canvas.shade((255, 224, 160) if lit else (46, 58, 70), z, lit)
        if shop:
            box = (x + wide // 8, top + high * 2 // 5, x + wide * 7 // 8, bottom - high // 9)
            draw.rectangle(box, fill=pane)
        elif canvas.rng.random() < 0.3:
            box = (x + wide // 3, top + high // 4, x + wide * 2 // 3, bottom)
            draw.rectangle(box, fill=canvas.shade(tone(accent, 0.6), z))
        else:
            box = (x + wide // 4, top + high // 4, x + wide * 3 // 4, top + high * 2 // 3)
            draw.rectangle(box, fill=pane)
    if shop:
        box = (0, top + high // 9, width, top + high // 3)
        draw.rectangle(box, fill=canvas.shade(accent, z, dark))


def garden(canvas: Canvas, street: Street, side: Side, z: float, end: float) -> None:
    """A lawn with trees behind a hedge."""
    grove(canvas, side, z, end, 3)
    hedge = canvas.grade(foliage(0)[0].crop((20, 30, 120, 60)), z)
    line = side.place("line")
    canvas.wall(hedge, (line, z), (line, end), canvas.some(0.9, 1.9), "vegetation")


def stone_wall(canvas: Canvas, street: Street, side: Side, z: float, end: float) -> None:
    """Trees behind courses of stone under a coping."""
    grove(canvas, side, z, end, 2)
    high = canvas.some(1.4, 2.8)
    color = canvas.pick(((150, 142, 130), (138, 88, 70), (176, 170, 160)))
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
    u, high = side.place("line"), canvas.some(1.1, 2.0)
    color = canvas.pick(((52, 70, 60), (120, 124, 126), (120, 88, 58)))
    canvas.panel((u, u), (0, high), (z, end), color, "fence", opacity=110)
    for post in np.arange(end, z, -0.45 if z < 25 else -1.5).tolist():
        canvas.post(u, post, high, 0.06, color, "fence")
    for rail in (0.15 * high, 0.95 * high):
        canvas.panel((u, u), (rail - 0.05, rail + 0.05), (z, end), color, "fence")


def grove(canvas: Canvas, side: Side, z: float, end: float, count: int) -> None:
    """Trees on a lot, from far to near."""
    for i in range(count):
        u = side.place("line") + side.sign * canvas.some(2.5, 7)
        tree(canvas, u, end - (i + 0.5) * (end - z) / count, canvas.some(0.8, 1.35))


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
        tree(canvas, at + canvas.some(-4, 4), FAR + 20, canvas.some(0.9, 1.5))


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
    middle, half, z = (left + right) / 2, (right - left) / 2, TUNNEL
    skyline = ((-60, 0), (-30, 8), (-8, 13), (8, 14), (36, 9), (60, 0))
    canvas.face([(middle + u, y, z + 1) for u, y in skyline], (82, 104, 58), "vegetation")
    canvas.panel((left - 3, right + 3), (0, 8), (z, z), (150, 146, 138), "tunnel")
    arch = [(middle - half * c, 2.5 + 3.6 * s, z) for c, s in CIRCLE[:9]]
    canvas.face([(left, 0, z), *arch, (right, 0, z)], (26, 26, 30), "tunnel")
    for u in (middle - half * 0.4, middle + half * 0.4):
        canvas.board((u, 5.2, z), SQUARE, 0.25, AMBER, lit=True)
