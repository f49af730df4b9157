"""The command that checks a labelled data set: `python -m datasets.check DATA --task TASK`.

Labelled data goes in, all of it is read once; a report of what it holds, of copies on both sides
of the split and of members that cannot be used comes out, with a contact sheet if asked.
"""

import argparse
import base64
import html
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import load_task
from datasets.check.checking import (
    OTHER,
    Findings,
    Samples,
    examine,
    find_copies,
    find_doubts,
    list_samples,
)
from datasets.check.statistics import Row, percent, statistics_of
from datasets.stores import open_stores, parse_path
from datasets.task import SPLITS, UserError
from utils.command import printable, run_command
from utils.files import write_whole
from utils.flags import field_value, positive
from utils.pictures.panel import CELL, panel
from utils.pictures.visualize import picture_of

LISTED = 50  # problems that are printed
PAIRS = 10  # copies that are printed
SHOWN = 24  # samples on a contact sheet
COLUMNS = (*SPLITS, "other")
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:2em}}pre{{font-size:13px}}</style></head>
<body><h1>{title}</h1>
<pre>{report}</pre>
<img alt="samples" src="data:image/png;base64,{sheet}">
</body></html>
"""


def describe(samples: Samples, findings: Findings, doubts: Sequence[str]) -> list[str]:
    """The report, a line each."""
    present = [n for n in range(OTHER + 1) if (samples.splits == n).any()]
    splits = [COLUMNS[n] for n in present]
    lines = _describe_counts(samples, present) + _describe_sizes(findings)
    for output in samples.task.outputs:
        stats = [findings.values.get((output.name, n), statistics_of(output)) for n in present]
        lines += ["", f"{output.name} ({output.kind})"]
        lines += _table(stats[0].title, splits, stats[0].rows(stats))
    lines += _describe_copies(samples, findings) + [""]
    lines += [f"worth a look: {doubt}" for doubt in doubts]
    return lines + _describe_problems(findings)


def _describe_counts(samples: Samples, present: list[int]) -> list[str]:
    columns, stores = samples.table.columns, samples.table.stores
    used = {
        member
        for name in ("", *(output.name for output in samples.task.dense))
        for member in zip(columns[f"shard:{name}"], columns[f"member:{name}"], strict=True)
        if member[0] >= 0
    }
    total, num = sum(map(len, stores)), len(samples)
    counts = [int((samples.splits == n).sum()) for n in present]
    rows = [
        ("samples", [f"{count}" for count in counts]),
        ("share", [percent(count / num) for count in counts]),
    ]
    return [
        f"task {samples.task.name}: {num} samples in {len(stores)} "
        f"{'store' if len(stores) == 1 else 'stores'}",
        f"{total} members, {total - len(used)} of them used by no sample",
        "",
        *_table("split", [COLUMNS[n] for n in present], rows),
    ]


def _describe_sizes(findings: Findings) -> list[str]:
    if not findings.sizes:
        return ["", "no image can be read"]
    sizes = np.array(list(findings.sizes))  # (distinct, 2)
    counts = np.array(list(findings.sizes.values()))
    rows = []
    for name, axis in (("width", 1), ("height", 0)):
        sides = np.repeat(sizes[:, axis], counts)
        rows.append((name, [f"{x:.0f}" for x in (sides.min(), np.median(sides), sides.max())]))
    (height, width), most = findings.sizes.most_common(1)[0]
    share = percent(most / counts.sum())
    return [
        "",
        *_table("image size", ["min", "median", "max"], rows),
        f"  {len(sizes)} distinct, the commonest {width}x{height} ({share} of images)",
    ]


def _describe_copies(samples: Samples, findings: Findings) -> list[str]:
    """Images whose bytes occur twice, in one split or, which is a leak, in two."""
    digests, lines = np.array(findings.digests, np.uint64), [""]
    within = []
    for number in range(OTHER + 1):
        own = digests[(samples.splits == number) & (digests > 0)]
        copies = len(own) - len(np.unique(own))
        within += [f"{copies} in {COLUMNS[number]}"] if len(own) else []
    lines.append(f"copies of an image within a split: {', '.join(within) or 'none'}")
    pairs = list(find_copies(samples, findings))
    lines.append(f"copies across splits: {len(pairs)}{', a leak' if pairs else ''}")
    for a, b in pairs[:PAIRS]:
        sides = (f"{samples.table.key(i)} ({COLUMNS[samples.splits[i]]})" for i in (a, b))
        lines.append("  " + " = ".join(sides))
    return lines + ([f"  and {len(pairs) - PAIRS} more"] if len(pairs) > PAIRS else [])


def _describe_problems(findings: Findings) -> list[str]:
    lines = ["", f"members that cannot be used: {findings.num_problems}"]
    lines += [f"  {problem}" for problem in findings.problems[:LISTED]]
    more = findings.num_problems - LISTED
    return lines + ([f"  and {more} more"] if more > 0 else [])


def _table(title: str, heads: Sequence[str], rows: Sequence[Row]) -> list[str]:
    first = max(len(title), *(len(name) for name, _ in rows)) + 2
    lines = [f"  {title:<{first}}" + "".join(f"{head:>12}" for head in heads)]
    lines += [f"  {name:<{first}}" + "".join(f"{v:>12}" for v in values) for name, values in rows]
    return lines


def write_sheet(path: Path, title: str, report: str, sheet: Image.Image) -> None:
    """Write the sheet as a PNG or, where `path` ends in .html, below the report in a page that
    needs no other file."""
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    data = drawn.getvalue()
    if path.suffix.lower() == ".html":
        texts = {"title": html.escape(title), "report": html.escape(report)}
        data = PAGE.format(**texts, sheet=base64.b64encode(data).decode()).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def draw_sheet(samples: Samples) -> Image.Image:
    """A row for each of some samples, spread over all: the image, then each target. The report
    names those that cannot be used."""
    rows, legend, num = [], {}, len(samples)
    for i in np.linspace(0, num - 1, min(SHOWN, num)).round().astype(int).tolist():
        try:
            sample = samples.load(i)
        except UserError:
            continue
        step = max(1, max(sample.image.shape[-2:]) // CELL)  # every step-th pixel is drawn
        image = np.asarray(sample.image.permute(1, 2, 0)[::step, ::step])  # (h, w, 3)
        rows.append([(f"{COLUMNS[samples.splits[i]]} {sample.key}", image)])
        for output in samples.task.outputs:
            target, picture = sample.targets[output.name].numpy(), picture_of(output)
            target = target if output.per_image else target[..., ::step, ::step]
            view = picture.view(image, target, target)
            rows[-1].append((f"{output.name}{picture.scale(target)}", view))
            legend |= dict.fromkeys(picture.legend([target]))
    return panel(rows, list(legend))


def sheet_path(text: str) -> Path:
    """Where a contact sheet may be written."""
    if not text.lower().endswith((".png", ".html")):
        raise argparse.ArgumentTypeError(f"{text}, expected a file of .png or .html")
    return Path(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The words of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.check",
        description="Read labelled data once and report what it holds and what cannot be used. "
        "Exit status 0 if all of it can be.",
    )
    add = parser.add_argument
    what, sheet = "folder, zip, HDF5 shard, or address", "contact sheet: .png, or .html with report"
    add("paths", nargs="+", type=parse_path, metavar="PATH", help=what)
    add("--task", required=True, metavar="NAME|FILE.json", help="how the data is laid out")
    add("--split-by", type=field_value, metavar="FIELD=VALUE", help="as in training")
    add("--strict", action="store_true", help="exit status 1 if something is worth a look")
    add("--out", type=sheet_path, metavar="FILE", help=sheet)
    add("--workers", type=positive, default=os.cpu_count(), help="processes (all cores)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Check as the command line says; UserError if something cannot be used. 1 where something is
    worth a look, and that is asked for."""
    task = load_task(args.task)
    samples = list_samples(open_stores(args.paths), task, args.split_by)
    findings = examine(samples, args.workers)
    doubts = find_doubts(samples, findings)
    report = "\n".join(map(printable, describe(samples, findings, doubts)))
    print(report)
    if args.out:
        title = f"{task.name}: {len(samples)} samples"
        write_sheet(args.out, title, report, draw_sheet(samples))
    if findings.num_problems:
        total = len(samples) * (1 + len(task.dense))
        raise UserError(f"{findings.num_problems} of {total} members cannot be used")
    odd = doubts or any(find_copies(samples, findings))
    return 1 if args.strict and odd else 0


def main(argv: list[str] | None = None) -> int:
    """Check as the command line says: the exit status."""
    return run_command(partial(run, parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
