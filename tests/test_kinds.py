"""One contract for every kind of output, from its bytes to a file that was predicted.

A new kind is an entry in each table and an example of itself in `examples.py`.
"""

import json

import numpy as np
import pytest
import torch
from conftest import members_of, needs_gpu, put
from examples import EXAMPLES
from PIL import Image

from datasets.check.statistics import STATISTICS
from datasets.decode import DECODERS, decode_target
from datasets.demo.scene import FILES
from datasets.task import KINDS, Output, Task
from datasets.transforms import MOVES, Box, Move
from losses import TERMS
from models.heads import HEADS
from utils.metrics import METRICS, picking_scores
from utils.pictures.gallery import EvalSample
from utils.pictures.visualize import PICTURES, picture_of, sample_panel

KINDS_AND_TERMS = [(kind, term) for kind, terms in TERMS.items() for term in terms]
SIZE = (11, 13)  # odd, so that coarser scales do not divide it


@pytest.fixture
def example(kind):
    return EXAMPLES[kind]()


def targets_of(example, seed=0, num=8):
    """Targets (N, ...) of which about a third of the pixels is unknown."""
    rng = np.random.default_rng(seed)
    return np.stack([example.target(rng, SIZE) for _ in range(num)])


def predictions_of(example, seed=0, num=8):
    """What a head says to noise, and its labels."""
    torch.manual_seed(seed)
    head = HEADS[example.output.kind](8, example.output)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        prediction = head(torch.randn(num, 8, 1, 1) + torch.randn(num, 8, *SIZE))
    return prediction, head.to_labels(prediction)


def test_every_kind_is_known_everywhere():
    tables = [DECODERS, MOVES, STATISTICS, FILES, HEADS, TERMS, METRICS, PICTURES, EXAMPLES]
    assert all(table.keys() == KINDS.keys() for table in tables)
    assert all(noun.kind == kind for kind, noun in KINDS.items())
    assert len({noun.says for noun in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_survives_json_and_names_what_it_does_not_know(example):
    value = json.loads(json.dumps(example.output.to_json()))
    assert Output.from_json(value) == example.output
    assert value["kind"] == example.output.kind
    with pytest.raises(ValueError, match="unknown key 'colour'"):
        Output.from_json(value | {"colour": 1})
    for other in KINDS.values():
        for key in other.__dataclass_fields__.keys() - type(example.output).__dataclass_fields__:
            with pytest.raises(ValueError, match=f"{key} is a key of .*not of {value['kind']}"):
                Output.from_json(value | {key: 1})


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_decode_to_the_target(example):
    output = example.output
    target = example.target(np.random.default_rng(0), SIZE)
    assert target.shape == output.target_shape(SIZE)
    found = decode_target(example.source(example.pixels(target)), "a.png", output)
    assert str(found.dtype) == f"torch.{output.dtype}"
    np.testing.assert_allclose(found, target, atol=example.coarse)
    assert (example.unknown(found) == example.unknown(torch.from_numpy(target))).all()


WHOLE, PART = Box(0, 0, 40, 52), Box(6, 9, 20, 26)
MOVED = {
    "crop": Move(PART, (0, 0), 0.0, False, 1.0),
    "beyond the image": Move(Box(-6, 30, 20, 26), (0, 0), 0.0, False, 1.0),
    "flip": Move(PART, (0, 0), 0.0, True, 1.0),
    "half turn": Move(PART, (0, 0), 0.0, False, 1.0, 2),
    "zoom in": Move(Box(6, 9, 10, 13), (0, 0), 0.0, False, 2.0),
    "zoom out": Move(WHOLE, (0, 0), 0.0, False, 0.5),
    "turn": Move(Box(4, 5, 32, 42), (6, 8), 25.0, False, 1.0),
    "all at once": Move(Box(-2, 3, 16, 21), (6, 8), -30.0, True, 2.0),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind].per_image])
