"""What is done to an exported segment: weights quantised, weights put inside, every number made float32."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference
from torch import Tensor

from packager.quantize.groups import group_size
from runtime.engine.manifest import Quantization, Scheme
from runtime.model.quantization import LINEARS

_STORED: dict[Scheme, int] = {
    "int8": TensorProto.INT8,
    "int4": TensorProto.INT4,
    "fp8": TensorProto.FLOAT8E4M3FN,
    "smoothquant": TensorProto.INT8,
}
# How many an element takes, packed.
BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.INT4: 4,
}
_LINEAR_WEIGHTS = tuple(f".{layer}.weight" for layer in LINEARS)
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# How far a constant may move between float32 and bfloat16, which keeps 8 significant bits.
_ROUNDING = 2.0**-8


def quantized(model: ModelProto, quantization: Quantization) -> ModelProto:
    """The graph with its linear layers as `runtime.model.quantization` stores them.

    The input X.weight gets the stored type; the inputs X.weight_scale and, where the scheme quantises a layer's input
    too, X.input_scale [] follow it. Raises TrtpackError naming a layer whose width no group size divides.
    """
    changed = _copy(model)
    graph, stored = changed.graph, _STORED[quantization.scheme]
    inputs: list[ValueInfoProto] = []
    nodes: list[NodeProto] = []
    dequantized: dict[str, str] = {}
    for value in graph.input:
        inputs.append(value)
        if value.name.endswith(_LINEAR_WEIGHTS):
            scales, node = _store(value, quantization)
            inputs += scales
            nodes.append(node)
            dequantized[value.name] = node.output[0]
    for node in graph.node:
        for weight in dequantized.keys() & set(node.input):
            if quantization.quantizes_inputs:
                nodes += _quantize_input(node, weight.removesuffix(".weight"), stored)
        node.input[:] = [dequantized.get(name, name) for name in node.input]
        nodes.append(node)
    _replace(graph.input, inputs)
    _replace(graph.node, nodes)
    return changed


def embedded(model: ModelProto, tensors: Mapping[str, Tensor], name: str | None = None) -> ModelProto:
    """The graph with the inputs that `tensors` names inside, byte for byte as the engine's weights store them.

    `name` is the graph's new one. Raises ValueError for what is no input, or a tensor of another size. May outgrow
    what protobuf can serialise.
    """
    changed = _copy(model)
    graph = changed.graph
    graph.name = name or graph.name
    inputs = {value.name: value for value in graph.input}
    for weight, tensor in tensors.items():
        if (value := inputs.pop(weight, None)) is None:
            raise ValueError(f"the {graph.name} graph has no input {weight}")
        described = value.type.tensor_type
        shape = [dimension.dim_value for dimension in described.shape.dim]
        stored = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        if len(stored) != (expected := prod(shape) * BITS[described.elem_type] // 8):
            raise ValueError(f"{weight} has {len(stored)} bytes, the {graph.name} graph takes {expected}")
        graph.initializer.append(helper.make_tensor(weight, described.elem_type, shape, stored, raw=True))
    _replace(graph.input, list(inputs.values()))
    return changed


def widened(model: ModelProto) -> ModelProto:
    """The graph in float32 instead of float16 or bfloat16, without the casts that then do nothing."""
    wide = _copy(model)
    graph = wide.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = _wide(value.type.tensor_type.elem_type)
    constants = [_widened_constant(constant) for constant in graph.initializer]
    _replace(graph.initializer, constants)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype"):
                attribute.i = _wide(attribute.i)
    _drop_idle_casts(wide)
    return wide


def difference(model: ModelProto, other: ModelProto) -> str | None:
    """Where two graphs first compute differently, or None; what values and nodes are called does not count.

    Constants may differ as much as rounding to bfloat16 makes them.
    """
    graph, expected = model.graph, other.graph
    for value, wanted in zip_longest((*graph.input, *graph.output), (*expected.input, *expected.output)):
        if value != wanted:
            return f"input or output {(value or wanted).name}"
    sources, wanted_sources = _sources(graph), _sources(expected)
    for node, wanted in zip_longest(graph.node, expected.node):
        if node is None or wanted is None or _operation(node) != _operation(wanted):
            return f"node {(node or wanted).name} ({(node or wanted).op_type})"
        for name, wanted_name in zip_longest(node.input, wanted.input):
            if not _same(sources[name], wanted_sources[wanted_name]):
                return f"input {name} of node {node.name} ({node.op_type})"
    for value in graph.output:
        if sources[value.name] != wanted_sources[value.name]:
            return f"output {value.name}"
    return None


def _store(value: ValueInfoProto, quantization: Quantization) -> tuple[list[ValueInfoProto], NodeProto]:
    """Gives a weight its stored type; returns its scales and what makes of them the weight that it was."""
    layer, weight = value.name.removesuffix(".weight"), value.type.tensor_type
    rows, width = (dimension.dim_value for dimension in weight.shape.dim)
    group = group_size(layer, width, quantization.group_size)
    shape = [rows, width // group] if quantization.group_size else [rows]
    scales = [helper.make_tensor_value_info(f"{layer}.weight_scale", weight.elem_type, shape)]
    if quantization.quantizes_inputs:
        scales.append(helper.make_tensor_value_info(f"{layer}.input_scale", weight.elem_type, []))
    weight.elem_type = _STORED[quantization.scheme]
    sources, result = [value.name, scales[0].name], [f"{layer}.weight_dequantized"]
    if quantization.group_size:
        return scales, helper.make_node("DequantizeLinear", sources, result, axis=1, block_size=group)
    return scales, helper.make_node("DequantizeLinear", sources, result, axis=0)


def _quantize_input(node: NodeProto, layer: str, stored: int) -> Iterator[NodeProto]:
    """What a layer's Gemm or MatMul is put behind, so that it sees its first input as the hardware would."""
    scale, narrow, back = (f"{layer}.{name}" for name in ("input_scale", "input_quantized", "input_dequantized"))
    yield helper.make_node("QuantizeLinear", [node.input[0], scale], [narrow], output_dtype=stored)
    yield helper.make_node("DequantizeLinear", [narrow, scale], [back])
    node.input[0] = back


