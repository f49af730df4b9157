"""One step, one evaluation: the same numbers however the work is divided."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import needs_gpu
from outputs import OUTPUTS
from torch import Tensor
from torch.nn import functional as F

from datasets.task import Batch
from losses import Criterion
from models import ModelSpec, UNet
from utils.compute import Compute
from utils.distributed import Distributed
from utils.engine import TrainState, train_step
from utils.flags import OPTIMIZERS
from utils.metrics import metrics_of
from utils.optim import make_optimizer
from utils.pictures.gallery import Gallery
from utils.predict import Predictor
from utils.settings import OptimSettings
from utils.validation import evaluate

SPEC = ModelSpec.of(OUTPUTS, width=4, depth=1, convs=(1, 1, 1), norm="none")
TERMS = {"parts": "ce", "edge": "bce", "near": "l1"}
CPU = torch.device("cpu")


def batch_of(num, size=(16, 16), seed=0, outputs=("parts", "edge", "near")):
    """Labels that follow from the image, every pixel labelled."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (num, 3, *size), generator=generator, dtype=torch.uint8)
    targets = {
        "parts": (image[:, 0] // 86).to(torch.uint8),
        "edge": (image[:, 1] > 127).to(torch.uint8),
        "near": image[:, 2] / 51,
    }
    keys = [f"{seed}-{i}" for i in range(num)]
    return Batch(image, {name: targets[name] for name in outputs}, keys)


def split(batch, num):
    """The batch as batches of `num` images."""
    return [
        Batch(
            batch.image[i : i + num],
            {name: target[i : i + num] for name, target in batch.targets.items()},
            batch.keys[i : i + num],
        )
        for i in range(0, len(batch.keys), num)
    ]


def make_state(
    spec=SPEC, uncertainty=False, device=CPU, half=None, distributed=None, aux=0.0, **settings
):
    torch.manual_seed(0)
    distributed = distributed or Distributed(device)
    model = UNet(spec)
    weights = "uncertainty" if uncertainty else {}
    criterion = Criterion.of(OUTPUTS, losses=TERMS, weights=weights, aux=aux)
    given = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "warmup": 0} | settings
    compute, optim = Compute(device, half), OptimSettings(**given)
    return TrainState.of(model, criterion, optim, 10, compute, distributed, partial_outputs=True)


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def test_accumulated_batches_equal_the_big_batch():
    big, small = make_state(), make_state()
    for step in range(3):
        batch = batch_of(6, seed=step)
        terms = train_step(big, [batch])
        parts = train_step(small, split(batch, 2), accum=3)
        assert terms.keys() == parts.keys()
        for name in terms:
            assert torch.allclose(terms[name], parts[name], atol=1e-6)
    assert torch.allclose(weights(big), weights(small), atol=1e-6)
    assert not torch.allclose(weights(big), weights(make_state()), atol=1e-3)


def test_tasks_in_turn_equal_their_sum():
    """A batch of each task is one gradient: the sum over tasks, the mean over accumulation."""
    apart, together = make_state(), make_state()
    batch = batch_of(4)
    segmentation = Batch(batch.image, {n: batch.targets[n] for n in ("parts", "edge")}, batch.keys)
    depth = Batch(batch.image, {"near": batch.targets["near"]}, batch.keys)
    terms = train_step(apart, [segmentation, depth] * 2, accum=2)
    train_step(together, [batch])
    assert torch.allclose(weights(apart), weights(together), atol=1e-6)
    assert set(terms) == {"loss", "parts/ce", "edge/bce", "near/l1", "not_finite"}


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_gradients_are_clipped(limit):
    free, clipped = make_state(lr=1.0), make_state(lr=1.0, clip=limit)
    before = weights(free)
    for state in (free, clipped):
        for group in state.optimizer.param_groups:
            group["weight_decay"] = 0.0
        train_step(state, [batch_of(4)])
    moved, norm = (weights(x) - before for x in (free, clipped)), None
    all_of_it, norm = (float(m.norm()) for m in moved)
    assert norm == pytest.approx(min(limit, all_of_it), rel=1e-3)


