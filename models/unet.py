"""The network: a shared encoder, a decoder per group of outputs, a head per output."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.task import Output, UserError
from models.decoder import Decoder
from models.encoder import TimmEncoder, UNetEncoder
from models.heads import make_head

MAX_CHANNELS, MAX_DEPTH = 2**16, 32  # far beyond any network that can be trained


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes a network.

    outputs: by name, what it predicts; those that name the same decoder share it. encoder: "unet"
    or a timm name. width: channels of the finest scale; each of the `depth` poolings doubles them.
    centre: channels of the bottleneck, 0 means 2^depth * width. convs: convolutions per block of
    the encoder, the centre, the decoder. output_stride: image pixels along a side of a pixel of the
    decoder's last feature, a power of 2; predictions are enlarged from there. aux: whether dense
    outputs have heads on the coarser scales of their decoders too, for training alone.
    """

    outputs: dict[str, Output]
    encoder: str = "unet"
    width: int = 32
    depth: int = 4
    centre: int = 0
    convs: tuple[int, int, int] = (2, 2, 2)
    norm: str = "batch"
    dropout: float = 0.0
    output_stride: int = 1
    aux: bool = False

    def __post_init__(self) -> None:
        channels = max(self.width * 2 ** min(self.depth, MAX_DEPTH), self.centre)
        layers = (self.depth, *self.convs)
        if channels > MAX_CHANNELS or not 1 <= min(layers) <= max(layers) <= MAX_DEPTH:
            raise UserError(
                f"--width {self.width} --depth {self.depth} --centre {self.centre}, convs "
                f"{self.convs}: expected at most {MAX_CHANNELS} channels, {MAX_DEPTH} layers each"
            )

    def check_size(self, held: int) -> None:
        """UserError, before memory is taken for its weights, unless the bytes that a checkpoint
        holds are half of them: it may hold them in half precision."""
        with torch.device("meta"):
            claimed = sum(weight.nbytes for weight in UNet(self).parameters())
        if claimed > 2 * held:
            raise UserError(f"does not fit a network of {claimed} bytes: it has {held}")

    @staticmethod
    def of(outputs: Iterable[Output], **network: Any) -> "ModelSpec":
        """A network for these outputs; `network` are the other fields, by name."""
        return ModelSpec({output.name: output for output in outputs}, **network)

    def decoders(self, outputs: Iterable[str] | None = None) -> dict[str, list[str]]:
        """The dense outputs, all unless some are named, by the decoder that they share."""
        decoders: dict[str, list[str]] = {}
        for name in self.outputs if outputs is None else outputs:
            if self.outputs[name].per_image:
                continue
            decoders.setdefault(self.outputs[name].decoder, []).append(name)
        return decoders

    def to_json(self) -> dict[str, Any]:
        """Plain values of all but the outputs, which stand in their tasks, and what is for training
        alone."""
        values = asdict(self)
        del values["outputs"], values["aux"]
        return values

    @staticmethod
    def from_json(value: dict[str, Any], outputs: Iterable[Output]) -> "ModelSpec":
        """The spec that `to_json` wrote, for the same outputs."""
        return ModelSpec.of(outputs, **value | {"convs": tuple(value["convs"])})


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
        self.encoder: UNetEncoder | TimmEncoder
        if spec.encoder == "unet":
            self.encoder = UNetEncoder(
                spec.width, spec.depth, spec.convs[0], spec.norm, spec.dropout, spec.output_stride
            )
            centre = spec.centre or spec.width * 2**spec.depth
        else:
            self.encoder = TimmEncoder(spec.encoder, pretrained)
            centre = spec.centre
        self.stride = self.encoder.stride * (2 if centre else 1)  # divides every H and W inside
        self.decoders, self.heads, self.aux = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for output in spec.outputs.values():
            for name in {output.decoder, output.name}:
                if hasattr(nn.ModuleDict(), name) or not name or "." in name:
                    raise UserError(
                        f"output {output.name!r}: {name!r} cannot name part of a network"
                    )
            if output.per_image:
                self.heads[output.name] = make_head(self.encoder.channels[-1], output)
        for key, names in spec.decoders().items():
            decoder = Decoder(
                self.encoder.channels,
                width=spec.width,
                centre=centre,
                steps=self.encoder.finest.bit_length() - spec.output_stride.bit_length(),
                convs=spec.convs[1:],
                norm=spec.norm,
                dropout=spec.dropout,
                coarse=spec.aux,
            )
            self.decoders[key] = decoder
            for name in names:
                output = spec.outputs[name]
                last, *coarse = decoder.channels
                self.heads[name] = make_head(last, output, spec.output_stride)
                if decoder.coarse:
                    self.aux[name] = nn.ModuleList(make_head(num, output) for num in coarse)
        if spec.aux and not any(len(heads) for heads in self.aux.values()):  # type: ignore[arg-type]
            raise UserError("--aux: this network has no decoder with a coarser scale")
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.encoder, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, image: Tensor, outputs: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Image (N, 3, H, W) in [0, 1] -> predictions by output name, each (N, channels, H, W).

        Classes and masks are logits; depth is in (0, max_depth), in float32.
        outputs: the ones to compute; None means all. In training, a network with auxiliary heads
        adds `NAME@2` of half the size, `NAME@4` of a quarter, and so on, of its decoders' scales.
        """
        height, width = image.shape[-2:]
        if height % self.stride or width % self.stride:
            image = self.pad_to_stride(image)
        predictions = self.forward_padded(image, outputs)
        heads: Any = self.heads
        parts = {}
        for key, prediction in predictions.items():
            name, _, smaller = key.partition("@")
            scale = int(smaller or 1)
            rows, columns = slice(-(-height // scale)), slice(-(-width // scale))
            parts[key] = heads[name].part(prediction, rows, columns)
        return parts

    def forward_padded(
        self, image: Tensor, outputs: tuple[str, ...] | None = None
    ) -> dict[str, Tensor]:
        """As `forward`, for an image whose H and W the stride divides."""
        features = self.encoder(self.normalise(image))  # finest first
        chosen = self.spec.outputs if outputs is None else outputs
        per_image = [name for name in chosen if self.heads[name].per_image]
        predictions = {name: self.heads[name](features[-1]) for name in per_image}
        for decoder, names in self.spec.decoders(outputs).items():
            x, *coarse = self.decoders[decoder](features)  # (N, width, H, W)
            predictions |= {name: self.heads[name](x) for name in names}
            del x  # which recomputation does not keep
            for name in names if coarse else ():
                auxiliary: Any = self.aux[name]
                scale = self.spec.output_stride
                for head, feature in zip(auxiliary, coarse, strict=True):
                    scale *= 2
                    predictions[f"{name}@{scale}"] = head(feature)
        return {name: predictions.pop(name) for name in chosen} | predictions

    def normalise(self, image: Tensor) -> Tensor:
        """Image in [0, 1] -> what the encoder was made for."""
        return (image - self.mean) / self.std

    def pad_to_stride(self, image: Tensor) -> Tensor:
        """Repeat the last row and column until all poolings divide H and W evenly."""
        height, width = image.shape[-2:]
        stride = self.stride
        return F.pad(image, (0, -width % stride, 0, -height % stride), mode="replicate")

    def load_encoder(self, state: dict[str, Tensor]) -> None:
        """Take the encoder's weights from another network's state dict; its heads may differ."""
        prefix = "encoder."
        part = {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
        try:
            self.encoder.load_state_dict(part)
        except RuntimeError as error:
            raise UserError(f"encoder does not fit: {' '.join(str(error).split())[:200]}") from None
