"""Rendered street scenes: reproducible bytes, official label ids, every class now and then."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datasets.cityscapes import ANNOTATED, CITYSCAPES, RARE
from datasets.scenes.hulls import cuboid, plate, solid
from datasets.scenes.street import render_street
from datasets.scenes.street_canvas import IDS, Camera, Canvas, Light, Place
from datasets.scenes.street_plan import CITIES, LIGHTS

SCENES = 100
BENCHMARK = CITYSCAPES.outputs[0].classes
ID = {name: number for name, (number, _) in ANNOTATED.items()}


@pytest.fixture(scope="module")
def scenes():
    """A hundred small scenes, as (image, labels, city)."""
    return [render_street(seed, 96, 192) for seed in range(SCENES)]


@pytest.fixture
def empty_canvas():
    """A canvas 80 x 120 of sky on a clear day: horizon at row 40, middle at column 60."""
    labels = Image.new("L", (120, 80), IDS["sky"])
    camera = Camera(focal=100.0, center=60.0, horizon=40.0, height=1.5, bend=0.0)
    light = Light((0, 0, 0), (0, 0, 0), (1.0, 1.0, 1.0), 1e9, 0, False)
    return Canvas(Image.new("RGB", (120, 80)), labels, camera, light, np.random.default_rng(0))


def digest(scene):
    return hashlib.sha256(scene.image.tobytes() + scene.labels.tobytes()).hexdigest(), scene.city


def test_same_seed_same_bytes():
    assert digest(render_street(3, 64, 128)) == digest(render_street(3, 64, 128))


def test_rendering_leaves_no_trace_in_the_next_scene():
    alone = digest(render_street(5, 64, 128))
    render_street(4, 48, 100)
    assert digest(render_street(5, 64, 128)) == alone


def test_different_seeds_differ(scenes):
    assert len({digest(scene) for scene in scenes}) == SCENES


@pytest.mark.parametrize(("height", "width"), [(97, 131), (131, 97), (32, 64), (33, 200)])
def test_odd_sizes(height, width):
    scene = render_street(1, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.labels.shape == (height, width)
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    assert scene.image.flags.writeable
    assert scene.labels.flags.writeable


def test_only_official_ids(scenes):
    legal = {*ID.values(), IDS["ego vehicle"]}
    assert set(np.unique(np.stack([scene.labels for scene in scenes])).tolist()) <= legal


def test_every_pixel_is_scored_or_listed_as_ignored(scenes):
    output = CITYSCAPES.outputs[0]
    known = np.zeros(256, bool)
    known[list(output.values + output.ignored)] = True
    assert all(known[scene.labels].all() for scene in scenes)
    scored = np.isin(np.stack([scene.labels for scene in scenes]), output.values)
    assert scored.mean() > 0.85


@pytest.mark.parametrize("name", BENCHMARK)
def test_benchmark_classes_are_common(scenes, name):
    seen = sum((scene.labels == ID[name]).sum() >= 8 for scene in scenes)
    assert seen >= 0.08 * SCENES


@pytest.mark.parametrize(
    "name", ["road", "building", "sky", "vegetation", "car", "sidewalk", "pole"]
)
def test_the_usual_is_nearly_always_there(scenes, name):
    assert sum((scene.labels == ID[name]).any() for scene in scenes) >= 0.9 * SCENES


@pytest.mark.parametrize("name", [name for name in ANNOTATED if name not in BENCHMARK])
def test_rare_classes_occur(scenes, name):
    seen = sum((scene.labels == ID[name]).any() for scene in scenes)
    assert 1 <= seen <= (0.5 if name in RARE else 0.7) * SCENES


def test_sky_is_above_road(scenes):
    for scene in scenes:
        rows = {name: np.nonzero(scene.labels == ID[name])[0] for name in ("sky", "road")}
        assert rows["road"].size
        assert not rows["sky"].size or rows["sky"].mean() < rows["road"].mean()


def test_riders_come_with_what_they_ride(scenes):
    ridden = [ID["bicycle"], ID["motorcycle"]]
    large = [scene for scene in scenes if (scene.labels == ID["rider"]).sum() > 60]
    assert large
    assert sum(np.isin(scene.labels, ridden).any() for scene in large) >= 0.9 * len(large)


def test_cities_and_weathers(scenes):
    names = Counter(scene.city for scene in scenes)
    assert set(names) == {city.name for city in CITIES}
    assert all(name.isalpha() and name.islower() for name in names)
    assert {light for city in CITIES for light in city.lights} == set(LIGHTS)


def test_night_is_darker_than_day(scenes):
    mean = {
        city: np.mean([scene.image.mean() for scene in scenes if scene.city == city])
        for city in ("brickhollow", "nachtwik")
    }
    assert mean["nachtwik"] < 0.8 * mean["brickhollow"]


def test_projection_by_hand(empty_canvas):
    camera = empty_canvas.camera
    assert camera.project(0.0, 1.5, 10.0) == (60.0, 40.0)  # eye level is the horizon
    assert camera.project(2.0, 0.0, 10.0) == (80.0, 55.0)  # 2 m aside, 1.5 m below: times 100 / 10
    assert camera._replace(bend=0.01).project(0.0, 1.5, 10.0) == (70.0, 40.0)


def test_image_and_labels_agree(empty_canvas):
    """A labelled draw changes the same pixels of both; black is what nothing was painted on."""
    empty_canvas.panel((-1, 1), (0, 2), (10, 10), (200, 10, 10), "wall")
    empty_canvas.stroke([(2, 0, 10), (2, 3, 10)], 0.5, (10, 200, 10), "pole")
    solid(empty_canvas, Place(-3, 10), cuboid((-1, 1), (0, 1), 0.5, (90, 90, 90)), [], "car")
    texture, leaf = Image.new("RGB", (24, 24), (50, 60, 70)), Image.new("L", (24, 24), 255)
    empty_canvas.wall(texture, (5, 9), (5, 30), 4.0, "building")
    empty_canvas.sprite(texture, leaf, (0, 2, 10), (1.0, 1.0), "vegetation")
    painted = np.asarray(empty_canvas.image).any(axis=2)
    labels = np.asarray(empty_canvas.labels)
    assert np.array_equal(painted, labels != IDS["sky"])
    drawn = {IDS[name] for name in ("wall", "pole", "car", "building", "vegetation", "sky")}
    assert set(np.unique(labels).tolist()) == drawn


def test_shadows_and_markings_leave_labels(empty_canvas):
    empty_canvas.ground((-2, 2), (5, 9), (255, 255, 255))
    empty_canvas.glow((0, 3, 9), 1.0, (255, 255, 255))
    assert (np.asarray(empty_canvas.labels) == IDS["sky"]).all()
    assert np.asarray(empty_canvas.image).any()


def test_only_the_near_end_of_a_solid_shows(empty_canvas):
    """Straight ahead, a box is the 2 m wide rectangle of its rear, with the plate on it."""
    rear, front = (
        plate(at, (-0.2, 0.2), (0.9, 1.1), color, at > 0)
        for at, color in ((-1.0, (200, 0, 0)), (1.0, (0, 200, 0)))
    )
    box = cuboid((-1, 1), (0.5, 1.5), 1.0, (90, 90, 90))
    solid(empty_canvas, Place(0, 11), box, [rear, front], "car")
    rows, columns = np.nonzero(np.asarray(empty_canvas.labels) == IDS["car"])
    assert (columns.min(), columns.max()) == (50, 70)
    assert (rows.min(), rows.max()) == (40, 50)
    red, green, _ = np.asarray(empty_canvas.image)[45, 60]
    assert red > 190
    assert green == 0


def test_a_wall_fades_into_the_distance(empty_canvas):
    """Its texture is square in metres: the near half takes more columns than the far half."""
    texture = Image.new("RGB", (44, 24), (200, 0, 0))
    texture.paste((0, 0, 200), (22, 0, 44, 24))
    empty_canvas.wall(texture, (4, 10), (4, 30), 3.0, "wall")
    red, _, blue = np.asarray(empty_canvas.image).astype(int)[40].T
    assert abs((red > blue).sum() - 20) <= 1  # from x = 100 at 10 m to 80 at 20 m
    assert abs((blue > red).sum() - 7) <= 1  # and on to 73.3 at 30 m
