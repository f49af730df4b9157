"""Mask and depth of a figure in a room, as in the zips of the mask + depth course."""

from datasets.task import Depth, Mask, Task

MASKDEPTH = Task(
    name="maskdepth",
    about="foreground mask and relative depth, one decoder each",
    image="bg_fg_{part}/{key}.jpg",
    outputs=(
        Mask(name="mask", files="bg_fg_mask_{part}/{key}.jpg", loss="bce+dice"),
        Depth(name="depth", files="depthMap/{key}.jpg", loss="l1+grad", weight=2.0),
    ),
    best="mask/iou",
    resize=True,
    rotate=30.0,
    defaults={
        "size": [224, 224],
        "bs": 16,
        "width": 32,
        "centre": 256,
        "convs": [2, 1, 3],
        "lr": 5e-3,
    },
)
