"""Cityscapes, read from its official zips: the benchmark's 19 classes, or 24 of those annotated."""

from datasets.task import Classes, Task

# name: (label id in *_gtFine_labelIds.png, colour), as published with the data set. The ids below
# 4, and 255 (the licence plate's -1 in eight bits), are what nobody scores.
ANNOTATED = {
    "static": (4, "000000"),
    "dynamic": (5, "6F4A00"),
    "ground": (6, "510051"),
    "road": (7, "804080"),
    "sidewalk": (8, "F423E8"),
    "parking": (9, "FAAAA0"),
    "rail track": (10, "E6968C"),
    "building": (11, "464646"),
    "wall": (12, "66669C"),
    "fence": (13, "BE9999"),
    "guard rail": (14, "B4A5B4"),
    "bridge": (15, "966464"),
    "tunnel": (16, "96785A"),
    "pole": (17, "999999"),
    "polegroup": (18, "999999"),
    "traffic light": (19, "FAAA1E"),
    "traffic sign": (20, "DCDC00"),
    "vegetation": (21, "6B8E23"),
    "terrain": (22, "98FB98"),
    "sky": (23, "4682B4"),
    "person": (24, "DC143C"),
    "rider": (25, "FF0000"),
    "car": (26, "00008E"),
    "truck": (27, "000046"),
    "bus": (28, "003C64"),
    "caravan": (29, "00005A"),
    "trailer": (30, "00006E"),
    "train": (31, "005064"),
    "motorcycle": (32, "0000E6"),
    "bicycle": (33, "770B20"),
}

# The benchmark scores 19 classes: it leaves out these eight as too rare, and the three vague ones.
RARE = ("guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer")
NOT_IN_BENCHMARK = RARE + ("parking", "rail track", "static", "dynamic", "ground")


def _task(name: str, about: str, without: tuple[str, ...]) -> Task:
    """The Cityscapes task that scores every annotated class but these, which are ignored."""
    labels = {label: fact for label, fact in ANNOTATED.items() if label not in without}
    ids = tuple(number for number, _ in labels.values())
    return Task(
        name=name,
        about=about,
        image="leftImg8bit/{split}/{city}/{key}_leftImg8bit.png",
        outputs=(
            Classes(
                name=name,
                files="gtFine/{split}/{city}/{key}_gtFine_labelIds.png",
                classes=tuple(labels),
                colors=tuple(color for _, color in labels.values()),
                values=ids,
                ignored=tuple(number for number in (*range(34), 255) if number not in ids),
                loss="ce+dice",
            ),
        ),
        best=f"{name}/miou",
        resize=True,
        zoom=(1.0, 2.0),
        defaults={
            "size": [256, 512],
            "bs": 4,
            "width": 16,
            "centre": 128,
            "lr": 5e-3,
            "epochs": 15,
        },
    )


CITYSCAPES = _task("cityscapes", "street scenes, the 19 classes of the benchmark", NOT_IN_BENCHMARK)
CITYSCAPES24 = _task(
    "cityscapes24", "street scenes, 30 annotated classes less the six rarest", RARE
)
