"""Learning rates at points that can be worked out by hand; what is decayed and what is not."""

import copy
import math

import pytest
import torch
from torch import nn

from utils.flags import SCHEDULES
from utils.optim import Schedule, check_moments, make_optimizer
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


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_moments_are_of_their_parameters_shapes_and_types(name):
    layer = torch.nn.Linear(3, 2)
    optimizer = make_optimizer([layer], OptimSettings(name))
    check_moments(optimizer, optimizer.state_dict())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    check_moments(optimizer, optimizer.state_dict())
    key = {"adamw": "exp_avg_sq", "sgd": "momentum_buffer"}[name]
    for spoil in (
        lambda moments: moments.update({key: moments[key].flatten()[:1]}),
        lambda moments: moments.update({key: moments[key][None]}),
        lambda moments: moments.update({key: torch.zeros(0)}),
        lambda moments: moments.update({key: moments[key].double()}),
        lambda moments: moments.update({key: moments[key].tolist()}),
        lambda moments: moments.update({f"{key}_2": moments.pop(key)}),
        lambda moments: moments.update(step=torch.zeros(2)),
    ):
        for number in (0, 1):
            state = copy.deepcopy(optimizer.state_dict())
            spoil(state["state"][number])
            with pytest.raises(ValueError, match="its optimizer"):
                check_moments(optimizer, state)
