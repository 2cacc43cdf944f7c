"""A segment's PyTorch module as an ONNX graph whose weights are inputs, so that one graph serves every layer."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from onnx import ModelProto
from torch import Tensor, nn

from packager.compile.weights import DTYPES
from packager.errors import TrtpackError
from runtime.engine.manifest import DType
from runtime.model import layout
from runtime.model.activations import ACTIVATIONS
from runtime.model.config import ModelConfig
from runtime.model.decoder import Decoder
from runtime.model.layout import Kind
from runtime.model.norms import NORMS

OPSET = 21  # the first with int4, and with a scale for each group of inputs (onnx.ai, DequantizeLinear)


def export(config: ModelConfig, kind: Kind, dtype: DType) -> ModelProto:
    """The graph of any segment of that kind, in `dtype`, named after the kind; the same bytes for the same config.

    Inputs are the kind's `layout.INPUTS`, each [T, …] with a symbolic T of 1 or more, then its weights under their
    parameters' names; outputs are its `layout.OUTPUTS`. No weight is in it, nor in memory. Raises TrtpackError for a
    module that is not made of operators with an ONNX counterpart.
    """
    # The same whatever the number of layers, and as long as the user's own layers are the same.
    layers = ACTIVATIONS.find(config.activation), NORMS.find(config.norm)
    graph = ModelProto()
    graph.ParseFromString(_exported(_short(config), kind, dtype, layers))
    return graph


@lru_cache(maxsize=64)
def _exported(config: ModelConfig, kind: Kind, dtype: DType, layers: object) -> bytes:
    """Kept, for it takes a second: each graph is exported to be compiled, and again to be compared with."""
    module, weights = segment(config, kind, dtype)
    activations = [torch.empty(2, width, dtype=DTYPES[dtype], device="meta") for width in _widths(config, kind)]
    tokens = torch.export.Dim("T", min=1)
    try:
        with _quiet():
            program = torch.onnx.export(
                _Taking(module, list(weights), len(activations)),
                (*activations, *weights.values()),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[*layout.INPUTS[kind], *weights],
                output_names=layout.OUTPUTS[kind],
                dynamic_shapes=((*({0: tokens} for _ in activations), *({} for _ in weights)),),
            )
            assert program is not None  # it is with dynamo
            return bytes(_plain(program.model_proto, kind).SerializeToString())
    except Exception as error:  # the exporter's own class wraps whatever a module or a conversion raised
        raise TrtpackError(
            f"the {kind} segment cannot be exported to ONNX: {_reason(error)}",
            "Layers must be made of torch operators, without branches on a tensor's values.",
        ) from error


def segment(config: ModelConfig, kind: Kind, dtype: DType) -> tuple[nn.Module, dict[str, Tensor]]:
    """A segment's module on the meta device, in eval mode, and those of its parameters that it uses, by name."""
    short = _short(config)
    with torch.device("meta"):
        segments = Decoder(short).to(DTYPES[dtype]).requires_grad_(False).eval().segments()
    modules = {
        "opening": segments.opening,
        "middle": segments.middles[0],
        "closing": segments.closing,
        "head": segments.head,
    }
    module = modules[kind]
    assert isinstance(module, nn.Module)
    used = next(found.weights for found in layout.segments(short) if found.kind == kind)
    return module, {name: module.get_parameter(name) for name in used}


class _Taking(nn.Module):
    """A segment that takes its weights as arguments, after its activations."""

    def __init__(self, segment: nn.Module, weights: list[str], activations: int) -> None:
        super().__init__()
        self._segment = (segment,)  # not a submodule, or the exporter would add all of its weights
        self._weights, self._activations = weights, activations
        self.eval()

    def forward(self, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
        weights = dict(zip(self._weights, args[self._activations :], strict=True))
        outputs: Tensor | tuple[Tensor, ...]
        outputs = torch.func.functional_call(self._segment[0], weights, args[: self._activations])
        return outputs


def _short(config: ModelConfig) -> ModelConfig:
    """As many layers as a middle has, which are all alike; windows are attention's."""
    return config.model_copy(update={"num_layers": 2, "windows": (None, None)})


def _widths(config: ModelConfig, kind: Kind) -> list[int]:
    known = {"attention": config.q_size, "cos": config.head_dim, "sin": config.head_dim}
    return [known.get(name, config.hidden_size) for name in layout.INPUTS[kind]]


def _plain(model: ModelProto, kind: Kind) -> ModelProto:
    """Without what the exporter notes of its own work: stack traces with paths, symbols, names of classes."""
    graph = model.graph
    graph.name = kind
    del graph.value_info[:]
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
        noted.ClearField("doc_string")
    for node in graph.node:
        node.attribute.sort(key=lambda attribute: attribute.name)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages it could do with, and of what is deprecated in itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
