"""An engine against the float32 reference that its checkpoint gives, segment by segment."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from packager.attention import causal
from packager.checkpoint.base import Checkpoint
from packager.compile import export, weights
from packager.errors import ConfigError, TrtpackError
from runtime.batch import Batch
from runtime.engine import manifest as manifests
from runtime.engine.manifest import DType, Manifest, Precision, Scheme
from runtime.kernels.attention import KVCache, PagedAttention
from runtime.model import layout, rope
from runtime.model.config import ModelConfig
from runtime.model.decoder import Attend, Segments
from runtime.model.layout import Kind, Segment

Backend = Literal["torch", "stand-in"]
_DTYPE_LIMITS: Mapping[DType, float] = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
_SCHEME_LIMITS: Mapping[Scheme, float] = {"int8": 6e-2, "smoothquant": 1.5e-1, "fp8": 1.2e-1, "int4": 6e-1}
_CPU = torch.device("cpu")
_BLOCK = 16


@dataclass(frozen=True)
class Difference:
    """How far a segment's outputs are from the reference's: relative error of the worst output, mean over its tokens.

    `isolated`: when it is given the reference's inputs. `accumulated`: when it is given what the segments before it
    gave. Beyond its limit either makes the segment depart.
    """

    segment: str
    isolated: float
    isolated_limit: float
    accumulated: float
    accumulated_limit: float

    @property
    def departs(self) -> bool:
        """Not a number counts as departed."""
        return not (self.isolated <= self.isolated_limit and self.accumulated <= self.accumulated_limit)


def default_backend(manifest: Manifest) -> Backend:
    """What runs an engine's segments on this machine."""
    return "torch" if manifest.backend.name == "torch" else "stand-in"


@torch.inference_mode()
def compare(folder: Path, checkpoint: Checkpoint, tokens: Sequence[int], backend: Backend) -> Iterator[Difference]:
    """The embedding, then each segment in the order they run, computed on the CPU in the engine's own type.

    The engine is in memory whole, the reference a segment at a time. Raises ConfigError for more tokens than the
    engine takes in a step, TrtpackError for another model's checkpoint, EngineError for a broken engine.
    """
    manifest = manifests.read(folder)
    _check(folder, manifest, checkpoint, len(tokens))
    config, dtype = manifest.model.config, weights.DTYPES[manifest.precision.dtype]
    ids, tables = torch.tensor(tokens), rope.tables(config.rope, config.head_dim, len(tokens))
    reference, segments = _Reference(checkpoint), _segments(folder, manifest, backend)
    true = _Walk(reference.embed(ids), tables, _causal(config))
    ours = _Walk(segments.embed(ids), [table.to(dtype) for table in tables], _paged(config, ids, dtype))
    scales = _ValueScales(config, manifest.precision)
    limit = accumulated_limit = isolated_limit(manifest.precision, "embed")
    error = _worst([ours.residual], [true.residual])
    yield Difference("embed", error, limit, error, limit)
    compiled: list[Callable[..., Any]] = [segments.opening, *segments.middles, segments.closing, segments.head]
    for segment, run in zip(layout.segments(config), compiled, strict=True):
        given = true.inputs(segment.kind)
        alone = _tuple(run(*(tensor.to(dtype) for tensor in given)))
        after = _tuple(run(*ours.inputs(segment.kind)))
        expected = scales.put(segment.kind, alone, reference.run(segment, scales.undone(segment.kind, given)))
        limit = isolated_limit(manifest.precision, segment.kind)
        # Twice, for a segment may widen the errors it is given.
        accumulated_limit = hypot(accumulated_limit, 2 * limit)
        yield Difference(segment.name, _worst(alone, expected), limit, _worst(after, expected), accumulated_limit)
        true.take(segment.kind, expected)
        ours.take(segment.kind, after)


def isolated_limit(precision: Precision, kind: Kind | Literal["embed"]) -> float:
    """The error beyond which rounding and quantisation alone do not take a segment.

    Two to four times the worst of SmolLM2's segments, whose errors were seen to add up in quadrature: 1e-6, 1e-3 and
    1e-2 for the types; 2.3e-2 (int8), 3.6e-2 (fp8, weights alone) and 3e-1 (int4) with weights rounded to nearest.
    The embedding and the head are not quantised.
    """
    limit = _DTYPE_LIMITS[precision.dtype]
    if precision.quantization is None or kind in ("embed", "head"):
        return limit
    return max(limit, _SCHEME_LIMITS[precision.quantization.scheme])


def _check(folder: Path, manifest: Manifest, checkpoint: Checkpoint, tokens: int) -> None:
    most = min(manifest.limits.max_num_tokens, manifest.limits.max_model_len)
    if not 0 < tokens <= most:
        raise ConfigError(f"the prompt has {tokens} tokens, and this engine takes 1 to {most} in a step")
    if checkpoint.model != manifest.model.config:
        raise TrtpackError(
            f"{checkpoint.source} is another model than {folder}, which was compiled from {manifest.model.source}",
            "Name the checkpoint that the engine was compiled from.",
        )


