"""The lines that a person reads in the terminal."""


def postfix(line: dict[str, float]) -> str:
    """The end of the progress bar."""
    return (
        f"loss {line['loss']:.3f}, {line['images_per_second']:.1f} images/s, "
        f"{line['memory_gib']:.1f} GiB"
    )


def evaluation(
    where: str, line: dict[str, float], scores: dict[str, float], best: list[str]
) -> str:
    """One line: losses, the metrics that pick the best beside their baselines, speed."""
    parts = [f"{where}: loss {line['loss']:.3f}, val {scores['loss']:.3f}"]
    for metric in best:
        baseline = scores.get(baseline_of(metric))
        beside = "" if baseline is None else f" (constant {baseline:.3f})"
        parts.append(f"{metric} {scores[metric]:.3f}{beside}")
    parts.append(f"{line['images_per_second']:.1f} images/s")
    parts.append(f"{line['waiting']:.0%} waiting for data")
    return ", ".join(parts)


def baseline_of(metric: str) -> str:
    """ "damage/miou" -> "damage/baseline_miou": the score of a constant answer."""
    return "/baseline_".join(metric.split("/", 1))


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as columns: the first set to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        lines.append("  ".join([name.ljust(first), *right]).rstrip())
    return "\n".join(lines)


def best(metric: str, scores: dict[str, float], step: int) -> str:
    """The score that a run is known by, and that of a constant answer."""
    baseline = scores.get(baseline_of(metric))
    beside = "" if baseline is None else f"; the best constant answer: {baseline:.4f}"
    return f"best {metric} {scores[metric]:.4f} at step {step}{beside}"
