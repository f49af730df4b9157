"""One small example of each kind of output: what its files, targets and predictions look like.

`test_kinds.py` holds every entry of every table to these; a new kind joins with one class here. All
formulas are plain numpy and share nothing with the code they judge.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets.task import IGNORE, NO_DEPTH, Classes, Depth, Label, Mask, Normals
from utils.metrics.depth import BIN, NUM_BINS


def encode(pixels, name):
    """A picture as the member's suffix says."""
    buffer = io.BytesIO()
    kind = {".jpg": "JPEG", ".png": "PNG"}[Path(name).suffix]
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


class Example:
    """Of one output, in arrays (H, W) as in `Sample`; `output` is the one that contracts run with.

    coarse: how far values of a file may be off.
    tolerance: how far scores, by the beginning of their name, may be off.
    floor: loss terms that cost something even at the truth, as functions of the targets.
    """

    output = None
    floor = {}
    tolerance = {}
    coarse = 1e-6

    def __init__(self, output=None):
        self.output = output or self.output

    def target(self, rng, size):
        """Random values, about a third of them unknown."""
        raise NotImplementedError

    def learnable(self, ids):
        """Values that follow from ids 0 to 3 (H, W)."""
        raise NotImplementedError

    def pixels(self, target):
        """The file whose pixels mean this target."""
        raise NotImplementedError

    def source(self, file):
        """What of a file `decode_target` takes."""
        return encode(file, "a.png")

    def unknown(self, target):
        """Where a target, numpy or torch, says nothing: its shape without channels."""
        raise NotImplementedError

    def certain(self, target):
        """The prediction (N, C, H, W) that says targets (N, ...) with certainty, nonsense where
        there is none."""
        raise NotImplementedError

    def truth(self, target, term):
        """The prediction that a loss term likes best."""
        return self.certain(target)

    def followed(self, values, move):
        """What becomes of known values when the image is moved."""
        return values

    def scores(self, prediction, labels, target):
        """Every score of predicted labels and targets, (N, ...)."""
        raise NotImplementedError


class Labels(Example):
    """Of kinds whose targets hold ids."""

    def target(self, rng, size):
        ids = rng.integers(0, len(self.output.labels), size)
        return np.where(rng.random(size) < 0.3, IGNORE, ids).astype(np.uint8)

    def learnable(self, ids):
        return (ids % len(self.output.labels)).astype(np.uint8)

    def unknown(self, target):
        return target == IGNORE

    def truth(self, target, term):
        """Smoothed labels are least where a tenth is said of all classes alike."""
        certain = super().truth(target, term)
        return certain if term != "smooth" else (0.9 * (certain > 0) + 0.1 / 3).log()


def smoothed_entropy(target):
    sure, rest = 0.9 + 0.1 / 3, 0.1 / 3
    return -sure * math.log(sure) - 2 * rest * math.log(rest)


class ClassExample(Labels):
    floor = {"smooth": smoothed_entropy}
    output = Classes(
        "parts",
        "parts/{key}.png",
        classes=("a", "b", "c"),
        colors=("000000", "1CE6FF", "FF34FF"),
        values=(7, 300, 5),
        ignored=(255, 9),
    )

    def learnable(self, ids):
        labels = super().learnable(ids)
        labels[:2] = IGNORE if self.output.ignored else labels[:2]
        return labels

    def pixels(self, target):
        codes = np.zeros(256, np.uint8 if max(self.output.values) < 256 else np.uint16)
        codes[: len(self.output.values)] = self.output.values
        codes[IGNORE] = self.output.ignored[-1] if self.output.ignored else 0
        return codes[target]

    def certain(self, target):
        known = np.where(target == IGNORE, 0, target)
        hot = np.moveaxis(np.eye(len(self.output.labels), dtype=np.float32)[known], -1, 1)
        return torch.from_numpy(50 * hot)

    def scores(self, prediction, labels, target):
        known = target != IGNORE
        labels, target, num = labels[known], target[known], len(self.output.labels)
        ious, f1s, recalls, shares = [], [], [], []
        for c in range(num):
            hit = ((labels == c) & (target == c)).sum()
            said, true = (labels == c).sum(), (target == c).sum()
            if said + true:
                ious.append(hit / (said + true - hit))
                f1s.append(2 * hit / (said + true))
            if true:
                recalls.append(hit / true)
                shares.append((true / len(target), hit / (said + true - hit)))
        most = max(share for share, _ in shares)
        return {
            "miou": np.mean(ious),
            "f1": np.mean(f1s),
            "pixel_accuracy": (labels == target).mean(),
            "mean_accuracy": np.mean(recalls),
            "fwiou": sum(share * iou for share, iou in shares),
            "baseline_miou": most / len(shares),
            "baseline_accuracy": most,
        }


