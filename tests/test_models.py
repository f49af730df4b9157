"""Networks: any size in, the same size out; recomputed equals stored, to the bit."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learners import make_case
from outputs import EDGE, NEAR, OUTPUTS
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from datasets import TASKS, load_task
from datasets.task import Classes, Depth, Label, Mask
from losses import Criterion
from models import ModelSpec, UNet
from models.cpu import BatchNormReLU, BitReLU, branches, use_cpu_kernels
from models.cpu_convolution import is_slow, use_float32_gradients
from models.decoder import JoinConv, UpConv
from models.encoder import NORMS, Block, activation, conv3x3
from models.fold import fold_norms
from models.heads import make_head
from models.recompute import MODES, recompute
from utils import checkpoint
from utils.memory.trace import Tracker

pytestmark = pytest.mark.usefixtures("small_is_worth_it")
DATASETS = Path(__file__).parents[1] / "datasets"
EVERY_TASK = [*TASKS.values(), *(load_task(str(path)) for path in sorted(DATASETS.glob("*.json")))]

TINY = ModelSpec.of(OUTPUTS, width=4, depth=2)


def network(spec=TINY, seed=0, **settings):
    torch.manual_seed(seed)
    return UNet(replace(spec, **settings))


def images(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("change", [-1, 0, 1])
def test_sizes_about_the_stride(depth, change):
    model = network(depth=depth).eval()
    side = model.stride + change
    for height, width in ((side, side), (side, 3 * side + 1), (2 * side + 1, side)):
        found = model(images(2, 3, height, width))
        assert found["parts"].shape == (2, 3, height, width)
        assert found["edge"].shape == found["near"].shape == (2, 1, height, width)


@pytest.mark.parametrize("stride", [2, 4])
def test_an_output_stride_predicts_on_larger_pixels_and_enlarges(stride):
    model = network(output_stride=stride, depth=2).double().eval()
    assert model.stride == stride * 4
    image = images(2, 3, 8 * stride, 4 * stride).double()
    (features,) = features_before(model.heads["parts"], lambda: model(image))
    assert features.shape == (2, 4, 8, 4)
    head = model.heads["parts"]
    numbers = F.conv2d(features, head.weight, head.bias).view(2, 3, 2, 2, 8, 4)
    small = numbers.permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 16, 8)  # each pixel as 2x2 of them
    large = F.interpolate(small, size=image.shape[2:], mode="bilinear", align_corners=False)
    assert torch.allclose(model(image)["parts"], large)
    assert torch.equal(numbers[:, :, 0, 0], numbers[:, :, 1, 1])
    odd = model(images(2, 3, 5 * stride + 1, 3).double())
    assert {tuple(prediction.shape[2:]) for prediction in odd.values()} == {(5 * stride + 1, 3)}


def features_before(module, run):
    """What a module takes while something runs."""
    taken = []
    with module.register_forward_pre_hook(lambda module, inputs: taken.extend(inputs)):
        run()
    return taken


def test_with_an_output_stride_every_pixel_is_seen():
    model = network(output_stride=4, depth=1).double()
    image = images(1, 3, 16, 16).double().requires_grad_()
    model(image)["edge"].square().sum().backward()
    assert (image.grad != 0).all()


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_with_an_output_stride_recomputed_equals_stored(mode):
    spec = replace(TINY, output_stride=2)
    stored, recomputed = trained("none", spec, 1), trained(mode, spec, 1)
    assert torch.equal(stored[0][0], recomputed[0][0])
    assert all(torch.equal(stored[1][0][n], recomputed[1][0][n]) for n in stored[1][0])


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (2, 3), (5, 64), (33, 31)])
@pytest.mark.parametrize("norm", NORMS)
def test_odd_sizes_train_too(size, norm):
    model = network(norm=norm).train()
    found = model(images(2, 3, *size))
    sum(prediction.mean() for prediction in found.values()).backward()
    assert all(prediction.shape[-2:] == size for prediction in found.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_padding_changes_nothing_far_from_the_border():
    model = network(norm="none").eval()
    image = images(1, 3, 64, 64)
    whole, part = model(image), model(image[..., :61, :])
    assert torch.allclose(whole["parts"][..., :30, :], part["parts"][..., :30, :], atol=1e-6)


@pytest.mark.parametrize(("channels", "expected"), [(3, 4_753_252), (1, 4_753_186)])
def test_the_course_network_has_its_parameters(channels, expected):
    """Its depth has three channels, as three classes would."""
    depth = Classes("depth", "", classes=("r", "g", "b")) if channels == 3 else Depth("depth", "")
    model = network(
        ModelSpec.of([Mask("mask", ""), depth], width=32, depth=4, centre=256, convs=(2, 1, 3))
    )
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_course_network_is_the_task_maskdepth():
    task = TASKS["maskdepth"]
    given = {k: task.defaults[k] for k in ("width", "centre")}
    model = network(ModelSpec.of(task.outputs, convs=tuple(task.defaults["convs"]), **given))
    assert sum(p.numel() for p in model.parameters()) == 4_753_186


def test_own_and_shared_decoders():
    model = network()
    assert sorted(model.decoders) == ["near", "seg"]
    own = network(outputs={o.name: replace(o, decoder=o.name) for o in OUTPUTS})
    assert sorted(own.decoders) == ["edge", "near", "parts"]
    decoder = sum(p.numel() for p in model.decoders["seg"].parameters())
    total, total_own = (sum(p.numel() for p in m.parameters()) for m in (model, own))
    assert total_own - total == decoder

    model(images(2, 3, 16, 16))["edge"].mean().backward()
    assert all(p.grad is not None for p in model.decoders["seg"].parameters())
    assert all(p.grad is None for p in model.decoders["near"].parameters())
    assert model.heads["parts"].weight.grad is None
    assert model.heads["edge"].weight.grad is not None


def test_a_subset_of_the_outputs():
    model = network().eval()
    image = images(2, 3, 20, 20)
    whole = model(image)
    for outputs in (("near",), ("edge", "parts"), ("near", "parts")):
        found = model(image, outputs)
        assert tuple(found) == outputs
        assert all(torch.equal(found[name], whole[name]) for name in outputs)


def test_an_image_does_not_see_its_batch():
    model = network()
    for seed in range(3):  # running statistics that are not 0 and 1
        model.train()(images(4, 3, 24, 24, seed=seed))
    model.eval()
    batch = images(3, 3, 19, 21)
    together = model(batch)
    for i in range(3):
        alone = model(batch[i : i + 1])
        for name in together:
            assert torch.allclose(alone[name][0], together[name][i], atol=1e-5)


def test_depth_stays_in_its_range():
    model = network().eval()
    with torch.no_grad():
        for scale in (0.0, 1.0, 1000.0):
            depth = model(scale * images(1, 3, 16, 16), ("near",))["near"]
            assert depth.dtype == torch.float32
            assert depth.min() >= 0
            assert depth.max() <= 5
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images(1, 3, 16, 16))
    assert found["near"].dtype == torch.float32
    assert found["parts"].dtype == torch.bfloat16


def test_labels_of_predictions():
    heads = network().heads
    logits = torch.tensor([[[[1.0, 0.0]], [[2.0, -1.0]], [[0.0, -2.0]]]])
    assert heads["parts"].to_labels(logits).tolist() == [[[1, 0]]]
    assert heads["edge"].to_labels(torch.tensor([[[[0.1, -0.1, 0.0]]]])).tolist() == [[[1, 0, 0]]]
    assert heads["near"].to_labels(torch.tensor([[[[0.5]]]])).tolist() == [[[0.5]]]
    assert heads["parts"].to_labels(logits).dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["parts", "edge"])
def test_the_likeliest_class_is_the_label_and_has_its_probability(name, dtype):
    head = network().heads[name]
    logits = images(2, head.weight.shape[0], 9, 31).mul(5).round().to(dtype)  # many are equal
    for scale in (1, 300):
        given = (scale * logits).to(memory_format=torch.channels_last)
        before = given.clone()
        label, share = head.likeliest(given)
        assert torch.equal(given, before)
        assert torch.equal(label, head.to_labels(given))
        assert torch.allclose(share, head.shares(given).amax(1), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 255])
def test_of_equal_classes_the_first_is_the_label(classes):
    head = make_head(4, Classes("many", files="", classes=tuple(map(str, range(classes)))))
    logits = images(2, classes, 5, 67).mul(3).round()
    expected = torch.from_numpy(logits.numpy().argmax(1))
    assert torch.equal(head.to_labels(logits).long(), expected)
    assert torch.equal(head.likeliest(logits)[0].long(), expected)


FOLDED = [
    {"norm": "batch", "dropout": 0.5},
    {"norm": "group"},
    {"norm": "none"},
    {"output_stride": 4, "depth": 3, "aux": 0.4},
    {"centre": 48, "convs": (1, 2, 3)},  # at the bottom fewer pixels than channels
    {"encoder": "resnet10t", "width": 8, "output_stride": 1},
]


@pytest.mark.parametrize("settings", FOLDED)
def test_a_network_with_folded_norms_says_the_same(settings):
    model, generator = network(**settings).double().eval(), torch.Generator().manual_seed(3)
    norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:  # as if it had been trained
        for values, low, high in (
            (norm.weight, -1, 2),
            (norm.bias, -1, 1),
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.1, 3),
        ):
            values.data.uniform_(low, high, generator=generator)
    before = copy.deepcopy(model.state_dict())
    folded = fold_norms(model)
    own = [each for block in folded.modules() if isinstance(block, Block) for each in block]
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in own)
    for size in ((8, 8), (40, 24)):
        image = images(2, 3, *size).double()
        with torch.inference_mode():
            expected, found = model(image), folded(image)
            assert set(expected) == set(found) == set(TINY.outputs)
            for name in TINY.outputs:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_spec_round_trip():
    spec = replace(TINY, convs=(2, 1, 3), dropout=0.1, norm="group")
    assert "outputs" not in spec.to_json()  # they stand in their tasks
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json())), OUTPUTS) == spec
    model = network(spec)
    model.load_state_dict(
        network(ModelSpec.from_json(spec.to_json(), OUTPUTS), seed=5).state_dict()
    )


def test_same_seed_same_network():
    first, second, other = network(), network(), network(seed=1)
    pairs = zip(first.parameters(), second.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_initial_weights_are_those_of_he_2015():
    model = network(width=16)
    layers = (m for m in model.modules() if isinstance(m, torch.nn.Conv2d | UpConv))
    for layer in layers:
        if layer.kernel_size == (3, 3):
            expected = (2 / (layer.out_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("seed", [8, 12, 13])
def test_a_rare_foreground_is_found_from_every_start(seed):
    """Three in a hundred pixels. Heads that begin near 0 never say yes from these seeds."""
    model = network(outputs={"edge": EDGE}, width=8, seed=seed).train()
    truth = torch.zeros(4, 1, 32, 32)
    truth[:, :, 10:12, 8:24] = 1
    image = 0.3 * images(4, 3, 32, 32) + 0.5 * (1 - truth)
    criterion = Criterion.of([Mask("edge", "", loss="bce+dice")])
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for _ in range(80):
        logits = model(image)["edge"]
        loss = criterion({"edge": logits}, {"edge": truth[:, 0].to(torch.uint8)})[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(logits > 0, truth > 0)


def test_a_depth_begins_flat_and_a_mask_does_not():
    found = network(width=16).train()(images(2, 3, 64, 64))
    assert found["near"].std() < 0.05 * NEAR.max_depth
    assert found["edge"].std() > 0.3


def test_names_and_norms_that_cannot_be():
    with pytest.raises(ValueError, match="norm 'layer': expected one of batch, group, none"):
        activation("layer", 8)
    with pytest.raises(ValueError, match="recompute mode 'all': expected one of"):
        recompute(network(), "all")
    with pytest.raises(ValueError, match="recompute mode 'full,none': expected 1 word or "):
        recompute(network(), "full,none")
    values = Mask("values", "")  # nn.ModuleDict has a method of that name
    with pytest.raises(ValueError, match="'values'"):
        network(outputs={"values": values})


def test_the_encoder_of_another_network():
    source, target = network(seed=1), network(outputs={"x": Mask("x", "")})
    target.load_encoder(source.state_dict())
    for key, value in source.encoder.state_dict().items():
        assert torch.equal(target.encoder.state_dict()[key], value)
    with pytest.raises(ValueError, match="encoder does not fit") as caught:
        network(width=8).load_encoder(source.state_dict())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 5), (8, 2)])
@pytest.mark.parametrize("channels", [3, 62])  # some sizes have fewer pixels, doubled
def test_the_joined_convolution_is_that_of_the_concatenation(size, channels):
    join = JoinConv(deep=channels, skip=2, channels=4, norm="none").double()
    below = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 2, 2 * size[0], 2 * size[1], dtype=torch.float64, requires_grad=True)
    up = F.interpolate(below, scale_factor=2, mode="nearest")
    weights = join.skip.weight, join.deep.weight
    turned = weights[1].transpose(0, 1).flip(-1, -2)
    both = torch.cat([skip, up], 1), torch.cat([weights[0], turned], 1)
    theirs = F.conv2d(*both, join.skip.bias, padding=1)
    ours = join(below, skip)
    assert torch.allclose(ours, theirs, atol=1e-12)
    change = torch.randn(ours.shape, dtype=torch.float64)
    inputs = (below, skip, *weights, join.skip.bias)
    expected = torch.autograd.grad((theirs * change).sum(), inputs)
    found = torch.autograd.grad((ours * change).sum(), inputs)
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


def trained(mode, spec, steps=3, plain=False, aux=0.0):
    """Losses, gradients, and the state of network and average after some steps of SGD."""
    model = network(spec)
    if not plain:
        use_cpu_kernels(model)
    recompute(model, mode)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    losses = {"parts": "ce+dice", "edge": "bce", "near": "silog+grad"}
    criterion = Criterion.of(spec.outputs.values(), losses=losses, aux=aux)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(7)
    losses, gradients = [], []
    for step in range(steps):
        image = images(2, 3, 21, 18, seed=step)
        targets = {
            "parts": (image[:, 0] * 3).to(torch.uint8),
            "edge": (image[:, 1] > 0.5).to(torch.uint8),
            "near": image[:, 2] * 5,
        }
        optimizer.zero_grad()
        model.train()
        loss, _ = criterion(model(image), targets)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
        optimizer.step()
        ema.update_parameters(model)
    return losses, gradients, model.state_dict(), ema.state_dict(), torch.get_rng_state()


EACH_BLOCK = "none,full,selective,none,full,selective,none,none"  # encoder, then two decoders


@pytest.mark.parametrize("mode", [*(mode for mode in MODES if mode != "none"), EACH_BLOCK])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("plain", [False, True])
def test_recomputed_equals_stored_to_the_bit(mode, norm, dropout, plain):
    spec = replace(TINY, norm=norm, dropout=dropout)
    stored, recomputed = (trained(each, spec, plain=plain) for each in ("none", mode))
    for a, b in zip(stored[0], recomputed[0], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(stored[1], recomputed[1], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    for a, b in zip(stored[2:4], recomputed[2:4], strict=True):
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert torch.equal(stored[4], recomputed[4])


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
@pytest.mark.parametrize("plain", [False, True])
def test_recomputed_equals_stored_with_auxiliary_heads(mode, plain):
    """What a block puts out has two readers then."""
    spec = replace(TINY, dropout=0.3, aux=True, depth=3)
    stored, recomputed = (trained(each, spec, plain=plain, aux=0.5) for each in ("none", mode))
    for a, b in zip(stored[1], recomputed[1], strict=True):
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []
    for a, b in zip(stored[2:4], recomputed[2:4], strict=True):
        assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("size", [(1, 1), (17, 30), (5, 64)])
def test_auxiliary_heads_are_there_for_training_alone(size):
    plain, model = network(depth=3), network(depth=3, aux=True)
    found = model.train()(images(2, 3, *size), ("parts", "near"))
    half, quarter = (tuple(math.ceil(side / scale) for side in size) for scale in (2, 4))
    assert {key: (p.shape[1], tuple(p.shape[2:])) for key, p in found.items()} == {
        "parts": (3, size),
        "parts@2": (3, half),
        "parts@4": (3, quarter),
        "near": (1, size),
        "near@2": (1, half),
        "near@4": (1, quarter),
    }
    assert list(found)[:2] == ["parts", "near"]
    coarser = network(depth=3, aux=True, output_stride=2)(images(2, 3, *size), ("edge",))
    assert [*coarser] == ["edge", "edge@4", "edge@8"]
    assert coarser["edge@4"].shape[-2:] == quarter
    weights = checkpoint.weights({"model": model.state_dict()})
    plain.load_state_dict(weights)
    assert len(weights) < len(model.state_dict())
    both = (net.eval()(images(2, 3, *size)) for net in (plain, model))
    for (name, expected), (same, value) in zip(*(each.items() for each in both), strict=True):
        assert name == same
        assert torch.equal(expected, value)


def test_auxiliary_heads_need_a_coarser_scale():
    for settings in ({"depth": 1}, {"outputs": {"paper": Label("paper", field="paper")}}):
        with pytest.raises(ValueError, match="--aux: this network has no decoder with a coarser"):
            network(aux=True, **settings)


def test_running_statistics_count_each_batch_once():
    model = network()
    for mode in MODES:
        recompute(model, mode)
        model.train()
        before = {n: b.clone() for n, b in model.named_buffers() if n.endswith("tracked")}
        model(images(2, 3, 16, 16))["parts"].mean().backward()
        assert len(before) > 5
        for name, buffer in model.named_buffers():
            if name.endswith("tracked") and "decoders.near" not in name:
                assert buffer == before[name] + 1, (mode, name)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_a_compiled_network_recomputes_too(mode):
    """Traced as for a GPU, but run without generated kernels, which take a minute to make."""
    states = []
    for compiled in (False, True):
        model = network(depth=1, convs=(1, 1, 1))
        recompute(model, mode)
        if compiled:
            model.compile(backend="aot_eager")
        found = model.train()(images(2, 3, 16, 16))
        sum(prediction.square().mean() for prediction in found.values()).backward()
        states.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        states[-1] |= dict(model.named_buffers())
    torch.compiler.reset()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.allclose(value.float(), states[1][name].float(), atol=1e-5), name


def kept_bytes(run):
    """Of what the call made, the bytes that are still there when it is done."""
    with Tracker() as tracker:
        made = run()
    held = int(tracker.footprint().held[-1])
    del made
    return held


def kept_by_the_network(mode):
    model = network(width=8).train()
    recompute(model, mode)
    image = images(2, 3, 64, 64)
    return kept_bytes(lambda: model(image))


def test_recomputation_saves_memory():
    sizes = [kept_by_the_network(mode) for mode in MODES]
    assert len(set(sizes)) == len(MODES)
    assert sizes == sorted(sizes, reverse=True)


def test_selective_keeps_what_is_small(monkeypatch):
    """The finest of these features have 8 * 64 * 64 * 4 bytes."""
    monkeypatch.setattr("models.recompute.MIN_SAVED_BYTES", 8 * 64 * 64 * 4 + 1)
    assert kept_by_the_network("selective") == kept_by_the_network("none")
    monkeypatch.setattr("models.recompute.MIN_SAVED_BYTES", 8 * 64 * 64 * 4)
    some = kept_by_the_network("selective")
    monkeypatch.setattr("models.recompute.MIN_SAVED_BYTES", 0)
    assert kept_by_the_network("selective") < some < kept_by_the_network("none")


class Wide(torch.nn.ReLU):
    """Puts out float32 whatever it is given, as GroupNorm does on CUDA under autocast."""

    def forward(self, x):
        return super().forward(x).float()


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_stage_keeps_no_more_than_it_puts_out(norm, amp):
    layers = (
        torch.nn.MaxPool2d(2),
        *activation(norm, 8),
        torch.nn.Dropout2d(0.1),
        Wide(),
        conv3x3(8, 4, norm),
    )
    stage = Block(*layers).train()
    recompute(stage, "selective")
    x = images(2, 8, 32, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        kept = kept_bytes(lambda: stage(x))
    output = 2 * 4 * 16 * 16 * (2 if amp else 4)
    small = 6000  # moments, what dropout multiplied by, weights, also in half precision
    assert output <= kept <= output + small < output + x.nbytes / 8


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_does_not_run_the_original(mode):
    model = network()
    recompute(model, mode)
    twin = copy.deepcopy(copy.deepcopy(model)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    twin(images(2, 3, 16, 16))["parts"].square().mean().backward()
    gradients = [p.grad for n, p in twin.named_parameters() if "near" not in n and "edge" not in n]
    assert all(gradient is not None for gradient in gradients)
    assert all(p.grad is None for p in model.parameters())
    assert all(not b.any() for n, b in model.named_buffers() if n.endswith("tracked"))


@pytest.mark.parametrize("task", EVERY_TASK, ids=lambda task: task.name)
def test_every_task_has_its_network(task):
    found = network(outputs={o.name: o for o in task.outputs}).eval()(images(1, 3, 17, 22))
    for output in task.outputs:
        assert found[output.name].shape == (1, output.channels, 17, 22)
        if output.kind == "depth":
            assert found[output.name].min() > 0
            assert found[output.name].max() < output.max_depth


class TestTimm:
    """Encoders of the timm package."""

    @pytest.fixture(autouse=True)
    def timm(self):
        return pytest.importorskip("timm")

    @pytest.mark.parametrize("encoder", ["mobilenetv3_small_050", "convnext_femto"])
    def test_features_fit_the_decoder(self, encoder):
        model = network(encoder=encoder, width=4).train()
        found = model(images(2, 3, 37, 50))
        assert found["parts"].shape == (2, 3, 37, 50)
        found["parts"].mean().backward()
        assert model.decoders["seg"].blocks[0] is not None
        assert all(p.grad is not None for p in model.decoders["seg"].parameters())

    def test_recomputed_equals_stored(self):
        spec = replace(TINY, encoder="mobilenetv3_small_050")
        stored, recomputed = trained("none", spec, 1), trained("full", spec, 1)
        assert torch.equal(stored[0][0], recomputed[0][0])
        assert all(torch.equal(stored[2][n], recomputed[2][n]) for n in stored[2])

    def test_relus_of_ours_change_nothing(self, timm):
        torch.manual_seed(2)
        model = network(encoder="resnet10t")
        use_cpu_kernels(model)
        encoder = model.encoder.train()
        net = timm.create_model("resnet10t", features_only=True).train()
        net.load_state_dict(encoder.net.state_dict())
        image, ends = images(2, 3, 64, 64), []
        for features in (encoder(image), net(image)):
            sum(feature.square().mean() for feature in features).backward()
            ends.append(features)
        assert sum(isinstance(m, BitReLU) for m in encoder.modules()) == 11
        assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))
        pairs = zip(encoder.net.parameters(), net.parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in pairs)

    @pytest.mark.parametrize("stride", [1, 2, 4, 8])
    def test_a_decoder_ends_at_the_output_stride(self, stride):
        model = network(
            encoder="mobilenetv3_small_050", output_stride=stride
        )  # features from 1/2 on
        blocks = {len(decoder.blocks) for decoder in model.decoders.values()}
        assert blocks == {5 - stride.bit_length() + 1}
        assert model(images(2, 3, 45, 70))["near"].shape == (2, 1, 45, 70)

    def test_weights_by_position(self, tmp_path):
        source = network(encoder="mobilenetv3_small_050", seed=3).encoder.net.state_dict()
        renamed = {f"layer{i}": tensor for i, tensor in enumerate(source.values())}
        torch.save(renamed, tmp_path / "weights.pth")
        spec = replace(TINY, encoder="mobilenetv3_small_050")
        model = UNet(spec, str(tmp_path / "weights.pth"))
        pairs = zip(model.encoder.net.state_dict().values(), source.values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    @pytest.mark.parametrize("encoder", ["mobilenetv3_small_050", "convnext_femto"])
    def test_weights_by_name(self, timm, tmp_path, encoder):
        """As timm itself saves a classifier's, in whatever order."""
        torch.manual_seed(3)
        source = timm.create_model(encoder)
        expected = network(encoder=encoder).encoder.net
        old = {k: t for k, t in source.state_dict().items() if "num_batches" not in k}
        torch.save(dict(reversed(old.items())), tmp_path / "weights.pth")
        model = UNet(replace(TINY, encoder=encoder), str(tmp_path / "weights.pth"))
        expected.load_state_dict(
            {k.replace("stem.", "stem_").replace("stages.", "stages_"): t for k, t in old.items()}
            if encoder == "convnext_femto"
            else old,
            strict=False,
        )
        pairs = zip(model.encoder.net.parameters(), expected.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(next(expected.parameters()), next(source.parameters()))

    def test_weights_of_some_other_network(self, timm, tmp_path):
        """Whose names are known in part: never by position."""
        state = timm.create_model("mobilenetv3_small_050").state_dict()
        path = tmp_path / "weights.pth"
        spec = replace(TINY, encoder="mobilenetv3_small_050")
        torch.save({"x" if k == "bn1.weight" else k: t for k, t in state.items()}, path)
        with pytest.raises(ValueError, match=r"weights.pth: has no bn1.weight, which encoder"):
            UNet(spec, str(path))
        torch.save(state | {"bn1.weight": torch.zeros(3)}, path)
        with pytest.raises(ValueError, match=r"bn1.weight is \(3,\), encoder .* expects \(16,\)"):
            UNet(spec, str(path))
        torch.save({f"layer{i}": t for i, t in enumerate(reversed(state.values()))}, path)
        with pytest.raises(ValueError, match=r"weights.pth: layer0 is \("):
            UNet(spec, str(path))

    @pytest.mark.parametrize("name", ["no_such_net", "vit_tiny_patch16_224"])
    def test_encoders_that_do_not_fit(self, name):
        with pytest.raises(ValueError, match=f"encoder '{name}'") as caught:
            network(encoder=name)
        assert "\n" not in str(caught.value)

    def test_weights_that_do_not_fit(self, tmp_path):
        path = tmp_path / "weights.pth"
        torch.save({"a": torch.zeros(3)}, path)
        with pytest.raises(ValueError, match=r"weights.pth: 1 tensors, encoder"):
            UNet(replace(TINY, encoder="mobilenetv3_small_050"), str(path))
        path.write_bytes(b"nothing")
        with pytest.raises(ValueError, match=r"weights.pth: not a state dict"):
            UNet(replace(TINY, encoder="mobilenetv3_small_050"), str(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batch_norm_and_relu_are_those_of_torch(dtype):
    torch.manual_seed(3)
    wide = torch.promote_types(dtype, torch.float32)
    ours, norm = BatchNormReLU(5).to(wide), torch.nn.BatchNorm2d(5).to(wide)
    for each in (ours, norm):
        with torch.no_grad():
            each.weight.copy_(torch.tensor([0.5, 1, 2, -1, -0.3]))
            each.bias.copy_(torch.tensor([0, 0.5, -1, 0.2, 1]))
    theirs = torch.nn.Sequential(norm, torch.nn.ReLU())
    close = (
        {"rtol": 1e-5, "atol": 1e-5} if dtype != torch.bfloat16 else {"rtol": 2e-2, "atol": 2e-2}
    )
    for num in (1, 3):
        x = (3 * torch.randn(num, 5, 7, 6) + 2).to(dtype)
        change = torch.randn(num, 5, 7, 6).to(dtype)
        found = []
        for layer, of in ((ours, ours), (theirs, norm)):
            image = x.clone().requires_grad_()
            layer(image).backward(change)
            found.append([layer(x), image.grad, of.weight.grad, of.bias.grad, *of.buffers()])
        for mine, other in zip(*found, strict=True):
            assert mine.dtype == other.dtype
            torch.testing.assert_close(mine, other, **close)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["image", "weight", "bias"])
def test_batch_norm_loses_nothing_that_is_not_a_number(dtype, value, where):
    norm = BatchNormReLU(3).to(torch.promote_types(dtype, torch.float32)).train()
    x = torch.randn(2, 3, 9, 4).to(dtype)
    assert norm(x).isfinite().all()
    if where == "image":
        x[1, 1, 2, 3] = value
    else:
        with torch.no_grad():
            getattr(norm, where)[1] = value
    found = norm(x)
    expected = F.relu(F.batch_norm(x, None, None, norm.weight, norm.bias, True))
    assert found.isnan().any() == (where != "bias" or math.isnan(value))
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inplace", [False, True])
def test_relu_is_that_of_torch(dtype, inplace):
    infinite, tiny = torch.inf, torch.finfo(dtype).smallest_normal
    edges = torch.tensor([0.0, tiny, 1, infinite, torch.nan], dtype=dtype)
    x = torch.cat([edges, -edges, torch.randn(90).to(dtype)]).reshape(5, 20)
    change = torch.randn(5, 20).to(dtype)
    found = []
    for relu in (BitReLU(inplace).train(), torch.nn.ReLU(inplace)):
        leaf = x.clone().requires_grad_()
        inner = 1 * leaf
        y = relu(inner)
        assert (inner is y) == inplace
        y[:, 1:].backward(change[:, 1:])
        found.append((y.detach(), leaf.grad.where(~y.isnan(), 0)))
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)
    assert not found[0][0].signbit().where(~found[0][0].isnan(), False).any()


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_gradients_of_both_readers_are_added_and_left_as_they_are(used):
    x = images(2, 3, 4, 4).requires_grad_()
    copies = branches(x)
    assert all(torch.equal(copy, x) for copy in copies)
    changes = [images(2, 3, 4, 4, seed=i) for i in used]
    before = [change.clone() for change in changes]
    torch.autograd.backward([copies[i] for i in used], changes)
    assert torch.allclose(x.grad, torch.stack(before).sum(0))
    assert all(torch.equal(*pair) for pair in zip(changes, before, strict=True))
    with torch.no_grad():
        assert all(copy is x for copy in branches(x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", NORMS)
def test_cpu_kernels_change_neither_numbers_nor_names(mode, norm):
    spec = replace(TINY, norm=norm, dropout=0.3)
    plain, quick = trained("none", spec, plain=True), trained(mode, spec)
    for a, b in zip(plain[0], quick[0], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip((*plain[1], plain[2]), (*quick[1], quick[2]), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)
    assert torch.equal(plain[4], quick[4])


def test_cpu_kernels_are_put_in_once_and_stay_off_the_plain_network():
    model = network()
    use_cpu_kernels(model)
    use_cpu_kernels(model)
    assert not any(type(m) in (torch.nn.ReLU, torch.nn.BatchNorm2d) for m in model.modules())
    assert len(model.decoders["seg"]._forward_pre_hooks) == 1
    assert not any(isinstance(m, BatchNormReLU) for m in network().modules())
    recompute(model, "full")
    recompute(model, "none")
    kernels = {"models.cpu", "models.cpu_convolution"}
    layers = {type(m).__module__ for m in network().modules()}
    assert not layers & kernels
    assert {type(m).__module__ for m in model.modules()} >= kernels


@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("kernel", [3, 5, (1, 7)])
@pytest.mark.parametrize("same", [False, True])
def test_depthwise_gradients_are_of_float32(kernel, stride, same):
    timm_layers = pytest.importorskip("timm.layers")
    layer = (timm_layers.Conv2dSame if same else torch.nn.Conv2d)(
        6, 6, kernel, stride, 0 if same else 2, groups=6, bias=False
    )
    exact, quick = copy.deepcopy(layer).double(), copy.deepcopy(layer)
    quick.weight.data = exact.weight.data.bfloat16().float()
    exact.weight.data = quick.weight.data.double()
    if is_slow(quick):
        use_float32_gradients(quick)
    x = images(3, 6, 13, 18).bfloat16().double().requires_grad_()
    mine = x.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = quick(mine)
    expected = exact(x)
    change = torch.randn(y.shape).bfloat16()
    y.backward(change)
    expected.backward(change.double())
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.double(), expected, atol=0.02, rtol=0.01)
    assert torch.allclose(mine.grad.double(), x.grad, atol=0.02, rtol=0.01)
    if is_slow(layer):  # summed up in float32: closer than half precision can come
        assert torch.allclose(quick.weight.grad.double(), exact.weight.grad, atol=1e-4)
        assert sorted(quick.state_dict()) == sorted(layer.state_dict())
    with torch.no_grad():
        assert torch.equal(quick(mine), quick.train(False)(mine))


def test_only_slow_depthwise_layers_are_changed():
    conv = torch.nn.Conv2d
    assert is_slow(conv(4, 4, 5, padding=2, groups=4, bias=False))
    assert is_slow(conv(4, 4, 3, 2, padding=1, groups=4, bias=False))
    others = [conv(4, 4, 3, padding=1, groups=4, bias=False), conv(4, 4, 5, bias=False)]
    others += [conv(4, 8, 5, groups=4, bias=False), conv(4, 4, 5, groups=4)]
    assert not any(map(is_slow, [*others, torch.nn.ReLU()]))


@pytest.mark.parametrize("flags", [(), ("--plain",)])
def test_plain_leaves_the_kernels_out(flags):
    case = make_case("damage", "--size", "32", "32", "--bs", "2", "--device", "cpu", *flags)
    kernels = [m for m in case.state.model.modules() if type(m).__module__ == "models.cpu"]
    assert bool(kernels) == (not flags)
    case.step()
