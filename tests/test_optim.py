"""Learning rates at points that can be worked out by hand; what is decayed and what is not."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from outputs import OUTPUTS
from torch import nn

from models import ModelSpec, UNet
from utils.flags import SCHEDULES
from utils.optim import Schedule, check_moments, hidden_filters, make_optimizer, orthogonal
from utils.settings import OptimSettings


def make_schedule(kind, warmup=0, total=100, lr=2.0, **settings):
    parameters = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [], "lr": lr / 2}]
    return Schedule(torch.optim.SGD(parameters, lr=lr), kind, warmup, total, **settings)


def rates(schedule, steps):
    """The rate of each of the next steps."""
    found = []
    for _ in range(steps):
        found.append(schedule.lr)
        schedule.advance()
    return found


@pytest.mark.parametrize("kind", SCHEDULES)
def test_warm_up_is_quadratic(kind):
    found = rates(make_schedule(kind, warmup=4), 4)
    assert found == pytest.approx([2 * (i / 4) ** 2 for i in (1, 2, 3, 4)])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_without_warm_up_the_first_step_is_the_fastest(kind):
    found = rates(make_schedule(kind), 100)
    assert found[0] == 2.0
    assert found == sorted(found, reverse=True)
    assert min(found) > 0


@pytest.mark.parametrize(
    ("kind", "half_way", "end"),
    [
        ("cosine", 0.5, 0.0),
        ("poly", 0.5**0.9, 0.0),
        ("constant", 1.0, 1.0),
        ("plateau", 1.0, 1.0),
        ("rsqrt", math.sqrt(20 / 60), math.sqrt(20 / 100)),
    ],
)
def test_known_points(kind, half_way, end):
    schedule = make_schedule(kind, warmup=20, total=100)
    found = rates(schedule, 100)
    assert found[20] == pytest.approx(2.0)
    assert found[60] == pytest.approx(2 * half_way)
    assert schedule.lr == pytest.approx(2 * end, abs=1e-12)  # after the last step
    rates(schedule, 10)
    assert schedule.lr >= 0  # a resumed run may have fewer steps in all


def test_every_group_keeps_its_share():
    schedule = make_schedule("cosine", total=10)
    rates(schedule, 5)
    first, second = schedule.optimizer.param_groups
    assert second["lr"] == pytest.approx(first["lr"] / 2) == pytest.approx(0.5)


def test_plateau_waits_for_three_evaluations():
    schedule = make_schedule("plateau", patience=2)
    for metric, lr in [
        (0.5, 2.0),
        (0.4, 2.0),  # one without a better score
        (0.5, 2.0),  # two: equal is not better
        (0.6, 2.0),  # better: the count begins anew
        (0.6, 2.0),
        (0.1, 2.0),
        (math.nan, 0.2),  # three
        (0.3, 0.2),
        (0.3, 0.2),
        (0.3, 0.02),
        (0.7, 0.02),
    ]:
        schedule.evaluated(metric)
        assert schedule.lr == pytest.approx(lr)


def test_other_schedules_ignore_the_score():
    schedule = make_schedule("cosine")
    for _ in range(10):
        schedule.evaluated(0.0)
    assert schedule.lr == 2.0


@pytest.mark.parametrize("kind", SCHEDULES)
def test_state_round_trip(kind):
    whole, first = make_schedule(kind, warmup=3, total=20), make_schedule(kind, 3, 20)
    metrics = [0.1, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1, 0.3, 0.2, 0.1]
    expected, found = [], []
    for metric in metrics:
        expected += rates(whole, 2)
        whole.evaluated(metric)
    for metric in metrics[:4]:
        found += rates(first, 2)
        first.evaluated(metric)
    second = make_schedule(kind, 3, 20)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for metric in metrics[4:]:
        found += rates(second, 2)
        second.evaluated(metric)
    assert found == expected
    assert second.state_dict() == whole.state_dict()


def test_weight_decay_leaves_biases_and_norms_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    for name in ("sgd", "adamw"):
        decayed, left = make_optimizer([model], OptimSettings(name, 0.1, 0.9, 0.3)).param_groups
        assert (decayed["weight_decay"], left["weight_decay"]) == (0.3, 0.0)
        assert {p.ndim for p in decayed["params"]} == {4}
        assert {p.ndim for p in left["params"]} == {1}
        assert len(decayed["params"]) + len(left["params"]) == len(list(model.parameters()))


def test_optimizers_take_the_textbook_step():
    def step(name, momentum, decay):
        weight = nn.Parameter(torch.tensor([[2.0]]))
        model = nn.Module()
        model.weight = weight
        optimizer = make_optimizer([model], OptimSettings(name, 0.1, momentum, decay))
        for _ in range(2):
            optimizer.zero_grad()
            (3 * weight).sum().backward()
            optimizer.step()
        return weight.item()

    assert step("sgd", 0.0, 0.0) == pytest.approx(2 - 0.1 * 3 * 2)
    assert step("sgd", 0.5, 0.0) == pytest.approx(2 - 0.1 * 3 - 0.1 * (3 + 0.5 * 3))
    assert step("sgd", 0.0, 0.5) == pytest.approx((2 - 0.1 * 4) - 0.1 * (3 + 0.5 * 1.6))
    assert step("adamw", 0.9, 0.0) == pytest.approx(2 - 0.1 * 2, abs=1e-5)  # steps of size lr
    shrunk = (2 * (1 - 0.1 * 0.5) - 0.1) * (1 - 0.1 * 0.5) - 0.1
    assert step("adamw", 0.9, 0.5) == pytest.approx(shrunk, abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 5), (3, 40), (40, 3), (1, 9), (16, 17)])
def test_newton_and_schulz_leave_the_directions_of_a_matrix(shape):
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    matrix = left * torch.logspace(-0.5, 2, len(right))[: left.shape[1]] @ right
    found, again, turned = orthogonal([matrix, -4 * matrix, matrix.T])
    torch.testing.assert_close(turned, found.T, atol=1e-3, rtol=0)
    torch.testing.assert_close(again, -found, atol=1e-4, rtol=0)
    spread = left.T @ found @ right.T
    assert spread.diagonal().min() > 0.6
    assert spread.diagonal().max() < 1.25
    assert (spread - spread.diagonal().diag()).abs().max() < 0.02

    a, b, c = 3.4445, -4.7750, 2.0315  # as it is written down, in the other order
    plain = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = plain @ plain.T
        plain = a * plain + b * square @ plain + c * square @ square @ plain
    torch.testing.assert_close(found.double(), plain, atol=5e-3, rtol=0)


def hidden_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 5, 3, bias=False),
        nn.Conv2d(5, 5, 3, groups=5), nn.Conv2d(5, 6, 3, bias=False),
    )  # fmt: skip


def test_muon_moves_hidden_filters_alone_and_all_their_directions_alike():
    model = hidden_net()
    assert hidden_filters(model) == {
        "1.weight": "plain",
        "2.weight": "transposed",
        "4.weight": "plain",  # as many rows as the first
    }
    settings = OptimSettings("muon", 0.1, 0.5, 0.25)
    optimizer, twin = make_optimizer([model], settings), hidden_net()
    adamw = make_optimizer([twin], replace(settings, optimizer="adamw"))
    before = copy.deepcopy(model)
    gradients = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        gradients.append({i: model[i].weight.grad.clone() for i in (1, 2, 4)})
        optimizer.step()
        adamw.step()
    for i in (0, 3):
        assert torch.equal(model[i].weight, twin[i].weight)
        assert torch.equal(model[i].bias, twin[i].bias)
    for i, turned in ((1, False), (2, True), (4, False)):
        first, second = (each[i].double() for each in gradients)
        weight, moment = before[i].weight.double(), 0.5 * first
        for gradient in (first, second):
            moment = moment if gradient is first else 0.5 * moment + 0.5 * second
            ahead = 0.5 * gradient + 0.5 * moment
            matrix = (ahead.transpose(0, 1) if turned else ahead).flatten(1)
            change = orthogonal([matrix])[0].reshape(
                ahead.transpose(0, 1).shape if turned else ahead.shape
            )
            change = change.transpose(0, 1) if turned else change
            weight = weight * (1 - 0.1 * 0.25) - 0.1 * 0.2 * max(matrix.shape) ** 0.5 * change
        torch.testing.assert_close(model[i].weight.double(), weight, atol=2e-4, rtol=0)
        moved = model[i].weight - twin[i].weight
        assert moved.abs().max() > 0.01


def test_a_network_knows_its_hidden_filters():
    spec = ModelSpec.of(OUTPUTS, width=4, depth=2, aux=True)
    found, model = hidden_filters(UNet(spec)), UNet(spec)
    shapes = {name: p.ndim for name, p in model.named_parameters() if p.ndim == 4}
    others = {name for name in shapes if name not in found}
    assert {name.split(".")[0] for name in others} == {"heads", "aux", "encoder"}
    assert others - {name for name in others if name.startswith(("heads", "aux"))} == {
        "encoder.blocks.0.0.weight"
    }
    assert {name for name, kind in found.items() if kind == "transposed"} == {
        name for name in shapes if name.endswith(".deep.weight")
    }


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_an_encoder_may_learn_at_its_own_rate(name):
    model = UNet(ModelSpec.of(OUTPUTS, width=4, depth=2))
    settings = OptimSettings(name, 0.1, encoder_lr=0.25)
    schedule = Schedule(make_optimizer([model], settings), "constant", 2, 9)
    assert schedule.lr == 0.1 / 4  # in its warm-up
    slow = set(model.encoder.parameters())
    seen = []
    for group in schedule.optimizer.param_groups:
        seen += group["params"]
        assert {p in slow for p in group["params"]} == {group["lr"] == 0.1 / 16}
    assert len(seen) == len(set(seen)) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_moments_are_of_their_parameters_shapes_and_types(name):
    layer = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1, bias=False))
    optimizer = make_optimizer([layer], OptimSettings(name))
    check_moments(optimizer, optimizer.state_dict())
    layer(torch.ones(1, 3, 1, 1)).sum().backward()
    optimizer.step()
    check_moments(optimizer, optimizer.state_dict())
    key = "exp_avg_sq" if name == "adamw" else "momentum_buffer"
    for spoil in (
        lambda moments: moments.update({key: moments[key].flatten()[:1]}),
        lambda moments: moments.update({key: moments[key][None]}),
        lambda moments: moments.update({key: torch.zeros(0)}),
        lambda moments: moments.update({key: moments[key].double()}),
        lambda moments: moments.update({key: moments[key].tolist()}),
        lambda moments: moments.update({f"{key}_2": moments.pop(key)}),
        lambda moments: moments.update(step=torch.zeros(2)),
    ):
        for number in (2,) if name == "muon" else (0, 1):
            state = copy.deepcopy(optimizer.state_dict())
            spoil(state["state"][number])
            with pytest.raises(ValueError, match="its optimizer"):
                check_moments(optimizer, state)
