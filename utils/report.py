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
    output, _, name = metric.partition("/")
    return f"{output}/baseline_{name}"


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as columns: the first set to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def class_table(name: str, scores: list) -> str:
    """Per class: IoU, F1, precision, recall and share of the pixels, in per cent."""
    rows: list[tuple[str, ...]] = [(name, "IoU", "F1", "precision", "recall", "share")]
    for score in scores:
        values = (score.iou, score.f1, score.precision, score.recall, score.share)
        rows.append((score.name, *("-" if v != v else f"{100 * v:.2f}" for v in values)))
    return table(rows)


def best(metric: str, scores: dict[str, float], step: int) -> str:
    """The score that a run is known by, and that of a constant answer."""
    baseline = scores.get(baseline_of(metric))
    beside = "" if baseline is None else f"; the best constant answer: {baseline:.4f}"
    return f"best {metric} {scores[metric]:.4f} at step {step}{beside}"
