"""Metrics equal independent libraries on random inputs, however pixels are split into batches."""

import math

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as cityscapes
from cityscapesscripts.helpers.labels import id2label
from torchmetrics import classification as reference

from datasets.task import IGNORE, Classes, Depth, Mask
from utils.metrics import METRICS, picking_scores
from utils.metrics.classes import ClassMetrics, MaskMetrics
from utils.metrics.depth import BIN, DepthMetrics

NAMES = ("clean", "peel", "dust", "hair", "fold", "stamp")
SIZE = (5, 9, 7)
OUTPUTS = {
    "classes": Classes("c", "", classes=NAMES),
    "mask": Mask("m", ""),
    "depth": Depth("d", "", max_depth=8.0),
}


def fresh(kind):
    return METRICS[kind].of(OUTPUTS[kind])


def class_scene(seed=0, known=(0, 1, 2, 3, 4, 5)):
    """Logits that are right about half the time; truth has the known classes, 30 % is ignored."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.tensor(known, dtype=torch.uint8)
    target = known[torch.randint(0, len(known), SIZE, generator=generator)]
    logits = torch.randn(SIZE[0], len(NAMES), *SIZE[1:], generator=generator)
    logits += 2 * torch.nn.functional.one_hot(target.long(), len(NAMES)).permute(0, 3, 1, 2)
    return logits, target.masked_fill(torch.rand(SIZE, generator=generator) < 0.3, IGNORE)


def mask_scene(seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(SIZE, generator=generator) < 0.3).byte()
    logits = torch.randn(SIZE, generator=generator) + target
    void = torch.rand(SIZE, generator=generator) < 0.3
    return logits.unsqueeze(1), target.masked_fill(void, IGNORE)


def depth_scene(seed=0):
    """Truth between 0.3 and 6, a tenth of it exactly 0 and a tenth missing."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.exp(torch.rand(SIZE, generator=generator) * 3 - 1.2)
    prediction = target * torch.exp(torch.randn(SIZE, generator=generator) * 0.3)
    draw = torch.rand(SIZE, generator=generator)
    return prediction.unsqueeze(1), target.masked_fill(draw < 0.2, 0.0).masked_fill(
        draw < 0.1, -1.0
    )


SCENES = {"classes": class_scene, "mask": mask_scene, "depth": depth_scene}


def scores(metrics, prediction, target):
    metrics.update(prediction, target)
    return metrics.compute()


@pytest.mark.parametrize("known", [(0, 1, 2, 3, 4, 5), (0, 2, 3)])
def test_class_scores_equal_torchmetrics(known):
    logits, target = class_scene(known=known)
    ours = ClassMetrics(NAMES)
    found = scores(ours, logits, target)
    ids = logits.argmax(1)

    def theirs(metric, average):
        metric = metric(len(NAMES), average=average, ignore_index=IGNORE)
        return metric(ids, target.long()).double()

    def close(a, b):
        torch.testing.assert_close(torch.as_tensor(a).double(), b, rtol=1e-6, atol=1e-7)

    close(found["miou"], theirs(reference.MulticlassJaccardIndex, "macro"))
    close(found["f1"], theirs(reference.MulticlassF1Score, "macro"))
    close(found["pixel_accuracy"], theirs(reference.MulticlassAccuracy, "micro"))
    close(found["fwiou"], theirs(reference.MulticlassJaccardIndex, "weighted"))
    recall = theirs(reference.MulticlassAccuracy, "none")
    close(found["mean_accuracy"], recall[list(known)].mean())  # theirs counts classes not in truth

    rows = ours.per_class()
    assert tuple(row.name for row in rows) == NAMES
    close([row.iou for row in rows], theirs(reference.MulticlassJaccardIndex, "none"))
    close([row.f1 for row in rows], theirs(reference.MulticlassF1Score, "none"))
    close([row.precision for row in rows], theirs(reference.MulticlassPrecision, "none"))
    close([row.recall for row in rows], recall)

    confusion = reference.MulticlassConfusionMatrix(len(NAMES), ignore_index=IGNORE)
    assert torch.equal(ours.confusion, confusion(ids, target.long()))


