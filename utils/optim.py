"""SGD or AdamW, and the schedule of its learning rate: a warm-up and five ways to come down."""

import math
from typing import Any

import torch
from torch import nn

from datasets.task import UserError
from utils.settings import OptimSettings


def make_optimizer(modules: list[nn.Module], settings: OptimSettings) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (betas `momentum` and 0.999), fused into one kernel per step.

    Weight decay leaves biases and norm parameters (everything of one dimension) alone.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr, momentum = settings.lr, settings.momentum
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=True)


def check_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """UserError unless the moments of `state`, which are to be loaded, are their parameters'.

    torch compares neither shapes nor types, and a fused step reads and writes beyond what is short.
    """
    adamw = isinstance(optimizer, torch.optim.AdamW)
    names = {"step", "exp_avg", "exp_avg_sq"} if adamw else {"momentum_buffer"}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(saved, parameters, strict=True):
        moments = state["state"].get(number, {})
        if moments and moments.keys() != names:
            known = ", ".join(map(str, moments))
            raise UserError(f"its optimizer has {known} of a parameter, expected {sorted(names)}")
        for name, moment in moments.items():
            shape = () if name == "step" else tuple(parameter.shape)
            layout = (tuple(moment.shape), moment.dtype) if torch.is_tensor(moment) else moment
            if layout != (shape, parameter.dtype):
                raise UserError(
                    f"its optimizer's {name} of parameter {number} is {layout}, "
                    f"expected {(shape, parameter.dtype)}"
                )


class Schedule:
    """Sets the optimiser's learning rate: a factor of the base rate, from 0 to 1, before each step.

    warmup: steps of quadratic rise. Then, over the steps that are left of `total`:
    `poly` (1 - t)^0.9 (DeepLab), `cosine` (Loshchilov 2017), `rsqrt` 1/sqrt of the steps since the
    warm-up began (Vaswani 2017), `constant`, or `plateau`: a tenth after `patience` + 1 evaluations
    without a better metric.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        shape: str,
        warmup: int,
        total: int,
        patience: int = 2,
    ) -> None:
        self.optimizer = optimizer
        self.shape, self.warmup, self.total, self.patience = shape, warmup, total, patience
        self.base: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.step, self.best, self.waited, self.plateau = 0, -math.inf, 0, 1.0
        self._apply()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def factor(self) -> float:
        """What the base learning rate is multiplied by at the present step."""
        if self.step < self.warmup:
            return ((self.step + 1) / self.warmup) ** 2
        past = min(1.0, (self.step - self.warmup) / max(1, self.total - self.warmup))
        return {
            "plateau": self.plateau,
            "poly": (1 - past) ** 0.9,
            "cosine": 0.5 * (1 + math.cos(math.pi * past)),
            "rsqrt": math.sqrt(max(1, self.warmup) / max(1, self.step)),
            "constant": 1.0,
        }[self.shape]

    def advance(self) -> None:
        """One optimiser step is done: set the rate of the next."""
        self.step += 1
        self._apply()

    def evaluated(self, metric: float) -> None:
        """Tell the plateau schedule a validation metric, higher is better."""
        if metric > self.best:
            self.best, self.waited = metric, 0
        else:
            self.waited += 1
            if self.waited > self.patience:
                self.plateau, self.waited = self.plateau * 0.1, 0
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the rest comes from its settings."""
        return {name: getattr(self, name) for name in ("step", "best", "waited", "plateau")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name in ("step", "best", "waited", "plateau"):
            setattr(self, name, state[name])
        self._apply()

    def _apply(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * self.factor()
