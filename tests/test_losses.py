"""Losses by hand and beside torch's own; what all of them owe is in test_kinds.py."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.task import IGNORE, Classes, Depth, Mask
from losses import TERMS, Criterion, class_sums, depth, parse_terms, segmentation
from losses.weighted import at_scale

NUM_CLASSES = 5
SIZE = (2, 11, 13)  # odd, so that the coarse scales of the gradient loss do not divide it


def scene(kind, seed=0, ignored=0.3):
    """A random prediction and target of one kind, about a third of the pixels without a label."""
    generator = torch.Generator().manual_seed(seed)
    n, h, w = SIZE
    void = torch.rand(SIZE, generator=generator) < ignored
    if kind == "depth":
        prediction = torch.rand(n, 1, h, w, generator=generator) * 0.9 + 0.05
        target = torch.rand(SIZE, generator=generator) * 0.9 + 0.05
        return prediction, target.masked_fill(void, -1.0)
    channels = NUM_CLASSES if kind == "classes" else 1
    target = torch.randint(0, max(channels, 2), SIZE, generator=generator, dtype=torch.uint8)
    prediction = torch.randn(n, channels, h, w, generator=generator)
    return prediction, target.masked_fill(void, IGNORE)


def test_bce_on_depth_is_least_at_the_truth():
    _, target = scene("depth")
    truth = torch.where(target < 0, 0.7, target).unsqueeze(1).requires_grad_()
    loss = depth.bce(truth, target)
    loss.backward()
    t = target[target >= 0]
    assert loss.item() == pytest.approx(-(t * t.log() + (1 - t) * (1 - t).log()).mean().item())
    assert truth.grad.abs().max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
def test_dice_of_a_large_half_precision_image_is_finite(channels):
    logits = torch.full((1, channels, 512, 512), 1.0, dtype=torch.float16, requires_grad=True)
    target = torch.ones(1, 512, 512, dtype=torch.uint8)
    loss = (segmentation if channels == 1 else class_sums).dice(logits, target)
    loss.backward()
    p = torch.sigmoid(torch.tensor(1.0)).item() if channels == 1 else 1 / 3
    area = 512 * 512  # four times what float16 can count
    assert loss.item() == pytest.approx(
        1 - (2 * p * area + 1) / (p * p * area + area + 1), rel=1e-4
    )
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 0.0, 3.0)])
def test_cross_entropy_equals_torch(weights):
    logits, target = scene("classes")
    weights = None if weights is None else torch.tensor(weights)
    logits.requires_grad_()
    expected = F.cross_entropy(logits, target.long(), weight=weights, ignore_index=IGNORE)
    actual = class_sums.cross_entropy(logits, target, weights)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, logits)[0], torch.autograd.grad(expected, logits)[0]
    )


@pytest.mark.parametrize("term", ["ce", "focal"])
def test_pixels_that_weigh_nothing_cost_nothing(term):
    logits, target = scene("classes")
    logits.requires_grad_()
    weights = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])  # and no pixel but of class 0, or ignored
    for label in (0, IGNORE):
        loss = TERMS["classes"][term](logits, torch.full_like(target, label), weights)
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_bce_equals_torch():
    logits, target = scene("mask")
    known = target != IGNORE
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][known], target[known].float())
    torch.testing.assert_close(segmentation.bce(logits, target), expected)


def test_focal_discounts_easy_pixels():
    logits, target = scene("classes")
    weights = torch.rand(NUM_CLASSES)
    torch.testing.assert_close(
        class_sums.focal(logits, target, weights, gamma=0.0),
        class_sums.cross_entropy(logits, target, weights),
    )
    # p = 0.8 for the true class: a pixel counts 0.2^2 of its cross entropy
    logits = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1)
    loss = class_sums.focal(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert loss.item() == pytest.approx(0.04 * -np.log(0.8))


def test_dice_by_hand():
    """p = 0.5 everywhere; two pixels of class 0, one of class 1, one ignored, none of class 2."""
    logits = torch.tensor([1.0, 1.0, -60.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    target = torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    zero = (2 * 1.0 + 1) / (3 * 0.25 + 2 + 1)
    one = (2 * 0.5 + 1) / (3 * 0.25 + 1 + 1)
    assert class_sums.dice(logits, target).item() == pytest.approx(1 - (zero + one) / 2)


def test_dice_of_a_mask_asks_for_an_empty_prediction_where_nothing_is():
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = segmentation.dice(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(1 - 1 / (16 * 0.25 + 1))
    assert (logits.grad > 0).all()


def test_l1_and_silog_by_hand():
    target = torch.tensor([[[1.0, 2.0], [4.0, -1.0]]])
    prediction = torch.tensor([[[[2.0, 2.0], [2.0, 9.0]]]])
    assert depth.l1(prediction, target).item() == pytest.approx((1 + 0 + 2) / 3)
    log = np.log([2.0, 1.0, 0.5])
    expected = np.sqrt(np.mean(log**2) - 0.85 * np.mean(log) ** 2)
    assert depth.silog(prediction, target).item() == pytest.approx(expected, abs=1.1e-3)
    # twice too far everywhere: only the share of the scale that lambda leaves
    target = torch.full((1, 2, 2), 3.0)
    expected = np.log(2) * np.sqrt(0.15)
    assert depth.silog(2 * target[:, None], target).item() == pytest.approx(expected, abs=1.1e-3)


def test_silog_leaves_out_depth_zero():
    prediction, target = scene("depth")
    zero = torch.where(target < 0, 0.0, target)
    assert torch.equal(depth.silog(prediction, zero), depth.silog(prediction, target))
    assert depth.l1(prediction, zero) != depth.l1(prediction, target)


def test_grad_of_a_ramp_by_hand():
    """An error that grows by 1 per column: the 4 scales see steps of 1 + 2 + 4 + 8."""
    error = torch.arange(17.0).expand(1, 17, 17)
    target = torch.ones(1, 17, 17)
    assert depth.grad((target + error).unsqueeze(1), target).item() == pytest.approx(15)
    assert depth.grad((target + 3).unsqueeze(1), target).item() == 0  # a shift has no gradient
    target[:, :, 1::2] = -1.0  # no horizontal neighbours left at the finest scale
    assert depth.grad(error.unsqueeze(1) + 1, target).item() == pytest.approx(14)
    turned = error.mT.unsqueeze(1) + 1
    assert depth.grad(turned, target.mT).item() == pytest.approx(14)


def test_depth_bce_stays_finite_at_the_ends_and_outside():
    prediction = torch.tensor([0.0, 1.5, 0.0, 1.0]).view(1, 1, 2, 2).requires_grad_()
    loss = depth.bce(prediction, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
    loss.backward()
    assert loss.isfinite()
    assert prediction.grad.isfinite().all()


def test_terms_and_factors():
    assert parse_terms("depth", "l1+2*grad") == [("l1", 1.0), ("grad", 2.0)]
    assert parse_terms("classes", " ce + 1e-1 * dice ") == [("ce", 1.0), ("dice", 0.1)]


@pytest.mark.parametrize(
    ("kind", "text", "named"),
    [
        ("mask", "ce", "'ce' for kind mask, expected one of bce, dice, focal"),
        ("depth", "", "''"),
        ("depth", "l1+", "''"),
        ("depth", "l1+two*grad", "'two'"),
        ("depth", "-1*l1", "'-1'"),
        ("depth", "nan*l1", "'nan'"),
        ("depth", "*l1", "''"),
        ("classes", "ce+ce", "'ce' is given twice"),
    ],
)
def test_a_wrong_term_is_named(kind, text, named):
    with pytest.raises(ValueError) as error:
        parse_terms(kind, text)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


OUTPUTS = {
    "damage": Classes("damage", "", loss="ce+dice", classes=tuple("abcde")),
    "mask": Mask("mask", "", loss="bce"),
    "depth": Depth("depth", "", loss="l1+2*grad", weight=3.0),
}
WEIGHTS = (1.0, 2.0, 0.5, 1.0, 4.0)


def criterion_of(weights=MappingProxyType({})):
    return Criterion.of(list(OUTPUTS.values()), weights=weights, class_weights={"damage": WEIGHTS})


def batch(*names):
    scenes = {name: scene(OUTPUTS[name].kind, seed=i) for i, name in enumerate(OUTPUTS)}
    predictions = {name: prediction.requires_grad_() for name, (prediction, _) in scenes.items()}
    return predictions, {name: scenes[name][1] for name in names}


def test_the_total_is_the_weighted_sum_of_the_named_terms():
    predictions, targets = batch(*OUTPUTS)
    total, logged = criterion_of()(predictions, targets)
    assert list(logged) == [
        "loss",
        "damage/ce",
        "damage/dice",
        "mask/bce",
        "depth/l1",
        "depth/grad",
    ]
    assert not any(value.requires_grad for value in logged.values())
    expected = (
        class_sums.cross_entropy(predictions["damage"], targets["damage"], torch.tensor(WEIGHTS))
        + class_sums.dice(predictions["damage"], targets["damage"])
        + segmentation.bce(predictions["mask"], targets["mask"])
        + 3 * depth.l1(predictions["depth"], targets["depth"])
        + 6 * depth.grad(predictions["depth"], targets["depth"])
    )
    torch.testing.assert_close(total, expected)
    assert torch.equal(total.detach(), logged["loss"])
    torch.testing.assert_close(logged["depth/l1"], depth.l1(predictions["depth"], targets["depth"]))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 8), (9, 3)])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_coarse_target_is_the_middle_of_each_square(size, scale):
    target = torch.rand(2, 3, *size)
    found = at_scale(target, scale)
    rows, columns = ([*range(0, side, scale)] for side in size)
    assert found.shape == (2, 3, len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            square = target[..., row : row + scale, column : column + scale]
            height, width = square.shape[-2:]
            middle = square[..., min(scale // 2, height - 1), min(scale // 2, width - 1)]
            assert torch.equal(found[..., i, j], middle)


def test_auxiliary_predictions_add_less_the_coarser_they_are():
    predictions, targets = batch("damage", "depth")
    outputs, losses = list(OUTPUTS.values()), {"damage": "ce+dice"}
    plain = Criterion.of(outputs, losses=losses, class_weights={"damage": WEIGHTS})
    criterion = Criterion.of(outputs, losses=losses, class_weights={"damage": WEIGHTS}, aux=0.4)
    scales = {"damage@2": (2, 0.4), "damage@4": (4, 0.2), "depth@2": (2, 0.4)}
    expected, coarse = plain(predictions, targets)[0], {}
    for key, (scale, weight) in scales.items():
        name = key.split("@")[0]
        target = {name: at_scale(targets[name], scale)}
        channels, size = predictions[name].shape[1], target[name].shape[-2:]
        coarse[key] = torch.rand(2, channels, *size, requires_grad=True)
        expected = expected + weight * plain({name: coarse[key]}, target)[0]
    total, logged = criterion(predictions | coarse, targets)
    torch.testing.assert_close(total, expected)
    assert all(torch.autograd.grad(total, p, retain_graph=True)[0].any() for p in coarse.values())
    assert [name for name in logged if name.endswith("/aux")] == ["damage/aux", "depth/aux"]
    assert criterion(predictions, targets)[0] == plain(predictions, targets)[0]


def test_only_outputs_with_a_target_count():
    predictions, targets = batch("mask")
    total, logged = criterion_of()(predictions, targets)
    total.backward()
    assert list(logged) == ["loss", "mask/bce"]
    assert predictions["mask"].grad.abs().sum() > 0
    assert predictions["damage"].grad is None
    assert criterion_of()(predictions, {})[0].item() == 0


def test_learned_weights_start_at_the_plain_sum_and_settle_at_log_2l():
    predictions, targets = batch(*OUTPUTS)
    learned = criterion_of("uncertainty")
    plain = criterion_of()
    assert list(plain.parameters()) == []
    total, logged = learned(predictions, targets)
    assert torch.equal(total, plain(predictions, targets)[0])
    total.backward()
    # d/ds of exp(-s) L + s / 2 at s = 0
    losses = [
        logged["damage/ce"] + logged["damage/dice"],
        logged["mask/bce"],
        3 * (logged["depth/l1"] + 2 * logged["depth/grad"]),
    ]
    torch.testing.assert_close(learned.log_variances.grad, 0.5 - torch.stack(losses))


def test_learned_weights_are_bounded_and_rest_without_a_label():
    predictions, targets = batch("mask")
    learned = criterion_of("uncertainty")
    with torch.no_grad():
        learned.log_variances.fill_(-1000.0)
    total, logged = learned(predictions, targets)
    assert total.item() == pytest.approx(np.exp(6) * logged["mask/bce"].item() - 3, rel=1e-5)

    learned = criterion_of("uncertainty")
    total, _ = learned(predictions, {"mask": torch.full_like(targets["mask"], IGNORE)})
    total.backward()
    assert total.item() == 0
    assert (learned.log_variances.grad == 0).all()


def test_autocast_does_not_reach_the_losses():
    predictions, targets = batch(*OUTPUTS)
    half = {
        name: p.detach() if name == "depth" else p.detach().bfloat16()
        for name, p in predictions.items()
    }
    criterion = criterion_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, logged = criterion(half, targets)
    assert total.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in logged.values())
    assert torch.equal(total, criterion(half, targets)[0])


def test_losses_do_not_depend_on_the_memory_format():
    predictions, targets = batch(*OUTPUTS)
    last = {
        name: p.detach().to(memory_format=torch.channels_last) for name, p in predictions.items()
    }
    criterion = criterion_of()
    torch.testing.assert_close(criterion(last, targets)[0], criterion(predictions, targets)[0])


@pytest.mark.parametrize(
    "terms",
    [*class_sums.FUSED, "ce+2*dice+focal", "smooth+dice+tversky+focal+focal_tversky+ce"],
)
@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_sums_in_slices_have_the_gradient_of_their_formulas(terms, gamma, monkeypatch):
    monkeypatch.setattr(class_sums, "SLICE", 50)  # 286 pixels
    logits, target = scene("classes")
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])
    names = [name for name, _ in parse_terms("classes", terms)]

    labelled = (target != IGNORE).flatten()
    truth = F.one_hot(target.long().flatten()[labelled], NUM_CLASSES).double()
    plain = logits.double().requires_grad_()
    p = plain.movedim(1, -1).flatten(0, 2)[labelled].softmax(1)  # (P, C)
    true_p, weight = (p * truth).sum(1), truth @ weights.double()
    overlap, area, count = (p * truth).sum(0), p.square().sum(0), truth.sum(0)
    made_up, missed = (p * (1 - truth)).sum(0), ((1 - p) * truth).sum(0)
    index = (overlap + 1) / (overlap + 0.3 * made_up + 0.7 * missed + 1)
    smoothed = F.cross_entropy(
        plain.movedim(1, -1).flatten(0, 2)[labelled],
        target.long().flatten()[labelled],
        weights.double(),
        label_smoothing=0.1,
    )
    formulas = {
        "smooth": smoothed,
        "tversky": (1 - index).mean(),
        "focal_tversky": ((1 - index + 1e-3) ** 0.75 - 1e-3**0.75).mean(),
        "ce": -(weight * true_p.log()).sum() / weight.sum(),
        "focal": -(weight * (1 - true_p) ** gamma * true_p.log()).sum() / weight.sum(),
        "dice": (1 - (2 * overlap + 1) / (area + count + 1)).mean(),
    }
    logits.requires_grad_()
    found = class_sums.class_terms(logits, target, names, weights, gamma)
    for i, name in enumerate(names):
        torch.testing.assert_close(found[name].double(), formulas[name], rtol=1e-5, atol=0)
        ours, theirs = (
            torch.autograd.grad(value * (i + 1), source, retain_graph=True)[0].double()
            for value, source in ((found[name], logits), (formulas[name], plain))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)


def jaccard_loss(wrong, truth):
    """1 - IoU of a foreground where the pixels `wrong` are answered the other way round."""
    said = truth ^ wrong
    both = (said | truth).sum()
    return 1 - (said & truth).sum() / both if both else 0.0


def lovasz_extension(errors, truth):
    """As it is defined: pixels go wrong one after the other, the worst first."""
    total, wrong, before = 0.0, np.zeros(len(errors), bool), 0.0
    for i in np.argsort(-errors, kind="stable"):
        wrong[i] = True
        after = jaccard_loss(wrong, truth)
        total, before = total + errors[i] * (after - before), after
    return total


@pytest.mark.parametrize("present", [(0, 1, 2, 3, 4), (2, 4), (1,)])
def test_lovasz_is_the_extension_of_the_jaccard_loss(present, monkeypatch):
    monkeypatch.setattr("losses.lovasz.SLICE", 50)
    logits, target = scene("classes")
    target = torch.where(
        target == IGNORE, IGNORE, torch.tensor(present)[target.long() % len(present)]
    )
    target = target.to(torch.uint8)
    logits.requires_grad_()
    found = TERMS["classes"]["lovasz"](logits, target)
    known = (target != IGNORE).numpy()
    p = logits.detach().softmax(1).movedim(1, -1).numpy()[known].astype(np.float64)
    label = target.numpy()[known]
    expected = np.mean(
        [lovasz_extension(np.abs((label == c) - p[:, c]), label == c) for c in present]
    )
    assert found.item() == pytest.approx(expected, rel=1e-4)

    (gradient,) = torch.autograd.grad(found, logits)
    change = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        ahead, behind = (
            TERMS["classes"]["lovasz"](logits.double() + sign * 1e-4 * change, target).item()
            for sign in (1, -1)
        )
    slope = (gradient * change).sum().item()
    assert slope == pytest.approx((ahead - behind) / 2e-4, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("foreground", [True, False])
def test_lovasz_of_a_mask_is_that_of_its_hinges(foreground):
    logits, target = scene("mask")
    target = target if foreground else torch.where(target == 1, 0, target)
    logits.requires_grad_()
    found = TERMS["mask"]["lovasz"](logits, target)
    known = (target != IGNORE).numpy()
    truth, score = target.numpy()[known] == 1, logits.detach()[:, 0].numpy()[known]
    errors = np.maximum(0, 1 - np.where(truth, score, -score))
    assert found.item() == pytest.approx(lovasz_extension(errors, truth), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[:, 0][target == 1] <= 0).all()
    assert (gradient[:, 0][target == 0] >= 0).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["classes", "mask"])
@pytest.mark.parametrize("sure", [1.0, 8.0])
def test_hard_pixels_are_unsure_ones_and_a_sixteenth_at_least(kind, sure, monkeypatch):
    monkeypatch.setattr(class_sums, "SLICE", 50)
    logits, target = scene(kind)
    known = target != IGNORE
    if kind == "classes":  # sure: all are right, most of them by far
        logits = logits + sure * F.one_hot(target.long() % 5, 5).movedim(-1, 1)
        p = logits.softmax(1).gather(1, (target.long() % 5)[:, None])[:, 0][known]
        weights = torch.tensor(WEIGHTS)
        weight = weights[target[known].long()]
    else:
        logits = logits + sure * (2 * (target == 1).float() - 1)[:, None]
        p = torch.where(target == 1, logits[:, 0].sigmoid(), (-logits[:, 0]).sigmoid())[known]
        weights, weight = None, torch.ones(len(p))
    least = p.sort().values[-(-len(p) // 16) - 1]
    kept = (p < 0.7) | (p <= least)
    assert (int(kept.sum()) == -(-len(p) // 16)) == (sure == 8.0)
    expected = -(weight * p.log())[kept].sum() / weight[kept].sum()
    logits.requires_grad_()
    given = (logits, target) if kind == "mask" else (logits, target, weights)
    found = TERMS[kind]["ohem"](*given)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    moved = gradient.abs().sum(1) > 0
    assert moved.sum() == kept.sum()
    assert (moved[known] == kept).all()


def test_tversky_of_a_mask_by_hand():
    """Two pixels found by half, one missed by 0.8, one made up by 0.4, one ignored."""
    p = torch.tensor([0.5, 0.5, 0.2, 0.4, 0.9])
    logits, target = torch.logit(p).view(1, 1, 1, 5), torch.tensor([[[1, 1, 1, 0, 255]]])
    target = target.to(torch.uint8)
    index = (1.2 + 1) / (1.2 + 0.3 * 0.4 + 0.7 * 1.8 + 1)
    assert segmentation.tversky(logits, target).item() == pytest.approx(1 - index)
    focused = (1 - index + 1e-3) ** 0.75 - 1e-3**0.75
    assert segmentation.focal_tversky(logits, target).item() == pytest.approx(focused)


def test_a_depth_that_is_not_a_number_is_a_loss_that_is_none():
    """Where torch's own binary cross entropy ends with an error."""
    prediction = torch.full((1, 1, 2, 2), 0.5).requires_grad_()
    target = torch.tensor([[[0.1, 0.4], [0.9, -1.0]]])
    depth.bce(prediction, target).backward()
    assert prediction.grad.isfinite().all()
    with torch.no_grad():
        prediction[0, 0, 0, 0] = torch.nan
    assert depth.bce(prediction, target).isnan()


