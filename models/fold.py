"""Makes a trained network faster for prediction: batch norms become part of convolutions.

In training a batch norm follows the batch. Afterwards it only scales and shifts each channel, and a
convolution does that on the way:

    norm(conv(x)) = scale (w * x) + shift = (scale w) * x + shift
"""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn

from models.decoder import JoinConv
from models.encoder import Block
from models.unet import UNet


@torch.no_grad()
def fold_norms(model: UNet) -> UNet:
    """A copy, for prediction alone, that says the same up to rounding: of its own blocks, not of a
    timm encoder, convolutions have taken batch norms in, and ReLUs overwrite what they are given.
    """
    model = deepcopy(model).eval()
    for block in [each for each in model.modules() if isinstance(each, Block)]:
        for (_, layer), (name, follower) in pairwise([*block.named_children()]):
            if type(follower) is nn.BatchNorm2d:
                _take_in(layer, follower)
                setattr(block, name, nn.Identity())
            elif type(follower) is nn.ReLU:
                follower.inplace = True
    return model


def _take_in(layer: nn.Module, norm: nn.BatchNorm2d) -> None:
    """The layer, a convolution without a bias or a sum of two, then does what the norm did."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    parts = [layer.deep, layer.skip] if isinstance(layer, JoinConv) else [layer]
    for conv in parts:
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        conv.weight *= scale[:, None, None] if conv.transposed else scale[:, None, None, None]
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
