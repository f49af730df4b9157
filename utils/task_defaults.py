"""What a task's file may choose under `defaults`, checked."""

from collections.abc import Mapping
from typing import Any

from datasets.task import Task, UserError
from utils.flags import Parser, as_flags

# What each task of a run has for itself.
PER_TASK: dict[str, Any] = {"data": (), "size": (256, 256), "bs": 8, "class_weights": False}

# How --overfit learns, unless flags say other: nothing keeps a network from learning by heart.
OVERFIT: dict[str, Any] = {
    **{"optimizer": "muon", "lr": 5e-3, "schedule": "constant", "weight_decay": 0.0},
    **{"ema": 0.9, "dropout": 0.0, "clip": 0.0, "class_weights": False},
}

# What a task may choose under `defaults`: how it is trained, never what is read or written, the
# device, or where weights come from. A task file is data that people pass on.
TASK_CHOICES = (
    *("size", "encoder", "width", "depth", "centre", "convs", "norm", "dropout", "output_stride"),
    *("epochs", "steps", "eval_steps", "bs", "accum", "optimizer", "lr", "encoder_lr", "momentum"),
    *("weight_decay", "schedule", "warmup", "clip", "ema", "losses", "loss_weights", "aux"),
    *("class_weights", "amp", "ckpt", "tile", "shuffle"),
)


def defaults_of(parser: Parser, task: Task) -> dict[str, Any]:
    """A task's own defaults; UserError where they are no flags that a task may set, or not of their
    kind."""
    where = f"task {task.name}: defaults"
    try:
        _check_choices(task.defaults)
        defaults = parser.given(as_flags(task.defaults))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for name in PER_TASK.keys() & defaults:
        if task.defaults[name] != defaults[name]:
            raise UserError(f"{where}: {name}: {task.defaults[name]!r}, not {defaults[name]!r}")
    return defaults


def _check_choices(defaults: Mapping[str, object]) -> None:
    """UserError names a default that is no choice of a task's, or that holds another flag."""
    for name, value in defaults.items():
        if name not in TASK_CHOICES:
            flag = name.replace("_", "-")
            raise UserError(
                f"--{flag} is not for a task to set, expected one of {', '.join(TASK_CHOICES)}"
            )
        for word in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(word, int | float) and str(word).startswith("-"):
                raise UserError(f"{name}: {word!r}, expected a value, not a flag")
