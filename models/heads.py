"""What turns features into predictions: a 1x1 convolution, enlarged, in the range of the kind.

`forward` gives what losses and metrics take, `to_labels` what a picture or a file shows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.task import Depth, Output


class Head(nn.Conv2d):
    """What all heads have: a 1x1 convolution with a channel for each number of the output.

    stride: image pixels along a side of a pixel of the features. From 2 on the convolution predicts
    2x2 parts of each such pixel (sub-pixel convolution, Shi et al. 2016), which begin alike;
    between these it interpolates.
    """

    bias: nn.Parameter

    def __init__(self, inputs: int, output: Output, stride: int = 1) -> None:
        parts = min(2, stride)
        super().__init__(inputs, output.channels * parts**2, 1)
        self.per_image, self.parts, self.zoom = output.per_image, parts, stride // parts

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, channels, stride h, stride w)"""
        y = super().forward(x)
        if self.parts > 1:
            y = F.pixel_shuffle(y, self.parts)
        if self.zoom > 1:
            y = F.interpolate(y, scale_factor=float(self.zoom), mode="bilinear")
        return y

    @torch.no_grad()
    def begin_alike(self) -> None:
        """Give the parts of a pixel the weights of the first one."""
        parts = self.parts**2
        self.weight.copy_(self.weight[::parts].repeat_interleave(parts, 0))

    def to_labels(self, prediction: Tensor) -> Tensor:
        """A prediction (N, channels, ...) -> what targets (N, ...) would say, as in `Batch`."""
        raise NotImplementedError

    def probabilities(self, prediction: Tensor) -> Tensor:
        """How likely each class is, (N, channels, ...) in [0, 1], of an output that has any."""
        raise NotImplementedError

    def shares(self, prediction: Tensor) -> Tensor:
        """As `probabilities`, of every class: of a foreground, the background's too."""
        return self.probabilities(prediction)

    def part(self, prediction: Tensor, rows: slice, columns: slice) -> Tensor:
        """What a prediction says of some rows and columns of its image."""
        return prediction if self.per_image else prediction[..., rows, columns]

    def mirrored(self, prediction: Tensor) -> Tensor:
        """What is said of an image -> what is to be said of the mirrored one."""
        return prediction if self.per_image else prediction.flip(-1)


class ClassHead(Head):
    """Logits of classes.

    Weights begin at full size, with both signs: out of next to nothing all of them follow the
    commonest label, and a mask from which features only subtract never says yes.
    """

    def __init__(self, inputs: int, output: Output, stride: int = 1) -> None:
        super().__init__(inputs, output, stride)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        nn.init.zeros_(self.bias)
        self.begin_alike()

    def to_labels(self, logits: Tensor) -> Tensor:
        """(N, classes, ...) -> class ids, uint8 (N, ...)"""
        logits = logits.contiguous()  # of whole planes it takes less time
        return _where_first(logits, logits.amax(1, keepdim=True))

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """As `to_labels`, and how likely that is to be so, float32 (N, ...) in [0, 1]."""
        logits = logits.float().contiguous()
        most = logits.amax(1, keepdim=True)
        share = (logits - most).exp_().sum(1).reciprocal_()  # softmax of the largest
        return _where_first(logits, most), share

    def probabilities(self, logits: Tensor) -> Tensor:
        """They sum to 1."""
        return logits.float().softmax(1)


def _where_first(logits: Tensor, most: Tensor) -> Tensor:
    """The first channel of (N, C, ...), of 255 at most, that is what `most` says, uint8 (N, ...):
    argmax, for which torch has no vectors on a CPU, in a third of its time."""
    num = logits.shape[1]
    ranks = torch.arange(num, 0, -1, dtype=torch.uint8, device=logits.device)
    ranks = ranks.view(-1, *[1] * (logits.dim() - 2))
    return num - ((logits == most) * ranks).amax(1)


class MaskHead(ClassHead):
    """The logit of a foreground."""

    def to_labels(self, logits: Tensor) -> Tensor:
        """(N, 1, H, W) -> 0 or 1, uint8 (N, H, W)"""
        return (logits[:, 0] > 0).to(torch.uint8)

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of both classes the likelier one."""
        return self.to_labels(logits), self.shares(logits).amax(1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the foreground."""
        return logits.float().sigmoid()

    def shares(self, prediction: Tensor) -> Tensor:
        """(N, 2, ...)"""
        foreground = self.probabilities(prediction)
        return torch.cat([1 - foreground, foreground], 1)


class DepthHead(Head):
    """Depth in (0, max_depth), in the output's unit. It begins as a flat map."""

    def __init__(self, inputs: int, output: Depth, stride: int = 1) -> None:
        super().__init__(inputs, output, stride)
        self.max_depth = output.max_depth
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> float32 (N, 1, H, W), also where autocast has half precision"""
        return self.max_depth * torch.sigmoid(super().forward(x).float())

    def to_labels(self, depth: Tensor) -> Tensor:
        """(N, 1, H, W) -> the depth, (N, H, W)"""
        return depth[:, 0]


class NormalsHead(Head):
    """Unit vectors. They begin near the camera's direction."""

    def __init__(self, inputs: int, output: Output, stride: int = 1) -> None:
        super().__init__(inputs, output, stride)
        nn.init.normal_(self.weight, std=0.01)
        with torch.no_grad():
            self.bias.copy_(torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(self.parts**2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> float32 (N, 3, H, W), also where autocast has half precision"""
        return self.to_labels(super().forward(x).float())

    def to_labels(self, normals: Tensor) -> Tensor:
        """(N, 3, H, W) of any length, as averages have -> unit vectors"""
        return F.normalize(normals, dim=1)

    def mirrored(self, normals: Tensor) -> Tensor:
        """Left and right change places, and so does x."""
        return normals.flip(-1) * normals.new_tensor([-1, 1, 1]).view(3, 1, 1)


class LabelHead(ClassHead):
    """Logits of the classes of a whole image, from the encoder's deepest feature."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, classes)"""
        return super().forward(x.mean((2, 3), keepdim=True)).flatten(1)


HEADS: dict[str, type[Head]] = {
    "classes": ClassHead,
    "mask": MaskHead,
    "depth": DepthHead,
    "normals": NormalsHead,
    "label": LabelHead,
}


def make_head(inputs: int, output: Output, stride: int = 1) -> Head:
    """The head of this output, on features of `inputs` channels at 1/stride of the image's size."""
    return HEADS[output.kind](inputs, output, stride)
