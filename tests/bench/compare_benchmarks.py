"""Two saved benchmark runs -> a table of ratios: `compare_benchmarks.py A.json B.json`.

Files are those of `pytest tests/bench/bench_step.py --benchmark-only --benchmark-json=A.json`, or
of --benchmark-save below .benchmarks/. Says what changed; fails nothing.
"""

import json
import sys
from pathlib import Path

COLUMNS = "{:<62} {:>10} {:>10} {:>7} {:>10} {:>10} {:>7}"


def read(path: Path) -> dict[str, dict]:
    """Rows of a run by name: seconds, tracked peak bytes if it was measured, where it ran."""
    try:
        rows = json.loads(path.read_text())["benchmarks"]
        return {
            row["name"]: row["extra_info"] | {"seconds": row["stats"]["median"]} for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a saved benchmark run: {error!r}") from None


def compared(before: float | None, after: float | None, scale: float) -> list[str]:
    """Both numbers and how many times the first the second is."""
    if not before or not after:
        return ["-", "-", "-"]
    return [f"{before * scale:.1f}", f"{after * scale:.1f}", f"{after / before:.3f}"]


def main() -> int:
    """Print the table; 2 and one line if a file is none of ours."""
    if len(sys.argv) != 3:
        print("usage: python tests/bench/compare_benchmarks.py A.json B.json", file=sys.stderr)
        return 2
    try:
        a, b = (read(Path(name)) for name in sys.argv[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(COLUMNS.format("", "A ms", "B ms", "B/A", "A MiB", "B MiB", "B/A"))
    for name in [name for name in a if name in b]:
        old, new = a[name], b[name]
        time = compared(old["seconds"], new["seconds"], 1e3)
        memory = compared(old.get("tracked_bytes"), new.get("tracked_bytes"), 2**-20)
        print(COLUMNS.format(name, *time, *memory))
    for what in ("device", "torch", "threads", "cores"):
        places = [{str(row.get(what)) for row in run.values()} for run in (a, b)]
        if places[0] != places[1]:
            print(f"{what}: A {', '.join(places[0])}; B {', '.join(places[1])}")
    for one, other, letter in ((a, b, "A"), (b, a, "B")):
        alone = [name for name in one if name not in other]
        if alone:
            print(f"only in {letter}: {', '.join(alone)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