def test_class_scores_equal_cityscapes(monkeypatch):
    """The evaluator of the benchmark counts label ids; ours, train ids. One class never occurs."""
    train_ids = {label.trainId: i for i, label in id2label.items() if 0 <= label.trainId < 255}
    num_classes = len(train_ids)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, num_classes - 1, (2, 40, 50)).astype(np.uint8)
    guess = np.where(
        rng.random(truth.shape) < 0.5, truth, rng.integers(0, num_classes - 1, truth.shape)
    )
    truth[rng.random(truth.shape) < 0.2] = IGNORE

    monkeypatch.setattr(cityscapes.args, "evalLabels", [])
    matrix = cityscapes.generateMatrix(cityscapes.args)
    to_file = np.zeros(256, dtype=np.int64)  # ignored pixels get id 0, "unlabeled"
    to_file[list(train_ids)] = list(train_ids.values())
    np.add.at(matrix, (to_file[truth], to_file[guess]), 1)
    ious = {
        id2label[i].name: cityscapes.getIouScoreForLabel(i, matrix, cityscapes.args)
        for i in cityscapes.args.evalLabels
    }
    names = tuple(id2label[train_ids[i]].name for i in range(num_classes))
    metrics = ClassMetrics(names)
    metrics.update(torch.from_numpy(guess), torch.from_numpy(truth))
    found = metrics.compute()

    assert found["miou"] == pytest.approx(cityscapes.getScoreAverage(ious, cityscapes.args))
    for row in metrics.per_class():
        assert row.iou == pytest.approx(ious[row.name], nan_ok=True)
    assert math.isnan(metrics.per_class()[-1].iou)


def test_class_scores_by_hand():
    """Truth a a a b, c nowhere; prediction a a b b."""
    target = torch.tensor([[[0, 0, 0, 1, 255]]], dtype=torch.uint8)
    metrics = ClassMetrics(("a", "b", "c"))
    found = scores(metrics, torch.tensor([[[0, 0, 1, 1, 2]]]), target)
    assert metrics.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert found == pytest.approx(
        {
            "miou": (2 / 3 + 1 / 2) / 2,
            "f1": (4 / 5 + 2 / 3) / 2,
            "pixel_accuracy": 3 / 4,
            "mean_accuracy": (2 / 3 + 1) / 2,
            "fwiou": 3 / 4 * 2 / 3 + 1 / 4 * 1 / 2,
            "baseline_miou": 3 / 4 / 2,
            "baseline_accuracy": 3 / 4,
        }
    )
    assert metrics.per_class()[0] == pytest.approx(("a", 2 / 3, 4 / 5, 1, 2 / 3, 3 / 4))
    metrics = ClassMetrics(("a", "b", "c"))
    metrics.update(torch.zeros_like(target), target)  # b is there but never found
    assert metrics.per_class()[1] == ("b", 0, 0, 0, 0, 1 / 4)


def test_the_class_baseline_is_what_the_most_frequent_class_scores():
    _, target = class_scene(known=(1, 1, 1, 2, 4))
    found = scores(ClassMetrics(NAMES), torch.ones_like(target), target)
    assert found["miou"] == pytest.approx(found["baseline_miou"])
    assert found["pixel_accuracy"] == pytest.approx(found["baseline_accuracy"])


def test_equal_logits_go_to_the_first_class():
    logits = torch.randint(0, 3, (2, len(NAMES), 8, 8)).bfloat16()
    target = logits.argmax(1).byte()
    assert scores(ClassMetrics(NAMES), logits, target)["pixel_accuracy"] == 1


def test_mask_scores_equal_torchmetrics():
    logits, target = mask_scene()
    found = scores(MaskMetrics(), logits, target)
    theirs = {
        "iou": reference.BinaryJaccardIndex,
        "f1": reference.BinaryF1Score,
        "precision": reference.BinaryPrecision,
        "recall": reference.BinaryRecall,
        "accuracy": reference.BinaryAccuracy,
    }
    for name, metric in theirs.items():
        expected = metric(ignore_index=IGNORE)(logits[:, 0], target.int()).item()
        assert found[name] == pytest.approx(expected, rel=1e-6), name


