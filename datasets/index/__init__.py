"""Which members of the stores make a sample, and which split it belongs to."""

from datasets.index.samples import SampleTable, find_groups, find_samples
from datasets.index.templates import compile_template