def _wide(element_type: int) -> int:
    return TensorProto.FLOAT if element_type in _HALVES else element_type


def _widened_constant(constant: TensorProto) -> TensorProto:
    if constant.data_type not in _HALVES:
        return constant
    return numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float32), constant.name)


def _drop_idle_casts(model: ModelProto) -> None:
    """Removes the casts whose input has their type already."""
    graph = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {constant.name: constant.data_type for constant in graph.initializer}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        source, result = node.input[0], node.output[0]
        if node.op_type != "Cast" or types.get(source) != helper.get_node_attr_value(node, "to"):
            kept.append(node)
        elif result not in fixed:
            names[result] = source
        elif source in fixed:
            kept.append(node)
        else:
            names[source] = result
    for node in kept:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    _replace(model.graph.node, kept)


def _sources(graph: GraphProto) -> dict[str, Any]:
    """What each value is, by name: an input, a constant, or the n-th output of the n-th node."""
    sources: dict[str, Any] = {"": None} | {value.name: value.name for value in graph.input}
    sources |= {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    for position, node in enumerate(graph.node):
        sources |= {name: (position, index) for index, name in enumerate(node.output)}
    return sources


def _operation(node: NodeProto) -> tuple[str, str, list[bytes], int]:
    attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
    return node.domain, node.op_type, attributes, len(node.output)


def _same(source: Any, other: Any) -> bool:
    if isinstance(source, np.ndarray) and isinstance(other, np.ndarray):
        alike = source.dtype == other.dtype and source.shape == other.shape
        return alike and np.allclose(source, other, rtol=_ROUNDING, atol=0)
    return type(source) is type(other) and bool(source == other)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _replace(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)
