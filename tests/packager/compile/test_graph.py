"""Graphs with quantised weights, with weights inside, and in float32."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from packager.compile.export import export
from packager.compile.graph import difference, embedded, quantized, widened
from packager.errors import TrtpackError
from runtime.engine.manifest import DType, Quantization
from runtime.model.layout import Kind
from runtime.model.quantization import pack_int4
from tests.packager.compile.segments import KINDS, SCHEMES, model


def described(graph_model: ModelProto) -> dict[str, tuple[int, list[int]]]:
    """An input's ONNX type and shape, by name; T is 0."""
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dimension.dim_value for dimension in value.type.tensor_type.shape.dim],
        )
        for value in graph_model.graph.input
    }


@pytest.mark.parametrize(
    ("quantization", "stored", "scale"),
    [
        (Quantization(scheme="int8"), TensorProto.INT8, [64]),
        (Quantization(scheme="int4", group_size=128), TensorProto.INT4, [64, 3]),
        (Quantization(scheme="fp8"), TensorProto.FLOAT8E4M3FN, [64]),
        (Quantization(scheme="smoothquant"), TensorProto.INT8, [64]),
    ],
    ids=lambda value: value.scheme if isinstance(value, Quantization) else "",
)
def test_scales_follow_the_quantized_weight(quantization: Quantization, stored: int, scale: list[int]) -> None:
    """96 input features: groups of 128 do not divide them, nor of 64, those of 32 do."""
    changed = quantized(export(model("llama"), "closing", "bfloat16"), quantization)
    checker.check_model(changed, full_check=True)
    inputs = described(changed)
    assert inputs["last.down.weight"] == (stored, [64, 96])
    assert inputs["last.down.weight_scale"] == (TensorProto.BFLOAT16, scale)
    assert inputs["last.mlp_norm.weight"] == (TensorProto.BFLOAT16, [64])
    names = list(inputs)
    follows = names[names.index("last.down.weight") + 1 :][:2]
    if quantization.scheme in ("fp8", "smoothquant"):
        assert follows == ["last.down.weight_scale", "last.down.input_scale"]
        assert inputs["last.down.input_scale"] == (TensorProto.BFLOAT16, [])
    else:
        assert follows == ["last.down.weight_scale", "norm.weight"]


def test_the_exported_graph_and_the_head_stay_as_they_are() -> None:
    before = export(model("llama"), "closing", "bfloat16")
    copy = before.SerializeToString()
    quantized(before, SCHEMES[0])
    widened(before)
    assert before.SerializeToString() == copy
    head = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gemm", ["hidden", "weight"], ["logits"], transB=1)],
            "head",
            [
                helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["T", 64]),
                helper.make_tensor_value_info("weight", TensorProto.FLOAT, [320, 64]),
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", 320])],
        )
    )
    assert quantized(head, SCHEMES[0]) == head


def test_a_width_without_groups_is_told_with_its_layer() -> None:
    odd = ModelProto()
    odd.CopyFrom(export(model("llama"), "closing", "bfloat16"))
    down = next(value for value in odd.graph.input if value.name == "last.down.weight")
    down.type.tensor_type.shape.dim[1].dim_value = 100
    with pytest.raises(TrtpackError, match=r"last\.down has 100 input features"):
        quantized(odd, Quantization(scheme="int4", group_size=128))


