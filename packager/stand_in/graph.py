"""A segment's graph on ONNX Runtime, over addresses instead of arrays."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import TensorProto, ValueInfoProto
from torch import Tensor

from packager.compile.graph import BITS, widened


@dataclass(frozen=True)
class Value:
    """An input or output: its ONNX type, and its shape with -1 for the tokens."""

    type: int
    shape: tuple[int, ...]

    def at(self, tokens: int) -> list[int]:
        """Its shape with so many tokens."""
        return [tokens if size == -1 else size for size in self.shape]

    def nbytes(self, tokens: int) -> int:
        """The memory it takes with so many tokens."""
        return prod(self.at(tokens)) * BITS[self.type] // 8


class Graph:
    """Loaded once, run many times.

    What is bfloat16 is computed in float32, inputs widened and outputs rounded: ONNX Runtime's CPU has no bfloat16.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self.inputs: dict[str, Value] = {value.name: _value(value) for value in model.graph.input}
        self.outputs: dict[str, Value] = {value.name: _value(value) for value in model.graph.output}
        if any(value.type == TensorProto.BFLOAT16 for value in (self.inputs | self.outputs).values()):
            model = widened(model)
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(self, addresses: Mapping[str, int], tokens: int) -> None:
        """Reads every input and writes every output where `addresses` says it lies."""
        binding, kept, rounded = self._session.io_binding(), [], []
        for name, value in self.inputs.items():
            kind, address = value.type, addresses[name]
            if kind == TensorProto.BFLOAT16:
                kept.append(wide := _memory(address, value, tokens).float())
                kind, address = TensorProto.FLOAT, wide.data_ptr()
            binding.bind_input(name, "cpu", 0, kind, value.at(tokens), address)
        for name, value in self.outputs.items():
            kind, address = value.type, addresses[name]
            if kind == TensorProto.BFLOAT16:
                rounded.append((_memory(address, value, tokens), wide := torch.empty(value.at(tokens))))
                kind, address = TensorProto.FLOAT, wide.data_ptr()
            binding.bind_output(name, "cpu", 0, kind, value.at(tokens), address)
        self._session.run_with_iobinding(binding)
        for narrow, wide in rounded:
            narrow.copy_(wide)


def _value(info: ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    return Value(kind.elem_type, tuple(-1 if size.dim_param else size.dim_value for size in kind.shape.dim))


def _memory(address: int, value: Value, tokens: int) -> Tensor:
    """What lies there, as it is: no copy."""
    memory = (ctypes.c_char * value.nbytes(tokens)).from_address(address)
    return torch.frombuffer(memory, dtype=torch.bfloat16).view(value.at(tokens))