def test_counts_of_a_version_without_probabilities_are_read():
    logits, target = mask_scene()
    whole, old = MaskMetrics(), MaskMetrics()
    whole.update(logits, target)
    old.load_state(whole.state()[:4])
    found, expected = old.compute(), whole.compute()
    assert math.isnan(found.pop("best_f1"))
    assert math.isnan(found.pop("best_threshold"))
    assert found == {name: expected[name] for name in found}


@pytest.mark.parametrize(("logit", "metric"), [(1.0, "iou"), (-1.0, "accuracy")])
def test_the_mask_baselines_are_what_a_constant_scores(logit, metric):
    logits, target = mask_scene()
    found = scores(MaskMetrics(), torch.full_like(logits, logit), target)
    assert found[metric] == found[f"baseline_{metric}"]


def test_a_mask_that_misses_everything_scores_0():
    logits, target = mask_scene()
    found = scores(MaskMetrics(), torch.full_like(logits, -1.0), target)
    assert found["iou"] == found["f1"] == found["precision"] == found["recall"] == 0


def test_depth_scores_equal_a_transcription():
    prediction, target = depth_scene()
    found = scores(DepthMetrics(), prediction, target)
    p, t = prediction[:, 0].double().numpy(), target.double().numpy()
    valid = t >= 0
    assert found["mae"] == pytest.approx(np.abs(p - t)[valid].mean())
    assert found["rmse"] == pytest.approx(np.sqrt(((p - t)[valid] ** 2).mean()))
    assert found["baseline_rmse"] == pytest.approx(t[valid].std())
    p, t = p[t > 0], t[t > 0]
    ratio = np.maximum(p / t, t / p)
    assert found["absrel"] == pytest.approx((np.abs(p - t) / t).mean())
    assert found["logstd"] == pytest.approx((np.log(p) - np.log(t)).std())
    assert found["delta1"] == pytest.approx((ratio < 1.25).mean())
    assert found["delta2"] == pytest.approx((ratio < 1.25**2).mean())
    assert found["delta3"] == pytest.approx((ratio < 1.25**3).mean())

    constants = BIN ** np.arange(-80, 80)[:, None]
    assert found["baseline_absrel"] == pytest.approx((np.abs(constants - t) / t).mean(1).min())
    within = np.maximum(constants / t, t / constants) < 1.25
    assert found["baseline_delta1"] == pytest.approx(within.mean(1).max())


def test_depth_scores_by_hand():
    target = torch.tensor([[[1.0, 2.0, 0.0, -1.0]]])
    prediction = torch.tensor([[[[2.0, 2.0, 0.5, 7.0]]]])
    found = scores(DepthMetrics(), prediction, target)
    assert found["mae"] == pytest.approx(1.5 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(1.25 / 3))
    assert found["absrel"] == pytest.approx(0.5)
    assert found["logstd"] == pytest.approx(math.log(2) / 2)
    assert (found["delta1"], found["delta3"]) == (0.5, 0.5)
    assert found["baseline_rmse"] == pytest.approx(math.sqrt(2 / 3))


@pytest.mark.parametrize("kind", SCENES)
def test_a_perfect_prediction_scores_best(kind):
    prediction, target = SCENES[kind]()
    if kind == "classes":
        known = torch.where(target == IGNORE, 0, target)
        found = scores(fresh(kind), known, target)
        assert found["miou"] == found["f1"] == found["pixel_accuracy"] == found["fwiou"] == 1
    elif kind == "mask":
        found = scores(fresh(kind), (target == 1).float().unsqueeze(1), target)
        assert found["iou"] == found["f1"] == found["accuracy"] == 1
    else:
        found = scores(fresh(kind), target.unsqueeze(1), target)
        assert found["mae"] == found["rmse"] == found["absrel"] == found["logstd"] == 0
        assert found["delta1"] == 1


