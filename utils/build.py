"""What the flags of a run ask for, made: its network, loss and training state."""

from datasets.task import UserError
from losses.weighted import Criterion
from models import ModelSpec, UNet
from models.cpu import use_cpu_kernels
from models.recompute import recompute
from utils import checkpoint
from utils.compute import Compute
from utils.distributed import Distributed
from utils.engine import TrainState
from utils.memory.plan import Weights
from utils.settings import Settings, check_norm


def model_spec(settings: Settings) -> ModelSpec:
    """The network that the flags and the tasks' outputs ask for."""
    return ModelSpec.of(settings.outputs, **vars(settings.network), aux=settings.aux > 0)


def make_criterion(settings: Settings, weights: Weights) -> Criterion:
    """The loss of every output: its task's terms and weight, unless flags say otherwise."""
    try:
        return Criterion.of(
            settings.outputs,
            losses=settings.losses,
            weights=settings.loss_weights,
            class_weights=weights,
            aux=settings.aux,
        )
    except UserError as error:
        raise UserError(f"--losses, or the task's own: {error}") from None


def build_state(
    settings: Settings, weights: Weights, total: int, compute: Compute, distributed: Distributed
) -> TrainState:
    """Network, loss, optimiser and schedule on the device, before the first of `total` steps."""
    resumed = settings.resume is not None  # its checkpoint has the weights
    spec = model_spec(settings)
    if settings.resume is not None:
        with checkpoint.well_formed(settings.resume):
            spec.check_size(settings.resume.stat().st_size)
    model = UNet(spec, False if resumed else settings.pretrained)
    if settings.init and not resumed:
        try:
            source = checkpoint.located(settings.init)
            model.load_encoder(checkpoint.weights(checkpoint.load(source)))
        except UserError as error:
            raise UserError(f"--init {settings.init}: {error}") from None
    check_norm(settings, model.stride, distributed.world_size)
    if compute.device.type in ("cpu", "meta") and not settings.plain:  # a plan's is on "meta"
        use_cpu_kernels(model)
    recompute(model, settings.ckpt)
    if settings.compile:
        model.compile()
    criterion = make_criterion(settings, weights)
    several = len(settings.tasks) > 1
    return TrainState.of(model, criterion, settings.optim, total, compute, distributed, several)
