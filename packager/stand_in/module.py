"""The module itself: what loads an engine's plans."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from packager.compile.tensorrt import profiles
from packager.stand_in import enums
from packager.stand_in.context import ExecutionContext, RuntimeConfig
from packager.stand_in.enums import DataType, ExecutionContextAllocationStrategy, Severity, TensorIOMode
from packager.stand_in.graph import Graph
from runtime.engine import manifest as manifests
from runtime.engine import plan, weights
from runtime.engine.executor import ALIGNMENT, stored_name
from runtime.model.layout import Kind, Segment


class StandIn:
    """To be injected in the module's place; knows the plans of one engine.

    `runs` counts enqueues by the kind of segment, the profile and the tokens; `compiled`, those that compiled kernels.
    """

    ILogger = enums.ILogger
    TensorIOMode = enums.TensorIOMode
    ExecutionContextAllocationStrategy = enums.ExecutionContextAllocationStrategy
    DynamicShapesKernelSpecializationStrategy = enums.DynamicShapesKernelSpecializationStrategy

    def __init__(self, folder: Path, *, compiles: bool = False) -> None:
        """`compiles` pretends that a plan's first run in a profile compiles kernels, which the runtime cache keeps.

        Without it the cache stays empty, and nothing of the stand-in's comes among real ones. Raises EngineError.
        """
        self.folder, self.manifest = folder, manifests.read(folder)
        self.__version__ = self.manifest.backend.version
        self.compiles, self.compiled = compiles, 0
        self.runs: Counter[tuple[Kind, int, int]] = Counter()
        self.plans: dict[str, Segment] = {}
        for target in self.manifest.targets:
            for name, segment in plan.parts(self.manifest.model.config, self.manifest.weights):
                file = self.manifest.files[plan.path(target.compute_capability, name)]
                self.plans[file.sha256] = segment
        self._graphs: dict[Kind, Graph] = {}

    def Runtime(self, logger: enums.ILogger) -> "Runtime":  # noqa: N802
        return Runtime(self, logger)

    def graph(self, kind: Kind) -> Graph:
        """The graph of that kind of segment, loaded once."""
        if kind not in self._graphs:
            self._graphs[kind] = Graph(self.folder / "graphs" / f"{kind}.onnx")
        return self._graphs[kind]


class Runtime:
    def __init__(self, module: StandIn, logger: enums.ILogger) -> None:
        self._module, self._logger = module, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "CudaEngine | None":
        digest = hashlib.sha256(serialized_engine).hexdigest()
        if digest not in self._module.plans:
            self._logger.log(Severity.ERROR, f"engine.json lists no plan with sha256 {digest}")
            return None
        return CudaEngine(self._module, digest, self._logger)


class CudaEngine:
    """A plan. One that holds its weights takes activations alone; here they come from the engine's files."""

    def __init__(self, module: StandIn, digest: str, logger: enums.ILogger) -> None:
        self.module, self.digest, self.logger = module, digest, logger
        segment, manifest = module.plans[digest], module.manifest
        self.kind = segment.kind
        self._graph = module.graph(segment.kind)
        self._profiles = list(profiles(manifest.limits, segment.kind))
        self._held: dict[str, Tensor] = {}
        if plan.holds_weights(segment, manifest.weights):
            names = {name: stored_name(segment, name) for name in self._graph.inputs}
            wanted = {name for name in names.values() if name}
            found = weights.read(module.folder, manifest, torch.device("cpu"), wanted.__contains__)
            self._held = {parameter: found[name] for parameter, name in names.items() if name}
        self.inputs = {name: value for name, value in self._graph.inputs.items() if name not in self._held}
        self.outputs = self._graph.outputs
        self.device_memory_size_v2 = ALIGNMENT * max(profile[-1] for profile in self._profiles)

    def run(self, addresses: Mapping[str, int], tokens: int) -> None:
        """Reads and writes memory as the graph does."""
        held = {name: tensor.data_ptr() for name, tensor in self._held.items()}
        self._graph.run({**addresses, **held}, tokens)

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.inputs | self.outputs)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType((self.inputs | self.outputs)[name].type)

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        return (self.inputs | self.outputs)[name].shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return [self.inputs[name].at(tokens) for tokens in self._profiles[profile_index]]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self, ExecutionContextAllocationStrategy.STATIC)

    def create_execution_context(self, how: ExecutionContextAllocationStrategy | RuntimeConfig) -> ExecutionContext:
        return ExecutionContext(self, how if isinstance(how, RuntimeConfig) else RuntimeConfig(self, how))
