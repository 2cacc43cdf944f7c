"""Plans built by TensorRT-RTX on a machine without a GPU, and TensorRT's own words where it refuses."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorrt_rtx
import torch
from onnx import ModelProto

from packager.compile.export import export
from packager.compile.graph import embedded, quantized
from packager.compile.tensorrt import Builder, Profile, profiles
from packager.errors import TrtpackError
from runtime.engine import plan
from runtime.engine.manifest import DType, Quantization
from runtime.model.layout import Kind
from tests.packager.compile.segments import KINDS, LIMITS, SCHEMES, model


@pytest.fixture(scope="module")
def builder() -> Builder:
    return Builder("tensorrt-rtx")


@pytest.fixture
def header(tmp_path: Path) -> Any:
    def read(content: bytes) -> plan.Header:
        (tmp_path / "a.plan").write_bytes(content)
        found = plan.read(tmp_path / "a.plan")
        assert found is not None
        return found

    return read


def build(builder: Builder, segment: ModelProto, capability: str) -> bytes:
    kind: Any = segment.graph.name
    return builder.build(segment, capability, profiles(LIMITS, kind))


@pytest.mark.parametrize(
    ("kind", "batch", "tokens", "expected"),
    [
        ("middle", 4, 64, [Profile(1, 4, 4), Profile(1, 64, 64)]),
        ("opening", 64, 8192, [Profile(1, 64, 64), Profile(1, 512, 8192)]),
        ("closing", 64, 64, [Profile(1, 64, 64)]),
        ("closing", 64, 16, [Profile(1, 16, 16)]),
        ("head", 64, 8192, [Profile(1, 64, 64)]),
    ],
)
def test_profiles_are_for_decoding_and_for_mixed_steps(
    kind: Kind, batch: int, tokens: int, expected: list[Profile]
) -> None:
    limits = LIMITS.model_copy(update={"max_batch_size": batch, "max_num_tokens": tokens})
    assert profiles(limits, kind) == expected


@pytest.mark.parametrize(
    ("family", "kind", "dtype", "capability"),
    [
        ("qwen2", "opening", "float32", "12.0"),
        ("qwen3", "middle", "float16", "7.5"),
        ("qwen3", "middle", "float16", "8.9"),
        ("llama", "closing", "bfloat16", "8.0"),
    ],
)
def test_a_plan_is_for_its_target_alone(
    family: str, kind: Kind, dtype: DType, capability: str, builder: Builder, header: Any
) -> None:
    built = build(builder, export(model(family), kind, dtype), capability)
    found = header(built)
    assert (found.capabilities, found.later) == ((capability,), False)
    assert (found.version, found.size) == (builder.version, len(built)) == (tensorrt_rtx.__version__, len(built))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "capability"), [("float16", "7.5"), ("bfloat16", "8.6"), ("bfloat16", "12.0")])
def test_every_kind_builds_for_every_target(
    kind: Kind, dtype: DType, capability: str, builder: Builder, header: Any
) -> None:
    config = model("llama", qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True)
    assert header(build(builder, export(config, kind, dtype), capability)).capabilities == (capability,)


def weights(segment: ModelProto) -> dict[str, torch.Tensor]:
    """Random bytes for every weight, as an engine stores them."""
    stored = {3: torch.int8, 22: torch.uint8, 17: torch.float8_e4m3fn, 16: torch.bfloat16}
    made = {}
    for value in segment.graph.input:
        kind = value.type.tensor_type
        shape = [dimension.dim_value for dimension in kind.shape.dim]
        if "." in value.name:
            width = shape[-1] // 2 if kind.elem_type == 22 else shape[-1] if shape else 1
            made[value.name] = torch.rand(*shape[:-1], width).mul(100).to(stored[kind.elem_type])
    return made


@pytest.mark.parametrize("capability", ["8.9", "12.0"])
@pytest.mark.parametrize("quantization", [None, *SCHEMES], ids=lambda one: one.scheme if one else "plain")
def test_embedded_plans_hold_their_weights(
    quantization: Quantization | None, capability: str, builder: Builder, header: Any
) -> None:
    segment = export(model("llama"), "closing", "bfloat16")
    if quantization:
        segment = quantized(segment, quantization)
    stored = weights(segment)
    built = build(builder, embedded(segment, stored), capability)
    assert header(built).capabilities == (capability,)
    # Those of weight-only int8 and of no quantisation TensorRT lays out in its own way.
    as_they_were = ["norm.weight", *(["last.down.weight"] if quantization in SCHEMES[1:] else [])]
    assert all(stored[name].view(torch.uint8).numpy().tobytes() in built for name in as_they_were)


def test_what_a_gpu_lacks_is_told_in_tensorrts_words(builder: Builder) -> None:
    segment = quantized(export(model("qwen3"), "middle", "float16"), SCHEMES[1])
    with pytest.raises(TrtpackError) as error:
        build(builder, segment, "7.5")
    first, hint = str(error.value).splitlines()
    assert first.startswith(
        f"tensorrt-rtx {builder.version} cannot build the middle segment for compute capability 7.5:"
    )
    assert "HW-specific datatypes: int4" in first
    assert "--backend torch" in hint
    build(builder, segment, "8.9")


def test_a_gpu_it_has_no_target_for(builder: Builder) -> None:
    with pytest.raises(TrtpackError, match=r"does not build for compute capability 9\.0; it builds for 7\.5, .*12\.0"):
        build(builder, export(model("llama"), "closing", "bfloat16"), "9.0")


def test_an_operator_it_lacks_is_told_with_its_node(builder: Builder) -> None:
    changed = ModelProto()
    changed.CopyFrom(export(model("llama"), "closing", "bfloat16"))
    node = next(node for node in changed.graph.node if node.op_type == "Sigmoid")
    node.op_type, node.name = "Entmax", "node_entmax"
    with pytest.raises(TrtpackError, match=r"cannot read the closing segment: node_entmax: .*Plugin not found"):
        build(builder, changed, "8.9")


def test_building_says_nothing(builder: Builder, capfd: pytest.CaptureFixture[str]) -> None:
    build(builder, export(model("llama"), "closing", "bfloat16"), "8.9")
    assert capfd.readouterr() == ("", "")


def test_tensorrt_takes_the_same_path_and_names_no_target(header: Any) -> None:
    """TensorRT-RTX in its place: without a target it builds for all GPUs, where TensorRT builds for the one here."""
    builder = Builder("tensorrt", tensorrt_rtx)
    found = header(build(builder, export(model("llama"), "closing", "bfloat16"), "9.0"))
    assert (len(found.capabilities), found.later) == (5, True)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_package_is_told_with_its_mend(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend.replace("-", "_"), None)
    with pytest.raises(TrtpackError, match=f"the {backend} backend needs the Python package {backend}: .*") as error:
        Builder(backend)
    assert f"pip install {backend}" in str(error.value)


def test_a_builder_that_finds_no_gpu() -> None:
    """As TensorRT without a driver: the reason goes to the logger, the exception says nothing."""

    class Logger:
        Severity = SimpleNamespace(ERROR=1)

    def refuse(logger: Any) -> None:
        logger.log(1, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module = SimpleNamespace(__version__="11.4.1.5", ILogger=Logger, Builder=refuse)
    with pytest.raises(TrtpackError, match=r"tensorrt 11\.4\.1\.5 does not start: CUDA initialization failure"):
        Builder("tensorrt", module)
