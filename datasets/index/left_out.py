"""Notices files in stores that nobody will read."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from datasets.images import IMAGE_SUFFIXES
from datasets.index.samples import find_groups
from datasets.index.splits import SPLIT_LIST
from datasets.index.templates import compile_lines, compile_template
from datasets.stores import FolderStore, Store
from datasets.task import Task, UserError

MOST = 100_000  # members of stores that are looked through: about a second
# By these names files are notes about pictures, or labels that other programs keep beside them.
NOTES = (
    ".txt",
    ".md",
    ".csv",
    ".json",
    ".geojson",
    ".xml",
    ".html",
    ".pdf",
    ".yaml",
    ".yml",
    ".log",
)


def left_out(stores: list[Store], task: Task | None = None) -> str:
    """How many files are not used, why, and an example of each; empty if all are, or if the stores
    hold more than MOST.

    With a task these are members that its templates fit but for their suffix, images but for their
    folder, and targets of no image; without one, what is no image by its name. Pictures beside the
    shards of a folder that was named count too. Hidden files, of which no store knows, and NOTES do
    not.
    """
    if sum(map(len, stores)) > MOST:
        return ""
    try:
        other, away, lonely = _unused(stores, task) if task else (_others(stores), [], [])
        lists = (
            _split_lists(stores) if task and not (task.metadata or "{split}" in task.image) else []
        )
    except UserError:  # of a split that nobody asked for
        return ""
    folders = dict.fromkeys(store.named for store in stores if store.named)
    beside = [name for folder in folders for name in _pictures(folder)]
    reasons = (
        (other, "of a suffix that is not read"),
        (away, "in a folder below, or spelled in another case"),
        (lonely, "targets without an image"),
        (beside, "pictures beside a shard"),
        (lists, 'lists of a split: a CSV as "metadata" and --split-by do the same'),
    )
    parts = [f"{len(names)} {reason} ({names[0]})" for names, reason in reasons if names]
    return f"left out: {', '.join(parts)}" if parts else ""


def _unused(stores: list[Store], task: Task) -> tuple[list[str], list[str], list[str]]:
    """Names that a template of the task fits but for the suffix, or but for the folder, and of
    targets without image."""
    columns = find_groups(stores, task).columns
    files = [output.files for output in task.outputs if output.files]
    tables = [task.metadata] if task.metadata else []
    other, away, lonely = [], [], []
    for number, store in enumerate(stores):

        def fits(templates: Iterable[str], store: Store = store, loose: bool = False) -> set[int]:
            """The numbers of the store's members that one of the templates fits."""
            names = store.names()
            patterns = (compile_lines(template, loose) for template in templates)
            starts = [m.start() for each in patterns for m in each.finditer(names.blob)]
            return set(np.searchsorted(names.starts, starts).tolist())

        read, names = fits([task.image, *files, *tables]), store.names()
        near = (names[i] for i in sorted(fits([task.image, *files], loose=True) - read))
        away += _elsewhere((names[i] for i in range(len(names)) if i not in read), task.image)
        other += _named(near, lambda name: not name.endswith(NOTES))
        used: set[int] = set()
        for name in (output.name for output in task.outputs if output.files):
            here = columns[f"shard:{name}"] == number
            used.update(columns[f"member:{name}"][here].tolist())
        lonely += [names[i] for i in sorted(fits(files) - fits([task.image]) - used)]
    return other, away, lonely


def _elsewhere(names: Iterable[str], template: str) -> list[str]:
    """Those that the template fits but for the case of its folder, or folders below that."""
    folder, _, name = template.lower().rpartition("/")
    if not folder or set("{*") & set(folder):
        return []
    pattern = compile_template(name)
    return _named(names, lambda name: f"/{folder}/" in f"/{name}" and bool(pattern.match(name)))


def _split_lists(stores: list[Store]) -> list[str]:
    return [name for store in stores for name in store.names() if SPLIT_LIST.fullmatch(name)]


def _others(stores: list[Store]) -> list[str]:
    names = (name for store in stores for name in store.names())
    return _named(names, lambda name: not name.endswith(IMAGE_SUFFIXES + NOTES))


def _pictures(folder: Path) -> list[str]:
    return _named(FolderStore(folder).names(), lambda name: name.endswith(IMAGE_SUFFIXES))


def _named(names: Iterable[str], wanted: Callable[[str], bool]) -> list[str]:
    """The names of which, in lower case, this is true."""
    return [name for name in names if wanted(name.lower())]
