"""The loss of a whole network: which terms each output has, and how they are weighed."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from datasets.task import Output, UserError
from losses import class_sums, depth, lovasz, normals, segmentation
from losses.class_sums import FUSED, class_terms
from losses.weighting import WEIGHTINGS, History

NOTHING: Mapping[str, Any] = MappingProxyType({})

# kind -> term -> function of (prediction, target); those of balanced kinds take class weights too,
# a Tensor or None
TERMS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "classes": {**FUSED, "ohem": class_sums.ohem, "lovasz": lovasz.lovasz_softmax},
    "mask": {
        "bce": segmentation.bce,
        "dice": segmentation.dice,
        "focal": segmentation.focal,
        "tversky": segmentation.tversky,
        "focal_tversky": segmentation.focal_tversky,
        "ohem": segmentation.ohem,
        "lovasz": lovasz.lovasz_hinge,
    },
    "depth": {"l1": depth.l1, "silog": depth.silog, "grad": depth.grad, "bce": depth.bce},
    "normals": {"cosine": normals.cosine, "l1": normals.l1},
    "label": {name: FUSED[name] for name in ("ce", "smooth", "focal")},
}
LOG_VARIANCE_LIMIT = 6.0  # an uncertain output's loss is scaled by exp(-6) to exp(6), about 400


def parse_terms(kind: str, text: str) -> list[tuple[str, float]]:
    """`l1+2*grad` -> [("l1", 1.0), ("grad", 2.0)]; UserError names the term that does not fit."""
    terms: list[tuple[str, float]] = []
    for item in text.split("+"):
        factor, _, name = item.rpartition("*")
        name = name.strip()
        if name not in TERMS[kind]:
            known = ", ".join(TERMS[kind])
            raise UserError(
                f"loss {text!r}: no term {name!r} for kind {kind}, expected one of {known}"
            )
        if name in dict(terms):
            raise UserError(f"loss {text!r}: term {name!r} is given twice")
        terms.append((name, _factor(factor, text) if "*" in item else 1.0))
    return terms


def _factor(number: str, text: str) -> float:
    """The number before a `*`, positive and finite."""
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UserError(f"loss {text!r}: factor {number.strip()!r}, expected a positive number")
    return factor


class OutputLoss(nn.Module):
    """The loss of one output: its own terms and weight, unless others are given.

    class_weights: one per class, for balanced kinds only.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        output: Output,
        terms: str | None = None,
        weight: float | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        assert class_weights is None or output.balanced
        kind = output.kind
        self.functions, self.balanced = TERMS[kind], output.balanced
        self.terms = parse_terms(kind, output.loss if terms is None else terms)
        self.weight = output.weight if weight is None else weight
        weights = None if class_weights is None else torch.tensor(class_weights)
        # Not persistent: a setting, known again whenever the criterion is built.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, and each term as it is, detached. Scalars in float32."""
        functions = {name: self.functions[name] for name, _ in self.terms}
        fused = [name for name, function in functions.items() if FUSED.get(name) is function]
        values = class_terms(prediction, target, fused, self.class_weights) if fused else {}
        more = (self.class_weights,) if self.balanced else ()
        for name, function in functions.items():
            if name not in values:
                values[name] = function(prediction, target, *more)
        scaled = (self.weight * factor * values[name] for name, factor in self.terms)
        loss = reduce(add, scaled)
        return loss, {name: values[name].detach() for name in functions}


