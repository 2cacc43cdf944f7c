"""What a package's own file of layers adds, and what it cannot."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.config.engine import EngineConfig
from runtime.engine.engine import Engine
from runtime.errors import EngineError
from runtime.llm import LLM
from runtime.model import extension
from runtime.model.activations import ACTIVATIONS, activation
from runtime.model.families import UnsupportedModelError, parse
from runtime.model.norms import norm
from runtime.prediction import Prediction
from runtime.sampling import SamplingParams
from tests.conftest import TinyEngine
from tests.tiny import make_checkpoint, make_config

pytestmark = pytest.mark.usefixtures("shipped_layers")
EXAMPLES = Path(__file__).parents[3] / "examples" / "layers"
PROMPT = tuple(range(3, 40))
NEW = 24


def compiled(checkpoint: Path, out: Path) -> Path:
    config = EngineConfig(checkpoint=str(checkpoint), dtype="float32")
    compile_engine(open_checkpoint(str(checkpoint), checkpoint), config, out)
    return out


def generated(engine: Path) -> list[int]:
    async def tokens(llm: LLM) -> list[int]:
        prediction = Prediction(PROMPT, SamplingParams(), NEW)
        return [token async for delta in llm.deltas(prediction) for token in delta.tokens]

    llm = LLM(engine, kv_cache_bytes=2**24)
    try:
        return asyncio.run(tokens(llm))
    finally:
        llm.close()


def expected(model: transformers.PreTrainedModel) -> list[int]:
    """Greedy tokens of transformers' own modules."""
    ids = torch.tensor([PROMPT])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    return [int(token) for token in out[0, len(PROMPT) :]]


def plain_llama(checkpoint: Path) -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_under_15_lines(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 15


def test_an_activation_runs_as_transformers_runs_it(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("llama", tmp_path / "checkpoint", hidden_act="relu2")
    extension.load(EXAMPLES / "activation.py")
    tokens = generated(compiled(checkpoint, tmp_path / "engine"))
    assert tokens == expected(plain_llama(checkpoint))
    assert tokens != generated(compiled(make_checkpoint("llama", tmp_path / "silu"), tmp_path / "other"))


def test_a_norm_runs_in_a_family_of_its_own(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("llama", tmp_path / "checkpoint")
    reference = plain_llama(checkpoint)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if "norm" in name:
                weight += 1
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": ["FromOneForCausalLM"]}))
    extension.load(EXAMPLES / "norm.py")
    engine = compiled(checkpoint, tmp_path / "engine")
    assert json.loads((engine / "engine.json").read_text())["model"]["config"]["norm"] == "from_one"
    assert generated(engine) == expected(reference)


@pytest.mark.parametrize("field", ["activation", "norm"])
def test_an_engine_names_what_it_misses(field: str, tiny_engine: TinyEngine, tmp_path: Path) -> None:
    engine = shutil.copytree(tiny_engine(), tmp_path / "engine")
    content = json.loads((engine / "engine.json").read_text())
    content["model"]["config"][field] = "elsewhere"
    (engine / "engine.json").write_text(json.dumps(content))
    message = f"^{field} 'elsewhere' is not registered: name the file that registers it under engine.layers$"
    with pytest.raises(EngineError, match=message):
        Engine(engine, device="cpu", kv_cache_bytes=2**24)


def test_a_checkpoint_names_what_it_misses() -> None:
    config = make_config("llama", hidden_act="gelu").to_dict()
    with pytest.raises(UnsupportedModelError, match="activation 'gelu' is not registered: name the file"):
        parse({**config, "architectures": ["LlamaForCausalLM"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n1 / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("x = (\n", ":1: SyntaxError: '\\(' was never closed"),
        ("from json import loads\n\n\nloads('{')\n", ":4: JSONDecodeError: Expecting"),
        (
            "from runtime.model.activations import activation\n\nactivation('silu')(abs)\n",
            ":3: activation 'silu' is trtpack's own; register yours under another name",
        ),
        (
            "from torch.nn import LayerNorm\nfrom runtime.model.norms import norm\nnorm('layer')(LayerNorm)\n",
            r":3: norm 'layer' must hold one tensor, weight \[size\]; at size 8 it holds .*'bias': \[8\]",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "layers.py"
    path.write_text(text)
    with pytest.raises(EngineError, match=f"^engine.layers: {path}{message}"):
        extension.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"engine.layers: {tmp_path / 'none.py'} does not exist"):
        extension.load(tmp_path / "none.py")


def test_what_is_registered_again_is_replaced() -> None:
    for function in (torch.relu, torch.tanh):
        activation("twice")(function)
    assert ACTIVATIONS.find("twice") is torch.tanh


def test_a_registered_class_stays_what_it_was() -> None:
    assert norm("own")(torch.nn.RMSNorm) is torch.nn.RMSNorm
