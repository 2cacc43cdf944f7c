"""graphs/ and plans/ of an engine: every segment exported, checked against its module, and built for every target."""

from collections.abc import Mapping
from pathlib import Path

import onnx
from safetensors import safe_open
from torch import Tensor

from packager import progress
from packager.compile import graph
from packager.compile.check import check
from packager.compile.export import export
from packager.compile.tensorrt import Builder, profiles
from runtime.engine import plan
from runtime.engine.executor import stored_name
from runtime.engine.manifest import Limits, Precision, WeightsMode
from runtime.model import layout
from runtime.model.config import ModelConfig
from runtime.model.layout import Kind, Segment

GRAPHS = "graphs"


def write(
    folder: Path,
    config: ModelConfig,
    precision: Precision,
    limits: Limits,
    compute_capabilities: list[str],
    mode: WeightsMode,
    builder: Builder,
) -> None:
    """`folder` holds the weights already. Raises TrtpackError for a segment that departs or does not build."""
    graphs = _graphs(folder, config, precision)
    for capability in compute_capabilities:
        parts = list(plan.parts(config, mode))
        with progress.task(f"Building {len(parts)} plans for compute capability {capability}", len(parts)) as advance:
            for name, segment in parts:
                advance(0, name)
                model = graphs[segment.kind]
                if plan.holds_weights(segment, mode):
                    model = graph.embedded(model, _tensors(folder, segment, model), name)
                path = folder / plan.path(capability, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(builder.build(model, capability, profiles(limits, segment.kind)))
                advance(1)


def _graphs(folder: Path, config: ModelConfig, precision: Precision) -> dict[Kind, onnx.ModelProto]:
    """One graph a kind, all weights inputs, as written to graphs/."""
    (folder / GRAPHS).mkdir()
    kinds = list(dict.fromkeys(segment.kind for segment in layout.segments(config)))
    graphs: dict[Kind, onnx.ModelProto] = {}
    with progress.task("Exporting and checking segments", len(kinds)) as advance:
        for kind in kinds:
            advance(0, kind)
            model = export(config, kind, precision.dtype)
            if precision.quantization:
                model = graph.quantized(model, precision.quantization)
            check(model, config, kind, precision.dtype, precision.quantization)
            onnx.save(model, folder / GRAPHS / f"{kind}.onnx")
            graphs[kind] = model
            advance(1)
    return graphs


def _tensors(folder: Path, segment: Segment, model: onnx.ModelProto) -> Mapping[str, Tensor]:
    """A segment's weights and scales as they are stored, by the names of its graph's inputs."""
    named = ((value.name, stored_name(segment, value.name)) for value in model.graph.input)
    wanted = {stored: parameter for parameter, stored in named if stored}
    tensors: dict[str, Tensor] = {}
    for path in sorted((folder / "weights").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {wanted[name]: file.get_tensor(name) for name in file.keys() if name in wanted}  # noqa: SIM118
    return tensors
