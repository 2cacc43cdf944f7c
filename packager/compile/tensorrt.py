"""Plans from graphs: TensorRT-RTX and TensorRT, which share one interface and differ in what they can build for."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from packager.errors import TrtpackError
from runtime.engine.manifest import BackendName, Limits
from runtime.model.layout import Kind

# What mixed steps are tuned for: some chunk of a prompt beside the sequences that decode.
_MIXED_TOKENS = 512
# Constants of so many bytes and more reach the parser by address (TensorRT 10.13 on): protobuf serialises 2 GB at most.
_LARGE = 1024


class Profile(NamedTuple):
    """Tokens that a plan takes: the least, those it is tuned for, the most."""

    least: int
    best: int
    most: int


@dataclass(frozen=True)
class _Ability:
    """What a backend's module can do. `cross`: build for a GPU that is not here. `flags`: set these of BuilderFlag."""

    module: str
    cross: bool
    flags: tuple[str, ...] = ()


_ABILITIES: dict[BackendName, _Ability] = {
    # Without the flag its plans cannot be captured in a CUDA graph of ours (TensorRT-RTX 1.2 release notes).
    "tensorrt-rtx": _Ability("tensorrt_rtx", cross=True, flags=("REQUIRE_USER_ALLOCATION",)),
    "tensorrt": _Ability("tensorrt", cross=False),
}


def profiles(limits: Limits, kind: Kind) -> list[Profile]:
    """For steps that only decode, a token a sequence, then for mixed ones; one for both where decoding fills a step.

    The head's tokens are those whose logits are wanted: one a sequence.
    """
    batch, tokens = limits.max_batch_size, limits.max_num_tokens
    decode, mixed = Profile(1, batch, batch), Profile(1, min(_MIXED_TOKENS, tokens), tokens)
    if kind == "head":
        return [decode]
    return [decode, mixed] if batch < tokens else [mixed]


class Builder:
    """One backend's builder."""

    def __init__(self, backend: BackendName, module: Any | None = None) -> None:
        """`module` takes the place of the backend's own. Raises TrtpackError where that is missing or finds no GPU."""
        self._backend, self._can = backend, _ABILITIES[backend]
        self._trt = module or _imported(backend, self._can.module)
        self._errors: list[str] = []
        try:
            self._logger = _logger(self._trt, self._errors)
            self._builder = self._trt.Builder(self._logger)
        except Exception as error:
            raise TrtpackError(
                f"{backend} {self.version} does not start: {self._reason(str(error))}",
                f"{backend} builds on a machine that has the GPU, and its driver.",
            ) from error

    @property
    def version(self) -> str:
        """The module's, to its fourth number: no other loads the plans."""
        return str(self._trt.__version__)

    def build(self, model: ModelProto, compute_capability: str, profiles: Sequence[Profile]) -> bytes:
        """The plan of a graph whose inputs' first dimensions are fixed, or vary within each of the profiles.

        `compute_capability` is the target, such as "8.9"; tensorrt builds for the GPU that is here, whatever it is.
        Raises TrtpackError in TensorRT's own words, with the graph's name and the target.
        """
        self._errors.clear()
        config = self._builder.create_builder_config()
        for flag in self._can.flags:
            config.set_flag(getattr(self._trt.BuilderFlag, flag))
        if self._can.cross:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._target(compute_capability), 0)
        # Strongly typed: the only kind of network since TensorRT 11, and the one meant before.
        network = self._builder.create_network(1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        network.name = model.graph.name  # else it is numbered, and one graph gives different plans
        parser = self._trt.OnnxParser(network, self._logger)
        constants = self._parse(parser, model.graph, _skeleton(model))
        for profile in profiles:
            config.add_optimization_profile(self._profile(network, profile))
        plan = self._builder.build_serialized_network(network, config)
        del constants  # the parser and the network only know where they are
        if plan is None:
            raise TrtpackError(
                f"{self._backend} {self.version} cannot build the {model.graph.name} segment for compute capability "
                f"{compute_capability}: {self._reason()}",
                "Choose another dtype or quantisation for this GPU, or --backend torch.",
            )
        return bytes(plan)

    def _target(self, compute_capability: str) -> Any:
        targets = self._trt.ComputeCapability.__members__
        name = f"SM{compute_capability.replace('.', '')}"
        if name not in targets:
            known = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in targets if name.startswith("SM"))
            raise TrtpackError(
                f"{self._backend} {self.version} does not build for compute capability {compute_capability}; "
                f"it builds for {known}",
                "Choose another backend: see trtpack compile --help.",
            )
        return targets[name]

    def _parse(self, parser: Any, graph: GraphProto, skeleton: bytes) -> list[bytes]:
        """Returns the large constants, which must outlive the network."""
        held = []
        parsed = parser.load_model_proto(skeleton)
        for constant in graph.initializer:
            if parsed and _is_large(constant):
                held.append(data := constant.raw_data)
                parsed = parser.load_initializer(constant.name, np.frombuffer(data, np.uint8).ctypes.data, len(data))
        if not (parsed and parser.parse_model_proto()):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            told = "; ".join(f"{error.node_name() or 'graph'}: {error.desc()}" for error in errors)
            raise TrtpackError(
                f"{self._backend} {self.version} cannot read the {graph.name} segment: {told or self._reason()}",
                "A layer added in Python may use an operator that TensorRT lacks; --backend torch runs any.",
            )
        return held

    def _profile(self, network: Any, profile: Profile) -> Any:
        shapes = self._builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            first, *rest = tensor.shape or (None,)
            if first == -1:
                shapes.set_shape(tensor.name, *((tokens, *rest) for tokens in profile))
        return shapes

    def _reason(self, otherwise: str = "no reason given") -> str:
        return " ".join(self._errors[-2:]) or otherwise


def _imported(backend: BackendName, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise TrtpackError(
            f"the {backend} backend needs the Python package {backend}: {error}",
            f"Install it with: pip install {backend}",
        ) from error


def _logger(trt: Any, errors: list[str]) -> Any:
    """The module's ILogger, gathering errors in place of printing everything."""

    class Gathering(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                errors.append(message)

    return Gathering()


def _skeleton(model: ModelProto) -> bytes:
    """The model without its large constants, which are only named as if they were in a file."""
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, source = bare.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    for constant in source.initializer:
        if _is_large(constant):
            named = graph.initializer.add(name=constant.name, data_type=constant.data_type, dims=constant.dims)
            named.data_location = TensorProto.EXTERNAL
            named.external_data.add(key="location", value="memory")
            named.external_data.add(key="length", value=str(len(constant.raw_data)))
        else:
            graph.initializer.append(constant)
    return bytes(bare.SerializeToString())


def _is_large(constant: TensorProto) -> bool:
    return len(constant.raw_data) >= _LARGE
