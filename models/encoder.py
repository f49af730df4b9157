"""The contracting path of a U-Net: our own, or any encoder of timm.

Image -> features: one tensor per scale, finest first, each half the size of the one before.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from datasets.task import UserError

NORMS = ("batch", "group", "none")


def conv3x3(inputs: int, channels: int, norm: str) -> nn.Conv2d:
    """Size unchanged; a bias only where no norm follows, which would take it out again."""
    return nn.Conv2d(inputs, channels, 3, padding=1, bias=norm == "none")


def activation(norm: str, channels: int) -> list[nn.Module]:
    """What follows a convolution: norm and ReLU.

    norm: "batch", "group" with groups of at least eight channels, or "none".
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels), nn.ReLU()]
    if norm == "group":
        groups = max(g for g in range(1, max(1, channels // 8) + 1) if channels % g == 0)
        return [nn.GroupNorm(groups, channels), nn.ReLU()]
    if norm == "none":
        return [nn.ReLU()]
    raise UserError(f"norm {norm!r}: expected one of {', '.join(NORMS)}")


class Block(nn.Sequential):
    """Convolutions, each with norm and ReLU behind it. The first layer takes all inputs: in a
    decoder the deeper feature and a skip."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Any inputs that the first layer takes -> (N, channels, H, W)"""
        first, *others = self
        x = first(*inputs)
        for layer in others:
            x = layer(x)
        return x


def conv_block(
    first: Sequence[nn.Module], channels: int, convs: int, norm: str, dropout: float
) -> Block:
    """A block of `convs` convolutions to `channels`; `first` are the layers up to the first one,
    with it. Dropout, of whole channels, ends it."""
    layers = [*first, *activation(norm, channels)]
    for _ in range(convs - 1):
        layers += [conv3x3(channels, channels, norm), *activation(norm, channels)]
    if dropout:
        layers.append(nn.Dropout2d(dropout))
    return Block(*layers)


def initialise(module: nn.Module) -> None:
    """He 2015 for a convolution; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(  # torch takes the outputs of a transposed one for inputs
            module.weight, mode="fan_in" if module.transposed else "fan_out", nonlinearity="relu"
        )
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class UNetEncoder(nn.Module):
    """The contracting path of Ronneberger 2015: blocks of `width`, 2 `width`, ... channels, 2x2
    max pooling between them.

    stem: image pixels along a side of a pixel of the finest feature. Above 1, every square of
    stem x stem pixels is one pixel of 3 stem^2 channels before the first convolution.

    channels: of each feature, finest first. finest: the stride of the first, stride: of the last.
    """

    def __init__(
        self, width: int, depth: int, convs: int, norm: str, dropout: float, stem: int = 1
    ) -> None:
        super().__init__()
        self.channels = [width * 2**i for i in range(depth)]
        self.finest, self.stride = stem, stem * 2 ** (depth - 1)
        self.mean, self.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        self.blocks = nn.ModuleList()
        for inputs, channels in pairwise([3 * stem**2, *self.channels]):
            smaller: list[nn.Module] = [nn.MaxPool2d(2)] if self.blocks else []
            if stem > 1 and not self.blocks:
                smaller = [nn.PixelUnshuffle(stem)]
            first = [*smaller, conv3x3(inputs, channels, norm)]
            self.blocks.append(conv_block(first, channels, convs, norm, dropout))
        self.apply(initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) -> `depth` features, each half the size of the last."""
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


class TimmEncoder(nn.Module):
    """Any convolutional encoder of the timm package that offers features of size 1/2, 1/4, ... or
    1/4, 1/8, ... of the image; attributes as of `UNetEncoder`.

    pretrained: False (random), True (weights from timm's hub) or the path of a state dict on disk.
    """

    def __init__(self, name: str, pretrained: bool | str) -> None:
        super().__init__()
        import timm  # heavy, and only for those who ask for it

        if not name.replace(".", "").isidentifier():  # timm fetches those of other forms
            raise UserError(f"encoder {name!r}: expected unet or the name of a timm network")
        try:
            self.net = timm.create_model(name, pretrained=pretrained is True, features_only=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"encoder {name!r}: timm says: {str(error).splitlines()[0]}") from None
        info: Any = self.net.feature_info
        strides = info.reduction()
        if strides != [strides[0] * 2**i for i in range(len(strides))]:
            raise UserError(f"encoder {name!r}: feature strides {strides}, expected to double")
        if isinstance(pretrained, str):
            _load_weights(self.net, name, pretrained)
        self.channels = info.channels()
        self.finest, self.stride = strides[0], strides[-1]
        source = timm.get_pretrained_cfg(name)
        self.mean = tuple(source.mean) if source else (0.485, 0.456, 0.406)
        self.std = tuple(source.std) if source else (0.229, 0.224, 0.225)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised image (N, 3, H, W) -> features, each half the size of the last."""
        return self.net(x)


def _load_weights(net: nn.Module, name: str, path: str) -> None:
    """Load a state dict file: by the tensors' names, or in their order where no name is known.

    timm writes "stages_0" for "stages.0" where it takes a network apart: both are one name. A
    classifier's tensors may be there too. UserError names the first tensor that is missing or of
    another shape.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        source = {key: value for key, value in loaded.items() if torch.is_tensor(value)}
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a state dict: {reason}") from None
    own = net.state_dict()
    names = {key.replace("_", "."): key for key in source}
    pairs = {key: names.get(key.replace("_", ".")) for key in own}
    if not any(pairs.values()):
        if len(source) < len(own):
            raise UserError(f"{path}: {len(source)} tensors, encoder {name} has {len(own)}")
        pairs = dict(zip(own, source, strict=False))
    for key, other in pairs.items():
        if other is None and not key.endswith("num_batches_tracked"):  # older files have none
            raise UserError(f"{path}: has no {key}, which encoder {name} expects")
        if other is not None and source[other].shape != own[key].shape:
            raise UserError(
                f"{path}: {other} is {tuple(source[other].shape)}, encoder {name} expects "
                f"{tuple(own[key].shape)} at {key}"
            )
    net.load_state_dict(own | {key: source[other] for key, other in pairs.items() if other})