@pytest.mark.parametrize("what", MOVED)
def test_a_target_follows_its_image(example, what):
    """Each target's pixel comes from the place that the image there shows."""
    move, size, full = MOVED[what], (20, 26), (40, 52)
    rows, columns = np.indices(full)
    image = torch.from_numpy(np.stack([6 * rows, 4 * columns, 0 * rows]).astype(np.uint8))
    image = move.apply(image, size, smooth=True, fill=0)  # its colour tells the place
    number = torch.from_numpy((rows * full[1] + columns)[None].astype(np.float32))
    number = move.apply(number, size, smooth=False, fill=-1)[0].numpy().astype(int)
    row, column = np.maximum(number, 0) // full[1], np.maximum(number, 0) % full[1]

    inside = number >= 0
    inner = np.pad(inside, 2)
    inner = np.all([np.roll(inner, s, (0, 1)) for s in np.ndindex(5, 5)], 0)[4 : -0 or None, 4:]
    inner = inner[: size[0], : size[1]] & inside
    assert inner.sum() > 50
    step = max(1, 1 / move.zoom) + 0.5
    assert (np.abs(image[0].numpy() / 6 - row)[inner] <= step).all()
    assert (np.abs(image[1].numpy() / 4 - column)[inner] <= step).all()

    target = example.target(np.random.default_rng(0), full)
    found = MOVES[example.output.kind](torch.from_numpy(target), move, size, example.output).numpy()
    there = target[..., row, column]
    known = inside & ~example.unknown(there)
    assert known.sum() > 50
    assert (example.unknown(found) >= ~known).all()  # nothing is made up
    expected = np.where(known, example.followed(there, move), example.output.fill)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_says_what_targets_say(example):
    prediction, labels = predictions_of(example)
    size = () if example.output.per_image else SIZE
    assert prediction.shape == (8, example.output.channels, *size)
    assert labels.shape == (8, *example.output.target_shape(SIZE))
    assert str(labels.dtype) == f"torch.{example.output.dtype}"
    assert not example.unknown(labels).any()
    target = targets_of(example)
    head = HEADS[example.output.kind](8, example.output)
    certain = head.to_labels(example.certain(target)).numpy()
    known = ~example.unknown(target)
    np.testing.assert_allclose(
        np.moveaxis(certain, 1, -1)[known] if certain.ndim == 4 else certain[known],
        np.moveaxis(target, 1, -1)[known] if certain.ndim == 4 else target[known],
        atol=1e-6,
    )


@pytest.mark.parametrize(("kind", "term"), KINDS_AND_TERMS)
def test_an_unknown_pixel_moves_nothing(example, term):
    loss, target = TERMS[example.output.kind][term], targets_of(example)
    prediction, other = predictions_of(example)[0], predictions_of(example, seed=1)[0]
    void = torch.from_numpy(example.unknown(target))
    void = void.reshape(len(target), 1, *void.shape[1:]).expand_as(prediction)
    changed = torch.where(void, other, prediction).requires_grad_()
    cost = loss(changed, torch.from_numpy(target))
    assert torch.equal(cost, loss(prediction, torch.from_numpy(target)))
    assert cost > 0
    (gradient,) = torch.autograd.grad(cost, changed)
    assert (gradient[void] == 0).all()
    assert (gradient[~void] != 0).any()


@pytest.mark.parametrize(("kind", "term"), KINDS_AND_TERMS)
def test_the_truth_costs_least(example, term):
    loss, target = TERMS[example.output.kind][term], targets_of(example)
    truth, given = example.truth(target, term), torch.from_numpy(target)
    cost = loss(truth.requires_grad_(), given)
    assert torch.autograd.grad(cost, truth)[0].isfinite().all()
    least, truth = cost.item(), truth.detach()
    floor = example.floor.get(term, lambda _: 0.0)(target)
    assert least == pytest.approx(floor, abs=2e-6)
    other = predictions_of(example)[0]
    for share in (0.1, 0.5, 1.0):
        assert loss(truth + share * (other - truth), given) >= least
    assert loss(other, given) > least + 0.01


@pytest.mark.parametrize(("kind", "term"), KINDS_AND_TERMS)
def test_without_a_known_pixel_a_loss_is_exactly_zero(example, term):
    prediction = predictions_of(example)[0].requires_grad_()
    target = torch.full_like(torch.from_numpy(targets_of(example)), example.output.fill)
    assert example.unknown(target).all()
    cost = TERMS[example.output.kind][term](prediction, target)
    assert cost.item() == 0
    assert (torch.autograd.grad(cost, prediction)[0] == 0).all()


@needs_gpu
@pytest.mark.parametrize(("kind", "term"), KINDS_AND_TERMS)
def test_a_gpu_finds_the_same_loss_and_gradient(example, term):
    loss, target = TERMS[example.output.kind][term], torch.from_numpy(targets_of(example))
    prediction = predictions_of(example)[0]
    found = []
    for device in ("cpu", "cuda"):
        moved = prediction.to(device).requires_grad_()
        cost = loss(moved, target.to(device))
        found.append([x.cpu() for x in (cost.detach(), *torch.autograd.grad(cost, moved))])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_measures_the_same(example):
    target = torch.from_numpy(targets_of(example))
    prediction = predictions_of(example)[0]
    found = []
    for device in ("cpu", "cuda"):
        metric = METRICS[example.output.kind].of(example.output)
        metric.update(prediction.to(device), target.to(device))
        found.append(metric.compute())
    assert found[1] == pytest.approx(found[0], rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "term"), KINDS_AND_TERMS)
