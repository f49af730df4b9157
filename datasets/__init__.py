"""Bytes -> sample -> batch, and what each data set teaches."""

from pathlib import Path

from datasets.cityscapes import CITYSCAPES, CITYSCAPES24
from datasets.damage import DAMAGE
from datasets.maskdepth import MASKDEPTH
from datasets.task import Task, UserError, read_task

TASKS = {
    "damage": DAMAGE,
    "cityscapes": CITYSCAPES,
    "cityscapes24": CITYSCAPES24,
    "maskdepth": MASKDEPTH,
}


def load_task(name: str) -> Task:
    """A built-in task by its name, any other by its file; UserError says what was expected."""
    if name in TASKS:
        return TASKS[name]
    if name.endswith(".json"):
        return read_task(Path(name))
    raise UserError(f"--task {name}: expected one of {', '.join(TASKS)}, or a task file (.json)")
