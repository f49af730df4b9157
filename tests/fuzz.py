"""Reads mutated files of one kind until one of them is not refused in one line.

    python tests/fuzz.py TARGET --seconds S --seed N

A target is a kind of input: how good ones are made, how they are changed, and what reads them. What
a reader may do with a changed one is nothing, or raise a UserError of one line. Anything else is
kept in the folder `--keep` under its name and printed: another exception, more than MOST_BYTES of
memory, more than MOST_SECONDS of time. A crash leaves its input there as `last`.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from datasets.task import UserError
from utils.command import printable

MOST_BYTES = 10**9
MOST_SECONDS = 10
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31)
NUMBERS += (2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, 10**12)
TEXTS = (
    "",
    "..",
    "/",
    "../../x",
    "C:/x",
    "\x1b[31m",
    "a\nb",
    "\0",
    "{",
    "{key}",
    "*",
    "nan",
    "unet",
)


class Target(NamedTuple):
    """A kind of input. make: good ones, in a folder that a reader may use. change: a bad one of a
    good one. read: what the program does with its bytes there."""

    make: Callable[[Path], list[bytes]]
    change: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path, bytes], object]


class Finding(NamedTuple):
    """What was not refused in one line, and the bytes that did it."""

    what: str
    data: bytes


def fuzz(
    target: Target, folder: Path, seed: int, seconds: float, most: int = sys.maxsize
) -> tuple[int, list[Finding]]:
    """How many files were read, in so many seconds of computing or until there were enough, and
    what was found."""
    rng, findings, count = random.Random(seed), [], 0
    good = target.make(folder)
    for data in good:
        assert not (what := _fault(target, folder, data)), what
    most_bytes, end = max(_peak() + MOST_BYTES // 2, MOST_BYTES), time.process_time() + seconds
    while count < most and time.process_time() < end:
        data = target.change(rng, rng.choice(good))
        (folder / "last").write_bytes(data)
        what = _fault(target, folder, data)
        if not what and _peak() > most_bytes:
            what, most_bytes = f"{_peak() / 1e6:.0f} MB of memory", _peak()
        if what:
            findings.append(Finding(what, data))
        count += 1
    return count, findings


def _fault(target: Target, folder: Path, data: bytes) -> str:
    """What is wrong with how these bytes were read, empty if nothing is."""
    faulthandler.dump_traceback_later(60 * MOST_SECONDS, exit=True)  # where no signal is looked at
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # of computing, however busy the machine is
    try:
        target.read(folder, data)
    except UserError as error:
        line = printable(str(error))  # as it is shown
        return "" if "\n" not in line and len(line) < 4000 else f"lines: {line}"[:300]
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    return ""


def _peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


class Slow(Exception):
    """It took longer than MOST_SECONDS."""


def _too_slow(number: int, frame: Any) -> None:
    raise Slow


def flip(rng: random.Random, data: bytes) -> bytes:
    """A few changes of any bytes: in half of the cases near either end, where headers are."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        near = rng.choice((len(raw), len(raw), 64, 512, -64, -512))
        at = rng.randrange(near) if near > 0 else len(raw) + rng.randrange(near, 0) if near else 0
        at = min(max(at, 0), max(len(raw) - 1, 0))
        kind, size = rng.randrange(8), rng.choice((1, 2, 4, 8))
        if kind == 0 and raw:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            number = rng.choice(NUMBERS) % 2 ** (8 * size)
            raw[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 2:
            raw[at : at + size] = rng.randbytes(size)
        elif kind == 3:
            del raw[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif kind == 4:
            raw[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
        elif kind == 5:
            begin = rng.randrange(len(raw) or 1)
            raw[at:at] = raw[begin : begin + rng.choice((4, 16, 64))]
        elif kind == 6 and rng.random() < 0.2:
            del raw[at:]
        elif raw:
            raw[at] = (raw[at] + rng.choice((1, -1))) % 256
    return bytes(raw)


def twist(rng: random.Random, value: Any, others: tuple[Any, ...] = ()) -> Any:
    """A copy of nested dicts and lists with one of its parts changed, lost or put elsewhere."""
    odd = (
        *others,
        *NUMBERS,
        *TEXTS,
        None,
        True,
        0.5,
        -1.0,
        float("inf"),
        float("nan"),
        [],
        {},
        [[]],
    )
    if isinstance(value, dict | list | tuple) and value and rng.random() < 0.9:
        pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        at = rng.randrange(len(pairs))
        key, item = pairs[at]
        kind = rng.randrange(10)
        if kind == 0:
            del pairs[at]
        elif kind == 1:
            pairs.append((rng.choice(TEXTS) if isinstance(value, dict) else len(pairs), item))
        elif kind == 2:
            pairs[at] = key, rng.choice(pairs)[1]
        else:
            pairs[at] = key, twist(rng, item, others)
        if isinstance(value, dict):
            return dict(pairs)
        return type(value)([item for _, item in pairs]) if type(value) in (list, tuple) else value
    if isinstance(value, int | float) and rng.random() < 0.4:
        return rng.choice((value + 1, -value, value * 1000, float(value), str(value), [value]))
    if isinstance(value, str) and rng.random() < 0.4:
        return rng.choice(
            (value * 2, value[: len(value) // 2], value.upper(), [value], f"\n{value}")
        )
    return rng.choice(odd)


def main(words: list[str] | None = None) -> int:
    """Fuzz one target: 0 if nothing was found."""
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of computing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what was found (a temporary one)")
    args = parser.parse_args(words)
    keep = args.keep or Path(tempfile.mkdtemp(prefix="fuzz_"))
    (keep / "work").mkdir(parents=True, exist_ok=True)
    faulthandler.enable()
    signal.signal(signal.SIGPROF, _too_slow)
    count, findings = fuzz(TARGETS[args.target], keep / "work", args.seed, args.seconds)
    for i, (what, data) in enumerate(findings):
        (keep / f"{args.target}-{args.seed}-{i}").write_bytes(data)
        (keep / f"{args.target}-{args.seed}-{i}.txt").write_text(what)
    ends = sorted({finding.what.strip().splitlines()[-1][:150] for finding in findings})
    print(f"{args.target}: {count} files, {len(findings)} not refused in one line, see {keep}")
    print(f"peak {_peak() / 1e6:.0f} MB", *ends, sep="\n  ")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
