"""Says what lies there where something was not found, and what may have been meant."""

import os
from collections import Counter
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.stores import SHARD_SUFFIXES, Store
from datasets.task import Task

if TYPE_CHECKING:
    from datasets.index.samples import SampleTable

SHOWN = 12  # paths listed in an error
NEAR = 5000  # names among which an error looks for one that may have been meant


def hints(stores: list[Store], task: Task) -> str:
    """Why the stores may hold no image of the task."""
    said = [contents_of(stores)]
    said += {f"what lies beside shards in {s.named} is not read" for s in stores if s.named}
    first = task.image.partition("/")[0]
    if first in (Path(str(store.path)).name for store in stores):
        said.append(f"--data names the folder that {first} lies in")
    return "; ".join(said)


def near_names(table: "SampleTable", task: Task, expected: str) -> str:
    """What lies there that may be meant: a name like the one expected, else all in short."""
    members = ((s, i) for s, store in enumerate(table.stores) for i in range(len(store)))
    outputs = ["", *(output.name for output in task.dense)]
    used = {table.target(i, name) for i in range(min(len(table), NEAR)) for name in outputs}
    stem = os.path.splitext(os.path.basename(expected))[0].strip("*").lower()
    names = (table.stores[s].names()[i] for s, i in islice(members, NEAR) if (s, i) not in used)
    others = [name for name in names if stem in os.path.basename(name).lower()]
    near = get_close_matches(expected, others, 1)
    return f"; near it lies {near[0]}" if near else f"; {contents_of(table.stores)}"


def contents_of(stores: list[Store]) -> str:
    """Where most members lie, by folder and suffix: `there are 10 photos/*.jpg, 9 labels/*.png`."""
    parts = Counter(
        f"{os.path.dirname(name)}/*{os.path.splitext(name)[1]}".lstrip("/")
        for store in stores
        for name in store.names()
    )
    more = f" and {len(parts) - 4} other kinds" if len(parts) > 4 else ""
    nested = any(part.endswith((*SHARD_SUFFIXES, ".parquet")) for part in parts)
    hint = "; of shards, name each, or unpack them; python -m datasets.pack reads parquet"
    most = ", ".join(f"{num} {part}" for part, num in parts.most_common(4))
    return f"there are {most}{more}{hint if nested else ''}"


def paths(stores: list[Store]) -> str:
    """Where the stores are, the first of many."""
    more = [f"and {len(stores) - SHOWN} more"] if len(stores) > SHOWN else []
    return ", ".join([str(store.path) for store in stores[:SHOWN]] + more)
