"""Segments as ONNX graphs: what they take and give, and what they must not hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, checker
from torch import Tensor

from packager.compile.export import OPSET, export
from packager.errors import TrtpackError
from runtime.model import layout
from runtime.model.activations import activation
from tests.packager.compile.segments import model

ROOT = Path(__file__).parents[3]


def test_inputs_are_the_activations_and_the_weights_it_uses() -> None:
    graph = export(model("qwen3"), "middle", "float16").graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT16}
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert list(shapes.items()) == [
        ("attention", ["T", 64]),
        ("residual", ["T", 64]),
        ("cos", ["T", 16]),
        ("sin", ["T", 16]),
        ("previous.o.weight", [64, 64]),
        ("previous.mlp_norm.weight", [64]),
        ("previous.gate_up.weight", [192, 64]),
        ("previous.down.weight", [64, 96]),
        ("following.input_norm.weight", [64]),
        ("following.qkv.weight", [128, 64]),
        ("following.q_norm.weight", [16]),
        ("following.k_norm.weight", [16]),
        ("next_residual", ["T", 64]),
        ("query", ["T", 4, 16]),
        ("key", ["T", 2, 16]),
        ("value", ["T", 2, 16]),
    ]


@pytest.mark.parametrize(("family", "kind"), [("qwen2", "opening"), ("llama", "closing")])
def test_every_kind_has_the_names_of_the_layout(family: str, kind: layout.Kind) -> None:
    config = model(family)
    exported = export(config, kind, "float32")
    checker.check_model(exported, full_check=True)
    graph = exported.graph
    weights = next(segment.weights for segment in layout.segments(config) if segment.kind == kind)
    assert [value.name for value in graph.input] == [*layout.INPUTS[kind], *weights]
    assert [value.name for value in graph.output] == list(layout.OUTPUTS[kind])
    assert (graph.name, exported.opset_import[0].version) == (kind, OPSET)


@pytest.mark.slow
def test_the_bytes_depend_on_no_hash_seed_and_name_no_file() -> None:
    """A process of its own for each seed: sets and the exporter's first run must not show."""
    script = (
        "import sys; from packager.compile.export import export; from tests.packager.compile.segments import model; "
        "sys.stdout.buffer.write(export(model('qwen3'), 'middle', 'bfloat16').SerializeToString())"
    )
    written = [
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True
        )
        for seed in ("1", "2")
    ]
    assert [run.stderr for run in written] == [b"", b""]
    assert written[0].stdout == written[1].stdout
    assert len(written[0].stdout) > 1000
    assert b".py" not in written[0].stdout
    assert str(ROOT).encode() not in written[0].stdout


def test_a_large_model_is_exported_without_its_weights_or_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """A head of 1 TB in float32: it can only be named."""
    graph = export(model("llama", hidden_size=2**20, vocab_size=2**18), "head", "float32").graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["hidden", "weight", "logits"]
    assert graph.ByteSize() < 2000
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("shipped_layers")
def test_a_layer_that_cannot_be_exported_is_told_with_its_segment() -> None:
    @activation("branching")
    def _branch(x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else torch.neg(x)

    with pytest.raises(
        TrtpackError, match=r"the closing segment cannot be exported to ONNX: \w+: .*data-dependent"
    ) as error:
        export(model("llama", activation="branching"), "closing", "float32")
    assert "without branches on a tensor's values" in str(error.value)
    assert len(str(error.value).splitlines()) == 2
