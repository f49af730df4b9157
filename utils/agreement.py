"""Whether outputs ask the same of the encoder that they share."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from datasets.task import Batch
from utils.engine import TrainState
from utils.run.progress import Steps
from utils.settings import Settings

SHARE = 4  # of a batch, one in so many images is looked at
MOST = 8  # outputs: pairs become too many to read
STEPS = 25  # between two looks, for each output: they cost less than 1 %


def looks_at(settings: Settings, steps: Steps, step: int) -> bool:
    """Whether the outputs are compared after this step: about once an epoch, where there are some
    to compare, and images enough that a share of them fits where the batch did."""
    num, images = len(settings.outputs), min(each.bs for each in settings.tasks)
    every = max(steps.epoch, STEPS * num)
    return 2 <= num <= MOST and images >= SHARE and step % every == 0


def agreement(state: TrainState, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The cosine of the angle between two outputs' gradients by the encoder's weights, as
    `agree/A+B`: 1 where both ask for the same, 0 where for what the other does not mind, below 0
    where they pull in opposite directions (Yu et al. 2020, PCGrad).

    Of a share of the images of each batch, in evaluation mode: nothing that trains changes.
    """
    parameters = [p for p in state.model.encoder.parameters() if p.requires_grad]
    gradients: dict[str, Tensor] = {}
    state.model.eval()
    for batch in batches:
        num = max(1, batch.batch_size // (SHARE * state.micro_batches))
        names = [name for name in batch.targets if name not in gradients]
        targets = state.compute.targets({name: batch.targets[name][:num] for name in names})
        image = state.compute.image(batch.image[:num])
        with state.compute.autocast():
            predictions = state.model.forward(image, tuple(names))  # what is compiled stays so
        for name in names:
            loss, _ = state.criterion.losses[name](predictions[name], targets[name])
            found = torch.autograd.grad(
                state.scaler.scale(loss), parameters, retain_graph=True, materialize_grads=True
            )
            gradients[name] = torch.cat([gradient.flatten() for gradient in found])
    state.model.train()
    pairs = combinations(gradients, 2)
    cosine = torch.nn.functional.cosine_similarity
    return {f"agree/{a}+{b}": cosine(gradients[a], gradients[b], dim=0) for a, b in pairs}