@pytest.mark.parametrize("kind", SCENES)
def test_an_ignored_pixel_counts_nowhere(kind):
    prediction, target = SCENES[kind]()
    void = ((target < 0) if kind == "depth" else (target == IGNORE)).unsqueeze(1)
    changed = torch.where(void, torch.rand_like(prediction) + 0.1, prediction)
    assert not torch.equal(changed, prediction)
    assert scores(fresh(kind), changed, target) == scores(fresh(kind), prediction, target)


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (2, 3), (4, 1)])
def test_any_split_into_batches_scores_the_same(kind, sizes):
    prediction, target = SCENES[kind]()
    streamed = fresh(kind)
    for p, t in zip(prediction.split(sizes), target.split(sizes), strict=True):
        streamed.update(p, t)
    whole = scores(fresh(kind), prediction, target)
    assert streamed.compute() == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("kind", SCENES)
def test_the_states_of_two_ranks_add_up(kind):
    prediction, target = SCENES[kind]()
    whole, first, second, idle, merged = (fresh(kind) for _ in range(5))
    whole.update(prediction, target)
    first.update(prediction[:2], target[:2])
    second.update(prediction[2:], target[2:])
    assert first.state().ndim == 1
    assert first.state().dtype in (torch.int64, torch.float64)
    merged.load_state(first.state() + second.state() + idle.state())
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)


@pytest.mark.parametrize("kind", SCENES)
def test_without_a_labelled_pixel_scores_are_nan(kind):
    prediction, target = SCENES[kind]()
    void = torch.full_like(target, -1.0 if kind == "depth" else IGNORE)
    found = scores(fresh(kind), prediction, void)
    assert all(math.isnan(score) for score in found.values())
    assert all(type(score) is float for score in found.values())


@pytest.mark.parametrize("kind", SCENES)
def test_no_doubt_of_a_good_prediction_nor_without_a_label(kind):
    _, target = SCENES[kind]()
    known = torch.where(target == IGNORE, 0, target)
    perfect = {"classes": known, "mask": known.float().unsqueeze(1), "depth": target.unsqueeze(1)}
    metrics = fresh(kind)
    metrics.update(perfect[kind], target)
    assert metrics.doubts() == {}
    assert fresh(kind).doubts() == {}


def test_a_doubt_where_one_class_takes_all_that_has_not_all():
    _, target = class_scene()
    metrics = fresh("classes")
    metrics.update(torch.full_like(target, 3), target)
    share = (target == 3).sum() / (target != IGNORE).sum()
    assert metrics.doubts()["classes"].startswith(
        f"100.0% of the pixels are predicted as hair, in truth {share:.1%}: "
    )
    rare = torch.zeros(1, 100, 100, dtype=torch.uint8)
    rare[0, 0, :40] = 1  # 0.4 % of the pixels: to find a half of them is no reason to doubt
    for found, doubted in ((20, []), (19, ["classes"])):
        metrics, logits = MaskMetrics(), torch.full((1, 1, 100, 100), -1.0)
        logits[0, 0, 0, :found] = 1
        metrics.update(logits, rare)
        assert list(metrics.doubts()) == doubted


def test_a_doubt_where_depth_is_worse_than_a_constant():
    prediction, target = depth_scene()
    metrics = DepthMetrics()
    metrics.update(prediction * 3, target)
    found = metrics.compute()
    ours, constant = found["delta1"], found["baseline_delta1"]
    said = f"delta1 {ours:.3f} is worse than one constant answer's {constant:.3f}"
    assert metrics.doubts()["delta1"] == said
    assert set(metrics.doubts()) == {"delta1", "absrel", "rmse"}


def test_errors_cannot_pick_the_best_checkpoint():
    assert picking_scores(OUTPUTS["depth"]) == ["delta1", "delta2", "delta3"]
    assert picking_scores(OUTPUTS["mask"]) == ["iou", "f1", "precision", "recall", "accuracy"]
