"""Weights between outputs are those of their formulas; how far outputs agree is what it says."""

import copy
from dataclasses import replace

import pytest
import torch
from outputs import OUTPUTS
from test_engine import batch_of, make_state
from test_losses import batch, criterion_of

from losses.weighting import WEIGHTINGS, History
from utils.agreement import agreement, looks_at
from utils.checkpoint import rng_state
from utils.flags import LOSS_WEIGHTS
from utils.run.progress import Steps
from utils.settings import parse

LOSSES = torch.tensor([2.0, 0.5, 0.1])


def weights_of(name, losses=LOSSES, **history):
    past = History(len(losses))
    for key, value in history.items():
        getattr(past, key).copy_(torch.tensor(value))
    return WEIGHTINGS[name](losses, past)


def test_every_way_to_find_weights_has_its_word():
    assert ("uncertainty", *WEIGHTINGS) == LOSS_WEIGHTS


def test_the_sum_of_logarithms():
    losses = LOSSES.clone().requires_grad_()
    (expected,) = torch.autograd.grad((losses + 1e-3).log().sum(), losses)
    torch.testing.assert_close(weights_of("log"), expected)
    assert weights_of("log", torch.zeros(2)).tolist() == pytest.approx([1000, 1000])


def test_balance_is_a_softmax_of_inverse_losses():
    inverse = 1 / LOSSES  # 0.5, 2, 10
    expected = 3 * (inverse / inverse.mean()).exp() / (inverse / inverse.mean()).exp().sum()
    torch.testing.assert_close(weights_of("balance"), expected)
    torch.testing.assert_close(weights_of("balance", 1000 * LOSSES), expected)
    torch.testing.assert_close(weights_of("balance", torch.full((4,), 0.3)), torch.ones(4))
    two = weights_of("balance", torch.tensor([2.0, 0.0, 0.5]))  # one has not been seen yet
    torch.testing.assert_close(two[[0, 2]], weights_of("balance", torch.tensor([2.0, 0.5])))
    assert weights_of("balance", torch.zeros(2)).isfinite().all()


def test_the_dynamic_average_counts_more_what_falls_slower():
    assert weights_of("dwa").tolist() == [1, 1, 1]
    rates = torch.tensor([0.5, 1.0, 2.0])
    found = weights_of("dwa", before=[4.0, 1.0, 0.1], last=[2.0, 1.0, 0.2])
    torch.testing.assert_close(found, 3 * (rates / 2).exp() / (rates / 2).exp().sum())


def test_the_smooth_maximum_has_the_gradient_of_its_formula():
    nadir = [4.0, 0.5, 0.4]
    losses = LOSSES.clone().requires_grad_()
    formula = 3 * 0.1 * torch.logsumexp(losses / torch.tensor(nadir) / 0.1, 0)
    (expected,) = torch.autograd.grad(formula, losses)
    torch.testing.assert_close(weights_of("max", first=nadir), expected)
    torch.testing.assert_close(weights_of("max"), 1 / LOSSES)  # in the first epoch


def test_a_history_is_of_epochs_and_of_what_was_labelled():
    past = History(2)
    for losses in ([4.0, 0.0], [2.0, 1.0]):
        past.add(torch.tensor(losses))
    assert past.latest.tolist() == [2, 1]
    past.end_epoch()
    assert (past.first.tolist(), past.last.tolist()) == ([3, 1], [3, 1])
    past.add(torch.tensor([1.0, 0.0]))
    past.end_epoch()
    assert past.before.tolist() == [3, 1]
    assert past.last.tolist() == [1, 1]  # the second had no label in this epoch
    assert past.first.tolist() == [3, 1]
    assert past.latest.tolist() == [1, 1]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_total_weighs_each_output_and_logs_the_plain_sum(name):
    predictions, targets = batch("damage", "mask", "depth")
    plain, criterion = criterion_of(), criterion_of(name)
    for _ in range(2):  # two epochs
        criterion(predictions, targets)
        criterion.end_epoch()
    losses = torch.stack([plain(predictions, {n: targets[n]})[0] for n in targets])
    history = copy.deepcopy(criterion.history)
    total, logged = criterion(predictions, targets)
    expected = WEIGHTINGS[name](losses.detach(), history) @ losses
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(logged["loss"], losses.sum())
    for p in predictions.values():
        ours, theirs = (torch.autograd.grad(t, p, retain_graph=True)[0] for t in (total, expected))
        torch.testing.assert_close(ours, theirs)

    # one output's batch: the others count as they did last
    (alone,) = torch.autograd.grad(
        criterion(predictions, {"mask": targets["mask"]})[0], predictions["mask"]
    )
    (beside,) = torch.autograd.grad(total, predictions["mask"], retain_graph=True)
    torch.testing.assert_close(alone, beside)
    state = copy.deepcopy(criterion.state_dict())
    with torch.no_grad():  # an evaluation
        criterion(predictions, targets)
    assert all(torch.equal(state[key], value) for key, value in criterion.state_dict().items())


def test_agreement_is_the_cosine_of_gradients_and_changes_nothing():
    state = make_state(replace(make_state().model.spec, norm="batch", dropout=0.2), lr=0.0)
    state.model.train()
    whole = batch_of(9)
    before = copy.deepcopy(state.state_dict())
    rng = rng_state()
    found = agreement(state, [whole])
    assert rng_state()["python"] == rng["python"]
    assert torch.equal(rng_state()["torch"], rng["torch"])
    after = state.state_dict()
    assert all(torch.equal(before["model"][n], v) for n, v in after["model"].items())
    assert all(p.grad is None for p in state.model.parameters())
    assert state.model.training

    gradients = {}
    state.model.eval()
    for output in OUTPUTS:
        state.model.zero_grad()
        image, target = whole.image[:2].float() / 255, whole.targets[output.name][:2]
        prediction = state.model(image)
        state.criterion(prediction, {output.name: target})[0].backward()
        parameters = list(state.model.encoder.parameters())
        gradients[output.name] = torch.cat([p.grad.flatten() for p in parameters])
    assert list(found) == ["agree/parts+edge", "agree/parts+near", "agree/edge+near"]
    for key, value in found.items():
        a, b = (gradients[name] for name in key.removeprefix("agree/").split("+"))
        assert value.item() == pytest.approx((a @ b / a.norm() / b.norm()).item(), abs=1e-5)

    apart = [batch_of(9, outputs=names) for names in (("parts", "edge"), ("near",))]
    for key, value in agreement(state, apart * 2).items():
        torch.testing.assert_close(value, found[key])


def test_outputs_are_compared_about_once_an_epoch_and_never_alone():
    def times(epoch, *words):
        settings = parse(["--task", *words])
        return [step for step in range(1, 301) if looks_at(settings, Steps(300, epoch, 9), step)]

    assert times(90, "maskdepth", "--bs", "4") == [90, 180, 270]
    assert times(7, "maskdepth", "--bs", "4") == [50, 100, 150, 200, 250, 300]
    assert times(120, "maskdepth", "damage") == [120, 240]
    assert times(90, "damage") == times(90, "maskdepth", "--bs", "3") == []