class _Reference:
    """The checkpoint's model in float32, one segment in memory at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._weights = {weight.name: weight for weight in weights.plan(checkpoint)}

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [T] → [T, H]."""
        (name, _), *_ = self._weights["embed.weight"].parts
        return self._checkpoint.get(name)[tokens].float()

    def run(self, segment: Segment, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Reads the segment's weights and computes it."""
        module, _ = export.segment(self._checkpoint.model, segment.kind, "float32")
        tensors = {
            parameter: weights.merged(self._checkpoint, self._weights[name], "float32")
            for parameter, name in segment.weights.items()
        }
        return _tuple(functional_call(module, tensors, tuple(inputs)))


class _Walk:
    """The activations of a run, by name, as one segment after another is computed."""

    def __init__(self, residual: Tensor, tables: Sequence[Tensor], attend: Attend) -> None:
        """`tables`: cosine and sine."""
        self._values = {"residual": residual, "cos": tables[0], "sin": tables[1]}
        self._attend, self._layer = attend, 0

    @property
    def residual(self) -> Tensor:
        return self._values["residual"]

    def inputs(self, kind: Kind) -> tuple[Tensor, ...]:
        """What a segment of that kind takes."""
        return tuple(self._values[name] for name in layout.INPUTS[kind])

    def take(self, kind: Kind, outputs: Sequence[Tensor]) -> None:
        """What it gave: of the last hidden states the last alone goes on to the head."""
        given = dict(zip(layout.OUTPUTS[kind], outputs, strict=True))
        if "next_residual" in given:
            self._values["residual"] = given["next_residual"]
        if "query" in given:
            heads = given["query"], given["key"], given["value"]
            self._values["attention"] = self._attend(self._layer, *heads)
            self._layer += 1
        if "hidden_out" in given:
            self._values["hidden"] = given["hidden_out"][-1:]


class _ValueScales:
    """What a method other than rounding to nearest may have moved from a layer's values to its output projection.

    Attention passes such a scale on, so that the model is the same, though two segments are not. The reference's values
    are compared in the engine's scale, which is taken, channel by channel, from the values that the engine gives.
    """

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        self._moved = precision.quantization is not None and precision.quantization.method != "rtn"
        self._shared = config.num_heads // config.num_kv_heads
        self._scale = torch.ones(config.num_kv_heads, config.head_dim)

    def undone(self, kind: Kind, given: Sequence[Tensor]) -> list[Tensor]:
        """A segment's inputs, with attention as the reference takes it."""
        by_head = self._scale.repeat_interleave(self._shared, dim=0).flatten()
        return [
            tensor * by_head if name == "attention" else tensor
            for name, tensor in zip(layout.INPUTS[kind], given, strict=True)
        ]

    def put(self, kind: Kind, engines: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The reference's outputs, with values in the engine's scale."""
        outputs = dict(zip(layout.OUTPUTS[kind], expected, strict=True))
        if self._moved and "value" in outputs:
            ours, true = engines[-1].float(), outputs["value"]
            power = ours.square().sum(0)
            self._scale = torch.where(power > 0, (true * ours).sum(0) / power, 1.0)
            outputs["value"] = torch.where(self._scale != 0, true / self._scale, true)
        return tuple(outputs.values())


def _segments(folder: Path, manifest: Manifest, backend: Backend) -> Segments:
    dtype = weights.DTYPES[manifest.precision.dtype]
    if backend == "torch":
        from runtime.engine import torch as modules

        # What is stored is compared, not the CPU's own rounding of it.
        return modules.segments(folder, manifest, _CPU, dtype, packed=False)
    if manifest.backend.name == "torch":
        raise ConfigError(f"{folder} is an engine of the torch backend: it has no graphs for the stand-in to run")
    from packager.stand_in import StandIn
    from runtime.engine import tensorrt

    capability = manifest.targets[0].compute_capability  # a plan's graph is the same for all of them
    return tensorrt.segments(folder, manifest, capability, _CPU, dtype, StandIn(folder))


def _causal(config: ModelConfig) -> Attend:
    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, /) -> Tensor:
        return causal(query, key, value, config.windows[layer])

    return attend


def _paged(config: ModelConfig, tokens: Tensor, dtype: torch.dtype) -> Attend:
    """The runtime's attention over a cache that holds this prompt alone."""
    length = len(tokens)
    blocks = -(-length // _BLOCK)
    positions = torch.arange(length)
    batch = Batch(tokens, positions, positions, [0, length], [list(range(blocks))], [length], positions[-1:], [], [""])
    return PagedAttention(config, KVCache(config, blocks, _BLOCK, dtype, _CPU), batch)


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _worst(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of the worst output, the mean over its tokens of |actual - expected| / |expected|, in the Euclidean norm."""
    return max(_relative(ours.float().flatten(1), true.flatten(1)) for ours, true in zip(actual, expected, strict=True))


def _relative(ours: Tensor, true: Tensor) -> float:
    return float(((ours - true).norm(dim=1) / true.norm(dim=1).clamp_min(torch.finfo().tiny)).mean())
