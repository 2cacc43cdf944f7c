"""The part of the `tensorrt` and `tensorrt_rtx` modules that the executor uses: what a stand-in for them must be.

Signatures as in tensorrt_rtx 1.7 and tensorrt 10 and 11 (docs.nvidia.com/deeplearning/tensorrt, Python API). A call
that fails returns False or None, and says why to the logger. Addresses are of memory on the device, in multiples of
256 bytes; a stream is a cudaStream_t as a number.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

log = logging.getLogger("tensorrt")

_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING}


class Logger(Protocol):
    """A module's own ILogger with a `log` of ours; `error` is the last one that it was told."""

    error: str


class ExecutionContext(Protocol):
    """What runs a plan in one of its optimisation profiles. Addresses and shapes are taken at each enqueue."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int, /) -> bool: ...

    def set_device_memory(self, memory: int, size: int, /) -> None: ...

    def set_input_shape(self, name: str, shape: tuple[int, ...], /) -> bool: ...

    def set_tensor_address(self, name: str, memory: int, /) -> bool: ...

    def execute_async_v3(self, stream_handle: int, /) -> bool: ...


class RuntimeCache(Protocol):
    """Compiled kernels (tensorrt_rtx only). `serialize` gives a buffer."""

    def deserialize(self, blob: bytes, /) -> bool: ...

    def serialize(self) -> Any: ...


class RuntimeConfig(Protocol):
    """How contexts are made; the cache and the strategy are tensorrt_rtx's only."""

    dynamic_shapes_kernel_specialization_strategy: Any

    def set_execution_context_allocation_strategy(self, strategy: Any, /) -> None: ...

    def create_runtime_cache(self) -> RuntimeCache: ...

    def set_runtime_cache(self, cache: RuntimeCache, /) -> bool: ...


class CudaEngine(Protocol):
    """A plan in memory. Shapes have -1 where they vary; a profile's shapes are its least, best and greatest."""

    @property
    def num_io_tensors(self) -> int: ...

    @property
    def num_optimization_profiles(self) -> int: ...

    @property
    def device_memory_size_v2(self) -> int: ...

    def get_tensor_name(self, index: int, /) -> str: ...

    def get_tensor_mode(self, name: str, /) -> Any: ...

    def get_tensor_dtype(self, name: str, /) -> Any: ...

    def get_tensor_shape(self, name: str, /) -> Sequence[int]: ...

    def get_tensor_profile_shape(self, name: str, profile_index: int, /) -> Sequence[Sequence[int]]: ...

    def create_runtime_config(self) -> RuntimeConfig: ...

    def create_execution_context(self, how: Any, /) -> ExecutionContext | None:
        """`how`: an allocation strategy, or a RuntimeConfig."""
        ...


class Runtime(Protocol):
    """What loads plans."""

    def deserialize_cuda_engine(self, serialized_engine: bytes, /) -> CudaEngine | None: ...


class TensorRT(Protocol):
    """The module. Enumerations are Any: their members are the module's own objects."""

    __version__: str
    ILogger: Any
    TensorIOMode: Any
    ExecutionContextAllocationStrategy: Any
    DynamicShapesKernelSpecializationStrategy: Any

    def Runtime(self, logger: Any, /) -> Runtime: ...  # noqa: N802


def logger(tensorrt: TensorRT) -> Logger:
    """An ILogger of that module that sends its messages to Python's logging, the informative ones as DEBUG."""

    class Adapter(tensorrt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.error = ""

        def log(self, severity: Any, msg: str) -> None:
            level = _LEVELS.get(severity.name, logging.DEBUG)
            if level == logging.ERROR:
                self.error = msg
            log.log(level, "%s", msg)

    return Adapter()
