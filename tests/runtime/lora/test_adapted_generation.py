"""An adapter's answers are those of transformers with PEFT's merge of it, whatever else is in the batch."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.engine import manifest
from runtime.engine.manifest import Scheduling
from runtime.errors import EngineError, InputError
from runtime.llm import LLM
from runtime.lora.adapters import Adapters
from runtime.model.decoder import Segments
from runtime.prediction import Prediction
from runtime.sampling import SamplingParams
from runtime.speculation import PromptLookup
from tests.adapters import make_adapter, merged, plain
from tests.conftest import TinyEngine
from tests.tiny import FAMILIES, VOCAB, make_checkpoint

NEW = 16
LENGTHS = (1, 17, 40)
Checkpoints = Callable[[str], Path]

VARIANTS: dict[str, dict[str, Any]] = {
    "some modules": {"target_modules": ["q_proj", "v_proj", "up_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.self_attn.k_proj": 6, r"layers\.[02]\.mlp\.up_proj": 3},
        "alpha_pattern": {"v_proj": 1, "layers.0.mlp.down_proj": 20},
    },
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3, "rank_pattern": {"o_proj": 9}},
}


def prompts() -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist()) for length in LENGTHS]


def greedy(prompt: Sequence[int], adapter: str = "") -> Prediction:
    return Prediction(tuple(prompt), SamplingParams(), NEW, adapter=adapter, ignore_eos=True)


def reference(model: Any) -> list[list[int]]:
    found = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
        found.append(out[0, len(prompt) :].tolist())
    return found


async def tokens(llm: LLM, prediction: Prediction, delay: float = 0.0) -> list[int]:
    await asyncio.sleep(delay)
    return [token async for delta in llm.deltas(prediction) for token in delta.tokens]


async def together(llm: LLM, predictions: Sequence[Prediction]) -> list[list[int]]:
    """Arriving one after another, so that prompts and answers share steps."""
    return await asyncio.gather(*(tokens(llm, p, 0.005 * i) for i, p in enumerate(predictions)))


@pytest.fixture(scope="module")
def poets(tiny_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of the tiny Llama: each of other modules, or of another rank."""
    folder, llama = tmp_path_factory.mktemp("adapters"), tiny_checkpoint("llama")
    return {
        "ada": make_adapter(llama, folder / "ada", 1),
        "bea": make_adapter(llama, folder / "bea", 2, target_modules=["k_proj", "down_proj"], lora_alpha=24),
        "cleo": make_adapter(llama, folder / "cleo", 3, r=9, layers_to_transform=[0, 2]),
    }


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Checkpoints, poets: dict[str, Path]) -> dict[str, list[list[int]]]:
    """By adapter, "" for none, an answer for each of the prompts."""
    llama = tiny_checkpoint("llama")
    answers = {name: reference(merged(llama, folder)) for name, folder in poets.items()}
    return {"": reference(plain(llama)), **answers}


@pytest.fixture(scope="module")
def llm(tiny_engine: TinyEngine, poets: dict[str, Path]) -> Iterator[LLM]:
    llm = LLM(tiny_engine(), adapters=poets)
    yield llm
    llm.close()


@pytest.mark.parametrize(
    ("family", "variant"), [*((family, "plain") for family in FAMILIES), *(("qwen2", name) for name in VARIANTS)]
)
def test_it_is_the_merged_models_answer(
    family: str, variant: str, tiny_checkpoint: Checkpoints, tiny_engine: TinyEngine, tmp_path: Path
) -> None:
    folder = make_adapter(tiny_checkpoint(family), tmp_path / "adapter", **VARIANTS.get(variant, {}))
    llm = LLM(tiny_engine(family), adapters={"poet": folder})
    try:
        got = [asyncio.run(tokens(llm, greedy(prompt, "poet"))) for prompt in prompts()]
    finally:
        llm.close()
    assert got == reference(merged(tiny_checkpoint(family), folder))