@pytest.mark.parametrize(("parts", "aux"), [(2, 0.0), (3, 0.0), (8, 0.0), (2, 0.4)])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts, aux):
    """Dice and class means are no means over parts, and images have unequal numbers of labels."""
    spec = replace(SPEC, depth=2, aux=aux > 0)
    whole, parted = make_state(spec, aux=aux), make_state(spec, aux=aux)
    parted.micro_batches = parts
    for step in range(2):
        batch = batch_of(5, seed=step)
        batch.targets["parts"][1] = 255
        batch.targets["near"][2, :8] = -1
        expected, found = train_step(whole, [batch]), train_step(parted, [batch])
        for name in expected:
            assert torch.allclose(found[name], expected[name], atol=1e-6)
    assert torch.allclose(weights(whole), weights(parted), atol=1e-6)


def test_dropout_repeats_itself_in_parts():
    """What is predicted first, without a graph, is what then goes backward."""
    state = make_state(replace(SPEC, norm="batch", dropout=0.5))
    state.micro_batches = 2
    predicted = []
    state.model.register_forward_hook(lambda *args: predicted.append(args[2]["near"].detach()))
    train_step(state, [batch_of(4)])
    first, second, *again = predicted
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert all(b == 2 for n, b in state.model.named_buffers() if n.endswith("tracked"))


def test_a_step_that_runs_out_of_memory_is_done_in_parts():
    expected, state = make_state(), make_state()
    forward = state.model.forward

    def at_most_two(image, *outputs):
        if len(image) > 2:
            raise torch.OutOfMemoryError("no memory left")
        return forward(image, *outputs)

    state.model.forward = at_most_two
    train_step(state, [batch_of(6)])
    train_step(expected, [batch_of(6)])
    assert state.micro_batches == 4
    assert torch.allclose(weights(state), weights(expected), atol=1e-6)
    resumed = make_state()
    resumed.load_state_dict(state.state_dict())
    assert resumed.micro_batches == 4


def test_a_step_that_never_fits():
    state = make_state()

    def never(*_):
        raise torch.OutOfMemoryError("no memory left")

    state.model.forward = never
    with pytest.raises(ValueError, match="out of memory with 1 images of 16x16 at once"):
        train_step(state, [batch_of(4)])

    def broken(*_):
        raise RuntimeError("something else")

    state.model.forward = broken
    with pytest.raises(RuntimeError, match="something else"):
        train_step(state, [batch_of(4)])


def test_average_follows_the_weights():
    state = make_state(ema=0.25, spec=replace(SPEC, norm="batch"))
    train_step(state, [batch_of(2)])
    expected = {k: v.clone() for k, v in state.model.state_dict().items()}
    for step in range(1, 4):
        train_step(state, [batch_of(2, seed=step)])
        for name, value in state.model.state_dict().items():
            if value.is_floating_point():
                decay = min(0.25, (1 + step) / (10 + step))
                expected[name] = decay * expected[name] + (1 - decay) * value
    assert state.averaged is state.ema.module
    for name, value in state.averaged.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-6), name
    assert make_state().averaged is not None


def test_a_step_never_waits_for_the_device(monkeypatch):
    """No tensor becomes a Python number within a step: on a GPU each would be a full stop."""
    spec = replace(SPEC, norm="batch")
    state = make_state(spec, uncertainty=True, clip=1.0)  # an average's counter is on the host
    batch = batch_of(2)
    train_step(state, [batch])

    def refuse(*_):
        raise AssertionError("a step read a tensor's value")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
            patch.setattr(Tensor, name, refuse)
        terms = train_step(state, [batch, batch], accum=2)
    assert all(isinstance(term, Tensor) and term.shape == () for term in terms.values())
    assert all(not term.requires_grad for term in terms.values())


