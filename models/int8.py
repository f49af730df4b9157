"""An exported ONNX file becomes one that computes in 8 bits, as onnxruntime quantises it."""

import importlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.task import UserError

# of the three taps along a side of a kernel over doubled pixels, those that meet one small pixel
SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def quantise(path: Path, images: Iterable[np.ndarray]) -> None:
    """Write the file anew with weights and features in 8 bits (static, QDQ).

    images: float32 (1, 3, H, W) as the network takes them, from which the ranges of features are
    known. Weights have seven bits, without which AVX2 would overflow. UserError: no onnxruntime.
    """
    try:
        onnx: Any = importlib.import_module("onnx")
        runtime: Any = importlib.import_module("onnxruntime")
        tools: Any = importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise UserError(f"--int8 needs `pip install onnx onnxruntime`: {error}") from None

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        """Gives the images one by one."""

        def __init__(self) -> None:
            self.images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next input, None at the end."""
            image = next(self.images, None)
            return None if image is None else {"image": image}

    about = {each.key: each.value for each in onnx.load(path).metadata_props}
    with tempfile.TemporaryDirectory() as folder:
        folded, made = Path(folder, "folded.onnx"), Path(folder, "int8.onnx")
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        runtime.InferenceSession(path, options)  # constants are folded, norms that can be, too
        model = onnx.load(folded)
        parts = _convolve(model, onnx)
        onnx.save(model, folded)
        logging.disable(logging.WARNING)
        try:
            tools.quantize_static(
                folded,
                made,
                Reader(),
                per_channel=True,
                reduce_range=True,
                activation_type=tools.QuantType.QUInt8,  # what x86 has kernels for
                nodes_to_exclude=[each.name for each in model.graph.node if each.op_type == "Pad"],
            )
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(made)
    for each in parts:
        _share(model.graph, each, onnx)
    _keep_once(model.graph, onnx)
    del model.metadata_props[:]
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _convolve(model: Any, onnx: Any) -> list[dict[str, np.ndarray]]:
    """Put convolutions of 2x2 in the place of each transposed one of 4x4, for which there are no
    8-bit kernels: one for each of the four pixels that an input becomes. The weights of such four,
    by name."""
    graph, helper, arrays = model.graph, onnx.helper, onnx.numpy_helper
    constants = {each.name: arrays.to_array(each) for each in graph.initializer}
    nodes: list[Any] = []
    fours: list[list[Any]] = []
    for node in graph.node:
        if node.op_type == "ConvTranspose":
            weight, out = constants[node.input[1]], node.output[0]
            parts = []
            for row, column in np.ndindex(2, 2):
                rows, columns = ([3, 1] if at == 0 else [2, 0] for at in (row, column))
                name = f"{out}_{row}{column}"
                taps = weight[:, :, rows][:, :, :, columns].transpose(1, 0, 2, 3)
                constants[f"{name}_weight"] = np.ascontiguousarray(taps)
                given = [node.input[0], f"{name}_weight", *node.input[2:3]]
                pads = [1 - row, 1 - column, row, column]
                parts.append(
                    helper.make_node(
                        "Conv", given, [name], name=name, kernel_shape=[2, 2], pads=pads
                    )
                )
            names = [part.output[0] for part in parts]
            joined, wide = f"{out}_joined", {"blocksize": 2, "mode": "DCR"}
            nodes += parts
            nodes.append(helper.make_node("Concat", names, [joined], name=joined, axis=1))
            nodes.append(helper.make_node("DepthToSpace", [joined], [out], name=out, **wide))
            fours.append(parts)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    for field in (graph.initializer, graph.node, graph.value_info):
        del field[:]
    graph.node.extend(nodes)
    kept = {name: value for name, value in constants.items() if name in used}
    graph.initializer.extend(arrays.from_array(value, name) for name, value in kept.items())
    return [{part.input[1]: constants[part.input[1]] for part in parts} for parts in fours]


def _share(graph: Any, parts: dict[str, np.ndarray], onnx: Any) -> None:
    """Keep one kernel of 3x3 in the place of four of 2x2, which are sums of its columns and rows
    and 16/9 as large. A runtime works them out once, as it opens the file."""
    helper, arrays = onnx.helper, onnx.numpy_helper
    name, (upper_left, upper_right, lower_left, lower_right) = next(iter(parts)), parts.values()
    whole = _apart(_apart(upper_left, upper_right, 3), _apart(lower_left, lower_right, 3), 2)
    scale = np.abs(whole).max((1, 2, 3), keepdims=True) / 127
    kernel = np.round(whole / np.maximum(scale, 1e-30)).astype(np.int8)
    made = [
        helper.make_node("Cast", [f"{name}_3x3"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_cast", f"{name}_3x3_scale"], [f"{name}_3x3_float"]),
    ]
    constants = {f"{name}_3x3": kernel, f"{name}_3x3_scale": scale.astype(np.float32)}
    for part, (row, column) in zip(parts, np.ndindex(2, 2), strict=True):
        constants |= {f"{part}_rows": SUMS[row], f"{part}_columns": SUMS[column].T.copy()}
        rows, both = f"{part}_of_rows", f"{part}_of_both"
        about = [f"{part}_scale", f"{part}_zero_point"]
        made += [
            helper.make_node("MatMul", [f"{part}_rows", f"{name}_3x3_float"], [rows]),
            helper.make_node("MatMul", [rows, f"{part}_columns"], [both]),
            helper.make_node("QuantizeLinear", [both, *about], [f"{part}_quantized"], axis=0),
        ]
    others = [*made, *graph.node]
    kept = [each for each in graph.initializer if each.name.removesuffix("_quantized") not in parts]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(others)
    graph.initializer.extend(kept)
    graph.initializer.extend(arrays.from_array(value, key) for key, value in constants.items())


def _apart(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """The three taps of which SUMS made these pairs."""
    low, both, high = first.take(0, axis), second.take(0, axis), second.take(1, axis)
    return np.stack([low, both - low, high], axis)


def _keep_once(graph: Any, onnx: Any) -> None:
    """Keep one of equal constants: of the zero points there are as many as channels."""
    names: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for each in list(graph.initializer):
        content = each.name
        each.name = ""
        first = names.setdefault(each.SerializeToString(), content)
        each.name, same[content] = content, first
        if first != content:
            graph.initializer.remove(each)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
