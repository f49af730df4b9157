"""The plan of a street in, a Canvas out that shows its sky, its ground and the markings on it."""

import numpy as np
from PIL import Image

from datasets.scenes.street_canvas import (
    CIRCLE,
    IDS,
    SUPERSAMPLE,
    Camera,
    Canvas,
    Light,
    Random,
    pick,
    smooth_noise,
)
from datasets.scenes.street_plan import LANE, REACH, Street

CELL = 0.05  # metres of one entry of the ground's cross-section


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
    cover = smooth_noise(rng, 4, 5, small) + 0.6 * smooth_noise(rng, 9, 14, small)
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
    grain += 22 * (smooth_noise(rng, 10, 10, (128, 128)) - 0.5)
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
        canvas.face([(u + 0.35 * c, 0, z + 0.35 * s) for c, s in CIRCLE], (70, 70, 72))
    bounds = [-LANE * (0.5 + lane) for lane in range(street.lanes)]
    for u in [*bounds, LANE * 0.55] if right > LANE else bounds:
        for z in np.arange(some(2, 6), 90, 7.5).tolist():
            if not street.crossed(z + 1.5, 6):
                canvas.ground((u - 0.07, u + 0.07), (z, z + 3.2), (222, 222, 216))
    if street.crossing[1]:
        z = street.crossing[0] - 4
        for u in np.arange(left + 0.3, right - 0.5, 1.1).tolist():
            canvas.ground((u, u + 0.55), (z, z + 3), (222, 222, 216))