class MaskExample(Labels):
    output = Mask("edge", "edge/{key}.png", ignored=(100,))

    def pixels(self, target):
        codes = np.zeros(256, np.uint8)
        codes[1], codes[IGNORE] = 255, 100
        return codes[target]

    def certain(self, target):
        return torch.from_numpy(np.where(target == 1, 50, -50).astype(np.float32))[:, None]

    def scores(self, prediction, labels, target):
        known = target != IGNORE
        said, true = labels[known] == 1, target[known] == 1
        hit = (said & true).sum()
        probable, tried = 1 / (1 + np.exp(-prediction[:, 0][known])), np.arange(1, 100) / 100
        above = [probable >= threshold for threshold in tried]
        f1 = [2 * (a & true).sum() / (a.sum() + true.sum()) for a in above]
        return {
            "iou": hit / (said | true).sum(),
            "f1": 2 * hit / (said.sum() + true.sum()),
            "precision": hit / said.sum(),
            "recall": hit / true.sum(),
            "accuracy": (said == true).mean(),
            "best_f1": max(f1),
            "best_threshold": tried[np.argmax(f1)],
            "baseline_iou": true.mean(),
            "baseline_accuracy": max(true.mean(), 1 - true.mean()),
        }


def entropy(t):
    return np.mean(-t * np.log(t) - (1 - t) * np.log(1 - t))


