"""An exported network says what the network says, at sizes it was not exported with."""

import pytest
import torch

from models.export import export
from models.unet import HeadSpec, ModelSpec, UNet

HEADS = {
    "parts": HeadSpec("classes", 3, "seg"),
    "edge": HeadSpec("mask", 1, "seg"),
    "near": HeadSpec("depth", 1, "near", 5.0),
}
SPEC = ModelSpec(HEADS, width=4, depth=2)
SIZES = [(1, 3, 13, 19), (3, 3, 16, 24), (2, 3, 37, 21), (1, 3, 64, 65)]


def network():
    """A network whose running statistics are not those it began with."""
    torch.manual_seed(0)
    model = UNet(SPEC).train()
    with torch.no_grad():
        model(torch.rand(2, 3, 32, 32))
    return model.eval()


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, prediction in expected.items():
        assert found[name].shape == prediction.shape
        assert torch.allclose(found[name], prediction, atol=1e-4), name


def test_exported_program(tmp_path):
    model = network()
    export(model, tmp_path / "new folder" / "net.pt2")
    program = torch.export.load(tmp_path / "new folder" / "net.pt2").module()
    for size in SIZES:
        image = torch.rand(size)
        with torch.no_grad():
            agree(program(image), model(image))


@pytest.mark.filterwarnings("error:Exporting a model while it is in training mode")
def test_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network()
    export(model, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == list(HEADS)
    for size in SIZES:
        image = torch.rand(size)
        found = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            agree(dict(zip(names, map(torch.from_numpy, found), strict=True)), model(image))


def test_other_suffixes(tmp_path):
    with pytest.raises(ValueError, match=r"net.pth: expected a name that ends in .pt2 or .onnx"):
        export(network(), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())
