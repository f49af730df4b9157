"""Which members of the stores make a sample, and which split it belongs to."""

from datasets.index.samples import SampleTable, find_groups, find_samples
from datasets.index.splits import Divider, choose, divider
from datasets.index.templates import compile_lines, compile_template, fill_template

__all__ = [
    "Divider",
    "SampleTable",
    "choose",
    "compile_lines",
    "compile_template",
    "divider",
    "fill_template",
    "find_groups",
    "find_samples",
]
