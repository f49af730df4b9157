"""An exported network says what the network says, at sizes it was not exported with."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from outputs import OUTPUTS
from PIL import Image

from datasets import TASKS
from models import ModelSpec, UNet
from models.export import export
from utils import checkpoint

SPECS = {
    "damage": ModelSpec.of(TASKS["damage"].outputs, width=16, centre=128),
    "mixed": ModelSpec.of(OUTPUTS, width=8, centre=64, convs=(2, 1, 3)),
    "coarse": ModelSpec.of(OUTPUTS, width=8, depth=2, output_stride=4),
    "real": ModelSpec.of(TASKS["damage"].outputs),  # width 32, depth 4
}
SIZES = [(3, 40, 56), (1, 17, 19), (2, 37, 133), (1, 160, 176)]  # few and many pixels at the bottom
ABOUT = {
    "parts": {"kind": "classes", "classes": ["a", "b", "c"], "colors": [], "values": [0, 1, 2]},
    "edge": {"kind": "mask", "colors": []},
    "near": {"kind": "depth", "unit": "", "max_depth": 5.0},
}


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


def test_a_timm_encoder_is_exported_at_its_real_width(tmp_path):
    pytest.importorskip("timm")
    spec = ModelSpec.of(TASKS["cityscapes"].outputs, encoder="tf_efficientnet_lite0", width=16)
    model = network(spec)
    export(model, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for num, height, width in [(2, 95, 97), (1, 224, 160)]:
        image = torch.rand(num, 3, height, width)
        with torch.no_grad():
            agree(program(image), model(image))


def test_a_file_says_what_it_takes_and_gives(tmp_path):
    model, files = network(), {"metadata.json": ""}
    export(model, tmp_path / "net.pt2")
    torch.export.load(tmp_path / "net.pt2", extra_files=files)
    said = json.loads(files["metadata.json"])
    assert json.loads(said["outputs"]) == ABOUT
    assert "from 0 to 1" in said["input"]
    assert "mean [0.5, 0.5, 0.5], std [0.25, 0.25, 0.25]" in said["normalisation"]
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(model, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert session.get_modelmeta().custom_metadata_map == said
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 3, "height", "width"]


def test_the_program_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, size = network(), (37, 41)
    export(model, tmp_path / "net.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    page = (Path(__file__).parents[1] / "utils" / "README.md").read_text()
    (program,) = re.findall(r"```python\n(import json\n.*?)```", page, re.DOTALL)
    words = ["program", str(tmp_path / "net.onnx"), str(tmp_path / "a.png")]
    monkeypatch.setattr("sys.argv", words)
    exec(compile(program, "README.md", "exec"), {})
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)["parts"]
    ids, counts = np.unique(logits[0].argmax(0), return_counts=True)
    found = ast.literal_eval(capsys.readouterr().out.strip())
    assert found == {"abc"[i]: int(n) for i, n in zip(ids, counts, strict=True)}


def test_eight_bits_say_nearly_the_same(run_train, run_infer, tiny_json):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path, data = tiny_json
    words = ("--task", path, "--data", data, "--steps", "20", "--width", "8", "--lr", "0.01")
    assert run_train(*words, "--out", "run").status == 0
    words = ("--weights", "run/best.pt", "--input", data, "--export")
    assert run_infer(*words, "wide.onnx").status == 0
    ran = run_infer(*words, "net.onnx", "--int8", "train")
    assert ran.status == 0, ran.err
    assert "MB in float32" in ran.err
    lost = float(re.search(r"\(([-\d.]+) points lost\)", ran.err)[1])
    assert abs(lost) < 3
    sessions = [onnxruntime.InferenceSession(name) for name in ("wide.onnx", "net.onnx")]
    first, second = (session.get_modelmeta().custom_metadata_map for session in sessions)
    assert first == second
    weights = checkpoint.weights(checkpoint.load(Path("run/best.pt"))).items()
    kernels = [each.numel() for name, each in weights if name.endswith("weight") and each.ndim == 4]
    assert held_in("net.onnx") == sum(kernels)  # a byte each, also where others are made of them
    image = np.asarray(Image.open(data / "img" / "k00.png"), np.float32) / 255
    given = {"image": image.transpose(2, 0, 1)[None, :, :37, :41]}
    wide, narrow = (session.run(["parts"], given)[0].argmax(1) for session in sessions)
    assert (wide == narrow).mean() > 0.9
    ran = run_infer(*words, "net.pt2", "--int8")
    assert ran.status == 2
    assert "--int8 val: expected --export FILE.onnx" in ran.err


def held_in(path):
    """Bytes of the kernels in a file."""
    import onnx

    values = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
    return sum(each.size for each in values if each.dtype == np.int8 and each.ndim == 4)


def test_other_suffixes(tmp_path):
    with pytest.raises(
        ValueError, match=r"net.pth: expected a name that ends in .pt2, .onnx, .pt or /"
    ):
        export(network(), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())
