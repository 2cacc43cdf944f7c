"""An exported segment against its PyTorch module: ONNX Runtime on the CPU, random weights, random activations."""

from collections.abc import Iterator, Mapping
from math import sqrt

import onnxruntime
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto
from torch import Tensor, nn

from packager.compile import graph
from packager.compile.export import export, segment
from packager.compile.weights import DTYPES
from packager.errors import TrtpackError
from runtime.engine.manifest import DType, Quantization
from runtime.model import layout
from runtime.model.config import ModelConfig
from runtime.model.layout import Kind
from runtime.model.quantization import dequantized

# Largest relative error of an output, ||graph - module|| / ||module||.
LIMITS: Mapping[DType, float] = {"float32": 1e-5, "float16": 2e-3}
# Numbers of tokens, each run by itself.
_STEPS = (1, 3, 12)
_FLOATS: Mapping[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}
# Standard deviations of the random stored weights: even over all of int8 and int4, normal in float8.
_SPREAD: Mapping[int, float] = {
    TensorProto.INT8: 128 / sqrt(3),
    TensorProto.INT4: 8 / sqrt(3),
    TensorProto.FLOAT8E4M3FN: 64.0,
}
# Scales that make the steps of a quantised input 1 wide; next to zero those of float8_e4m3fn are 2**-9.
_COARSE: Mapping[int, float] = {TensorProto.INT8: 1.0, TensorProto.FLOAT8E4M3FN: 2.0**9}


def check(
    model: ModelProto, config: ModelConfig, kind: Kind, dtype: DType, quantization: Quantization | None = None
) -> dict[str, float]:
    """The relative error of each output; raises TrtpackError for one beyond its limit.

    ONNX Runtime's CPU multiplies no bfloat16 matrices: a graph in that type must be the float32 export in another
    type and nothing else, and that one is run. So it is where layers' inputs are quantised. There an error of one
    bit can put a value on the other side of a step, and moves everything behind it: in float32 and with wide steps
    that is rare, and the median of the tokens' errors counts.
    """
    has_steps = any(value.name.endswith(".input_scale") for value in model.graph.input)
    if dtype == "bfloat16" or (dtype == "float16" and has_steps):
        model, dtype = _in_float32(model, config, kind, dtype, quantization), "float32"
    random = torch.Generator()
    random.seed()
    weights = dict(_weights(model, kind, random))
    module, _ = segment(config, kind, dtype)
    module.load_state_dict(dequantized(weights, DTYPES[dtype]), strict=False, assign=True)
    errors = {
        name: _error(torch.cat(found), torch.cat(expected), has_steps)
        for name, found, expected in _outputs(model, module, kind, weights, random)
    }
    for name, error in errors.items():
        if not error <= LIMITS[dtype]:  # nor NaN
            raise TrtpackError(
                f"the exported {kind} segment departs from its module: the relative error of {name} in {dtype} is "
                f"{error:.1e}, the limit {LIMITS[dtype]:.0e}",
                "Report it as a defect; --backend torch runs the module itself.",
            )
    return errors


def _in_float32(
    model: ModelProto, config: ModelConfig, kind: Kind, dtype: DType, quantization: Quantization | None
) -> ModelProto:
    wide = export(config, kind, "float32")
    if quantization:
        wide = graph.quantized(wide, quantization)
    if place := graph.difference(graph.widened(model), wide):
        raise TrtpackError(
            f"the exported {kind} segment in {dtype} is not the one in float32 with other types: {place} differs",
            "Layers must take the same steps in every dtype.",
        )
    return wide


def _outputs(
    model: ModelProto, module: nn.Module, kind: Kind, weights: Mapping[str, Tensor], random: torch.Generator
) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """Each output of the graph and of the module, [T, …] for each of the _STEPS."""
    # ONNX Runtime takes no array of 4 or 8 bits but as a constant.
    inside = {name: tensor for name, tensor in weights.items() if tensor.itemsize == 1}
    outside = {name: tensor.numpy() for name, tensor in weights.items() if name not in inside}
    session = _session(graph.embedded(model, inside))
    found, expected = [], []
    for tokens in _STEPS:
        activations = dict(_activations(model, kind, tokens, random))
        arrays = {name: tensor.numpy() for name, tensor in activations.items()}
        found.append([torch.from_numpy(array) for array in session.run(None, arrays | outside)])
        with torch.inference_mode():
            outputs = module(*activations.values())
        expected.append(outputs if isinstance(outputs, tuple) else (outputs,))
    for index, name in enumerate(layout.OUTPUTS[kind]):
        yield name, [step[index] for step in found], [step[index] for step in expected]


def _session(model: ModelProto) -> onnxruntime.InferenceSession:
    """Runs the graph as it is written: fused, integer weights would be multiplied in other ways."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _weights(model: ModelProto, kind: Kind, random: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """As an engine stores them, by input: such that what has a spread of 1 keeps it through a linear layer."""
    inputs = {value.name: value for value in model.graph.input}
    for name, value in inputs.items():
        module, _, leaf = name.rpartition(".")
        if name in layout.INPUTS[kind]:
            continue
        if leaf == "weight_scale":
            weight = inputs[f"{module}.weight"]
            spread = _SPREAD[_type(weight)] * sqrt(_shape(weight)[1])
            tensor = torch.empty(_shape(value)).uniform_(0.5, 1.5, generator=random).div_(spread)
        elif leaf == "input_scale":
            tensor = torch.tensor(_COARSE[_type(inputs[f"{module}.weight"])])
        elif len(_shape(value)) == 1:
            tensor = torch.empty(_shape(value)).uniform_(-1.5, 1.5, generator=random)
        else:
            tensor = _matrix(_type(value), _shape(value), random)
        yield name, tensor.to(_FLOATS.get(_type(value), tensor.dtype))


def _matrix(kind: int, shape: list[int], random: torch.Generator) -> Tensor:
    rows, width = shape
    if kind == TensorProto.INT8:
        return torch.randint(-127, 128, (rows, width), generator=random, dtype=torch.int8)
    if kind == TensorProto.INT4:
        return torch.randint(256, (rows, width // 2), generator=random, dtype=torch.uint8)
    normal = torch.randn(rows, width, generator=random)
    if kind == TensorProto.FLOAT8E4M3FN:
        return normal.mul_(_SPREAD[kind]).clamp_(-448, 448).to(torch.float8_e4m3fn)
    return normal.div_(sqrt(width))


def _activations(model: ModelProto, kind: Kind, tokens: int, random: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    for value in model.graph.input:
        if value.name in layout.INPUTS[kind]:
            tensor = torch.randn(tokens, _shape(value)[1], generator=random)
            if value.name in ("cos", "sin"):
                tensor = tensor.sin_()  # within -1 … 1, as they are
            yield value.name, tensor.to(_FLOATS[_type(value)])


def _error(found: Tensor, expected: Tensor, by_token: bool) -> float:
    found, expected = found.flatten(1).double(), expected.flatten(1).double()
    dim = 1 if by_token else None
    errors = torch.linalg.vector_norm(found - expected, dim=dim) / torch.linalg.vector_norm(expected, dim=dim)
    return float(errors.median())


def _type(value: ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def _shape(value: ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