def test_embedded_weights_are_the_stored_bytes() -> None:
    changed = quantized(export(model("llama"), "closing", "bfloat16"), SCHEMES[1])
    weight = torch.arange(64 * 96).remainder(16).sub(8).to(torch.int8).reshape(64, 96)
    scale = torch.arange(64 * 3).reshape(64, 3).bfloat16()
    inside = embedded(changed, {"last.down.weight": pack_int4(weight), "last.down.weight_scale": scale})
    constants = {constant.name: numpy_helper.to_array(constant) for constant in inside.graph.initializer}
    assert np.array_equal(constants["last.down.weight"].astype(np.int8), weight.numpy())
    assert np.array_equal(constants["last.down.weight_scale"].astype(np.float32), scale.float().numpy())
    assert set(described(changed)) - set(described(inside)) == {"last.down.weight", "last.down.weight_scale"}
    fp8 = quantized(export(model("llama"), "closing", "bfloat16"), SCHEMES[2])
    values = torch.randn(64, 96).to(torch.float8_e4m3fn)
    inside = embedded(fp8, {"last.down.weight": values, "last.down.input_scale": torch.tensor(0.5).bfloat16()})
    constants = {constant.name: numpy_helper.to_array(constant) for constant in inside.graph.initializer}
    assert np.array_equal(constants["last.down.weight"].astype(np.float32), values.float().numpy())
    assert float(constants["last.down.input_scale"]) == 0.5


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("last.down.bias", torch.zeros(64), "no input last.down.bias"),
        ("norm.weight", torch.zeros(64), "norm.weight has 256 bytes, the closing graph takes 128"),
    ],
)
def test_what_does_not_fit_is_not_embedded(name: str, tensor: torch.Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        embedded(export(model("llama"), "closing", "bfloat16"), {name: tensor})


def test_a_bfloat16_graph_is_the_float32_one_in_other_types() -> None:
    wide = export(model("llama"), "closing", "float32")
    assert difference(widened(export(model("llama"), "closing", "bfloat16")), wide) is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_half_graph_is_the_float32_one_in_other_types(family: str, kind: Kind, dtype: DType) -> None:
    """Mistral's graphs are Llama's."""
    half, wide = (export(model(family), kind, type_) for type_ in (dtype, "float32"))
    assert difference(widened(half), wide) is None
    assert difference(half, wide) is not None


def _other_epsilon(changed: ModelProto) -> None:
    constant = next(one for one in changed.graph.initializer if one.data_type == TensorProto.FLOAT and one.dims == [])
    constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * np.float32(1.01), constant.name))


def _other_operator(changed: ModelProto) -> None:
    next(node for node in changed.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"


def _other_attribute(changed: ModelProto) -> None:
    gemm = next(node for node in changed.graph.node if node.op_type == "Gemm")
    next(attribute for attribute in gemm.attribute if attribute.name == "alpha").f = 2.0


def _other_input(changed: ModelProto) -> None:
    split = next(node for node in changed.graph.node if node.op_type == "Split")
    split.output[:] = reversed(split.output)


def _other_cast(changed: ModelProto) -> None:
    cast = helper.make_node("Cast", [changed.graph.node[0].output[0]], ["narrow"], to=TensorProto.INT32)
    changed.graph.node.insert(1, cast)


def _one_node_less(changed: ModelProto) -> None:
    last = changed.graph.node.pop()
    changed.graph.node[-1].output[0] = last.output[0]


@pytest.mark.parametrize(
    "change", [_other_epsilon, _other_operator, _other_attribute, _other_input, _other_cast, _one_node_less]
)
def test_a_difference_is_found(change: Callable[[ModelProto], None]) -> None:
    changed = widened(export(model("llama"), "closing", "bfloat16"))
    change(changed)
    assert difference(changed, export(model("llama"), "closing", "float32")) is not None


def test_a_cast_before_an_output_goes_too() -> None:
    """As at the end of a norm that computes in float32 throughout."""

    def build(dtype: int, *nodes: str) -> ModelProto:
        values = ["hidden", *(f"value{index}" for index in range(len(nodes) - 1)), "hidden_out"]
        made = [
            helper.make_node(node, [source], [result], **({"to": kind} if node == "Cast" else {}))
            for node, kind, source, result in zip(nodes, (1, 0, dtype), values, values[1:], strict=False)
        ]
        ports = [helper.make_tensor_value_info(name, dtype, ["T", 4]) for name in ("hidden", "hidden_out")]
        return helper.make_model(helper.make_graph(made, "closing", ports[:1], ports[1:]))

    wide = widened(build(TensorProto.FLOAT16, "Cast", "Neg", "Cast"))
    checker.check_model(wide, full_check=True)
    assert [node.op_type for node in wide.graph.node] == ["Neg"]
    assert difference(wide, build(TensorProto.FLOAT, "Neg")) is None
