"""A decoder's features -> one output: a 1x1 convolution for each kind of output, in its range.

`forward` gives what losses and metrics take, `to_labels` what a picture or a file shows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datasets.task import Output


class ClassHead(nn.Conv2d):
    """Logits of classes.

    Weights begin at full size, with both signs: out of next to nothing all of them follow the
    commonest label, and a mask from which features only subtract never says yes.
    """

    def __init__(self, inputs: int, output: Output) -> None:
        super().__init__(inputs, output.channels, 1)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        nn.init.zeros_(self.bias)

    def to_labels(self, logits: Tensor) -> Tensor:
        """(N, classes, H, W) -> class ids, uint8 (N, H, W)"""
        return logits.argmax(1).to(torch.uint8)


class MaskHead(ClassHead):
    """The logit of a foreground."""

    def to_labels(self, logits: Tensor) -> Tensor:
        """(N, 1, H, W) -> 0 or 1, uint8 (N, H, W)"""
        return (logits[:, 0] > 0).to(torch.uint8)


class DepthHead(nn.Conv2d):
    """Depth in (0, max_depth), in the output's unit. It begins as a flat map."""

    def __init__(self, inputs: int, output: Output) -> None:
        super().__init__(inputs, output.channels, 1)
        self.max_depth = output.max_depth
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> float32 (N, 1, H, W), also where autocast has half precision"""
        return self.max_depth * torch.sigmoid(super().forward(x).float())

    def to_labels(self, depth: Tensor) -> Tensor:
        """(N, 1, H, W) -> the depth, (N, H, W)"""
        return depth[:, 0]


HEADS = {"classes": ClassHead, "mask": MaskHead, "depth": DepthHead}