def test_half_precision_is_scored_in_float32(example, term, dtype):
    loss, target = TERMS[example.output.kind][term], torch.from_numpy(targets_of(example))
    prediction = predictions_of(example)[0]
    half = prediction.to(dtype)
    cost = loss(half, target)
    assert cost.dtype == torch.float32
    assert torch.equal(cost, loss(half.float(), target))
    torch.testing.assert_close(cost, loss(prediction, target), rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_plain_formulas_however_they_are_counted(example):
    prediction, labels = predictions_of(example)
    target = targets_of(example)
    expected = example.scores(prediction.numpy(), labels.numpy(), target)
    for parts in ((8,), (1,) * 8, (2, 3, 3)):
        ranks = [METRICS[example.output.kind].of(example.output) for _ in parts]
        given = torch.from_numpy(target)
        for metrics, p, t in zip(ranks, prediction.split(parts), given.split(parts), strict=True):
            metrics.update(p, t)
        merged = METRICS[example.output.kind].of(example.output)
        merged.load_state(sum(metrics.state() for metrics in ranks))
        found = merged.compute()
        assert found.keys() == expected.keys()
        for name, score in expected.items():
            off = [far for start, far in example.tolerance.items() if name.startswith(start)]
            assert found[name] == pytest.approx(score, rel=1e-5, abs=sum(off)), name
    assert set(picking_scores(example.output)) < expected.keys()
    assert example.output.score in picking_scores(example.output)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_nothing_are_nan_and_named_unlike_losses(example):
    """Both are logged as OUTPUT/NAME."""
    metrics = METRICS[example.output.kind].of(example.output)
    nothing = torch.full_like(torch.from_numpy(targets_of(example)), example.output.fill)
    for _ in range(2):
        assert all(type(score) is float for score in metrics.compute().values())
        assert all(np.isnan(score) for score in metrics.compute().values())
        metrics.update(predictions_of(example)[0], nothing)
    scores = metrics.compute().keys()
    assert not scores & TERMS[example.output.kind].keys()
    assert metrics.HEADLINE
    assert {*metrics.HEADLINE, *metrics.LOWER} <= scores


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_the_size_of_its_image(example):
    picture, target = picture_of(example.output), targets_of(example, num=1)[0]
    labels = predictions_of(example)[1].numpy()[0]
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    for values in (labels, target, np.full_like(target, example.output.fill)):
        view = picture.view(image, values)
        assert view.dtype == np.uint8
        assert view.shape == image.shape
    name = example.output.name
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    sample = EvalSample("a.png", pixels, {name: target}, {name: labels})
    page = sample_panel([sample], [example.output])
    assert page.width > 3 * SIZE[1]
    assert all(len(color) == 6 for _, color in picture.legend([labels, target]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_reads_back(example):
    _, labels = predictions_of(example)
    for values in labels.numpy():
        file = example.source(picture_of(example.output).file(values))
        found = decode_target(file, "a.png", example.output)
        np.testing.assert_allclose(found, values, atol=example.coarse)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_resumes_predicts_and_exports(example, run_train, run_infer, tmp_path):
    output = example.output
    best = f"{output.name}/{picking_scores(output)[0]}"
    task = Task("one", "img/{key}.png", (output,), best, metadata="metadata.csv", val_share=0.3)
    (tmp_path / "one.json").write_text(json.dumps(task.to_json()))
    data = put(tmp_path / "data", members_of(task))
    words = ("--task", "one.json", "--data", data, "--schedule", "constant", "--lr", "0.01")
    words += () if output.per_image else ("--aux", "0.4")
    assert run_train(*words, "--steps", "3", "--out", "whole").status == 0
    assert run_train(*words, "--steps", "2", "--out", "parts").status == 0
    ran = run_train("--resume", "parts/last.pt", "--steps", "3")
    assert ran.status == 0, ran.err
    states = [torch.load(f"{name}/last.pt", weights_only=True) for name in ("whole", "parts")]
    models = [state["learner"]["model"] for state in states]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert any(name.startswith("aux.") for name in models[0]) != output.per_image

    assert run_infer("--weights", "whole/best.pt", "--export", "net.pt2").status == 0
    program = torch.export.load("net.pt2").module()
    ran = run_infer("--weights", "whole/best.pt", "--input", data / "img", "--out", "found")
    assert ran.status == 0, ran.err
    head = HEADS[output.kind](8, output)
    for path in sorted((data / "img").iterdir())[:2]:
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        with torch.no_grad():
            said = head.to_labels(program(pixels[None] / 255)[output.name])[0].numpy()
        written = tmp_path / "found" / f"{path.stem}_{output.name}{picture_of(output).suffix}"
        if output.per_image:
            source = json.loads(written.read_text())[output.name]
        else:
            source = written.read_bytes()
        found = decode_target(source, path.name, output).numpy()
        np.testing.assert_allclose(found, said, atol=2 * example.coarse + 1e-3)
        view = Image.open(tmp_path / "found" / f"{path.stem}_{output.name}_view.png")
        assert view.width >= pixels.shape[2]
        assert (view.height > pixels.shape[1]) != output.per_image  # a legend stands below