def spoilt(factor):
    return lambda module, args, out: (
        out[0] * factor,
        {n: t * torch.inf for n, t in out[1].items()},
    )


SPOIL = {
    "loss": lambda state: state.criterion.register_forward_hook(spoilt(torch.nan)),
    "a loss with a gradient": lambda state: state.criterion.register_forward_hook(spoilt(1)),
    "activation": lambda state: state.model.encoder.register_forward_pre_hook(
        lambda module, args: (args[0] * torch.nan, *args[1:])
    ),
    "gradient": lambda state: next(state.model.parameters()).register_hook(lambda g: g * torch.inf),
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("what", SPOIL)
def test_a_step_that_is_not_finite_moves_nothing(what, optimizer, at):
    """The first or the last; what follows goes on as if it had not been."""
    spec = replace(SPEC, norm="batch")
    found, expected = (make_state(spec, optimizer=optimizer, clip=1.0) for _ in range(2))
    for step in range(3):
        batch = batch_of(2, seed=step)
        if step != at:
            assert train_step(expected, [batch])["not_finite"] == 0
            assert train_step(found, [batch])["not_finite"] == 0
            continue
        before = copy.deepcopy(found.model.state_dict())
        handle = SPOIL[what](found)
        assert train_step(found, [batch])["not_finite"] == 1
        handle.remove()
        for name, value in found.model.state_dict().items():
            assert torch.equal(value, before[name]) or name.endswith("num_batches_tracked"), name
    assert torch.equal(weights(found), weights(expected))
    for a, b in zip(found.optimizer.state.values(), expected.optimizer.state.values(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_terms_are_losses_before_their_weights():
    state = make_state()
    terms = train_step(state, [batch_of(4)])
    total = sum(value for name, value in terms.items() if "/" in name)
    assert terms["loss"] == pytest.approx(float(total), rel=1e-5)


def test_a_step_advances_the_schedule_and_trains():
    state = make_state()
    state.model.eval()
    first = train_step(state, [batch_of(4)])
    assert state.schedule.step == 1
    assert state.model.training
    for _ in range(20):
        last = train_step(state, [batch_of(4)])
    assert last["loss"] < first["loss"]


def test_unlabelled_batches_move_nothing_but_the_decay():
    state = make_state()
    for group in state.optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = weights(state)
    batch = batch_of(2)
    for name, nothing in (("parts", 255), ("edge", 255), ("near", -1)):
        batch.targets[name].fill_(nothing)
    terms = train_step(state, [batch])
    assert torch.equal(weights(state), before)
    assert all(term == 0 for term in terms.values())


def scores_of(state, batches, tile=0, overlap=0, gallery=None, size=None):
    predictor = Predictor(state.averaged, state.compute, tile, overlap, size=size)
    metrics = metrics_of(OUTPUTS)
    return evaluate(predictor, batches, state.criterion, metrics, state.distributed, gallery)


def close(found, expected):
    assert found.scores.keys() == expected.scores.keys()
    for name, value in expected.scores.items():
        assert found.scores[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_scores_do_not_depend_on_the_batches():
    state = make_state()
    batches = [batch_of(6, (20, 18), seed=1), batch_of(6, (16, 24), seed=2)]
    expected = scores_of(state, batches)
    assert expected.scores["loss"] > 0
    for num in (1, 2, 4):
        parts = [part for batch in batches for part in split(batch, num)]
        close(scores_of(state, parts), expected)
    close(scores_of(state, batches[::-1]), expected)


@pytest.mark.parametrize(("tile", "overlap"), [(16, 12), (32, 16), (24, 16)])
def test_scores_do_not_depend_on_the_tile(tile, overlap):
    """This network sees 6 pixels far at most, half the overlap; and tiles begin at even pixels."""
    state = make_state()
    batches = [batch_of(2, (64, 40), seed=1)]
    whole = scores_of(state, batches)
    tiled = scores_of(state, batches, tile, overlap)
    for name, value in whole.scores.items():
        assert tiled.scores[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_a_task_that_resizes_is_scored_at_the_labels_own_size():
    """Against numpy, from predictions that torch brings back to the size of each image."""
    state = make_state()
    batches = [batch_of(3, (50, 37), seed=1), batch_of(2, (20, 64), seed=2)]
    confusion, squares = np.zeros((3, 3)), []
    for batch in batches:
        small = F.interpolate(batch.image, (16, 24), mode="bilinear", antialias=True)
        with torch.no_grad():
            found = state.model.eval()(small / 255)
        at_native = {
            name: F.interpolate(found[name], batch.image.shape[-2:], mode="bilinear").numpy()
            for name in ("parts", "near")
        }
        labels = at_native["parts"].argmax(1)
        np.add.at(confusion, (batch.targets["parts"].numpy(), labels), 1)
        squares.append(np.square(at_native["near"][:, 0] - batch.targets["near"].numpy()).ravel())
    hit = confusion.diagonal()
    iou = hit / (confusion.sum(0) + confusion.sum(1) - hit)

    gallery = Gallery("parts/miou", 5, spread=5)
    found = scores_of(state, batches, gallery=gallery, size=(16, 24))
    assert found.scores["parts/miou"] == pytest.approx(iou.mean(), abs=1e-3)
    rmse = np.sqrt(np.concatenate(squares).mean())
    assert found.scores["near/rmse"] == pytest.approx(rmse, rel=1e-3)
    assert found.metrics["parts"].confusion.sum() == 3 * 50 * 37 + 2 * 20 * 64
    for sample, size in zip(gallery.spread, [(50, 37)] * 3 + [(20, 64)] * 2, strict=True):
        assert sample.image.shape[1:] == sample.targets["parts"].shape == size
        assert sample.predictions["parts"].shape == size
    assert torch.equal(gallery.spread[-1].predictions["parts"], torch.tensor(labels[-1]).byte())


def test_ignored_pixels_do_not_score():
    state = make_state()
    batch = batch_of(2)
    batch.targets["parts"][:, :8] = 255
    batch.targets["near"][:, :, :8] = -1
    first = scores_of(state, [batch]).scores
    changed = Batch(batch.image, {n: t.clone() for n, t in batch.targets.items()}, batch.keys)
    state.model.eval()
    assert scores_of(state, [changed]).scores == first
    assert first["parts/pixel_accuracy"] <= 1


def test_evaluation_leaves_no_trace():
    state = make_state(replace(SPEC, norm="batch", dropout=0.5))
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    rng = torch.get_rng_state()
    first = scores_of(state, [batch_of(2)]).scores
    assert scores_of(state, [batch_of(2)]).scores == first
    assert torch.equal(torch.get_rng_state(), rng)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_samples_to_show():
    state = make_state()
    batches = [batch_of(2, (20, 18), seed=1), batch_of(2, (16, 24), seed=2)]
    gallery = Gallery("parts/miou", 4, spread=4)
    scores_of(state, batches, 8, 4, gallery)
    shown = gallery.spread
    assert [s.key for s in shown] == ["1-0", "1-1", "2-0", "2-1"]
    whole = state.model.eval()(batches[0].image / 255)
    for i, sample in enumerate(shown[:2]):
        assert torch.equal(sample.image, batches[0].image[i])
        assert sample.predictions["parts"].shape == (20, 18)
        assert sample.predictions["near"].dtype == torch.float32
        assert torch.equal(sample.targets["parts"], batches[0].targets["parts"][i])
    scores_of(state, batches, gallery=(exact := Gallery("parts/miou", 4, spread=4)))
    labels = state.model.heads["parts"].to_labels(whole["parts"])
    assert torch.equal(exact.spread[0].predictions["parts"], labels[0])
    parts = [part for batch in batches for part in split(batch, 1)]
    alone = [scores_of(state, [part]).scores["parts/miou"] for part in parts]
    assert [sample.score for sample in exact.spread] == pytest.approx(alone, rel=1e-6)
    assert [sample.score for sample in exact.ranked] == pytest.approx(sorted(alone), rel=1e-6)


def test_state_of_a_learner_round_trip():
    source, target = make_state(ema=0.9), make_state(ema=0.9)
    for step in range(2):
        train_step(source, [batch_of(2, seed=step)])
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    for state in (source, target):
        train_step(state, [batch_of(2, seed=5)])
    assert torch.equal(weights(source), weights(target))
    assert target.schedule.step == 3
    for a, b in zip(source.ema.parameters(), target.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rate_decay_and_momentum_are_those_asked_for_not_those_stored():
    """The optimiser's own state holds them too; what it learnt is kept."""
    stored = make_state()
    train_step(stored, [batch_of(2)])
    state = make_state(lr=0.3, momentum=0.5, weight_decay=0.2)
    state.load_state_dict(copy.deepcopy(stored.state_dict()))
    decayed, left = state.optimizer.param_groups
    assert (decayed["lr"], decayed["momentum"], decayed["weight_decay"]) == (0.3, 0.5, 0.2)
    assert (left["lr"], left["momentum"], left["weight_decay"]) == (0.3, 0.5, 0.0)
    moments = [values["momentum_buffer"] for values in state.optimizer.state.values()]
    expected = [values["momentum_buffer"] for values in stored.optimizer.state.values()]
    assert all(map(torch.equal, moments, expected))


def test_an_average_may_begin_late():
    """From the weights of a run that was not averaged, as if they were the first."""
    stored = make_state(replace(SPEC, norm="batch"))
    for step in range(2):
        train_step(stored, [batch_of(2, seed=step)])
    state = make_state(replace(SPEC, norm="batch"), ema=0.75)
    state.load_state_dict(copy.deepcopy(stored.state_dict()))
    for name, value in state.averaged.state_dict().items():
        assert torch.equal(value, stored.model.state_dict()[name]), name
    train_step(state, [batch_of(2, seed=2)])
    for name, value in state.averaged.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name


def test_states_that_do_not_fit():
    state = make_state().state_dict()
    with pytest.raises(ValueError, match="checkpoint does not fit these settings") as caught:
        make_state(replace(SPEC, width=8)).load_state_dict(state)
    assert "\n" not in str(caught.value)
    adamw = make_state()
    adamw.optimizer = make_optimizer([adamw.model, adamw.criterion], OptimSettings())
    with pytest.raises(ValueError, match="checkpoint does not fit these settings"):
        adamw.load_state_dict(state)
    source = make_state()
    train_step(source, [batch_of(2)])
    state = copy.deepcopy(source.state_dict())
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(7)
    with pytest.raises(ValueError, match="does not fit these settings: its optimizer's momentum"):
        make_state().load_state_dict(state)


def test_bfloat16_trains_in_float32_weights():
    state = make_state(half=torch.bfloat16)
    first = train_step(state, [batch_of(4)])
    for _ in range(20):
        last = train_step(state, [batch_of(4)])
    assert last["loss"] < first["loss"]
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert all(term.dtype == torch.float32 for term in last.values())


@needs_gpu
@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
def test_a_gpu_trains_as_the_cpu_does(half):
    gpu = make_state(device=torch.device("cuda"), half=half, clip=1.0)
    cpu = make_state(clip=1.0)
    for step in range(3):
        found = train_step(gpu, [batch_of(4, seed=step)])
        expected = train_step(cpu, [batch_of(4, seed=step)])
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=0.05)
    assert gpu.scaler.is_enabled() == (half == torch.float16)


@needs_gpu
def test_gradient_scaler_skips_a_step_that_overflows():
    state = make_state(device=torch.device("cuda"), half=torch.float16)
    state.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**60)
    before = weights(state)
    train_step(state, [batch_of(4)])
    assert torch.equal(weights(state), before)
    assert state.scaler.get_scale() < 2.0**60
