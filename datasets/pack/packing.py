"""Shards are written, each read back, and an interrupted call is continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets.pack.plan import IMAGE, VERBATIM, PackPlan, PackRecipe, make_plan
from datasets.pack.reencode import reencode_image, reencode_target
from datasets.processes import run_in_order
from datasets.stores import SHARD_SUFFIXES, Store, open_stores, write_hdf5, write_zip
from datasets.task import UserError


class Packed(NamedTuple):
    """What `pack` did: members, their encoded bytes in the sources, bytes of the shards, number of
    shards, how many of them were found finished, members of the sources that the task leaves out.
    """

    members: int
    before: int
    after: int
    shards: int
    finished: int
    left_out: int


class Job(NamedTuple):
    """A shard: its number, where it is written, whether an interrupted call left one there."""

    number: int
    path: Path
    is_there: bool


def pack(
    sources: list[Path | str],
    target: Path,
    force: bool = False,
    recipe: PackRecipe | None = None,
    workers: int = 1,
) -> Packed:
    """Copy the members of the sources into shards, then read each shard back.

    One shard is `target` itself; where the recipe limits their size they are `STEM-00000.zip` and
    so on. A process writes a shard at a time. Shards that an interrupted call with the same sources
    and recipe has finished are read back and kept.
    UserError: `target` exists and `force` is not set, is a source itself, has another suffix than
    .zip, .h5 or .hdf5; two sources hold the same name; a member fails its check.
    """
    recipe = recipe or PackRecipe()
    if target.suffix.lower() not in SHARD_SUFFIXES:
        raise UserError(f"{target}: expected a file of {', '.join(SHARD_SUFFIXES)}")
    if recipe.reencodes and recipe.task is None:
        raise UserError("--size and --quality need --task, which tells images from targets")
    numbered = bool(recipe.shard_bytes or recipe.shard_samples)
    stores = _open(sources)
    _refuse_sources(stores, target, numbered)
    there = _shards_of(target, numbered)
    journal = target.with_name(f".{target.name}.packing")
    if there and not force and not journal.exists():
        raise UserError(f"{there[0]}: already there; --force replaces it")
    plan = make_plan(stores, recipe)
    num = len(plan.cuts) - 1
    paths = [_numbered(target, i) if numbered else target for i in range(num)]
    resumed = _begin(journal, _digest(plan), there, force)
    jobs = [Job(i, path, resumed and path.exists()) for i, path in enumerate(paths)]
    try:
        finished = _run(plan, jobs, workers)
    finally:
        if not any(path.exists() for path in paths):
            journal.unlink(missing_ok=True)
    journal.unlink(missing_ok=True)
    after = sum(path.stat().st_size for path in paths)
    return Packed(len(plan.store), int(plan.sizes.sum()), after, num, finished, plan.left_out)


def _open(sources: list[Path | str]) -> list[Store]:
    """The stores of the sources; parquet files of the hub, together, are one."""
    tables = [Path(source) for source in sources if str(source).lower().endswith(".parquet")]
    others = [source for source in sources if Path(source) not in tables]
    stores = open_stores(others) if others or not tables else []
    if tables:
        from datasets.stores.parquet import ParquetStore

        stores.append(ParquetStore(tables))
    return stores


def _numbered(target: Path, number: int) -> Path:
    return target.with_name(f"{target.stem}-{number:05d}{target.suffix}")


def _shards_of(target: Path, numbered: bool) -> list[Path]:
    """What lies where this call, or an earlier one with more shards, writes."""
    if not numbered:
        return [target] if target.exists() else []
    digits = "[0-9]" * 5
    return sorted(target.parent.glob(f"{target.stem}-{digits}{target.suffix}"))


def _refuse_sources(stores: list[Store], target: Path, numbered: bool) -> None:
    written = {path.resolve() for path in [target, *_shards_of(target, numbered)]}
    for store in stores:
        if Path(store.path).resolve() in written:
            raise UserError(f"{store.path}: is a source and would be written")


def _digest(plan: PackPlan) -> str:
    """What a shard depends on: the sources as they are now, and the recipe."""
    sources = [
        [str(store.path), store.fingerprint() or _sizes_digest(store)] for store in plan.stores
    ]
    task = plan.recipe.task and plan.recipe.task.to_json()
    described = json.dumps([sources, task, plan.recipe[1:], len(plan.store)])
    return hashlib.blake2b(described.encode()).hexdigest()


def _sizes_digest(store: Store) -> str:
    """For a folder, whose own time says nothing of its files."""
    return hashlib.blake2b(store.sizes().tobytes()).hexdigest()


def _begin(journal: Path, digest: str, there: list[Path], force: bool) -> bool:
    """Whether an interrupted call with this digest goes on; else its shards make way and the
    journal is begun. What was half written, by a call that was killed, goes in either case."""
    if journal.exists():
        stem, suffix = journal.name[1:].removesuffix(".packing").rsplit(".", 1)
        for part in journal.parent.glob(f".{stem}*.{suffix}.*.part"):
            part.unlink()
    if there and not force:
        if journal.read_text() != digest:
            raise UserError(
                f"{there[0]}: was begun with other sources or settings; --force starts anew"
            )
        return True
    try:
        for path in there:
            path.unlink()
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text(digest)
    except OSError as error:
        raise UserError(f"{journal}: cannot be written: {error.strerror}") from None
    return False


def _run(plan: PackPlan, jobs: list[Job], workers: int) -> int:
    """Every job, in processes where there are several; how many shards were found finished."""
    workers, num_finished = min(workers, len(jobs)), 0
    with tqdm(total=len(plan.store), desc="packing", unit="file", disable=None) as bar:
        one = partial(_one, progress=None if workers > 1 else bar)
        for job, finished in zip(jobs, run_in_order(one, plan, jobs, workers), strict=True):
            num_finished += finished
            bar.update(0 if workers <= 1 else len(_members_of(plan, job)))
    return num_finished


def _members_of(plan: PackPlan, job: Job) -> range:
    return range(int(plan.cuts[job.number]), int(plan.cuts[job.number + 1]))


def _one(plan: PackPlan, job: Job, progress: tqdm | None) -> bool:
    """Write a shard and read it back; True if it was there and is right."""
    path, members = job.path, _members_of(plan, job)
    if job.is_there and _is_right(path, plan, members):
        if progress is not None:
            progress.update(len(members))
        return True
    write = write_zip if path.suffix.lower() == ".zip" else write_hdf5
    write(path, _members(plan, members, progress))
    try:
        _verify(path, plan, members)
    except ValueError:
        path.unlink(missing_ok=True)
        raise
    return False


def _is_right(path: Path, plan: PackPlan, members: range) -> bool:
    try:
        _verify(path, plan, members)
    except ValueError:  # damaged since: it is written again
        return False
    return True


def _members(plan: PackPlan, members: range, progress: tqdm | None) -> Iterator[tuple[str, bytes]]:
    for i in members:
        store, role = plan.stores[plan.store[i]], plan.role[i]
        data = store.read_at(int(plan.member[i]))
        if plan.recipe.reencodes and role != VERBATIM:
            where = f"{store.path}: {store.names()[plan.member[i]]}"
            data = _reencode(data, where, role == IMAGE, plan.recipe)
        yield plan.name(i), data
        if progress is not None:
            progress.update()


def _reencode(data: bytes, name: str, is_image: bool, recipe: PackRecipe) -> bytes:
    if is_image:
        return reencode_image(data, name, recipe.size, recipe.quality)
    return reencode_target(data, name, recipe.size) if recipe.size else data


def _verify(path: Path, plan: PackPlan, members: range) -> None:
    """Read a shard back; UserError unless it holds these members, each with its own CRC-32."""
    (shard,) = open_stores([path])
    if len(shard) != len(members):
        raise UserError(f"{path}: {len(shard)} members, expected {len(members)}")
    for at, i in enumerate(members):
        name, data = shard.names()[at], shard.read_at(at)
        verbatim = not plan.recipe.reencodes or plan.role[i] == VERBATIM
        if name != plan.name(i) or (verbatim and len(data) != plan.sizes[i]):
            raise UserError(f"{path}: {name}: {len(data)} bytes, expected {plan.name(i)}")