class DepthExample(Example):
    output = Depth(
        "near", "near/{key}.png", scale=0.001, max_depth=5.0, unit="m", missing=0, loss="l1"
    )
    floor = {"bce": lambda target: entropy(target[target >= 0])}
    coarse = 0.001  # files hold whole millimetres, from 1 on

    def target(self, rng, size):
        depth = rng.integers(1, 1000, size) * np.float32(0.001)  # below 1, for `bce`
        return np.where(rng.random(size) < 0.3, NO_DEPTH, depth).astype(np.float32)

    def learnable(self, ids):
        return ((1 + ids) / 5 * self.output.max_depth).astype(np.float32)

    def pixels(self, target):
        if not self.output.scale:
            return np.rint(np.maximum(target, 0) * 255).astype(np.uint8)
        return np.rint(np.where(target < 0, 0, target / self.output.scale)).astype(np.uint16)

    def unknown(self, target):
        return target < 0

    def certain(self, target):
        return torch.from_numpy(np.where(target < 0, 0.7, target).astype(np.float32))[:, None]

    def followed(self, values, move):
        closer = values / np.float32(move.zoom)
        return np.where(closer <= self.output.max_depth, closer, NO_DEPTH).astype(np.float32)

    def scores(self, prediction, labels, target):
        d, t = (x[target >= 0].astype(np.float64) for x in (labels, target))
        ratio = np.maximum(d / t, t / d)
        constants = BIN ** np.arange(1 - NUM_BINS // 2, NUM_BINS // 2)
        worse = np.maximum(constants[:, None] / t, t / constants[:, None])
        return {
            "mae": np.abs(d - t).mean(),
            "rmse": math.sqrt(np.square(d - t).mean()),
            "absrel": (np.abs(d - t) / t).mean(),
            "logstd": np.log(d / t).std(),
            "delta1": (ratio < 1.25).mean(),
            "delta2": (ratio < 1.25**2).mean(),
            "delta3": (ratio < 1.25**3).mean(),
            "baseline_rmse": t.std(),
            "baseline_absrel": (np.abs(constants[:, None] - t) / t).mean(1).min(),
            "baseline_delta1": (worse < 1.25).mean(1).max(),
        }


class NormalsExample(Example):
    output = Normals("faces", "faces/{key}.png", invalid="0000FF")
    tolerance = {"median_angle": 0.1, "baseline_": 1.0}
    coarse = 0.01  # 8 bits of a vector whose length is then made 1

    def target(self, rng, size):
        normals = rng.normal(size=(3, *size))
        normals /= np.linalg.norm(normals, axis=0)
        return np.where(rng.random(size) < 0.3, 0, normals).astype(np.float32)

    @staticmethod
    def code(normals):
        """Colours (..., 3) of vectors of any length."""
        unit = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
        return np.rint(unit * 127.5 + 127.5).astype(np.uint8)

    def learnable(self, ids):
        directions = np.float32([[0, 0, 1], [0.6, 0, 0.8], [-0.6, 0, 0.8], [0, 0.8, 0.6]])
        return np.moveaxis(directions[ids], -1, 0)

    def pixels(self, target):
        known = target.any(0)[..., None]
        safe = np.where(known, np.moveaxis(target, 0, -1), [0, 0, 1])
        return np.where(known, self.code(safe), [0, 0, 255]).astype(np.uint8)

    def unknown(self, target):
        return ~(target != 0).any(-3)

    def certain(self, target):
        nothing = self.unknown(target)[..., None, :, :]
        return torch.from_numpy(np.where(nothing, np.float32([0, 0, 1])[:, None, None], target))

    def followed(self, values, move):
        x, y, z = values
        turned = (x + 1j * y) * np.exp(1j * np.deg2rad(move.angle))
        turned = (-turned.conj() if move.flip else turned) * 1j**move.turns
        return np.stack([turned.real, turned.imag, z])

    def scores(self, prediction, labels, target):
        known = target.any(1)
        n, t = (np.moveaxis(x.astype(np.float64), 1, -1)[known] for x in (labels, target))
        found = {}
        for prefix, said in (("", n), ("baseline_", t.mean(0)[None])):
            cos = (said * t).sum(1) / np.linalg.norm(said, axis=1) / np.linalg.norm(t, axis=1)
            angle = np.degrees(np.arccos(cos.clip(-1, 1)))
            found |= {
                f"{prefix}mean_angle": angle.mean(),
                f"{prefix}median_angle": np.median(angle),
                f"{prefix}within11": (angle <= 11.25).mean(),
                f"{prefix}within22": (angle <= 22.5).mean(),
                f"{prefix}within30": (angle <= 30).mean(),
            }
        return found


class LabelExample(Labels):
    floor = {"smooth": smoothed_entropy}
    output = Label("material", field="material", classes=("glass", "paper", "wood"))

    def target(self, rng, size):
        return np.array(rng.choice([0, 1, 2, IGNORE]), np.uint8)

    def pixels(self, target):
        return "" if target == IGNORE else self.output.classes[int(target)]

    def source(self, file):
        return file if isinstance(file, str) else file[self.output.name]

    def certain(self, target):
        return torch.from_numpy(50 * np.eye(3, dtype=np.float32)[np.where(target < 3, target, 0)])

    def scores(self, prediction, labels, target):
        labels, target = labels[target != IGNORE], target[target != IGNORE]
        hits, said, true = (
            np.array([(x == c).sum() for c in range(3)])
            for x in (np.where(labels == target, labels, IGNORE), labels, target)
        )
        occurs, most = said + true > 0, true.max() / len(target)
        return {
            "accuracy": (labels == target).mean(),
            "macro_f1": (2 * hits[occurs] / (said + true)[occurs]).mean(),
            "balanced_accuracy": (hits[true > 0] / true[true > 0]).mean(),
            "baseline_accuracy": most,
            "baseline_macro_f1": 2 * most / (most + 1) / (true > 0).sum(),
        }


EXAMPLES = {
    "classes": ClassExample,
    "mask": MaskExample,
    "depth": DepthExample,
    "normals": NormalsExample,
    "label": LabelExample,
}
