"""An exported network says what the network says, at sizes it was not exported with."""

import pytest
import torch
from outputs import OUTPUTS

from datasets import TASKS
from models import ModelSpec, UNet
from models.export import export

SPECS = {
    "damage": ModelSpec.of(TASKS["damage"].outputs, width=16, centre=128),
    "mixed": ModelSpec.of(OUTPUTS, width=8, centre=64, convs=(2, 1, 3)),
    "coarse": ModelSpec.of(OUTPUTS, width=8, depth=2, output_stride=4),
}
SIZES = [(3, 40, 56), (1, 17, 19), (2, 37, 133), (1, 160, 176)]  # few and many pixels at the bottom


@pytest.fixture(params=SPECS)
def model(request):
    return network(SPECS[request.param])


def network(spec=SPECS["mixed"]):
    """A network whose running statistics are not those it began with."""
    torch.manual_seed(0)
    model = UNet(spec).train()
    with torch.no_grad():
        model(torch.rand(2, 3, 32, 32))
    return model.eval()


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, prediction in expected.items():
        assert found[name].shape == prediction.shape
        assert torch.allclose(found[name], prediction, atol=1e-4), name


def test_exported_program(model, tmp_path):
    export(model, tmp_path / "new folder" / "net.pt2")
    program = torch.export.load(tmp_path / "new folder" / "net.pt2").module()
    for num, height, width in SIZES:
        image = torch.rand(num, 3, height, width)
        with torch.no_grad():
            agree(program(image), model(image))


@pytest.mark.filterwarnings("error:Exporting a model while it is in training mode")
def test_onnx(model, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    export(model, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == list(model.spec.outputs)
    for num, height, width in SIZES:
        image = torch.rand(num, 3, height, width)
        found = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            agree(dict(zip(names, map(torch.from_numpy, found), strict=True)), model(image))


def test_other_suffixes(tmp_path):
    with pytest.raises(ValueError, match=r"net.pth: expected a name that ends in .pt2 or .onnx"):
        export(network(), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())