def at_scale(target: Tensor, scale: int) -> Tensor:
    """A target (N, ..., H, W) as a prediction `scale` times smaller, rounded up, is to say it: the
    pixels in the middle of each `scale` x `scale` of them."""
    rows, columns = (
        torch.arange(scale // 2, size + scale // 2, scale, device=target.device).clamp(max=size - 1)
        for size in target.shape[-2:]
    )
    return target.index_select(-2, rows).index_select(-1, columns)


class Criterion(nn.Module):
    """Sum of the outputs' losses, by fixed weights, by learned ones, or by those of `WEIGHTINGS`.

    aux: share of the loss of the finest auxiliary prediction, `NAME@2` beside `NAME`; it halves
    from scale to scale (deep supervision, Lee et al. 2015, by the weights of nnU-Net, Isensee et
    al. 2021). Their targets are the full ones with as few pixels: a third of the full loss's work
    for all of them. What they add to an output's loss is its term `aux`.

    With uncertainty, an output of loss L adds exp(-s) L + s / 2 to the total, s being its learned
    log variance (Kendall et al. 2018, the form for cross entropy; the 1/2 before a regression's L
    is a constant that s absorbs). Without, s stays 0 and the total is the plain sum. A parameter p
    means s = 6 tanh(p / 6), so that s stays bounded as L goes to 0. An output without a labelled
    pixel has L = 0 and moves neither the network nor s.

    history: what a rule of `WEIGHTINGS` goes by, None without one. An output that a batch has no
    label of takes part with its latest loss. Ranks go by what the main one saw.
    """

    history: History | None

    def __init__(
        self, losses: Mapping[str, OutputLoss], weighting: str = "", aux: float = 0.0
    ) -> None:
        super().__init__()
        self.aux, self.rule = aux, WEIGHTINGS.get(weighting)
        self.history = None if self.rule is None else History(len(losses))
        self.losses = losses  # by output name
        self.outputs = nn.ModuleList(losses.values())
        make = nn.Parameter if weighting == "uncertainty" else nn.Buffer
        self.log_variances = make(torch.zeros(len(losses)))  # one per output, in their order

    @staticmethod
    def of(
        outputs: Sequence[Output],
        *,
        losses: Mapping[str, str] = NOTHING,
        weights: Mapping[str, float] | str = NOTHING,
        class_weights: Mapping[str, Sequence[float]] = NOTHING,
        aux: float = 0.0,
    ) -> "Criterion":
        """The loss of these outputs. By output name: terms and weights in place of an output's own,
        and class weights. weights may be "uncertainty" or a name of `WEIGHTINGS` instead. UserError
        names a term that does not fit."""
        fixed = NOTHING if isinstance(weights, str) else weights
        return Criterion(
            {
                o.name: OutputLoss(
                    o, losses.get(o.name), fixed.get(o.name), class_weights.get(o.name)
                )
                for o in outputs
            },
            weights if isinstance(weights, str) else "",
            aux,
        )

    def forward(
        self, predictions: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Score the outputs that have a target: a batch of one task has that task's targets only.

        Returns the total, a float32 scalar, and detached scalars on the device: `loss`, the sum of
        the outputs' losses before they are weighed against each other, and every `OUTPUT/TERM`,
        before any weight. Autocast is off inside: on CUDA it refuses `binary_cross_entropy`.
        """
        losses = [*self.log_variances.new_zeros(len(self.losses))]
        logged: dict[str, Tensor] = {}
        with torch.autocast(self.log_variances.device.type, enabled=False):
            for number, (name, output) in enumerate(self.losses.items()):
                if name not in targets:
                    continue
                loss, values = output(predictions[name], targets[name])
                coarse = [key for key in predictions if key.startswith(f"{name}@")]
                for i, key in enumerate(coarse):  # finest first
                    target = at_scale(targets[name], int(key.removeprefix(f"{name}@")))
                    auxiliary = self.aux / 2**i * output(predictions[key], target)[0]
                    loss = loss + auxiliary
                    values["aux"] = values.get("aux", 0) + auxiliary.detach()
                losses[number] = loss
                logged |= {f"{name}/{term}": value for term, value in values.items()}
            total = self._weighed(torch.stack(losses))
        return total, {"loss": torch.stack(losses).sum().detach(), **logged}

    def end_epoch(self) -> None:
        """An epoch is over, for weights that go by epochs."""
        if self.history is not None:
            self.history.end_epoch()

    def _weighed(self, losses: Tensor) -> Tensor:
        """The total of the outputs' losses (K,), 0 where there is none."""
        if self.rule is None or self.history is None:
            s = LOG_VARIANCE_LIMIT * torch.tanh(self.log_variances / LOG_VARIANCE_LIMIT)
            return (torch.exp(-s) * losses + torch.where(losses > 0, s / 2, 0)).sum()
        now = losses.detach()
        weights = self.rule(torch.where(now > 0, now, self.history.latest), self.history)
        if torch.is_grad_enabled():  # else it is an evaluation
            self.history.add(now)
        return weights @ losses
