"""Exported segments run by ONNX Runtime against their modules."""

from collections.abc import Callable

import pytest
import torch
from onnx import ModelProto
from torch import Tensor

from packager.compile import graph
from packager.compile.check import LIMITS, check
from packager.compile.export import export
from packager.errors import TrtpackError
from runtime.engine.manifest import DType, Quantization
from runtime.model import layout
from runtime.model.activations import activation
from runtime.model.layout import Kind
from tests.packager.compile.segments import KINDS, SCHEMES, model

VARIANTS = {"o_bias": True, "mlp_bias": True, "qkv_bias": True, "qk_norm": True}


@pytest.mark.parametrize(
    ("family", "kind", "dtype"),
    [
        ("qwen2", "opening", "float32"),
        ("qwen3", "middle", "float16"),
        ("llama", "closing", "float32"),
        ("llama", "closing", "bfloat16"),
    ],
)
def test_a_segment_equals_its_module(family: str, kind: Kind, dtype: DType) -> None:
    errors = check(export(model(family), kind, dtype), model(family), kind, dtype)
    assert tuple(errors) == layout.OUTPUTS[kind]
    assert max(errors.values()) < (2e-3 if dtype == "float16" else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_segment_equals_its_module(family: str, kind: Kind, dtype: DType) -> None:
    errors = check(export(model(family), kind, dtype), model(family), kind, dtype)
    assert max(errors.values()) < (2e-3 if dtype == "float16" else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_option_at_once_equals_its_module(kind: Kind) -> None:
    config = model("llama", **VARIANTS)
    for dtype, limit in LIMITS.items():
        assert max(check(export(config, kind, dtype), config, kind, dtype).values()) < limit


@pytest.mark.parametrize("quantization", SCHEMES, ids=lambda quantization: quantization.scheme)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_segment_equals_its_dequantized_module(quantization: Quantization, dtype: DType) -> None:
    config = model("llama")
    changed = graph.quantized(export(config, "closing", dtype), quantization)
    assert check(changed, config, "closing", dtype, quantization)["hidden_out"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("quantization", SCHEMES, ids=lambda quantization: quantization.scheme)
@pytest.mark.parametrize("kind", ["opening", "middle", "closing"])
def test_every_quantized_segment_equals_its_dequantized_module(kind: Kind, quantization: Quantization) -> None:
    config = model("llama", **VARIANTS)
    for dtype in ("float32", "float16", "bfloat16"):
        changed = graph.quantized(export(config, kind, dtype), quantization)
        check(changed, config, kind, dtype, quantization)


def _swapped_halves(changed: ModelProto) -> None:
    split = next(node for node in changed.graph.node if node.op_type == "Split")
    split.output[:] = reversed(split.output)


def _scales_along_columns(changed: ModelProto) -> None:
    square = next(node for node in changed.graph.node if node.input[0] == "last.o.weight")
    square.attribute[0].i = 1


def _input_as_it_is(changed: ModelProto) -> None:
    narrow = next(node for node in changed.graph.node if node.op_type == "QuantizeLinear")
    gemm = next(node for node in changed.graph.node if node.op_type == "Gemm")
    gemm.input[0] = narrow.input[0]


@pytest.mark.parametrize(
    ("change", "quantization"),
    [(_swapped_halves, None), (_scales_along_columns, SCHEMES[0]), (_input_as_it_is, SCHEMES[2])],
)
def test_a_departure_is_told_with_segment_output_error_and_limit(
    change: Callable[[ModelProto], None], quantization: Quantization | None
) -> None:
    config, changed = model("llama"), ModelProto()
    changed.CopyFrom(export(config, "closing", "float32"))
    if quantization:
        changed = graph.quantized(changed, quantization)
    change(changed)
    told = r"the exported closing segment departs from its module: the relative error of hidden_out in float32 is "
    with pytest.raises(TrtpackError, match=told + r"\d\.\de[+-]\d\d, the limit 1e-05") as error:
        check(changed, config, "closing", "float32", quantization)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("quantization", [None, SCHEMES[3]])
def test_a_bfloat16_graph_of_other_steps_is_refused(quantization: Quantization | None) -> None:
    """Though nothing runs it: ONNX Runtime's CPU has no bfloat16."""
    config, changed = model("llama"), ModelProto()
    changed.CopyFrom(export(config, "closing", "bfloat16"))
    if quantization:
        changed = graph.quantized(changed, quantization)
    next(node for node in changed.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
    with pytest.raises(
        TrtpackError, match=r"in bfloat16 is not the one in float32 with other types: node \w+ \(Tanh\)"
    ):
        check(changed, config, "closing", "bfloat16", quantization)


@pytest.mark.slow
@pytest.mark.usefixtures("shipped_layers")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_constants_that_no_half_holds_are_no_departure(dtype: DType) -> None:
    @activation("constants")
    def _constants(x: Tensor) -> Tensor:
        return 1.1 * x * torch.sigmoid(1.702 * x)

    config = model("llama", activation="constants")
    check(export(config, "closing", dtype), config, "closing", dtype)
