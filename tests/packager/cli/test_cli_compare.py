"""`trtpack compare`: a corrupted layer is named, exactly."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from packager.cli import main
from runtime.tokenizer import Tokenizer
from tests import engines
from tests.conftest import TinyEngine
from tests.tiny import VOCAB

NAMES = ["embed", "opening", "middle.0", "middle.1", "closing", "head"]
Checkpoint = Callable[[str], Path]


def trtpack(*args: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, args)])


def corrupt(engine: Path, name: str) -> Path:
    """Doubles one row of one tensor; engine.json agrees with the files afterwards."""
    path = next((engine / "weights").iterdir())
    tensors = load_file(path)
    tensors[name][-1] *= 2
    save_file(tensors, path)
    return engines.rewrite(engine)


def test_an_engine_is_its_checkpoint(tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint) -> None:
    result = trtpack(tiny_engine(), tiny_checkpoint("llama"), "--prompt", "the quick brown fox")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == NAMES
    assert lines[-1].startswith(f"All 6 segments agree with {tiny_checkpoint('llama')} over")


@pytest.mark.parametrize(
    ("tensor", "segment"),
    [
        ("embed.weight", "embed"),
        ("layers.0.qkv.weight", "opening"),
        ("layers.0.down.weight", "middle.0"),
        ("layers.1.input_norm.weight", "middle.0"),
        ("layers.1.o.weight", "middle.1"),
        ("layers.2.qkv.weight", "middle.1"),
        ("layers.2.mlp_norm.weight", "closing"),
        ("norm.weight", "closing"),
        ("head.weight", "head"),
    ],
)
def test_a_corrupted_layer_is_named(
    tensor: str, segment: str, tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    prompt = "the quick brown fox jumps over the lazy dog and then the hen wonders; listening for thunder"
    if tensor == "embed.weight":  # its last row is the vocabulary's last token, which the prompt must hold
        prompt = Tokenizer(tiny_engine() / "tokenizer", 64).decode([VOCAB - 1])
    engine = corrupt(engines.copy(tiny_engine(), tmp_path / "engine"), tensor)
    result = trtpack(engine, tiny_checkpoint("llama"), "--prompt", prompt, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["first"]) == (1, segment)
    by_name = {row["segment"]: row for row in told["segments"]}
    assert by_name[segment]["isolated"] > by_name[segment]["isolated_limit"]
    others = [row for row in told["segments"] if row["segment"] != segment]
    assert all(row["isolated"] <= row["isolated_limit"] for row in others)
    assert f"error: {segment} is the first of 6 segments to depart" in result.stderr


def test_what_follows_a_corrupted_layer_departs_by_what_it_is_given(
    tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    engine = corrupt(engines.copy(tiny_engine(), tmp_path / "engine"), "layers.1.o.weight")
    rows = trtpack(engine, tiny_checkpoint("llama")).stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows if row.endswith("departs")] == ["middle.1", "closing", "head"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inputs", "embedded"])
def test_an_engine_of_plans_goes_through_the_stand_in(
    mode: str, plan_engine: TinyEngine, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    engine = engines.copy(plan_engine(), tmp_path / "engine")
    engine = engines.embed(engine, tmp_path / "embedded") if mode == "embedded" else engine
    told = json.loads(trtpack(engine, tiny_checkpoint("llama"), "--json").stdout)
    assert (told["backend"], told["first"]) == ("stand-in", None)
    assert [row["segment"] for row in told["segments"]] == NAMES
    corrupt(engine, "layers.1.down.weight")
    told = json.loads(trtpack(engine, tiny_checkpoint("llama"), "--json").stdout)
    assert told["first"] == "middle.1"
    told = json.loads(trtpack(engine, tiny_checkpoint("llama"), "--json", "--backend", "torch").stdout)
    assert (told["backend"], told["first"]) == ("torch", "middle.1")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_rounding_to_a_half_type_is_no_departure(
    family: str, dtype: str, tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint
) -> None:
    """The sliding windows of the tiny models are shorter than the prompt."""
    result = trtpack(tiny_engine(family, dtype=dtype), tiny_checkpoint(family), "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["first"]) == (0, None)
    assert told["tokens"] > 12
    assert all(row["isolated"] > 0 for row in told["segments"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "smoothquant"])
def test_quantising_is_no_departure_and_a_wrong_scale_is(
    scheme: str, plan_engine: TinyEngine, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Scales that a method moved from one segment to the next are none either."""
    engine = engines.copy(plan_engine(quantization=scheme, weights="inputs", max_batch_size=4), tmp_path / "engine")
    result = trtpack(engine, tiny_checkpoint("llama"), "--json")
    assert (result.exit_code, json.loads(result.stdout)["first"]) == (0, None), result.stdout
    path = next((engine / "weights").iterdir())
    tensors = load_file(path)
    tensors["layers.1.down.weight_scale"] *= 3
    save_file(tensors, path)
    result = trtpack(engines.rewrite(engine), tiny_checkpoint("llama"), "--json")
    assert json.loads(result.stdout)["first"] == "middle.1"


def test_a_nan_departs(tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    engine = engines.copy(tiny_engine(), tmp_path / "engine")
    path = next((engine / "weights").iterdir())
    tensors = load_file(path)
    tensors["layers.2.down.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    result = trtpack(engines.rewrite(engine), tiny_checkpoint("llama"))
    assert (result.exit_code, "error: closing is the first" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--prompt", ""], 2, "the prompt has 0 tokens, and this engine takes 1 to 32 in a step"),
        (["--prompt", "the fox " * 40], 2, "and this engine takes 1 to 32 in a step"),
        (["--backend", "stand-in"], 2, "is an engine of the torch backend"),
        (["--backend", "cuda"], 2, "cuda"),
    ],
)
def test_what_cannot_be_compared(
    args: list[str], code: int, message: str, tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint
) -> None:
    result = trtpack(tiny_engine(max_num_tokens=32), tiny_checkpoint("llama"), "--prompt", "the", *args)
    assert result.exit_code == code
    assert message in result.stderr


def test_another_models_checkpoint(tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint) -> None:
    result = trtpack(tiny_engine(), tiny_checkpoint("qwen3"))
    assert result.exit_code == 1
    assert "is another model than" in result.stderr
    assert trtpack(tiny_engine(), "nowhere").exit_code == 1


def test_a_broken_file_is_told_before_anything_runs(
    tiny_engine: TinyEngine, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    engine = engines.copy(tiny_engine(), tmp_path / "engine")
    path = next((engine / "weights").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = trtpack(engine, tiny_checkpoint("llama"))
    assert (result.exit_code, "sha256" in result.stderr, result.stdout) == (1, True, "")
