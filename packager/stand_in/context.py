"""How contexts are made, what they run, and the runtime cache they share."""

import ctypes
import json
from typing import TYPE_CHECKING, Any

from packager.stand_in.enums import (
    DynamicShapesKernelSpecializationStrategy,
    ExecutionContextAllocationStrategy,
    Severity,
)
from runtime.engine.executor import ALIGNMENT

if TYPE_CHECKING:
    from packager.stand_in.module import CudaEngine


class RuntimeCache:
    """The plans and profiles whose kernels were compiled."""

    def __init__(self, version: str) -> None:
        self._head = f"kernels of {version}\n".encode()
        self.kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        """Refuses another version's, and what is none."""
        if not blob.startswith(self._head):
            return False
        self.kernels |= set(json.loads(blob.removeprefix(self._head)))
        return True

    def serialize(self) -> memoryview:
        return memoryview(self._head + json.dumps(sorted(self.kernels)).encode() if self.kernels else b"")


class RuntimeConfig:
    def __init__(self, engine: "CudaEngine", strategy: ExecutionContextAllocationStrategy) -> None:
        self._engine, self.strategy = engine, strategy
        self.cache: RuntimeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        if self._engine.module.manifest.backend.name != "tensorrt-rtx":
            raise AttributeError("only tensorrt_rtx has a runtime cache")
        return RuntimeCache(self._engine.module.__version__)

    def set_runtime_cache(self, cache: Any) -> bool:
        """Takes what `create_runtime_cache` made, by whichever engine's config."""
        if not isinstance(cache, RuntimeCache):
            return False
        self.cache = cache
        return True


class ExecutionContext:
    """Runs the plan's graph on the addresses it was given."""

    def __init__(self, engine: "CudaEngine", config: RuntimeConfig) -> None:
        self._engine, self._config = engine, config
        self._profile = 0
        self._tokens: dict[str, int] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._kernels = config.cache.kernels if config.cache else set()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._refuse(f"there is no profile {profile_index}")
        self._profile = profile_index
        self._tokens.clear()
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = memory, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in self._engine.inputs:
            return self._refuse(f"{name} is no input")
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(least) or not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return self._refuse(f"{name} {shape} is not within {least} and {most} of profile {self._profile}")
        if least != most:
            self._tokens[name] = shape[0]
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine.inputs and name not in self._engine.outputs:
            return self._refuse(f"{name} is neither an input nor an output")
        if memory == 0 or memory % ALIGNMENT:
            return self._refuse(f"{name} is at {memory:#x}, which is no multiple of {ALIGNMENT}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if problem := self._problem():
            return self._refuse(problem)
        self._compile()
        # Whatever else lies in the scratch memory is lost, as it would be to TensorRT.
        ctypes.memset(self._scratch[0], 0xFF, self._scratch[1])
        tokens = next(iter(self._tokens.values()))
        self._engine.run(self._addresses, tokens)
        self._engine.module.runs[self._engine.kind, self._profile, tokens] += 1
        return True

    def _problem(self) -> str | None:
        """What is missing or wrong in what the context was told."""
        engine = self._engine
        for name, value in (engine.inputs | engine.outputs).items():
            if name in engine.inputs and -1 in value.shape and name not in self._tokens:
                return f"{name} has no shape"
            if name not in self._addresses:
                return f"{name} has no address"
        if len(set(self._tokens.values())) != 1:
            return f"inputs differ in their tokens: {self._tokens}"
        address, size = self._scratch
        if self._config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED and (
            size < engine.device_memory_size_v2 or address == 0 or address % ALIGNMENT
        ):
            return f"the device memory is {size} bytes at {address:#x}; {engine.device_memory_size_v2} are needed"
        return self._clash(next(iter(self._tokens.values())))

    def _clash(self, tokens: int) -> str | None:
        """Memory that is written, and is something else's as well."""
        engine = self._engine
        spans = {"the device memory": self._scratch}
        for name, value in (engine.inputs | engine.outputs).items():
            spans[name] = self._addresses[name], value.nbytes(tokens)
        for written in ("the device memory", *engine.outputs):
            start, size = spans[written]
            for name, (other, length) in spans.items():
                if name != written and start < other + length and other < start + size:
                    return f"{written} and {name} overlap"
        return None

    def _compile(self) -> None:
        kernel = f"{self._engine.digest}/{self._profile}"
        if self._engine.module.compiles and kernel not in self._kernels:
            self._kernels.add(kernel)
            self._engine.module.compiled += 1

    def _refuse(self, reason: str) -> bool:
        self._engine.logger.log(Severity.ERROR, reason)
        return False
