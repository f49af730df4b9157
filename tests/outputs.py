"""Outputs of every kind, two of them with one decoder, for networks of tests."""

from datasets.task import Classes, Depth, Mask

PARTS = Classes("parts", "", decoder="seg", classes=("a", "b", "c"))
EDGE = Mask("edge", "", decoder="seg")
NEAR = Depth("near", "", max_depth=5.0)
OUTPUTS = (PARTS, EDGE, NEAR)
