"""A plan in memory and a segment that runs on it: weights and activations bound by address, one enqueue a call.

A plan has one execution context for each of its optimisation profiles, shared by every segment that it serves. That
is sound because addresses are taken at the enqueue and all enqueues are on one stream: the next segment rebinds what
the one before has no more use for. A call neither waits for the GPU nor takes memory but from torch's allocator, so
a whole step can be captured in a CUDA graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor

from runtime.engine.bindings import CudaEngine, ExecutionContext, Logger, TensorRT
from runtime.errors import EngineError
from runtime.model import layout
from runtime.model.layout import Segment

ALIGNMENT = 256  # bytes, of every address TensorRT is given (Python API, IExecutionContext)
# By the names of TensorRT's DataType; two int4 share a byte, for which torch has no type.
DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "FP8": torch.float8_e4m3fn,
    "INT4": torch.uint8,
}


@dataclass(frozen=True)
class Port:
    """An input or output of a plan as it lies in memory; `shape` begins with -1 where it varies with the tokens."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Plan:
    """A deserialised plan with its execution contexts."""

    def __init__(
        self, name: str, engine: CudaEngine, contexts: Sequence[ExecutionContext], tensorrt: TensorRT, *keep: object
    ) -> None:
        """`contexts`: one for each of the engine's profiles, in their order. `keep`: what they need to stay alive."""
        self.name, self._keep = name, (engine, *keep)
        self.inputs: dict[str, Port] = {}
        self.outputs: dict[str, Port] = {}
        for index in range(engine.num_io_tensors):
            port = _port(engine, engine.get_tensor_name(index))
            is_input = engine.get_tensor_mode(port.name) == tensorrt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[port.name] = port
        varying = next(port.name for port in self.inputs.values() if port.shape[:1] == (-1,))
        greatest = [engine.get_tensor_profile_shape(varying, index)[2][0] for index in range(len(contexts))]
        self._profiles = sorted(zip(greatest, contexts, strict=True), key=lambda profile: profile[0])

    @property
    def most(self) -> int:
        """The most tokens it takes."""
        return self._profiles[-1][0]

    def context(self, tokens: int) -> ExecutionContext:
        """That of the tightest profile which takes so many tokens, at most `most`."""
        return next(context for most, context in self._profiles if tokens <= most)

    def extremes(self) -> Iterator[int]:
        """The smallest and the greatest number of tokens that each profile is used for."""
        least = 1
        for most, _ in self._profiles:
            yield from sorted({least, most})
            least = most + 1


