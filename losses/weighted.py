"""Predictions and targets by output name go in, one total and its named terms come out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datasets.task import UserError
from losses import depth, segmentation
from losses.segmentation import class_terms

# kind -> term -> function of (prediction, target); ce and focal also take class weights
TERMS = {
    "classes": {
        "ce": segmentation.cross_entropy,
        "dice": segmentation.dice,
        "focal": segmentation.focal,
    },
    "mask": {
        "bce": segmentation.bce,
        "dice": segmentation.dice,
        "focal": segmentation.focal,
    },
    "depth": {
        "l1": depth.l1,
        "silog": depth.silog,
        "grad": depth.grad,
        "bce": depth.bce,
    },
}
LOG_VARIANCE_LIMIT = 6.0  # an uncertain output's loss is scaled by exp(-6) to exp(6), about 400


class LossSpec(NamedTuple):
    """How one output is scored.

    kind: "classes", "mask" or "depth". terms: such as `ce+dice` or `l1+2*grad`. weight: share of
    the total. class_weights: one per class, for kind "classes" only; Dice does not use them.
    """

    kind: str
    terms: str
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None


def parse_terms(kind: str, text: str) -> list[tuple[str, float]]:
    """`l1+2*grad` -> [("l1", 1.0), ("grad", 2.0)]; UserError names the term that does not fit."""
    terms = []
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
    """The loss of one output."""

    def __init__(self, spec: LossSpec) -> None:
        super().__init__()
        assert spec.class_weights is None or spec.kind == "classes"
        self.kind = spec.kind
        self.terms = parse_terms(spec.kind, spec.terms)
        self.weight = spec.weight
        weights = None if spec.class_weights is None else torch.tensor(spec.class_weights)
        # Not persistent: a setting, known again whenever the criterion is built.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the terms, and each term as it is, detached. Scalars in float32."""
        names = [name for name, _ in self.terms]
        if self.kind == "classes":
            found = class_terms(prediction, target, names, self.class_weights)
        else:
            found = {name: TERMS[self.kind][name](prediction, target) for name in names}
        loss = sum(self.weight * factor * found[name] for name, factor in self.terms)
        return loss, {name: value.detach() for name, value in found.items()}


class Criterion(nn.Module):
    """Sum of the outputs' losses, by fixed or by learned weights.

    With uncertainty, an output of loss L adds exp(-s) L + s / 2 to the total, s being its learned
    log variance (Kendall et al. 2018, the form for cross entropy; the 1/2 before a regression's L
    is a constant that s absorbs). Without, s stays 0 and the total is the plain sum. A parameter p
    means s = 6 tanh(p / 6), so that s stays bounded as L goes to 0. An output without a labelled
    pixel has L = 0 and moves neither the network nor s.
    """

    def __init__(self, specs: dict[str, LossSpec], uncertainty: bool = False) -> None:
        super().__init__()
        self.names = list(specs)
        self.outputs = nn.ModuleList(OutputLoss(spec) for spec in specs.values())
        make = nn.Parameter if uncertainty else nn.Buffer
        self.log_variances = make(torch.zeros(len(specs)))  # one per output, in the order of specs

    def forward(
        self, predictions: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Score the outputs that have a target: a batch of one task has that task's targets only.

        Returns the total, a float32 scalar, and detached scalars on the device: `loss` (the total)
        and every `OUTPUT/TERM`, before any weight. Autocast is off inside: on CUDA it refuses
        `binary_cross_entropy`.
        """
        limit = LOG_VARIANCE_LIMIT
        total = self.log_variances.new_zeros(())
        logged = {}
        with torch.autocast(total.device.type, enabled=False):
            log_variances = limit * torch.tanh(self.log_variances / limit)
            for name, output, s in zip(self.names, self.outputs, log_variances, strict=True):
                if name not in targets:
                    continue
                loss, values = output(predictions[name], targets[name])
                total = total + torch.exp(-s) * loss + torch.where(loss > 0, s / 2, 0)
                logged |= {f"{name}/{term}": value for term, value in values.items()}
        return total, {"loss": total.detach(), **logged}