def test_the_adapters_differ(expected: dict[str, list[list[int]]]) -> None:
    assert len({str(answers) for answers in expected.values()}) == 4


def test_three_adapters_and_none_share_a_batch(llm: LLM, expected: dict[str, list[list[int]]]) -> None:
    mixed = [(name, index) for index in range(len(LENGTHS)) for name in expected]
    got = asyncio.run(together(llm, [greedy(prompts()[index], name) for name, index in mixed]))
    assert got == [expected[name][index] for name, index in mixed]


def test_chunks_preemption_and_guesses_keep_them_apart(
    tiny_engine: TinyEngine, poets: dict[str, Path], expected: dict[str, list[list[int]]]
) -> None:
    engine = tiny_engine(max_model_len=128, max_num_tokens=16)
    room = 128 * 2 * 3 * 2 * 16 * 4  # one request: tokens, K and V, layers, KV heads, head_dim, float32
    scheduling = Scheduling(prefill_chunk=8)
    llm = LLM(engine, kv_cache_bytes=room, scheduling=scheduling, drafter=PromptLookup(), adapters=poets)
    mixed = [(name, index) for index in range(len(LENGTHS)) for name in expected]
    try:
        got = asyncio.run(together(llm, [greedy(prompts()[index], name) for name, index in mixed]))
        preemptions = llm.stats().preemptions
    finally:
        llm.close()
    assert got == [expected[name][index] for name, index in mixed]
    assert preemptions


def test_prefixes_are_not_shared_between_adapters(llm: LLM, expected: dict[str, list[list[int]]]) -> None:
    """One after another, so that each could find the last one's blocks."""
    for name in [*expected, *expected]:
        assert asyncio.run(tokens(llm, greedy(prompts()[2], name))) == expected[name][2]


def test_a_quantised_engine_takes_them_in_its_own_dtype(
    tiny_checkpoint: Checkpoints, tiny_engine: TinyEngine, poets: dict[str, Path]
) -> None:
    llm = LLM(tiny_engine(quantization="smoothquant", dtype="float32"), adapters=poets)
    try:
        answers = [asyncio.run(tokens(llm, greedy(prompts()[1], name))) for name in ("", *poets)]
    finally:
        llm.close()
    assert len({tuple(answer) for answer in answers}) == 4


def test_a_request_names_one_that_is_there(llm: LLM) -> None:
    assert llm.request({"prompt": "the fox", "adapter": "bea"}).adapter == "bea"
    with pytest.raises(InputError, match="adapter: 'dora' is not known; known: ada, bea, cleo"):
        llm.request({"prompt": "the fox", "adapter": "dora"})
    with pytest.raises(InputError, match="'dora' is not known"):
        asyncio.run(tokens(llm, greedy(prompts()[0], "dora")))


def test_an_engine_without_any_says_so(tiny_engine: TinyEngine) -> None:
    llm = LLM(tiny_engine())
    try:
        with pytest.raises(InputError, match="known: this engine has none"):
            llm.request({"prompt": "the fox", "adapter": "ada"})
    finally:
        llm.close()


def test_an_adapter_of_another_model_is_refused_at_start(tiny_engine: TinyEngine, tmp_path: Path) -> None:
    folder = make_adapter(make_checkpoint("llama", tmp_path / "wide", hidden_size=128), tmp_path / "adapter")
    with pytest.raises(EngineError, match="another model"):
        LLM(tiny_engine(), adapters={"poet": folder})


def test_plans_have_no_place_for_one(tiny_engine: TinyEngine, poets: dict[str, Path]) -> None:
    plans = Segments(embed=_never, opening=_never, middles=[_never] * 2, closing=_never, head=_never)
    adapters = Adapters(poets, manifest.read(tiny_engine()).model.config)
    with pytest.raises(
        EngineError, match=r"a compiled plan has no place for adapters: compile with .* torch, or merge"
    ):
        adapters.attach(plans, torch.device("cpu"), torch.float32)


def _never(*inputs: Any) -> Any:
    raise AssertionError("not to be run")