class CompiledSegment:
    """A segment of `runtime.model.decoder` on its plan."""

    def __init__(
        self, segment: Segment, plan: Plan, tensors: Mapping[str, Tensor], device: torch.device, logger: Logger
    ) -> None:
        """`tensors`: the engine's, by name, on `device`: what of them the plan takes is bound. Raises EngineError."""
        self.name, self.plan, self._device, self._logger = segment.name, plan, device, logger
        self._inputs = [_named(plan, plan.inputs, name) for name in layout.INPUTS[segment.kind]]
        self._outputs = [_named(plan, plan.outputs, name) for name in layout.OUTPUTS[segment.kind]]
        self._names = [port.name for port in (*self._inputs, *self._outputs)]
        names = ((port, stored_name(segment, port.name)) for port in plan.inputs.values())
        self._bound = {port.name: _weight(port, name, tensors, plan) for port, name in names if name}
        self._weights = [(name, tensor.data_ptr()) for name, tensor in self._bound.items()]

    def __call__(self, *activations: Tensor) -> Any:
        """Activations [T, …] in the order of layout.INPUTS → a tensor, or a tuple in the order of layout.OUTPUTS.

        Without tokens nothing is enqueued. Raises EngineError for more tokens than the plan takes, another dtype, and
        what TensorRT refuses.
        """
        tokens = len(activations[0])
        outputs = [empty((tokens, *port.shape[1:]), port.dtype, self._device) for port in self._outputs]
        if tokens:
            self._enqueue(tokens, activations, outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def idle(self, tokens: int) -> None:
        """Runs it on zeros."""
        self(*(torch.zeros((tokens, *port.shape[1:]), dtype=port.dtype, device=self._device) for port in self._inputs))

    def _enqueue(self, tokens: int, activations: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if tokens > self.plan.most:
            raise EngineError(f"segment {self.name} takes {self.plan.most} tokens at most, and was given {tokens}")
        context = self.plan.context(tokens)
        inputs = [bindable(tensor) for tensor in activations]  # copies must live until they are enqueued
        for port, tensor in zip(self._inputs, inputs, strict=True):
            if tensor.dtype != port.dtype:
                raise EngineError(
                    f"segment {self.name} takes {port.name} in {port.dtype}, and was given {tensor.dtype}"
                )
            if not context.set_input_shape(port.name, tuple(tensor.shape)):
                raise self._refused(port.name)
        addresses = [tensor.data_ptr() for tensor in chain(inputs, outputs)]
        for name, address in chain(self._weights, zip(self._names, addresses, strict=True)):
            if not context.set_tensor_address(name, address):
                raise self._refused(name)
        if not context.execute_async_v3(stream(self._device)):
            raise self._refused("its enqueue")

    def _refused(self, what: str) -> EngineError:
        reason = self._logger.error or "no reason given"
        return EngineError(f"segment {self.name}: TensorRT refused {what}: {reason}")


def stored_name(segment: Segment, name: str) -> str | None:
    """The engine's tensor that is the input `name` of the segment's graph; None for an activation.

    A quantised weight's scales lie beside it: "previous.o.weight_scale" beside "previous.o.weight". Raises EngineError.
    """
    if name in layout.INPUTS[segment.kind]:
        return None
    module, _, leaf = name.rpartition(".")
    weight = segment.weights.get(name) or segment.weights.get(f"{module}.weight")
    if weight is None:
        raise EngineError(f"a plan has an input {name}, which {segment.name} of this model has not; compile again")
    return f"{weight.rpartition('.')[0]}.{leaf}"


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory at a multiple of ALIGNMENT.

    torch's CUDA allocator gives multiples of 512 (c10/cuda/CUDACachingAllocator.h, kMinBlockSize), that of the CPU
    of 64.
    """
    if device.type == "cuda":
        return torch.empty(shape, dtype=dtype, device=device)
    size = prod(shape) * dtype.itemsize
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + size].view(dtype).view(shape)


def bindable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that has gaps or lies askew: some rows of another, or a file mapped into memory."""
    if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return empty(tensor.shape, tensor.dtype, tensor.device).copy_(tensor)


def stream(device: torch.device) -> int:
    """torch's current stream there, as a number; 0 on a CPU, which has none."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _port(engine: CudaEngine, name: str) -> Port:
    dtype, shape = engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name))
    if dtype == "INT4":
        shape = (*shape[:-1], shape[-1] // 2)
    return Port(name, DTYPES[dtype], shape)


def _named(plan: Plan, ports: Mapping[str, Port], name: str) -> Port:
    if name not in ports:
        raise EngineError(f"{plan.name} has no {name}: it is not of this runtime; compile again with: trtpack compile")
    return ports[name]


def _weight(port: Port, name: str, tensors: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """Checked, for TensorRT sees an address alone: a smaller tensor would be read beyond its end."""
    if name not in tensors:
        raise EngineError(f"{plan.name} wants {name}, which the engine's weights have not; compile again")
    tensor = tensors[name]
    if (tensor.dtype, tuple(tensor.shape)) != (port.dtype, port.shape):
        raise EngineError(
            f"{plan.name} wants {name} as {port.dtype} {list(port.shape)}, and the engine's is "
            f"{tensor.dtype} {list(tensor.shape)}; compile again"
        )
    return bindable(tensor)
