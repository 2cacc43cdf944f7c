"""Stored weights mean what ONNX says they mean, and a linear layer quantises its input only when its state says so."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper
from torch import Tensor, nn

from runtime.model.linear import Linear
from runtime.model.quantization import dequantize, dequantized, fake_quantize, pack_int4, unpack_int4

TYPES = {torch.int8: TensorProto.INT8, torch.float8_e4m3fn: TensorProto.FLOAT8E4M3FN}


@given(
    arrays(np.int8, array_shapes(min_dims=2, max_dims=2).map(lambda s: (s[0], 2 * s[1])), elements=st.integers(-8, 7))
)
def test_int4_is_unpacked_as_it_was_packed(values: np.ndarray) -> None:
    given_values = torch.from_numpy(values)
    packed = pack_int4(given_values)
    assert packed.dtype == torch.uint8 and packed.shape == (values.shape[0], values.shape[1] // 2)
    assert torch.equal(unpack_int4(packed), given_values)


def test_int4_has_onnxs_packing() -> None:
    values = [1, -2, 7, -8, 0, -1]
    theirs = (
        helper.make_tensor("", TensorProto.INT4, [6], values).int32_data
        or helper.make_tensor("", TensorProto.INT4, [6], values).raw_data
    )
    assert bytes(pack_int4(torch.tensor([values], dtype=torch.int8)).flatten().tolist()) == bytes(theirs)


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn])
def test_a_scale_for_each_row(stored: torch.dtype) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, -16.0]]).to(stored)
    scale = torch.tensor([0.5, 2.0])
    assert dequantize(weight, scale).tolist() == [[0.5, -1.0, 1.5], [8.0, 0.0, -32.0]]


def test_a_scale_for_each_group() -> None:
    weight = pack_int4(torch.tensor([[1, -2, 7, -8], [3, 3, 3, 3]], dtype=torch.int8))
    scale = torch.tensor([[1.0, 0.5], [2.0, 0.25]], dtype=torch.bfloat16)
    found = dequantize(weight, scale)
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [[1.0, -2.0, 3.5, -4.0], [6.0, 6.0, 0.75, 0.75]]


@pytest.mark.parametrize("stored", list(TYPES))
def test_fake_quantisation_is_onnxs(stored: torch.dtype) -> None:
    scale = 0.25
    x = torch.cat((torch.linspace(-200, 200, 4001), torch.tensor([0.125, 0.375, -0.125, 0.0, 1e4, -1e4, 1e-4])))
    assert torch.equal(fake_quantize(x, torch.tensor(scale), stored), through_onnx(x, scale, TYPES[stored]))


def through_onnx(x: Tensor, scale: float, stored: int) -> Tensor:
    """QuantizeLinear and DequantizeLinear as ONNX Runtime does them."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
            helper.make_tensor("zero", stored, [], b"\0", raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def test_without_a_scale_it_is_torchs_linear() -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(8, 4), nn.Linear(8, 4)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(ours(x), theirs(x))
    programs = [torch.export.export(module, (x,)) for module in (ours, theirs)]
    assert len({str([node.target for node in program.graph.nodes]) for program in programs}) == 1


@pytest.mark.parametrize("stored", list(TYPES))
def test_an_input_scale_quantises_the_input(stored: torch.dtype) -> None:
    torch.manual_seed(0)
    x, scale = torch.randn(3, 8), torch.tensor(0.03)
    tensors = {
        "a.weight": torch.randn(4, 8).to(stored),
        "a.weight_scale": torch.rand(4),
        "a.input_scale": scale,
        "b.weight": torch.randn(2, 4),
    }
    model = nn.Sequential()
    model.add_module("a", Linear(8, 4, bias=False))
    model.add_module("b", Linear(4, 2, bias=False))
    model.load_state_dict(dequantized(tensors, torch.float32), assign=True)
    weight = dequantize(tensors["a.weight"], tensors["a.weight_scale"])
    expected = fake_quantize(x, scale, stored) @ weight.T @ tensors["b.weight"].T
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert not torch.allclose(model(x), x @ weight.T @ tensors["b.weight"].T, atol=1e-6)


def test_another_state_takes_the_scale_away() -> None:
    layer = Linear(2, 2, bias=False)
    state = {
        "weight": torch.eye(2),
        "input_scale": torch.tensor(1.0),
        "input_zero_point": torch.zeros((), dtype=torch.int8),
    }
    x = torch.tensor([0.4, 1.6])
    layer.load_state_dict(state)
    assert layer(x).tolist() == [0.0, 2.0]
    layer.load_state_dict({"weight": torch.eye(2)})
    assert torch.equal(layer(x), x)


def test_unquantised_tensors_are_cast_and_kept() -> None:
    tensors = {"embed.weight": torch.ones(2, 2, dtype=torch.bfloat16), "layers.0.qkv.bias": torch.ones(2)}
    loaded = dequantized(tensors, torch.float32)
    assert loaded.keys() == tensors.keys()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert loaded["layers.0.qkv.bias"] is tensors["layers.0.qkv.bias"]  # no copy of what is right already