@pytest.mark.parametrize("kind", ["classes", "mask", "depth"])
@pytest.mark.parametrize("beside", ["", "own+", "own+own2+"])
def test_a_new_term_is_one_function_and_one_entry(kind, beside, monkeypatch):
    """It is called as it stands, alone and beside terms that share a pass over the pixels."""
    seen = []

    def mean(prediction, target, *weights):
        seen.append([w if w is None else w.tolist() for w in weights])
        return prediction.float().square().mean()

    known = next(iter(TERMS[kind]))
    monkeypatch.setitem(TERMS[kind], "own", TERMS[kind][known])
    monkeypatch.setitem(TERMS[kind], "own2", lambda *inputs: 2 * mean(*inputs))
    monkeypatch.setitem(TERMS[kind], "new", mean)
    output = {output.kind: output for output in OUTPUTS.values()}[kind]
    given = {output.name: WEIGHTS} if output.balanced else {}
    criterion = Criterion.of([output], losses={output.name: beside + "3*new"}, class_weights=given)
    prediction, target = scene(kind)
    prediction.requires_grad_()
    total, logged = criterion({output.name: prediction}, {output.name: target})
    mean_square = prediction.square().mean()
    assert list(logged)[1:] == [f"{output.name}/{t}" for t in (beside + "new").split("+")]
    assert torch.equal(logged[f"{output.name}/new"], mean_square)
    assert seen[-1] == ([list(WEIGHTS)] if output.balanced else [])
    (gradient,) = torch.autograd.grad(total, prediction)
    assert gradient.isfinite().all()
    (expected,) = torch.autograd.grad(3 * output.weight * mean_square, prediction)
    if not beside:
        torch.testing.assert_close(gradient, expected)


def test_a_function_put_in_the_place_of_a_fused_term_is_called(monkeypatch):
    monkeypatch.setitem(TERMS["classes"], "ce", lambda logits, *_: logits.mean())
    predictions, targets = batch("damage")
    _, logged = criterion_of()(predictions, targets)
    assert torch.equal(logged["damage/ce"], predictions["damage"].mean())
    dice = class_sums.dice(predictions["damage"], targets["damage"])
    assert torch.equal(logged["damage/dice"], dice)
