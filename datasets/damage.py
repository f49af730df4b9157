"""Damage on photographs, paintings and manuscripts: the 16 classes of ARTeFACT's export."""

from datasets.task import Classes, Task

# Label value = position. 255 marks what lies outside the object.
CLASSES = {
    "Clean": "000000",
    "Material loss": "1CE6FF",
    "Peel": "FF34FF",
    "Dust": "FF4A46",
    "Scratch": "008941",
    "Hair": "006FA6",
    "Dirt": "A30059",
    "Fold": "FFA500",
    "Writing": "7A4900",
    "Cracks": "0000A6",
    "Staining": "63FFAC",
    "Stamp": "004D43",
    "Sticker": "8FB0FF",
    "Puncture": "997D87",
    "Burn marks": "809693",
    "Lightleak": "F6FF1B",
}

DAMAGE = Task(
    name="damage",
    about="16 kinds of damage on analogue media, from crops at native scale (ARTeFACT export)",
    image="image/{key}.*",
    outputs=(
        Classes(
            name="damage",
            files="annotation/{key}.png",
            classes=tuple(CLASSES),
            colors=tuple(CLASSES.values()),
            ignored=(255,),
            ignored_colors=("5A0007",),
            loss="ce+dice",
        ),
    ),
    best="damage/miou",
    metadata="metadata.csv",
    val_share=0.15,
    rotate=30.0,
    zoom=(0.8, 1.25),  # hairs and scratches vanish when an image is shrunk further
    defaults={
        "size": [224, 224],
        "bs": 6,
        "width": 16,
        "centre": 128,
        "class_weights": True,
        "lr": 5e-3,
        "epochs": 10,
        "eval_steps": 58,  # two epochs of the demo
    },
)
