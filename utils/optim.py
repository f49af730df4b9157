"""SGD, AdamW or Muon, and the schedule of the learning rate: a warm-up, five ways to come down."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datasets.task import UserError
from utils.settings import OptimSettings


def make_optimizer(modules: list[nn.Module], settings: OptimSettings) -> torch.optim.Optimizer:
    """SGD with momentum, AdamW (betas `momentum` and 0.999), fused into one kernel per step, or
    `Muon`.

    Weight decay leaves biases and norm parameters (everything of one dimension) alone. Parameters
    of an `encoder` have `encoder_lr` times the learning rate. A step does nothing where the
    optimiser's `found_inf`, a tensor on the device, is 1.
    """
    lr, momentum = settings.lr, settings.momentum
    filters = hidden_filters(modules[0]) if settings.optimizer == "muon" else {}
    parts: dict[tuple[bool, str, bool], list[nn.Parameter]] = {}
    for name, parameter in [pair for module in modules for pair in module.named_parameters()]:
        own_lr = name.startswith("encoder.") and settings.encoder_lr != 1
        key = own_lr, filters.get(name, ""), parameter.ndim <= 1
        parts.setdefault(key, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for own_lr, kind, small in sorted(parts):
        decay = 0.0 if small else settings.weight_decay
        group = {"params": parts[own_lr, kind, small], "weight_decay": decay}
        group["lr"] = lr * settings.encoder_lr if own_lr else lr
        groups.append(group | ({"filters": kind} if settings.optimizer == "muon" else {}))
    if settings.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
        if momentum:  # a first step that does nothing would leave its own as they were allocated
            every = [p for group in groups for p in group["params"]]
            sgd.state |= {p: {"momentum_buffer": torch.zeros_like(p)} for p in every}
        return sgd
    adaptive = Muon if settings.optimizer == "muon" else torch.optim.AdamW
    return adaptive(groups, lr=lr, betas=(momentum, 0.999), fused=True)


def hidden_filters(model: nn.Module) -> dict[str, str]:
    """Names of the weights of convolutions from features to features, and whether one is "plain" or
    "transposed". All but the first convolution, the heads, and those of a channel each."""
    convs = [
        (name, conv)
        for name, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    ]
    return {
        f"{name}.weight": "transposed" if conv.transposed else "plain"
        for name, conv in convs[1:]
        if conv.groups == 1 and not name.startswith(("heads.", "aux."))
    }


class Muon(torch.optim.AdamW):
    """Muon for the filters of hidden convolutions, AdamW for everything else.

    A filter W, seen as a matrix (outputs, inputs k k), with the gradient G and momentum m moves by

        M <- m M + (1 - m) G
        W <- (1 - lr decay) W - 0.2 lr sqrt(max(rows, columns)) O(m M + (1 - m) G)

    O gives a matrix of the same directions with all singular values about 1, so that no direction
    of a filter waits for another (Jordan et al. 2024, "Muon: an optimizer for hidden layers", where
    filters are seen so too; Nesterov's momentum as there). The factor, of Liu et al. 2025 ("Muon is
    scalable for LLM training"), makes a step as long as AdamW's usually is, so that both have use
    for the same learning rate and decay. One moment is kept of a filter, where AdamW keeps two.

    Groups of `filters` "plain" or "transposed" move so, those of "" by AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._step_supports_amp_scaling = False  # a scaler is to unscale gradients itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's expects its moments of all

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        every = self.param_groups
        for group in every:
            if group["filters"]:
                self._move(group)
        self.param_groups = [group for group in every if not group["filters"]]
        try:
            super().step(closure)
        finally:
            self.param_groups = every

    def _move(self, group: dict[str, Any]) -> None:
        """Move filters of one kind; those whose matrices have as many rows together, which takes
        fewer and larger operations."""
        turned, decay = group["filters"] == "transposed", group["lr"] * group["weight_decay"]
        alike: dict[int, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                rows = parameter.shape[1 if turned else 0]
                alike.setdefault(min(rows, parameter.numel() // rows), []).append(parameter)
        for parameters in alike.values():
            moments, ahead = zip(*(self._moment(p, group) for p in parameters), strict=True)
            changes = orthogonal([_as_matrix(each, turned) for each in ahead])
            for parameter, moment, matrix in zip(parameters, moments, changes, strict=True):
                moved = parameter * (1 - decay)
                length = 0.2 * group["lr"] * math.sqrt(max(matrix.shape))
                moved.add_(_as_filters(matrix, parameter, turned), alpha=-length)
                old = self.state[parameter]["momentum_buffer"]
                if (stays := getattr(self, "found_inf", None)) is not None:
                    moment = torch.where(stays > 0, old, moment)
                    moved = torch.where(stays > 0, parameter, moved)
                old.copy_(moment)
                parameter.copy_(moved)

    def _moment(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The next one, and what is looked ahead by Nesterov's way, which the filter follows."""
        state, momentum, gradient = self.state[parameter], group["betas"][0], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        moment = state["momentum_buffer"].lerp(gradient, 1 - momentum)
        return moment, gradient.lerp(moment, momentum)


def _as_matrix(filters: Tensor, turned: bool) -> Tensor:
    """(outputs, inputs k k), in the order of memory; turned: a transposed convolution's."""
    filters = filters.transpose(0, 1) if turned else filters
    return filters.permute(0, 2, 3, 1).flatten(1)


def _as_filters(matrix: Tensor, like: Tensor, turned: bool) -> Tensor:
    """Back again."""
    filters = matrix.unflatten(1, (*like.shape[2:], -1)).permute(0, 3, 1, 2)
    return filters.transpose(0, 1) if turned else filters


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """U V^T, roughly, of each matrix U S V^T in float32: singular values come to lie between 0.7
    and 1.2, but for those below a few thousandths of the largest.

    Five steps X <- (a + b X X^T + c (X X^T)^2) X of Newton and Schulz, with the factors of Jordan
    et al. What X is multiplied by follows from X X^T alone, and so do its next values: the steps
    are taken on that small square matrix, with less than half of the multiplications, of all
    matrices at once. These have as many rows, or columns, as each other, whichever are fewer.
    """
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    wide = [(m.T if is_tall else m).float() for m, is_tall in zip(matrices, tall, strict=True)]
    wide = [each / (torch.linalg.vector_norm(each) + 1e-7) for each in wide]
    gram = torch.stack([each @ each.T for each in wide])
    total = step = _factor(gram)
    for _ in range(4):
        gram = step.bmm(gram).bmm(step)
        step = _factor(gram)
        total = step.bmm(total)
    found = [factor @ each for factor, each in zip(total, wide, strict=True)]
    return [each.T if is_tall else each for each, is_tall in zip(found, tall, strict=True)]


def _factor(gram: Tensor) -> Tensor:
    """a + b G + c G^2 of each matrix G of (N, rows, rows)."""
    factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
    factor.diagonal(dim1=1, dim2=2).add_(3.4445)
    return factor


def check_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """UserError unless the moments of `state`, which are to be loaded, are their parameters'.

    torch compares neither shapes nor types, and a fused step reads and writes beyond what is short.
    """
    adamw, one = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}
    expected = [
        (p, adamw if "betas" in group and not group.get("filters") else one)
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    saved = [number for group in state["param_groups"] for number in group["params"]]
    if len(saved) != len(expected):
        raise UserError(
            f"its optimizer has {len(saved)} parameters, expected {len(expected)}: loss weights "
            "are learnt (--loss-weights uncertainty) to the end of a run, or not at all"
        )
    for number, (parameter, names) in zip(saved, expected, strict=True):
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
