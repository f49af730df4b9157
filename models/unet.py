"""Image -> predictions: a shared encoder, a decoder per group of outputs, a head per output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.task import UserError
from models.decoder import Decoder
from models.encoder import TimmEncoder, UNetEncoder, activation
from models.layers import forked
from models.recompute import Stage


class HeadSpec(NamedTuple):
    """What one output asks of the network.

    kind: "classes" (logits, one channel per class), "mask" (one logit) or "depth" (the depth
    itself).
    decoder: heads that name the same decoder share it. max_depth: the largest depth the head can
    say.
    """

    kind: str
    channels: int
    decoder: str
    max_depth: float = 1.0


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes a network; plain values, so that a checkpoint can hold them.

    heads: by output name. encoder: "unet" or a timm name. width: channels of the finest scale;
    each of the `depth` poolings doubles them. centre: channels at the bottom, 0 means 2^depth *
    width.
    convs: convolutions per block of the encoder, the centre, the decoder.
    """

    heads: dict[str, HeadSpec]
    encoder: str = "unet"
    width: int = 32
    depth: int = 4
    centre: int = 0
    convs: tuple[int, int, int] = (2, 2, 2)
    norm: str = "batch"
    dropout: float = 0.0

    def decoders(self, outputs: Sequence[str] | None = None) -> dict[str, tuple[str, ...]]:
        """The outputs, all unless some are named, by the decoder that they share."""
        found = {}
        for name in self.heads if outputs is None else outputs:
            found.setdefault(self.heads[name].decoder, []).append(name)
        return {decoder: tuple(names) for decoder, names in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values that `ModelSpec.from_json` turns into an equal spec."""
        return asdict(self) | {"heads": {name: list(head) for name, head in self.heads.items()}}

    @staticmethod
    def from_json(value: dict[str, Any]) -> ModelSpec:
        """The spec that `to_json` wrote."""
        heads = {name: HeadSpec(*head) for name, head in value["heads"].items()}
        return ModelSpec(**{**value, "heads": heads, "convs": tuple(value["convs"])})


class Heads(nn.ModuleDict):
    """A 1x1 convolution for every output of a decoder."""

    def forward(self, x: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """(N, inputs, H, W) -> by output name (N, channels, H, W)"""
        return {name: self[name](x) for name in names}


class UNet(nn.Module):
    """One encoder, many heads. Takes images of any H and W: it pads inside and crops its
    predictions.

    `pretrained` weights are for timm encoders: True, or the path of a state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, pretrained: bool | str = False) -> None:
        super().__init__()
        self.spec = spec
        if spec.encoder == "unet":
            self.encoder = UNetEncoder(
                spec.width, spec.depth, spec.convs[0], spec.norm, spec.dropout
            )
            centre = spec.centre or spec.width * 2**spec.depth
        else:
            self.encoder = TimmEncoder(spec.encoder, pretrained)
            centre = spec.centre
        self.stride = self.encoder.stride * (2 if centre else 1)  # divides every H and W inside
        self.decoders = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for name, head in spec.heads.items():
            for key in {name, head.decoder}:
                if hasattr(nn.ModuleDict(), key) or not key or "." in key:
                    raise UserError(f"output {name!r}: {key!r} cannot name a part of a network")
        for key, heads in spec.decoders().items():
            decoder = Decoder(
                self.encoder.channels,
                width=spec.width,
                centre=centre,
                doublings=self.encoder.doublings,
                convs=spec.convs[1:],
                norm=spec.norm,
                dropout=spec.dropout,
            )
            before = activation(spec.norm, decoder.channels, spec.dropout)
            convs = {n: nn.Conv2d(decoder.channels, spec.heads[n].channels, 1) for n in heads}
            self.decoders[key] = decoder
            self.heads[key] = Stage(*before, Heads(convs))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.encoder, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self._initialise()

    def forward(self, image: Tensor, outputs: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Image (N, 3, H, W) in [0, 1] -> predictions by output name, each (N, channels, H, W).

        Classes and masks are logits; depth is in (0, max_depth), in float32.
        outputs: the ones to compute; None means all.
        """
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            image = self.padded(image)
        predictions = self.whole(image, outputs)
        return {name: found[..., :height, :width] for name, found in predictions.items()}

    def padded(self, image: Tensor) -> Tensor:
        """Repeat the last row and column until all poolings divide H and W evenly."""
        height, width = image.shape[-2:]
        stride = self.stride
        return F.pad(image, (0, -width % stride, 0, -height % stride), mode="replicate")

    def whole(self, image: Tensor, outputs: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """As `forward`, for an image whose H and W the stride divides."""
        decoders = self.spec.decoders(outputs)
        features = self.encoder((image - self.mean) / self.std)
        copies = zip(*(forked(feature, len(decoders)) for feature in features), strict=True)
        raw = {}
        for (decoder, names), skips in zip(decoders.items(), copies, strict=True):
            raw |= self.heads[decoder](self.decoders[decoder](skips), names)
        return {name: self._in_range(name, raw[name]) for name in outputs or self.spec.heads}

    def _in_range(self, name: str, found: Tensor) -> Tensor:
        """Depths from what a head says; logits as they are."""
        head = self.spec.heads[name]
        if head.kind != "depth":
            return found
        return head.max_depth * torch.sigmoid(found.float())

    def decided(self, name: str, prediction: Tensor) -> Tensor:
        """Prediction (N, C, H, W) -> (N, H, W): uint8 class id, uint8 0 or 1, or the depth."""
        kind = self.spec.heads[name].kind
        if kind == "classes":
            return prediction.argmax(1).to(torch.uint8)
        if kind == "mask":
            return (prediction[:, 0] > 0).to(torch.uint8)
        return prediction[:, 0]

    def load_encoder(self, state: dict[str, Tensor]) -> None:
        """Take the encoder's weights from another network's state dict; its heads may differ."""
        prefix = "encoder."
        part = {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
        try:
            self.encoder.load_state_dict(part)
        except RuntimeError as error:
            raise UserError(f"encoder does not fit: {' '.join(str(error).split())[:200]}") from None

    def _initialise(self) -> None:
        """He 2015 for our own convolutions; a timm encoder has its own.

        Weights of a head begin at full size, with both signs: out of next to nothing all of them
        follow the commonest label, and a mask from which features only subtract never says yes.
        A depth begins as a flat map.
        """
        own = [self.decoders, self.heads]
        if self.spec.encoder == "unet":
            own.append(self.encoder)
        for part in own:
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    fan = "fan_in" if module.transposed else "fan_out"  # torch takes it for inputs
                    nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        for *_, convs in self.heads.values():
            for name, conv in convs.items():
                if self.spec.heads[name].kind == "depth":
                    nn.init.normal_(conv.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
