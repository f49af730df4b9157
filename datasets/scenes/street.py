"""A seed and a size in, one rendered street scene with exact Cityscapes label ids out."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from datasets.scenes.street_canvas import PAINTS, SUPERSAMPLE, Canvas, pick, tone
from datasets.scenes.street_ground import paint_backdrop, paint_markings
from datasets.scenes.street_layout import arrange
from datasets.scenes.street_plan import CITIES, LIGHTS, plan_street


class StreetScene(NamedTuple):
    """image uint8 (H, W, 3) RGB; labels uint8 (H, W), ids as in *_gtFine_labelIds.png; a city."""

    image: np.ndarray
    labels: np.ndarray
    city: str


def render_street(seed: int, height: int, width: int) -> StreetScene:
    """Render one scene; the same seed and size give the same bytes."""
    rng = np.random.default_rng(seed)
    city = pick(rng, CITIES)
    light, street = LIGHTS[pick(rng, city.lights)], plan_street(rng, city)
    canvas = paint_backdrop(rng, street, light, (width * SUPERSAMPLE, height * SUPERSAMPLE))
    paint_markings(canvas, street)
    for _, draw in arrange(canvas, street):
        draw()
    if rng.random() < 0.3:
        bonnet(canvas)
    labels = np.asarray(canvas.labels)[::SUPERSAMPLE, ::SUPERSAMPLE].copy()
    return StreetScene(develop(canvas, height, width), labels, city.name)


def bonnet(canvas: Canvas) -> None:
    """The front of the car that carries the camera."""
    width, height = canvas.image.size
    color, rise = canvas.pick(PAINTS), canvas.some(0.86, 0.94)
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
