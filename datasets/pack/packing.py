"""Writes shards, reads each one back, and continues what was interrupted."""

import glob
import io
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from datasets.images import BROKEN, LOSSY, open_image
from datasets.pack.plan import IMAGE, VERBATIM, PackPlan, PackRecipe, make_plan
from datasets.processes import run_in_order
from datasets.stores import SHARD_SUFFIXES, Store, open_stores, write_hdf5, write_zip
from datasets.stores.write import begin_shards
from datasets.task import UserError

TARGET_QUALITY = 95  # of a target that was JPEG already: masks and depth of the course's zips


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
    """A shard: where it is written, its members in the plan, whether a finished one may lie there,
    and whether the only one shows how far it is."""

    path: Path
    members: range
    resumed: bool
    alone: bool


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
    if (recipe.quality or 1) > 100:
        raise UserError(f"--quality {recipe.quality}: expected 1 to 100")
    if recipe.reencodes and recipe.task is None:
        raise UserError("--size and --quality need --task, which tells images from targets")
    numbered = recipe.shard_bytes or recipe.shard_samples
    pattern = f"{glob.escape(target.stem)}{'-' + '[0-9]' * 5 if numbered else ''}{target.suffix}"
    there = sorted(target.parent.glob(pattern))
    stores = _open(sources)
    for store in stores:
        if Path(store.path).resolve() in [path.resolve() for path in [target, *there]]:
            raise UserError(f"{store.path}: is a source and would be written")
    for output in recipe.task.dense if recipe.task and recipe.size else ():
        if output.is_shapes:
            raise UserError(f"--size: output {output.name} has shapes, which keep their size")
    plan = make_plan(stores, recipe)
    num = len(plan.cuts) - 1
    paths = [target]
    if numbered:
        paths = [target.with_name(f"{target.stem}-{i:05d}{target.suffix}") for i in range(num)]
    for path in there if force else []:
        path.unlink()
    journal = target.with_name(f".{target.name}.packing")
    resumed = begin_shards(journal, _facts(plan), pattern, "--force replaces it")
    members = [range(*plan.cuts[i : i + 2].tolist()) for i in range(num)]
    jobs = [Job(*each, resumed, num == 1) for each in zip(paths, members, strict=True)]
    written = []
    try:
        shards = run_in_order(_write_shard, plan, jobs, min(workers, num))
        written += tqdm(shards, "packing", num, unit="shard", disable=num == 1 or None)
    finally:
        if len(written) == num or not any(path.exists() for path in paths):
            journal.unlink(missing_ok=True)
    after, finished = sum(path.stat().st_size for path in paths), num - sum(written)
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


def _facts(plan: PackPlan) -> dict[str, Any]:
    """What a shard depends on: the sources as they are now, and the recipe. The time of a folder
    says nothing of its files; their names and sizes do."""
    recipe = plan.recipe
    return {
        "sources": [
            [str(store.path), store.fingerprint() or _digest(store)] for store in plan.stores
        ],
        "--task": recipe.task and recipe.task.to_json(),
        "--shard-size": recipe.shard_bytes,
        "--shard-samples": recipe.shard_samples,
        "--size": recipe.size,
        "--quality": recipe.quality,
        "--prefix": recipe.prefix,
    }


def _digest(store: Store) -> int:
    return zlib.crc32(store.names().blob, zlib.crc32(store.sizes().tobytes()))


def _write_shard(plan: PackPlan, job: Job) -> bool:
    """Write a shard and read it back; False if it was there and is right."""
    if job.resumed and job.path.exists():
        with suppress(UserError):  # damaged since: it is written again
            _verify(plan, job)
            return False
    write = write_zip if job.path.suffix.lower() == ".zip" else write_hdf5
    write(job.path, _members(plan, job))
    try:
        _verify(plan, job)
    except UserError:
        job.path.unlink(missing_ok=True)
        raise
    return True


def _members(plan: PackPlan, job: Job) -> Iterator[tuple[str, bytes]]:
    """Names and bytes as they are written."""
    recipe, hidden = plan.recipe, None if job.alone else True
    for i in tqdm(job.members, "packing", unit="file", disable=hidden):
        store, role, member = plan.stores[plan.store[i]], plan.role[i], int(plan.member[i])
        data, where = store.read_at(member), f"{store.path}: {store.names()[member]}"
        if role == IMAGE and recipe.reencodes:
            data = reencode_image(data, where, recipe.size, recipe.quality)
        elif role != VERBATIM and recipe.size:
            data = reencode_target(data, where, recipe.size)
        yield plan.name(i), data


def _verify(plan: PackPlan, job: Job) -> None:
    """Read a shard back; UserError unless it holds these members, each with its own CRC-32."""
    (shard,) = open_stores([job.path])
    if len(shard) != len(job.members):
        raise UserError(f"{job.path}: {len(shard)} members, expected {len(job.members)}")
    for at, i in enumerate(job.members):
        name, data = shard.names()[at], shard.read_at(at)
        verbatim = not plan.recipe.reencodes or plan.role[i] == VERBATIM
        if name != plan.name(i) or (verbatim and len(data) != plan.sizes[i]):
            raise UserError(f"{job.path}: {name}: {len(data)} bytes, expected {plan.name(i)}")


def reencode_image(
    data: bytes, name: str, size: tuple[int, int] | None = None, quality: int | None = None
) -> bytes:
    """An image of size (H, W), resampled as training does it (bilinear, antialiased).

    quality: 1 to 100, for JPEG and WebP; PNG stays lossless, and unchanged without a new size.
    UserError names an image that cannot be decoded.
    """
    image = open_image(data, name)
    lossy = image.format in (*LOSSY, "WEBP")
    if not (size or (quality and lossy)):
        return data
    form = image.format
    if size:
        if image.mode in ("P", "PA", "1"):  # numbers of colours cannot be mixed, colours can
            transparent = "transparency" in image.info or image.mode == "PA"
            image = image.convert("RGBA" if transparent else "RGB")
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return _encode(image, name, form, {"quality": quality or 95} if lossy else {})


def reencode_target(data: bytes, name: str, size: tuple[int, int]) -> bytes:
    """A target of size (H, W): the nearest value of each, in the file's own mode and palette."""
    image = open_image(data, name)
    form = image.format
    lossy = {"quality": TARGET_QUALITY, "subsampling": 0} if form in LOSSY else {}
    if form == "WEBP":
        lossy = {"lossless": True}
    return _encode(image.resize(size[::-1], Image.Resampling.NEAREST), name, form, lossy)


def _encode(image: Image.Image, name: str, form: str, settings: dict) -> bytes:
    """Bytes in the format of the source, without its metadata, which may no longer be true."""
    buffer = io.BytesIO()
    for entry in ("exif", "xmp", "icc_profile"):
        image.info.pop(entry, None)
    try:
        image.save(buffer, "JPEG" if form in LOSSY else form, **settings)
    except (*BROKEN, KeyError) as error:
        raise UserError(f"{name}: cannot be encoded as {form}: {error}") from None
    return buffer.getvalue()
